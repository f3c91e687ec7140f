"""Where StatAssist, GradBoost, distillation and numerics matter: trainings by a plan, paired by seed.

python tools/studies/numerics_study.py --list
python tools/studies/numerics_study.py --detection-data DETECTION --segmentation-data SEGMENTATION --jobs 2
python tools/studies/numerics_study.py --rows 1 2 --minutes 100 --detection-data DETECTION --jobs 2
python tools/studies/numerics_study.py --report

The plan has the rows of docs/quantization.md: each is a model, the numerics of its INT8, a way to train, and seeds. The
float run of a model and seed is calibrated for every numerics (ptq). Metrics are those of the integers (converted), of
the simulation and in float. A study that was stopped or killed goes on; a run that fails is named at the end, and the
others go on. Each finished run is a line of results.jsonl, with its config's digest and the commit of the code, from
which --report alone makes the tables and the picture.
"""

import argparse
import functools
import hashlib
import json
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

import _tools  # noqa: F401
from _numerics_plan import (
    MODELS,
    SEGMENTERS,
    Plan,
    Run,
    bases,
    make_plan,
    write_config,
)
from _runs import alone, calibrate, evaluate, main_value, train

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import png_of, write_bytes, write_text

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS, TABLE, PICTURE = 'results.jsonl', 'table.md', 'paired.png'
PTQ_IMAGES = 128
FLOAT_RUNS: dict[Path, threading.Lock] = defaultdict(threading.Lock)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train by a plan, and compare ways to INT8 seed by seed.')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/numerics_study'), help='folder of runs and results')
    parser.add_argument('--detection-data', help='data in COCO format')
    parser.add_argument('--segmentation-data', help="data in Cityscapes' layout")
    parser.add_argument('--classification-data', help='a folder a class, such as of tools/prepare_crops.py')
    parser.add_argument('--engine', help='names between commas: quantized runs are evaluated there as well')
    parser.add_argument('--rows', nargs='+', choices=list(make_plan().rows), help='default all')
    parser.add_argument('--seeds', nargs='+', type=int, help='those of the plan that are run; default all')
    parser.add_argument('--models', nargs='+', choices=list(MODELS), metavar='MODEL', help='those run; default all')
    parser.add_argument('--jobs', type=int, default=1, help='runs at once, each on one thread; default 1')
    parser.add_argument('--minutes', type=float, help='begin no run after so long')
    parser.add_argument('--list', action='store_true', help='say what there is to do')
    parser.add_argument('--report', action='store_true', help='tables and picture of the results that are there')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for all runs, such as max_epochs=2'
    )
    return parser.parse_args()


class Results:
    """``results.jsonl``: a line a run; written in one piece, so that a killed study leaves whole lines.

    Args:
        folder (Path): Where it lies.

    Raises:
        UserError: It cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.lock = folder / RESULTS, threading.Lock()
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        try:
            self.rows = [json.loads(line) for line in lines]
            self.known = {Run(**row['run']): row['metrics'] for row in self.rows}
            self.options = {tuple(row['options']) for row in self.rows}
            self.commits = sorted({row['commit'] for row in self.rows})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{self.path} cannot be read ({error}): move it away, finished runs are read again.'
            ) from error

    def require(self, options: Sequence[str]) -> None:
        """Refuse to mix runs of several options.

        Raises:
            UserError: What is there was made with others.
        """
        other = self.options - {tuple(options)}
        if other:
            raise UserError(
                f'{self.path} has runs with --cfg-options {" ".join(*list(other)[:1]) or "(none)"}, now it is '
                f'{" ".join(options) or "(none)"}: give another --out.'
            )

    def add(self, own: Run, metrics: dict, options: Sequence[str], digest: str = '') -> None:
        """Keep the metrics of a run."""
        with self.lock:
            self.known[own] = metrics
            about = dict(options=list(options), config=digest, commit=commit())
            self.rows.append(dict(run=asdict(own), metrics=metrics) | about)
            self.options.add(tuple(options))
            self.commits = sorted({*self.commits, about['commit']})
            write_text(self.path, ''.join(json.dumps(row) + '\n' for row in self.rows))


@functools.cache
def commit() -> str:
    """The commit of the code, marked where something is changed beside it; empty outside of a checkout."""
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=10', '--exclude=*']
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def one_run(own: Run, args: argparse.Namespace) -> dict:
    """Train or calibrate, and evaluate in all arithmetics."""
    folder = args.out / own.name
    data = vars(args)[f'{own.data}_data']
    options = ['--cfg-options', f'data_root={data}', *args.cfg_options]
    config = write_config(own, folder)
    if own.variant == 'ptq':
        trained_float = Run(own.model, '', 'float', 0, own.seed)
        source = args.out / trained_float.name
        if not source.is_dir():
            raise UserError(f'{source} is not there: {own.name} calibrates it, run its row first.')
        with FLOAT_RUNS[source]:  # which several calibrations start from
            trained = train(write_config(trained_float, source), source, options)
        checkpoint = calibrate(config, trained, folder, PTQ_IMAGES, options)
    else:
        checkpoint = train(config, folder, options)
    engine = ['--engine', args.engine] if args.engine else []
    compared = [] if own.variant == 'float' else ['--compare', *engine]
    metrics = evaluate(config, checkpoint, folder, [*compared, *options])
    return dict(float=metrics) if own.variant == 'float' else metrics


def paired(first: dict[int, float], second: dict[int, float]) -> tuple[float, float | None, int]:
    """The mean difference of the seeds that both have, its standard error, and how many there are."""
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences:
        return float('nan'), None, 0
    error = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
    return mean(differences), error, len(differences)


def groups(results: Results) -> dict[tuple[str, str, str, int], dict[int, float]]:
    """Metrics by seed of each model, numerics, variant and warm-up."""
    found: dict = {}
    for own, metrics in results.known.items():
        place = (own.model, own.numerics, own.variant, own.warmup)
        found.setdefault(place, {})[own.seed] = main_value(metrics)
    return found


def table(results: Results, plan: Plan) -> Iterator[str]:
    """All that there is, as a markdown table; differences are to QAT from the first step, and to float."""
    found, wanted = groups(results), {}
    for own in (own for runs in plan.rows.values() for own in runs):
        wanted.setdefault((own.model, own.numerics, own.variant, own.warmup), set()).add(own.seed)
    yield (
        '| model | numerics | variant | seeds | mean | spread | against QAT from the first step | against StatAssist | '
        'against float |'
    )
    yield '|---|---|---|---|---|---|---|---|---|'
    for place in wanted:
        model, numerics, variant, warmup = place
        values = found.get(place)
        if values is None:
            none = ' | '.join('–' * 5)
            yield f'| {model} | {numerics or "float"} | {named(*place)} | 0 of {len(wanted[place])} | {none} |'
            continue
        seeds = ', '.join(f'{values[seed]:.3f}' for seed in sorted(values))
        seeds += f' ({len(values)} of {len(wanted[place])})' * (len(values) < len(wanted[place]))
        spread = f'{stdev(values.values()):.3f}' if len(values) > 1 else '–'
        reference, ours = bases(variant)
        without = ('float', 'ptq')
        others = (
            {} if variant in without else found.get((model, numerics, *reference), {}),
            {} if variant in (*without, reference[0]) else found.get((model, numerics, *ours), {}),
            found.get((model, '', 'float', 0), {}),
        )
        cells = ['–' if other is values else _difference(*paired(values, other)) for other in others]
        mean_ = f'{mean(values.values()):.3f}'
        name = named(*place)
        yield f'| {model} | {numerics or "float"} | {name} | {seeds} | {mean_} | {spread} | {" | ".join(cells)} |'


def named(model: str, numerics: str, variant: str, warmup: int) -> str:
    """A variant in words."""
    unit = 'epoch' if warmup == 1 else 'epochs'
    return variant + (f', {warmup} {unit}' if warmup and model not in SEGMENTERS else '')


def _difference(value: float, error: float | None, pairs: int) -> str:
    if not pairs:
        return '–'
    return f'{value:+.3f}' + (f' ± {error:.3f}' if error is not None else '') + f' ({pairs})'


def draw(results: Results) -> bytes:
    """Each variant's difference to QAT from the first step, or to StatAssist that it is added to, seed by seed."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    found = groups(results)
    places = sorted(place for place in found if place[2] not in ('float', 'ptq', bases(place[2])[0][0]))
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.35 * max(1, len(places))), dpi=130, layout='constrained')
    for row, (model, numerics, variant, warmup) in enumerate(places):
        reference, ours = bases(variant)
        base = reference if (variant, warmup) == ours or model in SEGMENTERS else ours
        own, other = found[model, numerics, variant, warmup], found.get((model, numerics, *base), {})
        differences = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
        if differences:
            axis.plot(differences, [row] * len(differences), 'o', color='tab:blue', alpha=0.6)
            axis.plot(mean(differences), row, '|', color='black', markersize=14)
    axis.axvline(0, color='grey', linewidth=0.8)
    labels = [f'{place[0]}, {place[1]}: {named(*place)}' for place in places]
    axis.set_yticks(range(len(places)), labels)
    axis.set_xlabel(
        'INT8 metric, same seed: StatAssist less QAT from the first step, the others less StatAssist; bar: mean'
    )
    axis.grid(axis='x', alpha=0.25)
    return png_of(figure)


def report(results: Results, plan: Plan, out: Path) -> None:
    """Write the table and the picture, and print the table."""
    lines = list(table(results, plan))
    write_text(out / TABLE, '\n'.join(lines) + '\n')
    write_bytes(out / PICTURE, draw(results))
    print('\n'.join(lines))
    print(f'Commits: {", ".join(results.commits) or "none"}')


def main() -> None:
    args = parse_args()
    plan, results = make_plan(), Results(args.out)
    runs = [own for row in args.rows or plan.rows for own in plan.rows[row]]
    chosen = [own for own in runs if own.model in (args.models or MODELS) and own.seed in (args.seeds or [own.seed])]
    todo = [own for own in chosen if own not in results.known]
    if args.list:
        for row, own in plan.rows.items():
            print(f'{row}: {len(own)} runs, {sum(one in results.known for one in own)} done')
            for name in dict.fromkeys(one.name.rpartition('_')[0] for one in own):
                print(f'   {name}')
        return
    if args.report:
        report(results, plan, args.out)
        return
    wanted = [f'--{kind}-data' for kind in dict.fromkeys(own.data for own in todo) if not vars(args)[f'{kind}_data']]
    if wanted:
        raise UserError(f'{", ".join(wanted)}: expected a folder for these rows.')
    results.require(args.cfg_options)
    end = time.monotonic() + 60 * (float('inf') if args.minutes is None else args.minutes)
    failed: dict[str, str] = {}

    def do(own: Run) -> None:
        if time.monotonic() >= end:
            return
        try:
            metrics = one_run(own, args)
        except UserError as error:  # the others go on
            failed[own.name] = str(error)
            print(f'{own.name}: failed: {error}', flush=True)
            return
        results.add(own, metrics, args.cfg_options, digest_of(args.out / own.name))
        print(f'{own.name}: {main_value(metrics):.4f} ({len(results.known)} done)', flush=True)

    # float first of all: ptq starts from it, and two must not train it at once
    with alone(args.out):
        for group in ([own for own in todo if own.variant != 'ptq'], [own for own in todo if own.variant == 'ptq']):
            with ThreadPoolExecutor(args.jobs) as pool:
                list(pool.map(do, group))
        report(results, plan, args.out)
    if failed:
        raise UserError('\n'.join([f'{len(failed)} runs failed:', *(f'{n}: {text}' for n, text in failed.items())]))


def digest_of(folder: Path) -> str:
    """A short digest of what a training's config resolved to, else of its config; empty where there is none."""
    for config in (folder / f'{folder.name}.py', folder.with_name(f'{folder.name}.py')):
        if config.is_file():
            return hashlib.sha256(config.read_bytes()).hexdigest()[:16]
    return ''


if __name__ == '__main__':
    run_tool(main)
