"""Which model families of the installed mmdet and mmseg are trained, converted, deployed: docs/results/families.md.

python tools/studies/zoo.py --out work_dirs/zoo

One small config a folder of their packaged configs, with random weights, at a small image size: captured as under
QATHook, trained for a step in simulated INT8 (every parameter that trains in float gets a gradient), converted
(as simulated, to one step on 0.1 % of each output), written and verified layer by layer on each engine. Outcomes:

- ``ok``; ``refused`` with one message;
- ``mm``: mm itself cannot build the model, or train it in float, here;
- the faults ``DEFECT`` (a raw exception), ``WRONG`` (other values or gradients), ``TIME`` and ``MEMORY``.

Blocks that a backbone repeats are cut to one or two a stage, which are of the same kinds (``--full`` leaves them).
What is done is not done again; the exit status is 1 if there is a fault.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import _tools  # noqa: F401
from _zoo_families import NOT_DENSE, cut_repetitions, find_families
from _zoo_model import STEPS, Study, take_through
from tqdm import tqdm

from frostnet_mm.cli import run_tool
from frostnet_mm.files import write_text

FAULTS = ('DEFECT', 'WRONG', 'TIME', 'MEMORY')
WAIT = 10  # on a busy machine a second of a core may take so long
PAGE = os.sysconf('SC_PAGE_SIZE')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Take a model of every family of mmdet and mmseg to the engines.')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/zoo'), help='logs and results')
    parser.add_argument('--names', nargs='+', metavar='NAME', help='only these families, such as mmdet/fcos')
    parser.add_argument('--limit', type=int, default=400, help='seconds of a core that a family may take; default 400')
    parser.add_argument('--memory', type=float, default=10, help='GiB that a family may take; default 10')
    parser.add_argument('--jobs', type=int, default=1, help='families at a time, of a thread each; default 1')
    parser.add_argument('--full', action='store_true', help='leave blocks that a backbone repeats')
    parser.add_argument('--again', action='store_true', help='also what is done already')
    return parser.parse_args()


class Child:
    """A fork of this process, which has imported what takes long, with one family."""

    def __init__(self, study: Study, folder: Path, limit: int, memory: float) -> None:
        self.name, self.memory = study.name, memory
        self.file = folder / f'{study.name.replace("/", "_")}.json'
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps(dict(config=study.config, running='build')))
        self.end = time.monotonic() + WAIT * limit
        self.shared = gib(os.getpid())
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            self._become(study, limit)

    def _become(self, study: Study, limit: int) -> None:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
            stream = os.open(self.file.with_suffix('.log'), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(stream, number)
            sys.stdout = sys.stderr = os.fdopen(stream, 'w', buffering=1)
            import torch

            torch.set_num_threads(1)
            save = lambda row: write_text(self.file, json.dumps(row))  # noqa: E731
            save(take_through(study, save))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(code)

    def result(self) -> dict | None:
        """The family's row; None while it runs."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        outcome, says = '', ''
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code == -signal.SIGXCPU:
                outcome, says = 'TIME', 'It took longer than the limit.'
            elif code:
                outcome, says = 'DEFECT', f'The process ended with status {code}.'
        elif time.monotonic() > self.end:
            outcome, says = 'TIME', 'It waited longer than the limit.'
        elif gib(self.process) - self.shared > self.memory:
            outcome, says = 'MEMORY', f'It took more than {self.memory:g} GiB.'
        else:
            return None
        if not done:
            self.kill()
        row = json.loads(self.file.read_text())
        step = row.pop('running', None)
        return row if not outcome else row | {step or STEPS[0]: outcome, 'says': says}

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


def gib(process: int) -> float:
    """The memory that a process holds, without files."""
    try:
        resident, shared = Path(f'/proc/{process}/statm').read_text().split()[1:3]
    except OSError:  # it has just ended
        return 0.0
    return (int(resident) - int(shared)) * PAGE / 2**30


def run_all(studies: list[Study], args: argparse.Namespace, keep: Callable[[str, dict], None]) -> None:
    """Run families, so many at a time."""
    waiting, running = list(reversed(studies)), []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which ends the children below
    progress = tqdm(total=len(studies), unit='family', disable=None)
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                running.append(Child(waiting.pop(), args.out, args.limit, args.memory))
            time.sleep(0.1)
            for child in list(running):
                row = child.result()
                if row is not None:
                    running.remove(child)
                    keep(child.name, row)
                    progress.update()
    finally:
        for child in running:
            child.kill()


def import_all() -> None:
    """What every family would import, so that its fork need not."""
    for name in ('mmdet.testing', 'mmdet.models', 'mmseg.models', 'onnx', 'onnxruntime', 'onnxscript', 'openvino'):
        import_module(name)
    for name in ('frostnet_mm.quantization.prepare', 'frostnet_mm.deploy.deploy'):
        import_module(name)
    from mmdet.utils import register_all_modules
    from mmseg.utils import register_all_modules as register_segmenters

    register_all_modules(False)
    register_segmenters(False)
    import torch

    from frostnet_mm.deploy.onnx.export import export_onnx

    torch.set_num_threads(1)  # threads would not survive the fork
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    export_onnx(layers, ['map'], torch.zeros(1, 3, 8, 8))  # which takes 5 s the first time


def table(rows: dict[str, dict]) -> str:
    """Outcomes as Markdown."""
    heads = ['family', 'config', 'image', *STEPS[1:4], 'onnxruntime', 'OpenVINO', 'INT8', 'what was said']
    lines = [heads, ['---'] * len(heads)]
    for name, row in sorted(rows.items()):
        cells = [row.get(step, '–') for step in STEPS[1:]]
        if row.get('build') != 'ok':
            cells[0] = row.get('build', '–')
        share = f'{row["int8"]:.0%}' if 'int8' in row else '–'
        share += ', one size' * bool(row.get('fixed'))
        size = 'x'.join(map(str, row.get('size', '–')))
        said = re.sub(r'\S*/site-packages/', '', row.get('says', '')).replace('|', '/')
        said = said if len(said) <= 240 else f'{said[:240]} …'
        lines.append([name, f'`{row["config"].split("/")[-1]}`', size, *cells, share, said])
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def works(row: dict) -> bool:
    """Whether a family went all the way."""
    return all(row.get(step) == 'ok' for step in STEPS)


def fails_in_mm(row: dict) -> bool:
    """Whether mm itself cannot train a family here."""
    return 'mm' in [row.get(step) for step in STEPS]


def summary(rows: dict[str, dict]) -> str:
    """The counts."""
    dense = [row for name, row in rows.items() if name not in NOT_DENSE and not fails_in_mm(row)]
    good = sum(map(works, dense))
    share = good / max(len(dense), 1)
    parts = [f'{len(rows)} families; {good} of {len(dense)} dense networks that mm trains here work ({share:.0%})']
    for outcome in ('refused', 'mm', *FAULTS):
        count = sum(outcome in [row.get(step) for step in STEPS] for row in rows.values())
        parts += [f'{count} {outcome}'] if count else []
    return ', '.join(parts)


def main() -> int:
    args = parse_args()
    families = find_families(args.names)
    args.out = args.out.resolve()
    results = args.out / 'results.json'
    rows = json.loads(results.read_text()) if results.is_file() else {}
    todo = [Study(*item, args.full) for item in families.items() if args.again or item[0] not in rows]

    def keep(name: str, row: dict) -> None:
        rows[name] = row
        write_text(results, json.dumps(rows, indent=1))
        print(f'{name}: {" ".join(row.get(step, "–") for step in STEPS)} {row.get("says", "")[:150]}', flush=True)

    if todo:
        import_all()
        if not args.full:
            cut_repetitions()
        run_all(todo, args, keep)
    shown = {name: rows[name] for name in families}
    write_text(args.out / 'results.md', f'{table(rows)}\n\n{summary(rows)}.\n')
    print(f'{table(shown)}\n\n{summary(shown)}: {results}')
    return int(any(row.get(step) in FAULTS for row in shown.values() for step in STEPS))


if __name__ == '__main__':
    run_tool(main)
