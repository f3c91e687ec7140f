"""Give each layer's weights bits of their own, by what they cost, and write the config that says so.

python tools/allocate_bits.py configs/ssdlite_frostnet_coco.py work_dirs/ssdlite_frostnet_coco/epoch_600.pth --budget
size=0.6 --out my_mixed.py

The config trains in simulated INT8 (tools/train.py), and calibrates a float checkpoint without training
(tools/calibrate.py). Beside it: FILE.json and FILE.png (docs/mixed_precision.md).
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from frostnet_mm.cli import add_classes, add_config_options, add_example_shape, run_tool, tool_command
from frostnet_mm.engine.config import ConfigError
from frostnet_mm.files import require_checkpoint, require_config, write_text
from frostnet_mm.quantization.scheme import GRANULARITIES, PRESETS, WEIGHT_BITS

if TYPE_CHECKING:
    from frostnet_mm.quantization.bit_allocation import Sensitivities
    from frostnet_mm.quantization.network import QuantizedNetwork


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Give the weights of each layer bits of their own.')
    parser.add_argument('config', help='float, or with a QATHook, whose options are kept')
    parser.add_argument('checkpoint', help='of that config, trained; float, or quantized (its ranges are not used)')
    parser.add_argument(
        '--budget',
        required=True,
        help='size=0.6 (share of the quantized weights at 8 bits), size=1.2MB (all parameters, packed) or bits=5.5 (a '
        'weight, on average)',
    )
    parser.add_argument('--out', required=True, help='config to write; FILE.json and FILE.png beside it')
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')
    parser.add_argument(
        '--choices',
        nargs='+',
        type=int,
        choices=WEIGHT_BITS,
        metavar='BITS',
        help='bits that a layer may get; default 8 to 2, or 7 to 2 if the config has weight_bits=7',
    )
    parser.add_argument(
        '--measured', metavar='FILE.json', help='take over what an earlier --out has measured, for another budget'
    )
    parser.add_argument('--num-images', type=int, default=32, help='spread over the training set; default 32')
    parser.add_argument('--numerics', choices=list(PRESETS), help="family of engines; default the config's, or onnx")
    parser.add_argument('--weights', choices=GRANULARITIES, help="scales of a weight; default the config's, or channel")
    parser.add_argument('--float-modules', nargs='+', metavar='NAME', help='modules that stay in float')
    add_example_shape(parser)
    add_classes(parser)
    parser.add_argument('--device', help='torch device; default cuda if there is one, else cpu')
    add_config_options(parser)
    args = parser.parse_args()
    if args.num_images < 1:
        parser.error(f'--num-images {args.num_images}: expected at least 1')
    return args


def check_out(args: argparse.Namespace) -> Path:
    """Refuse what cannot be written, before anything is measured."""
    out = Path(args.out)
    if out.suffix != '.py':
        raise ConfigError(f'--out {out}: expected the name of a .py config.')
    if out.resolve() == Path(args.config).resolve():
        raise ConfigError(f'--out {out} is the config itself, which the new one inherits; write to another file.')
    existing = [path for path in (out, out.with_suffix('.json'), out.with_suffix('.png')) if path.exists()]
    if existing and not args.overwrite:
        raise ConfigError(f'{existing[0]} exists already; give --overwrite to replace it.')
    return out


def table(found: 'Sensitivities', bits: list[int]) -> str:
    """Each layer with its bits, in the order of the network."""
    width = max(len(layer.name) for layer in found.layers)
    lines = [f'{"layer":{width}s} {"weights":>10s} {"bits":>5s} {"error":>10s}']
    for layer, row, own in zip(found.layers, found.errors, bits, strict=True):
        fixed = '' if layer.fixed is None else "  (the config's)"
        lines.append(f'{layer.name:{width}s} {layer.count:10,d} {own:5d} {row[own]:10.2e}{fixed}')
    return '\n'.join(lines)


def measured_before(path: str, about: dict, network: 'QuantizedNetwork') -> 'Sensitivities':
    """The errors that an earlier run has measured, with the same weights, arithmetic, choices and images."""
    from frostnet_mm.quantization.bit_allocation import Sensitivities
    from frostnet_mm.quantization.errors import QuantizationError

    try:
        content = json.loads(Path(path).read_text())
        wanted = json.loads(json.dumps(about))
        other = [name for name in ('sha256', 'scheme', 'choices', 'images') if content.get(name) != wanted[name]]
        if other:
            raise QuantizationError(f'{other[0]} is {content.get(other[0])}, now {wanted[other[0]]}')
        return Sensitivities.from_dict(content, network)
    except (OSError, ValueError, AttributeError, QuantizationError) as error:
        raise ConfigError(
            f'--measured {path} cannot be taken over: {error}. Expected the FILE.json beside an earlier --out of this '
            'config and checkpoint, with the same --choices and --num-images; or leave it out.'
        ) from error


def main() -> None:
    args = parse_args()
    require_config(args.config)
    require_checkpoint(args.checkpoint)
    out = check_out(args)
    from frostnet_mm.apis.images import preprocessed, spread_paths
    from frostnet_mm.apis.model import load_model
    from frostnet_mm.apis.qat_config import settings_of, write_with_bits
    from frostnet_mm.apis.visualization.bit_plots import draw_bits
    from frostnet_mm.quantization.bit_allocation import compare, measure, with_bits
    from frostnet_mm.quantization.bit_allocation_program import Budget
    from frostnet_mm.quantization.checkpoint import Checkpoint
    from frostnet_mm.quantization.prepare import prepare_model

    budget = Budget.parse(args.budget)
    checkpoint = Checkpoint.open(args.checkpoint, args.classes)
    model, cfg = load_model(args.config, checkpoint, args.device, args.cfg_options, execution='float')
    given = dict(
        numerics=args.numerics,
        weights=args.weights,
        float_modules=args.float_modules,
        example_shape=[2, 3, *args.example_shape] if args.example_shape else None,
    )
    settings = settings_of(cfg, **given)
    network = prepare_model(model, settings)
    most = 7 if settings.scheme.weight_bits == 7 else 8
    choices = sorted(set(args.choices or [bits for bits in WEIGHT_BITS if bits <= most]), reverse=True)
    paths = spread_paths(cfg, args.num_images)  # never validation images
    about = dict(config=args.config, checkpoint=args.checkpoint, sha256=checkpoint.digest, choices=choices)
    about |= dict(scheme=settings.scheme.to_dict(), images=len(paths))
    if args.measured:
        found = measured_before(args.measured, about, network)
    else:
        found = measure(network, choices, preprocessed(model, cfg, paths, 'layer by layer'))
    bits = found.within(budget)
    compared = compare(network, found, bits, choices, preprocessed(model, cfg, paths, 'allocations'))
    remarks = [f'{args.budget}: bits of tools/allocate_bits.py for {args.config} and {args.checkpoint}.']
    write_with_bits(
        args.config, cfg, with_bits(settings.scheme, found.layers, bits), given, out, remarks, args.cfg_options
    )
    about['budget'] = args.budget
    write_text(out.with_suffix('.json'), json.dumps(about | found.to_dict(bits) | compared, indent=1, allow_nan=False))
    names = [layer.name for layer in found.layers]
    points = compared['mixed'], compared['uniform'], compared['chosen']
    draw_bits(names, bits, found.counts, *points, out.with_suffix('.png'), f'{args.config}, {args.budget}')
    train = tool_command('train', out, args=args)
    calibrate = tool_command('calibrate', out, args.checkpoint, args=args)
    print(f'\n{table(found, bits)}\n\n{summary(compared)}\n\n{out}\nTrain it:     {train}\nOr calibrate: {calibrate}')


def summary(compared: dict) -> str:
    """The allocation against the same bits everywhere, in the same size or less."""
    chosen = compared['chosen']
    lines = [
        f'{chosen["bits"]:.2f} bits a weight, parameters {chosen["megabytes"]:.3f} MB packed; error of the outputs '
        f'with all weights rounded {chosen["error"]:.2e} (sum of the layers: {chosen["predicted"]:.2e})'
    ]
    smaller = [point for point in compared['uniform'] if point['megabytes'] <= chosen['megabytes']]
    for point in smaller[:1]:
        lines.append(
            f'{point["bits"]:g} bits everywhere: {point["megabytes"]:.3f} MB, error {point["error"]:.2e}'
            + ('' if chosen['error'] <= point['error'] else '. That is LESS than of the mixed bits: take those.')
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    run_tool(main)
