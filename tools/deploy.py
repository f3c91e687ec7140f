"""Write a model for an engine: a folder that runs by itself, verified on images.

python tools/deploy.py configs/ssdlite_frostnet_coco.py work_dirs/ssdlite_frostnet_qat_coco/epoch_600.pth
    --engine openvino --out deploy/openvino
python deploy/openvino/predictor.py street.jpg --out found.png
"""

import argparse

import _path  # noqa: F401

from frostnet_mm.cli import add_classes, add_config_options, add_example_shape, add_weight_bits, command, run_tool
from frostnet_mm.files import require_checkpoint, require_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write a model for an engine, and verify it there.')
    parser.add_argument('config')
    parser.add_argument('checkpoint', help="'random' for random weights, to measure times with")
    parser.add_argument(
        '--engine', required=True, metavar='NAME', help='onnxruntime, openvino, executorch, inductor, or a plug-in'
    )
    parser.add_argument('--out', required=True, help='folder; a deployment that is there is replaced')
    parser.add_argument('--float', action='store_true', help='deploy in float, to compare INT8 with')
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images behind the test pipeline; default its own',
    )
    size.add_argument('--dynamic', action='store_true', help='leave batch size, height and width open')
    parser.add_argument('--batch', type=int, default=1, help='images in a batch; default 1')
    parser.add_argument(
        '--bake', action='store_true', help='normalize in the network, which then takes (N, H, W, 3) uint8 BGR images'
    )
    parser.add_argument(
        '--with-decode', action='store_true', help='append decoding and NMS: boxes, scores and labels come out'
    )
    parser.add_argument('--images', nargs='+', default=[], metavar='FILE', help='verify with these')
    parser.add_argument('--num-images', type=int, default=4, help='test images to verify with; default 4')
    parser.add_argument('--no-verify', action='store_true', help='do not compare with the model')
    add_weight_bits(parser)
    add_example_shape(parser)
    add_classes(parser)
    add_config_options(parser)
    args = parser.parse_args()
    if args.batch < 1 or (args.shape and min(args.shape) < 1):
        parser.error('--batch and --shape: expected at least 1')
    return args


def main() -> None:
    args = parse_args()
    require_config(args.config)
    if args.checkpoint != 'random':
        require_checkpoint(args.checkpoint)
    from frostnet_mm.deploy.deploy import NOISE, DeployOptions, deploy

    options = DeployOptions(
        precision='float' if args.float else 'int8',
        shape=tuple(args.shape) if args.shape else None,
        batch=args.batch,
        dynamic=args.dynamic,
        decode=args.with_decode,
        bake=args.bake,
        images=args.images,
        num_images=args.num_images,
        check=not args.no_verify,
        cfg_options=args.cfg_options or {},
        weight_bits=args.weight_bits,
        classes=args.classes,
        example_shape=tuple(args.example_shape) if args.example_shape else None,
    )
    checkpoint = None if args.checkpoint == 'random' else args.checkpoint
    description = deploy(args.config, checkpoint, args.engine, args.out, options)
    _print_operators(description)
    share = description['engine_int8_share']
    print(
        f'{args.out}: {description["model"]["macs"] / 1e6:.0f} M MACs, '
        f'{description["int8_share"]:.1%} of them in INT8 by its numerics'
        + ('' if share is None else f', {share:.1%} as {args.engine} runs it')
        + f'. {_next_step(description, args.out)}'
    )
    if description.get('verification', {}).get('source') == 'noise' and checkpoint is not None:
        print(NOISE)


def _print_operators(description: dict) -> None:
    operators = description['operators']
    if 'not_run' in description:
        print(f'\n{description["not_run"]}')
    if operators:
        width = max(map(len, operators))
        print(f'\n{"operators in " + description["engine"]:{width}s}')
    for name, count in operators.items():
        print(f'{name:{width}s} {count:5d}')


def _next_step(description: dict, out: str) -> str:
    if description['decoding'] is not None:
        return f'Try it: {command("python", f"{out}/predictor.py", "IMAGE", "--out", "found.png")}'
    return (
        f'predictor.py cannot predict with it: {description["no_decoding"]}. Evaluate it with tools/test.py --engine, '
        'or run its network with open_network() and decode its outputs yourself.'
    )


if __name__ == '__main__':
    run_tool(main)
