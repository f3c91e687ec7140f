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
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import _tools  # noqa: F401
from _numerics_plan import BY_FLOAT, MODELS, NUMERICS, Plan, Run, make_plan, write_config
from _numerics_report import classifier_table, draw, engine_table, table
from _runs import alone, calibrate, evaluate, main_value, side_by_side, train

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import write_bytes, write_text

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
    parser.add_argument(
        '--engine', help='names between commas: quantized runs are evaluated there as well, those that are done too'
    )
    parser.add_argument('--rows', nargs='+', choices=list(make_plan().rows), help='default all')
    parser.add_argument('--seeds', nargs='+', type=int, help='those of the plan that are run; default all')
    parser.add_argument('--models', nargs='+', choices=list(MODELS), metavar='MODEL', help='those run; default all')
    parser.add_argument('--numerics', nargs='+', choices=list(NUMERICS), help='those run, and float; default all')
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
            self._write()

    def extend(self, own: Run, metrics: dict) -> None:
        """Keep further metrics of a run that is there: of engines."""
        with self.lock:
            self.known[own].update(metrics)
            self._write()

    def lacking(self, own: Run, engines: Sequence[str]) -> list[str]:
        """The engines on which a run that is there has not been evaluated; none for a float one."""
        metrics = self.known.get(own, {})
        return [name for name in engines if len(metrics) > 1 and name not in metrics]

    def _write(self) -> None:
        write_text(self.path, ''.join(json.dumps(row) + '\n' for row in self.rows))


@functools.cache
def commit() -> str:
    """The commit of the code, marked where something is changed beside it; empty outside of a checkout."""
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=10', '--exclude=*']
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def float_checkpoint(own: Run, args: argparse.Namespace, options: Sequence[str]) -> Path:
    """The trained float run of a run's model and seed."""
    trained_float = Run(own.model, '', 'float', 0, own.seed)
    source = args.out / trained_float.name
    if not source.is_dir():
        raise UserError(f'{source} is not there: {own.name} begins with it, run its row first.')
    with FLOAT_RUNS[source]:  # which several begin with
        return train(write_config(trained_float, source), source, options)


def one_run(own: Run, args: argparse.Namespace) -> dict:
    """Train or calibrate, and evaluate in all arithmetics."""
    folder = args.out / own.name
    data = vars(args)[f'{own.data}_data']
    options = ['--cfg-options', f'data_root={data}', *args.cfg_options]
    trained_float = float_checkpoint(own, args, options) if own.variant in BY_FLOAT else None
    config = write_config(own, folder, trained_float)
    if own.variant == 'ptq':
        checkpoint = calibrate(config, trained_float, folder, PTQ_IMAGES, options)
    else:
        checkpoint = train(config, folder, options)
    engine = ['--engine', args.engine] if args.engine else []
    compared = [] if own.variant == 'float' else ['--compare', *engine]
    metrics = evaluate(config, checkpoint, folder, [*compared, *options])
    return dict(float=metrics) if own.variant == 'float' else metrics


def on_engines(own: Run, args: argparse.Namespace, engines: Sequence[str]) -> dict:
    """Evaluate a finished run on engines, by its checkpoint and what its config resolved to."""
    folder = args.out / own.name
    configs = [folder / f'{own.name}.py', folder / 'config.py', folder.with_name(f'{own.name}.py')]
    config = next((path for path in configs if path.is_file()), None)
    checkpoints = [folder / 'calibrated.pth']
    if (folder / 'trained').is_file():
        checkpoints.append(Path((folder / 'trained').read_text()))
    checkpoint = next((path for path in checkpoints if path.is_file()), None)
    if config is None or checkpoint is None:
        raise UserError(f'{folder} has no config or no checkpoint any more: it cannot be evaluated on an engine.')
    data = ['--cfg-options', f'data_root={vars(args)[f"{own.data}_data"]}', *args.cfg_options]
    return evaluate(config, checkpoint, folder, ['--engine', ','.join(engines), *data], '_'.join(engines))


def report(results: Results, plan: Plan, out: Path) -> None:
    """Write the tables and the picture, and print the tables."""
    known = results.known
    lines = [*table(known, plan), '', *engine_table(known, plan), '', *classifier_table(known, plan)]
    write_text(out / TABLE, '\n'.join(lines) + '\n')
    write_bytes(out / PICTURE, draw(known))
    print('\n'.join(lines))
    print(f'Commits: {", ".join(results.commits) or "none"}')


def main() -> None:
    args = parse_args()
    plan, results = make_plan(), Results(args.out)
    runs = [own for row in args.rows or plan.rows for own in plan.rows[row]]
    wanted = [own for own in runs if own.model in (args.models or MODELS) and own.seed in (args.seeds or [own.seed])]
    chosen = [own for own in wanted if own.numerics in ('', *(args.numerics or NUMERICS))]
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
    engines = args.engine.split(',') if args.engine else []
    late = [own for own in chosen if results.lacking(own, engines)]
    kinds = dict.fromkeys(own.data for own in [*todo, *late])
    missing = [f'--{kind}-data' for kind in kinds if not vars(args)[f'{kind}_data']]
    if missing:
        raise UserError(f'{", ".join(missing)}: expected a folder for these rows.')
    results.require(args.cfg_options)
    end = time.monotonic() + 60 * (float('inf') if args.minutes is None else args.minutes)
    failed: dict[str, str] = {}

    def each(what: Callable[[Run], None], own: Run) -> None:
        if time.monotonic() >= end:
            return
        try:
            what(own)
        except UserError as error:  # the others go on
            failed[own.name] = str(error)
            print(f'{own.name}: failed: {error}', flush=True)

    def do(own: Run) -> None:
        metrics = one_run(own, args)
        results.add(own, metrics, args.cfg_options, digest_of(args.out / own.name))
        print(f'{own.name}: {main_value(metrics):.4f} ({len(results.known)} done)', flush=True)

    def evaluate_late(own: Run) -> None:
        metrics = on_engines(own, args, results.lacking(own, engines))
        results.extend(own, metrics)
        values = ', '.join(f'{name} {main_value(dict(float=metrics[name])):.4f}' for name in metrics)
        print(f'{own.name}: {main_value(results.known[own]):.4f}, {values}', flush=True)

    # what begins with a float run comes last: two must not train it at once
    first, second = ([own for own in todo if (own.variant in BY_FLOAT) == last] for last in (False, True))
    with alone(args.out):
        for what, group in ((do, first), (do, second), (evaluate_late, late)):
            with side_by_side(args.jobs) as pool:
                list(pool.map(functools.partial(each, what), group))
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
