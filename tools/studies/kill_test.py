"""Kill trainings with SIGKILL at random moments, go on with --resume, and compare with one that was not killed.

nice -n 10 python tools/studies/kill_test.py --times 100 --out work_dirs/kill_test

Detectors and segmenters in QAT with GradBoost, on generated data, some with averaged weights and accumulated gradients,
one with learned scales and one with a teacher. Each training is killed several times, each time in another phase, and
gone on with; in half of the kills that fall into the writing of a checkpoint, the place is one of the lines of Python
that it runs. All that the last checkpoints hold and what was logged must be equal to the last bit. results.json is
written as it goes; the command can be stopped and repeated.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import _tools
from _kill_cases import CASES
from _kill_moment import CHECKPOINT, PHASES, VALIDATION, Moment, Watch

from frostnet_mm.cli import run_tool
from frostnet_mm.files import write_text

RESULTS = 'results.json'
TRAIN = Path(_tools.__file__).parent.parent / 'train.py'
KILLED = -9  # os.waitstatus_to_exitcode of SIGKILL


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Kill trainings at random moments, resume and compare.')
    parser.add_argument('--times', type=int, default=100, help='kills; default 100')
    parser.add_argument('--seed', type=int, default=0, help='of the moments; default 0')
    parser.add_argument('--cases', nargs='+', choices=list(CASES), default=list(CASES))
    parser.add_argument('--phases', nargs='+', choices=PHASES, default=list(PHASES))
    parser.add_argument('--out', default='work_dirs/kill_test', help='folder of the runs; default work_dirs/kill_test')
    return parser.parse_args()


def train(config: Path, work_dir: Path, resume: bool, watch: Watch) -> int:
    """Run tools/train.py in a process forked from this one, which has imported all that it needs.

    Returns:
        int: Its exit status; -9 if it was killed.
    """
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        log = os.open(f'{work_dir}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        watch.install()
        sys.argv = [str(TRAIN), str(config), '--work-dir', str(work_dir), *(['--resume'] if resume else [])]
        runpy.run_path(str(TRAIN), run_name='__main__')
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def warm_up(config: Path) -> None:
    """Import and compute once what every training imports and computes, before processes are forked from this one."""
    from mmengine.registry import MODELS, init_default_scope
    from yapf.yapflib import yapf_api

    from frostnet_mm.engine import runner  # noqa: F401
    from frostnet_mm.engine.config import load_config
    from frostnet_mm.quantization.prepare import prepare_model
    from frostnet_mm.quantization.settings import QuantizationSettings

    # Every checkpoint holds the config, of which the layout takes longer than all else in these trainings.
    yapf_api.FormatCode = lambda text, **options: (text, False)
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    prepare_model(MODELS.build(cfg.model), QuantizationSettings.of('onnx'))


def straight(name: str, out: Path) -> Path:
    """The work dir of the training of a case that nothing happens to."""
    config, work_dir, spans = CASES[name].write(out), out / 'straight' / name, out / f'{name}.json'
    done = out / f'{name}.done'
    if not done.is_file():
        shutil.rmtree(work_dir, ignore_errors=True)
        print(f'{name}: training without a kill', flush=True)
        if train(config, work_dir, False, Watch(spans)):
            raise SystemExit(f'The training of {name} failed: {work_dir}.log')
        write_text(done, '')
    return work_dir


def choose(rng: random.Random, phases: list[str], spans: list[dict]) -> list[Moment]:
    """Moments of one training after the other, each in another phase, in the order in which these come."""
    ordered = [phase for phase in PHASES[:5] if phase in phases]
    chosen = sorted(rng.sample(ordered, min(3, len(ordered))), key=ordered.index)
    for phase in (CHECKPOINT, VALIDATION):
        if phase in phases:
            chosen.insert(rng.randint(0, len(chosen)), phase)
    counts = Counter(span['phase'] for span in spans)
    return [
        Moment(phase, rng.randrange(min(2, counts[phase])), rng.random(), phase == CHECKPOINT and rng.random() < 0.5)
        for phase in chosen
        if counts[phase]
    ]


def kill_often(index: int, args: argparse.Namespace, out: Path) -> dict:
    """Kill one training several times, go on with it to its end, and compare."""
    from _kill_compare import differences

    rng = random.Random(f'{args.seed}-{index}')
    name = args.cases[index % len(args.cases)]
    moments = choose(rng, args.phases, json.loads((out / f'{name}.json').read_text()))
    work_dir = out / 'killed' / f'{index:04d}_{name}'
    shutil.rmtree(work_dir, ignore_errors=True)
    kills, code = [], 0
    for moment in [*moments, None]:
        killed = work_dir.with_suffix('.killed')
        killed.unlink(missing_ok=True)
        watch = Watch(out / f'{name}.json' if moment else out / 'resumed.json', moment, killed)
        code = train(out / f'{name}.py', work_dir, work_dir.is_dir(), watch)
        if code == KILLED:
            kills.append(json.loads(killed.read_text()) | dict(moment=asdict(moment)))
        else:
            break
    found = [f'exit status {code}: {work_dir}.log'] if code else differences(out / 'straight' / name, work_dir)
    if not found:
        shutil.rmtree(work_dir)
        Path(f'{work_dir}.log').unlink()
    return dict(index=index, case=name, kills=kills, differences=found)


def table(results: list[dict]) -> str:
    """Kills by phase and case, and what differed."""
    cases = list(dict.fromkeys(result['case'] for result in results))
    lines = [f'| phase | {" | ".join(cases)} | kills | equal |', '|---|' + '---|' * (len(cases) + 2)]
    rows = [(kill['phase'], result) for result in results for kill in result['kills']]
    for phase in dict.fromkeys([*PHASES, *(phase for phase, _ in rows)]):
        own = [result for name, result in rows if name == phase]
        if own:
            counts = [str(sum(result['case'] == case for result in own)) for case in cases]
            equal = sum(not result['differences'] for result in own)
            lines.append(f'| {phase} | {" | ".join(counts)} | {len(own)} | {equal} |')
    equal = sum(not result['differences'] for _, result in rows)
    lines.append(f'| all |{" |" * len(cases)} {len(rows)} | {equal} |')
    for result in results:
        if result['differences']:
            at = ', '.join(f'{kill["phase"]} (iteration {kill["iteration"]})' for kill in result['kills'])
            more = len(result['differences']) - 3
            said = '; '.join(result['differences'][:3]) + (f'; and {more} more' if more > 0 else '')
            lines.append(f'\n{result["index"]} {result["case"]}, killed in {at}: {said}')
    return '\n'.join(lines)


def main() -> int:
    args = parse_args()
    from _kill_compare import differences

    out = Path(args.out)
    path = out / RESULTS
    warm_up(CASES[args.cases[0]].write(out))
    for name in args.cases:
        straight(name, out)
    results = json.loads(path.read_text()) if path.is_file() else []
    for result in results:
        if result['differences']:  # kept, and compared anew: the comparison may have been mended
            own = out / 'killed' / f'{result["index"]:04d}_{result["case"]}'
            result['differences'] = differences(out / 'straight' / result['case'], own)
    write_text(path, json.dumps(results, indent=1))
    known = {result['index'] for result in results}
    index = 0
    while sum(len(result['kills']) for result in results) < args.times:
        if index not in known:
            result = kill_often(index, args, out)
            results.append(result)
            write_text(path, json.dumps(results, indent=1))
            done = sum(len(each['kills']) for each in results)
            state = 'equal' if not result['differences'] else f'NOT EQUAL: {result["differences"][0]}'
            kills = f'{result["case"]}, killed {len(result["kills"])} times'
            print(f'{done} of {args.times} kills: {kills}: {state}', flush=True)
        index += 1
    print(f'\n{table(results)}')
    return 1 if any(result['differences'] for result in results) else 0


if __name__ == '__main__':
    run_tool(main)
