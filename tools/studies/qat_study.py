"""Train one detector or segmenter in several variants, in float and in simulated INT8, and compare the metrics.

python tools/studies/qat_study.py configs/examples/ssdlite_frostnet_custom_192.py --data-root path/to/data
    --seeds 0 1 --jobs 2

The variants are: float; qat (fake quantization from the first step); statassist (float warm-up, then QAT); gradboost
(StatAssist with GradBoost's paper mode); gradboost-ref (its reference mode). The float run is also calibrated after
training (ptq). What is finished is not run again, so the command can be stopped and repeated.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import _tools  # noqa: F401
from _runs import alone, calibrate, evaluate, side_by_side, train
from mmengine.config import DictAction

from frostnet_mm.cli import run_tool
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.files import write_text
from frostnet_mm.quantization.settings import EXECUTIONS
from frostnet_mm.registry import type_name

WARMUPS = {'float': None, 'qat': '0 epochs', 'statassist': None, 'gradboost': None, 'gradboost-ref': None}
MODES = {'gradboost': 'paper', 'gradboost-ref': 'reference'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Compare float training, PTQ and QAT on one data set.')
    parser.add_argument('config', help='a float config')
    parser.add_argument('--data-root', help='the data; default: that of the config')
    parser.add_argument('--out', help='folder of the runs; default work_dirs/qat_study/<config name>')
    parser.add_argument('--variants', nargs='+', choices=[*WARMUPS, 'ptq'], default=[*WARMUPS, 'ptq'])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--warmup', default='2 epochs', help="StatAssist's float warm-up; default 2 epochs")
    parser.add_argument('--qat-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='options of QATHook')
    parser.add_argument('--jobs', type=int, default=1, help='runs at once, each on one thread; default 1')
    parser.add_argument('--engine', help='names between commas: quantized variants are evaluated there as well')
    parser.add_argument('--calibration-images', type=int, default=128, help='for ptq; default 128')
    return parser.parse_args()


def write_config(args: argparse.Namespace, variant: str, seed: int, folder: Path) -> Path:
    """Write the config of one run."""
    lines = [f"_base_ = '{Path(args.config).resolve()}'", f'randomness = dict(seed={seed}, deterministic=False)']
    if variant != 'float':
        warmup = WARMUPS[variant] or args.warmup
        options = dict(type='frostnet_mm.QATHook', warmup=warmup, **(args.qat_options or {}))
        lines.append(f'default_hooks = dict(qat={options!r})')
    if variant in MODES:
        base = type_name(load_config(args.config, root_option(args)).optim_wrapper.optimizer)
        boosted = f'GradBoost{base}'
        if boosted not in ('GradBoostSGD', 'GradBoostRMSprop', 'GradBoostAdam', 'GradBoostAdamW'):
            raise ConfigError(f'{args.config} trains with {base}, of which there is no GradBoost form.')
        lines.append(f"optim_wrapper = dict(optimizer=dict(type='frostnet_mm.{boosted}', mode='{MODES[variant]}'))")
    path = folder / 'config.py'
    write_text(path, '\n'.join(lines) + '\n')
    return path


def root_option(args: argparse.Namespace) -> dict | None:
    """The data root for load_config."""
    return {'data_root': args.data_root} if args.data_root else None


def data_options(args: argparse.Namespace) -> list[str]:
    """The data root for a tool's command line."""
    return ['--cfg-options', f'data_root={args.data_root}'] if args.data_root else []


def one_run(args: argparse.Namespace, variant: str, seed: int, root: Path) -> dict[str, dict]:
    """Train (for ptq: calibrate) and evaluate, a quantized one in every arithmetic; the metrics by arithmetic."""
    folder, options = root / f'{variant}_seed{seed}', data_options(args)
    source = root / f'float_seed{seed}' if variant == 'ptq' else folder
    config = source / 'config.py'
    if not config.is_file():
        write_config(args, 'float' if variant == 'ptq' else variant, seed, source)
    checkpoint = train(config, source, options)
    if variant == 'ptq':
        checkpoint = calibrate(config, checkpoint, folder, args.calibration_images, options)
    quantized = variant != 'float'
    how = ['--compare', *(['--engine', args.engine] if args.engine else [])] if quantized else []
    metrics = evaluate(config, checkpoint, folder, how + options)
    return metrics if quantized else {'float': metrics}


def table(results: dict[tuple[str, int], dict], variants: list[str], seeds: list[int]) -> Iterator[str]:
    """The results as a markdown table: each seed's metric, then their mean."""
    some = next(iter(next(iter(results.values())).values()))
    metrics = [name for name in some if name.split('/')[-1] in ('bbox_mAP', 'bbox_mAP_50', 'mIoU')] or list(some)[:2]
    yield (
        '| variant | arithmetic | '
        + ' | '.join(f'{m.split("/")[-1]} (seeds {", ".join(map(str, seeds))})' for m in metrics)
        + ' |'
    )
    yield '|---|---|' + '---|' * len(metrics)
    for variant in variants:
        found = [name for seed in seeds for name in results.get((variant, seed), ())]
        for execution in dict.fromkeys([*EXECUTIONS, *found]):
            rows = [results[variant, seed].get(execution) for seed in seeds if (variant, seed) in results]
            rows = [row for row in rows if row]
            if not rows:
                continue
            cells = [
                f'{", ".join(f"{row[m]:.3f}" for row in rows)} (mean {mean(row[m] for row in rows):.3f})'
                for m in metrics
            ]
            yield f'| {variant} | {execution} | ' + ' | '.join(cells) + ' |'


def main() -> None:
    args = parse_args()
    load_config(args.config, root_option(args))  # a wrong path is said now
    root = Path(args.out or Path('work_dirs') / 'qat_study' / Path(args.config).stem)
    order = [
        (variant, seed)
        for seed in args.seeds
        for variant in sorted(args.variants, key=lambda variant: variant == 'ptq')
    ]
    results: dict[tuple[str, int], dict] = {}
    first = [item for item in order if item[0] != 'ptq']
    with alone(root), side_by_side(args.jobs) as pool:
        for group in (first, [item for item in order if item[0] == 'ptq']):  # ptq starts from the float runs
            for item, result in zip(group, pool.map(lambda item: one_run(args, *item, root), group), strict=True):
                results[item] = result
                print(f'{item[0]}, seed {item[1]}: done', flush=True)
    lines = list(table(results, args.variants, args.seeds))
    write_text(root / 'table.md', '\n'.join(lines) + '\n')
    write_text(root / 'results.json', json.dumps({f'{w}_seed{s}': r for (w, s), r in results.items()}, indent=1))
    print('\n'.join(lines))


if __name__ == '__main__':
    run_tool(main)
