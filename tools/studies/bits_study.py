"""The metric against the size: bits layer by layer (tools/allocate_bits.py) beside the same bits everywhere.

python tools/studies/bits_study.py CONFIG CHECKPOINT --data-root path/to/data --jobs 2
python tools/studies/bits_study.py CONFIG CHECKPOINT --data-root path/to/data --shares 0.5 --uniform 4 --train

CONFIG is a float config and CHECKPOINT its weights, which are calibrated for each; with --train each is trained in
simulated INT8 from scratch besides. Metrics are of the integers (converted) on the validation data. What is finished is
not run again, so that the command can be stopped and repeated. Writes table.md, results.json and bits.png.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import _tools  # noqa: F401
from _runs import alone, calibrate, evaluate, main_value, run, side_by_side, train

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import png_of, require_checkpoint, require_config, write_bytes, write_text
from frostnet_mm.quantization.scheme import WEIGHT_BITS

CALIBRATED, TRAINED = 'calibrated', 'trained'
SEEDED = 'randomness = dict(seed={seed}, deterministic=False)\n'
UNIFORM = "_base_ = {base!r}\ndefault_hooks = dict(qat=dict(type='frostnet_mm.QATHook', weight_bits={bits}))\n" + SEEDED


@dataclass(frozen=True)
class Point:
    """Bits that are evaluated.

    Args:
        name (str): In words, as in '4 bits' or '0.60 of the size'.
        config (Path): That says them.
        megabytes (float): Of all parameters, packed.
        error (float): Relative squared error of the outputs with all weights rounded.
        uniform (bool): Whether all layers have the same.
    """

    name: str
    config: Path
    megabytes: float
    error: float
    uniform: bool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Compare bits layer by layer with the same bits everywhere.')
    parser.add_argument('config', help='a float config')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('--data-root', help='the data; default: that of the config')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/bits_study'), help='folder of the runs')
    shares = (0.75, 0.625, 0.5, 0.45, 0.4, 0.375)
    parser.add_argument(
        '--shares', nargs='+', type=float, default=shares, help=f'of the size at 8 bits; default {shares}'
    )
    parser.add_argument('--uniform', nargs='+', type=int, choices=WEIGHT_BITS, default=(8, 7, 6, 5, 4, 3))
    parser.add_argument('--images', type=int, default=128, help='for ranges; default 128')
    parser.add_argument('--train', action='store_true', help='train each from scratch, too')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='of --train; default 0')
    parser.add_argument('--jobs', type=int, default=1, help='runs at once, each on one thread; default 1')
    args = parser.parse_args()
    wrong = [share for share in args.shares if not 0 < share <= 1]
    if wrong:
        parser.error(f'--shares {wrong[0]}: expected shares of the size at 8 bits, above 0 and at most 1')
    return args


def settle(args: argparse.Namespace) -> None:
    """Note what is studied in the folder.

    Raises:
        UserError: Something else was studied there.
    """
    path, config = args.out / 'about.json', str(Path(args.config).resolve())
    checkpoint = Path(args.checkpoint)
    about = dict(config=config, checkpoint=str(checkpoint.resolve()), written=checkpoint.stat().st_mtime)
    about |= dict(data_root=args.data_root, images=args.images)
    before = json.loads(path.read_text()) if path.is_file() else about
    other = [f'{name} was {before[name]}, now it is {about[name]}' for name in about if before[name] != about[name]]
    if other:
        raise UserError(f'{path}: {", ".join(other)}. Give another --out.')
    write_text(path, json.dumps(about, indent=1))


def allocated(
    args: argparse.Namespace, share: float, earlier: Path | None, options: Sequence[str]
) -> tuple[Point, list[dict], Path]:
    """The bits of a size; the size and error of each number of uniform bits; the file of what was measured for it."""
    config = args.out / f'share_{share:g}' / 'mixed.py'
    found = config.with_suffix('.json')
    if not found.is_file():
        config.parent.mkdir(parents=True, exist_ok=True)
        command = ['allocate_bits.py', str(Path(args.config).resolve()), args.checkpoint, '--budget', f'size={share}']
        taken = ['--measured', str(earlier)] if earlier else []
        run([*command, '--out', str(config), '--overwrite', *taken, *options], config.with_suffix('.out'))
    about = json.loads(found.read_text())
    own = about['chosen']
    point = Point(f'{share:g} of the size', config, own['megabytes'], own['error'], False)
    return point, about['uniform'], found


def uniform(args: argparse.Namespace, bits: int, sizes: list[dict]) -> Point:
    """The same bits everywhere."""
    own = next(point for point in sizes if point['bits'] == bits)
    config = args.out / f'uniform_{bits}' / 'uniform.py'
    write_text(config, UNIFORM.format(base=str(Path(args.config).resolve()), bits=bits, seed=0))
    return Point(f'{bits} bits', config, own['megabytes'], own['error'], True)


def measured(args: argparse.Namespace, point: Point, seed: int | None, options: Sequence[str]) -> float:
    """The metric of the integers: calibrated, or trained with a seed."""
    if seed is None:
        folder = point.config.parent / CALIBRATED
        checkpoint = calibrate(point.config, Path(args.checkpoint), folder, args.images, options)
        return main_value(evaluate(point.config, checkpoint, folder, ['--compare', *options]))
    folder = point.config.parent / f'{TRAINED}_{seed}'
    config = folder / 'config.py'
    write_text(config, f'_base_ = {str(point.config.resolve())!r}\n' + SEEDED.format(seed=seed))
    checkpoint = train(config, folder, options)
    return main_value(evaluate(config, checkpoint, folder, ['--compare', *options]))


def table(points: list[Point], values: dict[tuple[str, int | None], float], seeds: list[int]) -> Iterator[str]:
    """Each size, the largest first."""
    trained = [f'{TRAINED}, seed {seed}' for seed in seeds]
    yield f'| bits | parameters in MB, packed | error of the outputs | {" | ".join([CALIBRATED, *trained])} |'
    yield '|---|' + '---|' * (3 + len(seeds))
    for point in sorted(points, key=lambda point: -point.megabytes):
        cells = ' | '.join(f'{values[point.name, seed]:.3f}' for seed in (None, *seeds))
        yield f'| {point.name} | {point.megabytes:.3f} | {point.error:.2e} | {cells} |'


def draw(points: list[Point], values: dict[tuple[str, int | None], float], seeds: list[int]) -> bytes:
    """The metric against the size, calibrated and trained (mean of the seeds)."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5), dpi=130, layout='constrained')
    for uniform_, color, label in (
        (False, 'tab:blue', 'layer by layer'),
        (True, 'tab:orange', 'the same bits everywhere'),
    ):
        own = sorted((point for point in points if point.uniform == uniform_), key=lambda point: point.megabytes)
        sizes = [point.megabytes for point in own]
        axis.plot(sizes, [values[p.name, None] for p in own], 'o-', color=color, label=f'{label}, {CALIBRATED}')
        if seeds:
            means = [sum(values[p.name, seed] for seed in seeds) / len(seeds) for p in own]
            axis.plot(sizes, means, 's--', color=color, label=f'{label}, {TRAINED} ({len(seeds)} seeds)')
    axis.set_xlabel('parameters in MB, packed (quantized weights in their bits, others in 32)')
    axis.set_ylabel('metric of the integers')
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc='lower right')
    return png_of(figure)


def main() -> None:
    args = parse_args()
    require_config(args.config)
    require_checkpoint(args.checkpoint)
    options = ['--cfg-options', f'data_root={args.data_root}'] if args.data_root else []
    with alone(args.out), side_by_side(args.jobs) as pool:
        settle(args)
        first, sizes, errors = allocated(args, args.shares[0], None, options)
        others = pool.map(lambda share: allocated(args, share, errors, options)[0], args.shares[1:])
        points = [first, *others, *(uniform(args, bits, sizes) for bits in args.uniform)]
        seeds = args.seeds if args.train else []
        todo = [(point, seed) for seed in (None, *seeds) for point in points]

        def one(item: tuple[Point, int | None]) -> float:
            value = measured(args, *item, options)
            print(
                f'{item[0].name}, {CALIBRATED if item[1] is None else f"{TRAINED} {item[1]}"}: {value:.4f}', flush=True
            )
            return value

        values = {(p.name, seed): value for (p, seed), value in zip(todo, pool.map(one, todo), strict=True)}
    rows = [
        dict(bits=p.name, megabytes=p.megabytes, error=p.error, seed=seed, metric=values[p.name, seed])
        for p, seed in todo
    ]
    lines = list(table(points, values, seeds))
    write_text(args.out / 'table.md', '\n'.join(lines) + '\n')
    write_text(args.out / 'results.json', json.dumps(rows, indent=1))
    write_bytes(args.out / 'bits.png', draw(points, values, seeds))
    print('\n'.join(lines))


if __name__ == '__main__':
    run_tool(main)
