"""Post-training quantization: give a float checkpoint the activation ranges that INT8 needs, from training images.

python tools/calibrate.py configs/ssdlite_frostnet_coco.py work_dirs/ssdlite_frostnet_coco/epoch_600.pth --num-images
256

The result is a checkpoint like one of quantization-aware training: tools/test.py and tools/infer.py run it in INT8.
"""

import argparse
from io import BytesIO
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.cli import add_classes, add_config_options, add_example_shape, add_weight_bits, run_tool, tool_command
from frostnet_mm.files import require_checkpoint, require_config, write_bytes
from frostnet_mm.quantization.methods import METHODS, PERCENTILE
from frostnet_mm.quantization.scheme import PRESETS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Calibrate a float checkpoint for INT8 on training images.')
    parser.add_argument('config')
    parser.add_argument('checkpoint', help='float, or with ranges, which are then replaced')
    parser.add_argument('--out', help='default: beside the checkpoint, with _int8 in its name')
    parser.add_argument('--num-images', type=int, default=128, help='spread over the training set; default 128')
    parser.add_argument(
        '--method', choices=METHODS, default='histogram', help='how ranges are chosen; default histogram'
    )
    parser.add_argument('--percentile', type=float, default=PERCENTILE, help=f'for percentile; default {PERCENTILE}')
    parser.add_argument(
        '--numerics', choices=list(PRESETS), help="family of engines; default the config's QATHook's, or onnx"
    )
    parser.add_argument('--quantize-outputs', action='store_true', help="round the network's outputs to 8 bits too")
    parser.add_argument('--float-modules', nargs='+', default=[], metavar='NAME', help='modules that stay in float')
    add_example_shape(parser)
    add_weight_bits(parser)
    add_classes(parser)
    parser.add_argument('--device', help='torch device; default cuda if there is one, else cpu')
    add_config_options(parser)
    args = parser.parse_args()
    if args.num_images < 1:
        parser.error(f'--num-images {args.num_images}: expected at least 1')
    return args


def main() -> None:
    args = parse_args()
    require_config(args.config)
    require_checkpoint(args.checkpoint)
    from frostnet_mm.apis.images import preprocessed, spread_paths
    from frostnet_mm.apis.model import load_model
    from frostnet_mm.apis.qat_config import settings_of
    from frostnet_mm.quantization.calibration import calibrate
    from frostnet_mm.quantization.checkpoint import CALIBRATED, Checkpoint
    from frostnet_mm.quantization.prepare import prepare_model

    checkpoint = Checkpoint.open(args.checkpoint, args.classes)
    model, cfg = load_model(args.config, checkpoint, args.device, args.cfg_options, execution='float')
    settings = settings_of(
        cfg,
        numerics=args.numerics,
        quantize_outputs=args.quantize_outputs or None,
        float_modules=args.float_modules or None,
        example_shape=(2, 3, *args.example_shape) if args.example_shape else None,
    )
    settings = settings.with_weights(args.weight_bits) if args.weight_bits else settings
    network = prepare_model(model, settings)
    paths, read = spread_paths(cfg, args.num_images), []  # never validation images
    images = preprocessed(model, cfg, paths, 'calibrating', read)
    count = calibrate(network, images, args.method, args.percentile, read)
    source = Path(args.checkpoint)
    out = Path(args.out or source.with_name(f'{source.stem}_int8.pth'))
    result = Checkpoint(
        dict(meta=dict(checkpoint.meta, dataset_meta=model.dataset_meta), state_dict=model.cpu().state_dict()), str(out)
    )
    about = dict(images=count, method=args.method, percentile=args.percentile)
    result.quantize(network, settings, CALIBRATED, calibration=about)
    write_bytes(out, _serialized(result.content))
    evaluate = tool_command('test', args.config, out, '--compare', args=args)
    print(
        f'{out}: ranges of {len(list(network.activations()))} activations from {count} training images '
        f'({args.method}, {settings.scheme.name}). Evaluate it: {evaluate}'
    )


def _serialized(checkpoint: dict) -> bytes:
    import torch

    stream = BytesIO()
    torch.save(checkpoint, stream)
    return stream.getvalue()


if __name__ == '__main__':
    run_tool(main)
