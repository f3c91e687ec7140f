"""How well a supernet ranks networks: its metrics against those of the networks trained from scratch (Kendall's tau).

python tools/search.py CONFIG --out DIR        # at least the stages latency and supernet
python tools/studies/search_ranking.py DIR [ANOTHER_DIR ...] --jobs 2

Random networks of the space that spread over its multiply-accumulates are trained by the config's own schedule, under
QATHook, on the images that the search trained on, and evaluated in simulated INT8 on those that it held back. Each
folder is a supernet of the same space and images, such as one in float and one in simulated INT8; the trained networks
are in the first. Validation data is not read. What is done is not done again.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import _tools  # noqa: F401
from _runs import evaluate, side_by_side, train

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import png_of, write_bytes, write_text

if TYPE_CHECKING:
    from frostnet_mm.nas.search import Search

FOLDER = 'ranking'
SEED = 1  # of the networks, other than those that times are fitted to


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Compare a supernet with training from scratch.')
    parser.add_argument('folders', nargs='+', type=Path, metavar='FOLDER', help='--out of tools/search.py')
    parser.add_argument('--count', type=int, default=12, help='networks; default 12')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='of the trainings; default 0')
    parser.add_argument('--warmup', default='1 epoch', help="QATHook's; default '1 epoch'")
    parser.add_argument('--weights', default='channel', help="'channel' or 'tensor', for both; default channel")
    parser.add_argument('--jobs', type=int, default=1, help='trainings at once, each on one thread; default 1')
    args = parser.parse_args()
    if args.count < 3:
        parser.error(f'--count {args.count}: expected at least 3 networks to rank')
    return args


def open_search(folder: Path, weights: str) -> 'Search':
    """The search of a folder, as it was begun."""
    path = folder / 'search.json'
    if not path.is_file():  # before anything is imported that takes seconds
        raise UserError(f'{folder} is no folder of tools/search.py: {path} does not exist.')
    from frostnet_mm.nas.search import FIXED, RESOLVED, Search

    before = json.loads(path.read_text())
    return Search(str(folder / RESOLVED), folder, {name: before.get(name) for name in FIXED} | dict(weights=weights))


def write_config(search: 'Search', arch: dict, folder: Path, seed: int, args: argparse.Namespace) -> Path:
    """The config of a training: the user's, on the search's images."""
    from frostnet_mm.deploy.engines import engine_of
    from frostnet_mm.engine.config import load_config
    from frostnet_mm.nas.networks import plain_backbone
    from frostnet_mm.nas.search import RESOLVED
    from frostnet_mm.nas.split import FOLDER as SPLIT
    from frostnet_mm.nas.split import split_training_data

    path = folder / 'config.py'
    if path.is_file():
        return path
    cfg, own = load_config(search.folder / RESOLVED), search.settings
    split_training_data(cfg, own.val_fraction, own.seed, search.folder / SPLIT)
    cfg.model.backbone = plain_backbone(cfg.model.backbone.to_dict(), arch)
    hook = dict(type='frostnet_mm.QATHook', numerics=engine_of(own.engine).preset, warmup=args.warmup)
    hook |= dict(weight_bits=own.weight_bits or 8, weights=args.weights)
    cfg.default_hooks = (cfg.get('default_hooks') or {}) | dict(qat=hook)
    cfg.randomness = dict(seed=seed, deterministic=False)
    cfg.pop('search', None)
    write_text(path, cfg.pretty_text)
    return path


def trained(config: Path) -> float:
    """The metric of a network trained from scratch, in simulated INT8."""
    from frostnet_mm.benchmark.report.tables import main_metric

    folder = config.parent
    metrics = evaluate(config, train(config, folder), folder)
    print(f'{folder.name}: trained', flush=True)
    return main_metric('simulated', metrics).value


def table(rows: list[dict], folders: list[Path], taus: list[tuple[float, float]]) -> Iterator[str]:
    """The networks, and how each supernet ranks them."""
    heads = ['network', 'M MACs', 'trained from scratch', *(f'supernet {folder.name}' for folder in folders)]
    yield '| ' + ' | '.join(heads) + ' |'
    yield '|---' * len(heads) + '|'
    for row in sorted(rows, key=lambda row: mean(row['trained'])):
        values = [f'{row["mmacs"]:.0f}', ', '.join(f'{value:.3f}' for value in row['trained'])]
        yield f'| {row["name"]} | ' + ' | '.join([*values, *(f'{value:.3f}' for value in row['supernet'])]) + ' |'
    yield "| Kendall's tau (p) | | | " + ' | '.join(f'{tau:.2f} ({p:.3f})' for tau, p in taus) + ' |'


def draw(rows: list[dict], folders: list[Path], taus: list[tuple[float, float]]) -> bytes:
    """Metrics of the supernets against those of the trained networks."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 5), dpi=130, layout='constrained')
    for index, (folder, (tau, _)) in enumerate(zip(folders, taus, strict=True)):
        points = [(mean(row['trained']), row['supernet'][index]) for row in rows]
        axis.scatter(*zip(*points, strict=True), label=f"supernet {folder.name}, Kendall's tau {tau:.2f}")
    axis.set(
        xlabel='trained from scratch, INT8 (simulated)', ylabel='with the weights of the supernet, INT8 (simulated)'
    )
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return png_of(figure)


def main() -> None:
    args = parse_args()
    searches = [open_search(folder, args.weights) for folder in args.folders]
    from scipy.stats import kendalltau

    from frostnet_mm.nas.architectures import key
    from frostnet_mm.nas.candidates import Evaluator
    from frostnet_mm.nas.features import mmacs
    from frostnet_mm.nas.timing import choose_networks

    first = searches[0]
    archs = choose_networks(first.space, first.setting.features, args.count, SEED)
    rows = [dict(name=key(arch)[:8], mmacs=mmacs(first.setting.features(arch)), supernet=[]) for arch in archs]
    for search in searches:
        evaluate_network = Evaluator(search.folder, search.settings)
        for row, arch in zip(rows, archs, strict=True):
            row['supernet'].append(evaluate_network(arch).value)
    configs = [
        write_config(
            first, arch.to_config(), first.folder / FOLDER / f'{row["name"]}-{args.weights}-seed{seed}', seed, args
        )
        for seed in args.seeds
        for arch, row in zip(archs, rows, strict=True)
    ]
    with side_by_side(args.jobs) as pool:
        values = list(pool.map(trained, configs))
    for index, row in enumerate(rows):
        row['trained'] = values[index :: len(rows)]
    scratch = [mean(row['trained']) for row in rows]
    found = [kendalltau(scratch, [row['supernet'][index] for row in rows]) for index in range(len(searches))]
    taus = [(float(each.statistic), float(each.pvalue)) for each in found]
    lines = list(table(rows, args.folders, taus))
    out = first.folder / FOLDER
    write_text(out / f'{args.weights}.md', '\n'.join(lines) + '\n')
    write_text(out / f'{args.weights}.json', json.dumps(dict(networks=rows, taus=taus), indent=1))
    write_bytes(out / f'{args.weights}.png', draw(rows, args.folders, taus))
    print('\n'.join(lines))


if __name__ == '__main__':
    run_tool(main)
