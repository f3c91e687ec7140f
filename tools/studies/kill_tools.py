"""Kill a search, a study and a benchmark with SIGKILL at random moments, repeat the command, and compare the results.

OMP_NUM_THREADS=1 nice -n 10 python tools/studies/kill_tools.py --times 10 --out work_dirs/kill_tools

Each command runs to its end once; then again in folders of their own, killed two to four times with what it has started
and repeated until it ends. Of a search (of tiny networks, on generated data; the times of its latency model are taken
over) the networks that were evaluated must be the same with the same metrics, none twice; of the study, its table; of
the benchmark, each cell once, and what was finished before a kill as it was. results.json goes on where it was.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import _tools
from _kill_cases import CASES
from _runs import StudyError, environment

from frostnet_mm.cli import run_tool
from frostnet_mm.files import write_text

TOOLS = Path(_tools.__file__).parent.parent
SEARCH = """_base_ = {base!r}
search = dict(engine='onnxruntime', trials=12, epochs=2, networks=18,
              space=dict(kernels=(3, 5), expansions=(2, 3), reductions=(None, 2)))
"""


@dataclass(frozen=True)
class Command:
    """A tool that is killed.

    Args:
        script (str): Below tools/.
        arguments (Callable): Of it, from the folder of the data and configs and that of its results.
        compare (Callable): What differs between two folders of results, as text.
        keep (tuple[str, ...]): Patterns of files that a killed run begins with, from the one that was not killed.
        snapshot (Callable): What must not change any more, from a folder in the middle.
        stages (tuple[str, ...]): Values of --stage that are run one after the other; '' for the whole.
        spared (str, optional): The one of them that is not killed.
    """

    script: str
    arguments: Callable[[Path, Path], list[str]]
    compare: Callable[[Path, Path], list[str]]
    keep: tuple[str, ...] = ()
    snapshot: Callable[[Path], dict] = lambda folder: {}
    stages: tuple[str, ...] = ('',)
    spared: str | None = None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Kill tools at random moments, repeat them and compare.')
    parser.add_argument('--times', type=int, default=10, help='kills of each; default 10')
    parser.add_argument('--seed', type=int, default=0, help='of the moments; default 0')
    parser.add_argument('--tools', nargs='+', choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument('--out', type=Path, default=Path('work_dirs/kill_tools'), help='default work_dirs/kill_tools')
    return parser.parse_args()


def trials_of(folder: Path) -> list[str]:
    """The networks that a search has evaluated, by their tables, as its journal has them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(folder / 'study.log'))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.load_study(study_name=None, storage=storage)
    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    return [json.dumps([trial.params, trial.values], sort_keys=True) for trial in done]


def compare_searches(one: Path, other: Path) -> list[str]:
    """Other trials, one that is there twice, or another metric of a network."""
    metrics = [
        {path.name: path.read_text() for path in sorted((f / 'candidates').glob('*.json'))} for f in (one, other)
    ]
    trials = [trials_of(folder) for folder in (one, other)]
    found = [] if metrics[0] == metrics[1] else [f'metrics: {len(metrics[0])} and {len(metrics[1])} networks']
    found += [] if sorted(trials[0]) == sorted(trials[1]) else ['other trials']
    return found + ([] if len(set(trials[1])) == len(trials[1]) else ['a trial that is there twice'])


def compare_tables(one: Path, other: Path) -> list[str]:
    """Another table of a study."""
    return [] if (one / 'table.md').read_text() == (other / 'table.md').read_text() else ['another table']


def cells_of(folder: Path) -> dict[str, str]:
    """The cells of a benchmark that are finished, as text."""
    path = folder / 'results.json'
    cells = json.loads(path.read_text())['results'] if path.is_file() else []
    return {json.dumps(cell['cell'], sort_keys=True): json.dumps(cell) for cell in cells if cell['status'] != 'failed'}


def compare_benchmarks(one: Path, other: Path) -> list[str]:
    """Cells that lack, are there twice, or failed in one alone (some are not to be had: an engine's missing bf16)."""
    counts = [
        Counter(
            (json.dumps(cell['cell'], sort_keys=True), cell['status'] == 'failed')
            for cell in json.loads((folder / 'results.json').read_text())['results']
        )
        for folder in (one, other)
    ]
    other_cells = (counts[0] - counts[1]) + (counts[1] - counts[0])
    return [f'other cells: {sorted(other_cells)}'] if other_cells else []


COMMANDS = dict(
    search=Command(
        'search.py',
        lambda data, out: [str(data / 'search.py'), '--out', str(out), '--allow-busy'],
        compare_searches,
        ('latency-*.json', 'search.json', 'config.py'),
        stages=('latency', 'supernet', 'search'),  # not the report, whose times differ
        spared='latency',
    ),
    qat_study=Command(
        'studies/qat_study.py',
        lambda data, out: [
            str(data / 'float.py'), '--out', str(out), '--variants', 'float', 'statassist', 'ptq', '--seeds', '0',
            '--warmup', '4 iterations', '--calibration-images', '8',
        ],  # fmt: skip
        compare_tables,
    ),
    benchmark=Command(
        'benchmark.py',
        lambda data, out: [
            str(data / 'float.py'), '--engines', 'onnxruntime,torch', '--shape', '64', '64', '--batch', '1,2',
            '--rounds', '3', '--seconds', '0.3', '--allow-busy', '--out', str(out),
        ],  # fmt: skip
        compare_benchmarks,
        snapshot=cells_of,
    ),
)  # fmt: skip


def start(command: Command, data: Path, out: Path, stage: str) -> subprocess.Popen:
    """The tool in a process of its own, with what it prints in a log."""
    arguments = command.arguments(data, out) + (['--stage', stage] if stage else [])
    with Path(f'{out}.log').open('a') as log:
        return subprocess.Popen(
            [sys.executable, str(TOOLS / command.script), *arguments], stdout=log, stderr=log, env=environment()
        )


def straight(name: str, data: Path, out: Path) -> tuple[Path, dict[str, float]]:
    """The results of a command that is not killed, and how long each stage of it takes."""
    folder, done = out / 'straight' / name, out / f'{name}.json'
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f'{name}: without a kill', flush=True)
        seconds = {}
        for stage in COMMANDS[name].stages:
            began = time.monotonic()
            if start(COMMANDS[name], data, folder, stage).wait():
                raise StudyError(f'{name} failed; its output is in {folder}.log.')
            seconds[stage] = time.monotonic() - began
        write_text(done, json.dumps(seconds))
    return folder, json.loads(done.read_text())


def kill_often(name: str, index: int, seed: int, data: Path, out: Path) -> dict:
    """Kill one run some times, let it end, and compare."""
    command, rng = COMMANDS[name], random.Random(f'{name}-{seed}-{index}')
    reference, seconds = straight(name, data, out)
    folder, kills, changed = out / 'killed' / f'{name}_{index:03d}', [], []
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for pattern in command.keep:
        for path in reference.glob(pattern):
            shutil.copy(path, folder / path.name)
    wanted = rng.randint(2, 4)
    stages = [stage for stage in command.stages if stage != command.spared]
    while stages:
        process = start(command, data, folder, stages[0])
        try:
            code = process.wait(rng.uniform(0.1, 0.9) * seconds[stages[0]] if len(kills) < wanted else None)
        except subprocess.TimeoutExpired:
            before = command.snapshot(folder)
            process.send_signal(signal.SIGKILL)
            process.wait()
            after = command.snapshot(folder)
            changed += [key for key in before if before[key] != after.get(key)]
            kills.append(stages[0])
            continue
        if code:
            return dict(tool=name, index=index, kills=kills, differences=[f'exit status {code}: {folder}.log'])
        stages.pop(0)
    found = command.compare(reference, folder) + [f'changed by a kill: {key}' for key in changed]
    if not found:
        shutil.rmtree(folder)
    return dict(tool=name, index=index, kills=kills, differences=found)


def write_data(out: Path) -> Path:
    """Data, and configs of a tiny detector in float: one to train, one to search with."""
    folder = out / 'data'
    folder.mkdir(parents=True, exist_ok=True)
    quantized = CASES['detector'].write(folder)
    write_text(folder / 'float.py', re.sub(r'qat=dict\([^)]*\), ', '', quantized.read_text()))
    write_text(folder / 'search.py', SEARCH.format(base=str(folder / 'float.py')))
    return folder


def table(results: list[dict]) -> Iterator[str]:
    """Kills by tool, and what differed."""
    yield '| tool | runs | kills | equal |'
    yield '|---|---|---|---|'
    for name in COMMANDS:
        own = [result for result in results if result['tool'] == name]
        if own:
            kills, equal = sum(len(result['kills']) for result in own), sum(not r['differences'] for r in own)
            yield f'| {name} | {len(own)} | {kills} | {equal} |'
    for result in results:
        if result['differences']:
            yield f'{result["tool"]} {result["index"]}: {"; ".join(result["differences"][:3])}'


def main() -> int:
    args = parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    data, path = write_data(args.out), args.out / 'results.json'
    results = json.loads(path.read_text()) if path.is_file() else []
    for name in args.tools:
        own, index = [result for result in results if result['tool'] == name], 0
        while sum(len(result['kills']) for result in own) < args.times:
            if index not in {result['index'] for result in own}:
                own.append(kill_often(name, index, args.seed, data, args.out))
                results.append(own[-1])
                write_text(path, json.dumps(results, indent=1))
                state = 'equal' if not own[-1]['differences'] else f'NOT EQUAL: {own[-1]["differences"][0]}'
                print(f'{name}, killed {len(own[-1]["kills"])} times: {state}', flush=True)
            index += 1
    print('\n'.join(table(results)))
    return 1 if any(result['differences'] for result in results) else 0


if __name__ == '__main__':
    run_tool(main)
