"""Say where INT8 costs accuracy: the signal-to-noise ratio of each layer of a quantized checkpoint.

python tools/analyze_quant.py configs/ssdlite_frostnet_qat_coco.py work_dirs/ssdlite_frostnet_qat_coco/epoch_600.pth

What to do with the worst layers: leave them in float with QATHook's or tools/calibrate.py's float modules, choose their
ranges with another --method of tools/calibrate.py, or train longer.
"""

import argparse
import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from frostnet_mm.cli import add_classes, add_config_options, add_weight_bits, run_tool
from frostnet_mm.files import require_checkpoint, require_config, write_text

if TYPE_CHECKING:
    from frostnet_mm.quantization.analysis import Analysis, LayerReport

WORST = 20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Say for each layer of a quantized checkpoint what INT8 costs.')
    parser.add_argument('config')
    parser.add_argument('checkpoint', help='with activation ranges: of QATHook or tools/calibrate.py')
    parser.add_argument('--num-images', type=int, default=32, help='spread over the data set; default 32')
    parser.add_argument('--split', choices=['train', 'val'], default='train', help='which images; default train')
    parser.add_argument('--out', help='folder of the files; default quantization, beside the checkpoint')
    parser.add_argument('--device', help='torch device; default cuda if there is one, else cpu')
    add_weight_bits(parser)
    add_classes(parser)
    add_config_options(parser)
    args = parser.parse_args()
    if args.num_images < 1:
        parser.error(f'--num-images {args.num_images}: expected at least 1')
    return args


def table(layers: 'Sequence[LayerReport]') -> str:
    """Layers as lines of text, in the order given."""
    from frostnet_mm.quantization.analysis import ACTIVATION

    width = max(len(layer.name) for layer in layers)
    lines = [f'{"layer":{width}s} {"SQNR":>8s} {"so far":>8s} {"saturated":>10s} {"levels":>7s}  range or shape']
    for layer in layers:
        cells = [f'{layer.name:{width}s}', _decibels(layer.sqnr), _decibels(layer.accumulated)]
        if layer.kind == ACTIVATION:
            cells += [f'{layer.saturated:10.3%}', f'{layer.levels:7.1%}', f' {layer.low:.4g} to {layer.high:.4g}']
        else:
            ratio = 'all channels are 0' if layer.scale_ratio is None else f'scales 1 to {layer.scale_ratio:.3g}'
            cells += [' ' * 18, f' {"x".join(map(str, layer.shape))}, {ratio}']
        lines.append(' '.join(cells))
    return '\n'.join(lines)


def outputs_table(outputs: 'Sequence[LayerReport]') -> str:
    """The network's outputs as lines of text."""
    width = max(len(output.name) for output in outputs)
    return '\n'.join(f'{output.name:{width}s} {_decibels(output.accumulated)}' for output in outputs)


def as_csv(analysis: 'Analysis') -> str:
    """All layers and outputs, a line each, in the order of the network; what does not apply is empty."""
    from frostnet_mm.quantization.analysis import LayerReport

    stream = io.StringIO()
    names = [field.name for field in fields(LayerReport)]
    writer = csv.DictWriter(stream, names, lineterminator='\n')
    writer.writeheader()
    for layer in (*analysis.layers, *analysis.outputs):
        shape = None if layer.shape is None else 'x'.join(map(str, layer.shape))
        writer.writerow(asdict(layer) | dict(shape=shape))
    return stream.getvalue()


def as_json(analysis: 'Analysis', **about) -> str:
    """All layers and outputs; an infinite SQNR, where nothing is lost, is the string "inf"."""
    content = about | dict(
        images=analysis.images,
        layers=[_plain(layer) for layer in analysis.layers],
        outputs=[_plain(output) for output in analysis.outputs],
    )
    return json.dumps(content, indent=1, allow_nan=False)


def _plain(layer: 'LayerReport') -> dict:
    values = {name: value for name, value in asdict(layer).items() if value is not None}
    return {name: 'inf' if value == math.inf else value for name, value in values.items()}


def _decibels(value: float | None) -> str:
    return ' ' * 8 if value is None else f'{value:5.1f} dB' if math.isfinite(value) else ' no loss'


def main() -> None:
    args = parse_args()
    out = Path(args.out) if args.out else Path(args.checkpoint).parent / 'quantization'
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'--out {out} is a file, expected a folder.')
    require_config(args.config)
    require_checkpoint(args.checkpoint)
    from frostnet_mm.apis.images import preprocessed, spread_paths
    from frostnet_mm.apis.model import load_model
    from frostnet_mm.apis.visualization.layer_plots import draw_layers
    from frostnet_mm.quantization.analysis import analyze
    from frostnet_mm.quantization.checkpoint import Checkpoint
    from frostnet_mm.quantization.prepare import quantized_network

    how = ('simulated', args.weight_bits)
    checkpoint = Checkpoint.open(args.checkpoint, args.classes)
    model, cfg = load_model(args.config, checkpoint, args.device, args.cfg_options, *how)
    paths = spread_paths(cfg, args.num_images, args.split)
    analysis = analyze(quantized_network(model), preprocessed(model, cfg, paths, 'analyzing'))
    about = dict(config=args.config, checkpoint=args.checkpoint, split=args.split)
    write_text(out / 'layers.csv', as_csv(analysis))
    write_text(out / 'layers.json', as_json(analysis, **about))
    name = Path(args.checkpoint).resolve()
    title = f'{name.parent.name}/{name.name}, {analysis.images} images of {args.split}'
    draw_layers(analysis, out / 'layers.png', title)
    worst = analysis.worst(WORST)
    print(
        f'\n{len(worst)} of {len(analysis.layers)} layers, worst first. SQNR: the loss by this rounding alone; so far: '
        f'by all up to it.\n{table(worst)}\n\nOutputs of the network, simulated INT8 against float:\n'
        f'{outputs_table(analysis.outputs)}\n\nAll layers: {out}/layers.csv, layers.json and layers.png'
    )


if __name__ == '__main__':
    run_tool(main)
