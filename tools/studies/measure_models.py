"""What models cost, and how much of each an engine runs in INT8: the table of docs/results/models_int8.md.

python tools/studies/measure_models.py configs/ssdlite_frostnet_coco.py configs/espnetv2_frostnet_cityscapes.py

Each model gets random weights and ranges, is deployed to each engine and verified there layer by layer against the
converted reference, as tools/deploy.py does. What is measured is kept in --out, one JSON a model and image size, and is
not measured again.
"""

import argparse
import json
import tempfile
from pathlib import Path

import _tools  # noqa: F401
from mmengine.logging import print_log

from frostnet_mm.cli import add_weight_bits, run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import require_config, write_text

MOVES = ('Reorder', 'Transpose', 'Reshape', 'SpaceToDepth')  # compute nothing


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Parameters, MACs and INT8 shares of models on engines.')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help="float configs; 'mmdet::...' for installed ones")
    parser.add_argument('--engines', help='names between commas; default those that read ONNX: onnxruntime,openvino')
    parser.add_argument('--shape', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help='default: of the test pipeline')
    parser.add_argument('--out', default='work_dirs/models', help='folder; default work_dirs/models')
    parser.add_argument('--again', action='store_true', help='measure again what is there')
    add_weight_bits(parser)
    return parser.parse_args()


def measure(config: str, engines: list[str], shape: tuple[int, int] | None, weight_bits: int | None = None) -> dict:
    """One model on the engines.

    Returns:
        dict: Its row; under 'engines' what each engine runs, or under 'failed' why it does not.
    """
    from frostnet_mm.deploy.deploy import DeployOptions, deploy_model
    from frostnet_mm.deploy.engines import engine_of
    from frostnet_mm.deploy.loaded_model import load_for_deployment
    from frostnet_mm.engine.config import load_config

    sources: dict[str, object] = {}
    row: dict = dict(config=config, engines={}, failed={})
    load_config(config)  # which may register engines
    for name in engines:
        engine = engine_of(name)
        engine.require()
        if engine.preset not in sources:
            options = dict(size=shape, preset=engine.preset, weight_bits=weight_bits)
            sources[engine.preset] = load_for_deployment(config, None, 'int8', **options)
        with tempfile.TemporaryDirectory() as folder:
            options = DeployOptions(shape=shape, num_images=0)
            try:
                found = deploy_model(sources[engine.preset], engine, Path(folder) / name, options)
            except UserError as error:
                row['failed'][name] = f'{type(error).__name__}: {error}'
                continue
        row |= {key: found[key] for key in ('model', 'int8_share', 'float_operators')}
        row['engines'][name] = {key: found[key] for key in ('engine_int8_share', 'operators', 'verification')}
    return row


def cost_table(rows: list[dict], engines: list[str]) -> str:
    """Parameters, MACs and the share of them in INT8, as markdown."""
    heads = ['config', 'image', 'params', 'MACs (M)', 'INT8 by numerics', *(f'INT8 in {name}' for name in engines)]
    lines = [heads, ['---'] * len(heads)]
    for row in rows:
        cells = [Path(row['config']).stem, *[''] * (len(heads) - 1)]
        if row['engines']:
            model = row['model']
            cells[1:5] = [
                'x'.join(map(str, model['macs_shape'])),
                f'{model["params"]:,}',
                f'{model["macs"] / 1e6:.0f}',
                f'{row["int8_share"]:.1%}',
            ]
        cells[5:] = [share_of(row, name) for name in engines]
        lines.append(cells)
    return markdown(lines)


def share_of(row: dict, name: str) -> str:
    """The share of MACs that an engine does in INT8, or that it fails."""
    if name in row['failed']:
        return 'failed'
    share = row['engines'][name]['engine_int8_share']
    return 'not told' if share is None else f'{share:.1%}'


def operator_table(rows: list[dict], engines: list[str]) -> str:
    """What stays in float, and how far the engine is from the converted reference, as markdown."""
    heads = ['config', 'in float by numerics']
    for name in engines:
        heads += [f'in float in {name}', 'worst layer', 'error to float / reference']
    lines = [heads, ['---'] * len(heads)]
    for row in rows:
        cells = [Path(row['config']).stem, counted(row.get('float_operators', {}))]
        for name in engines:
            cells += engine_cells(row, name)
        lines.append(cells)
    return markdown(lines)


def engine_cells(row: dict, name: str) -> list[str]:
    """The operators in float, the layer that deviates most by itself, and the outputs' error beside the reference's."""
    if name in row['failed']:
        return [row['failed'][name].splitlines()[0], '', '']
    found = row['engines'][name]
    precisions = [(*kind.rsplit(' ', 1), count) for kind, count in found['operators'].items()]
    in_float = {kind: count for kind, precision, count in precisions if precision == 'float32' and kind not in MOVES}
    verification = found['verification']
    worst = verification['layers']['worst'] if 'layers' in verification else None
    ratio = max(output['engine_error'] / output['reference_error'] for output in verification['outputs'])
    layer = 'not told' if worst is None else f'{worst["steps"]} step in {worst["share"]:.3%}'
    return [counted(in_float), layer, f'{ratio:.2f}']


def counted(kinds: dict[str, int]) -> str:
    """Such as '2 sigmoid, 1 prelu'."""
    return ', '.join(f'{count} {kind}' for kind, count in kinds.items()) or 'nothing'


def markdown(lines: list[list[str]]) -> str:
    """Rows of cells as a table."""
    return ''.join('| ' + ' | '.join(cells) + ' |\n' for cells in lines)


def main() -> None:
    args = parse_args()
    for config in args.configs:
        require_config(config)
    from frostnet_mm.deploy.engines import engine_of, running_engines

    readers = [name for name in running_engines() if engine_of(name).reads_onnx]
    engines, out = args.engines.split(',') if args.engines else readers, Path(args.out)
    shape = tuple(args.shape) if args.shape else None
    rows = []
    for config in args.configs:
        size = (f'_{shape[0]}x{shape[1]}' if shape else '') + (f'_w{args.weight_bits}' if args.weight_bits else '')
        file = out / f'{Path(config).stem}{size}.json'
        row = None if args.again or not file.is_file() else json.loads(file.read_text())
        if row is None or not set(engines) <= {*row['engines'], *row['failed']}:
            print_log(f'{config} …', logger='current')
            row = measure(config, engines, shape, args.weight_bits)
            out.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(row, indent=1) + '\n')
        rows.append(row)
    text = f'{cost_table(rows, engines)}\n{operator_table(rows, engines)}'
    write_text(out / 'models.md', text)
    print(f'\n{text}\n{out}/models.md')


if __name__ == '__main__':
    run_tool(main)
