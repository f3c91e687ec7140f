"""Give the package spoilt files and command lines, and tell what became of each.

python tools/studies/fuzz.py --inputs 10000 --seed 0 --out work_dirs/fuzz
python tools/studies/fuzz.py --kind images --only 1234      # one input again, with its output

Every input is made from the seed, its kind and its number alone: images (JPEG, PNG, WebP, TIFF and others), COCO
annotations, label maps, checkpoints (some of them pickles that would run code), deployments (description, network,
check.npz; exchanged, linked, renamed), command lines of all tools. What must come of each is a result or one message.
Faults, which are kept with their input in OUT/findings:

- ``TRACEBACK``, ``NO MESSAGE``, ``LONG MESSAGE``;
- ``HANG`` (over --limit seconds of computing, or five times that by the clock), ``MEMORY`` (over 4 GiB), ``SIGNAL``
  (the process died);
- ``WRITE`` outside of its folder of results, ``EXECUTED`` code of the input, ``CONNECTED`` to the network.

What was tried is not tried again: OUT/results.jsonl holds a line an input. The exit status is 1 if there is a fault.
"""

import argparse
import faulthandler
import json
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import _tools  # noqa: F401
import numpy as np
from _fuzz_data import Coco, Images, Kind, Labels, seed_everything
from _fuzz_deployments import Deployments
from _fuzz_guard import MEMORY, Guard, forget_peak, limited_memory, peak
from _fuzz_models import CANARY, Checkpoints
from _fuzz_tools import CommandLines

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import write_text

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Images(), Coco(), Labels(), Checkpoints(), Deployments(), CommandLines())
}
LIMIT = 60  # seconds an input may take
PATIENCE = 5  # times the limit by the clock, where the process waits for others
LONGEST = 4000  # characters of a message
RENEWED = 400  # inputs that a process takes before another one goes on
GOOD = ('result', 'refused')
_OF_MEMORY = re.compile(r"can't allocate|cannot allocate|Unable to allocate|bad_alloc|MemoryError|out of memory", re.I)


class Verdict(NamedTuple):
    """What became of an input."""

    outcome: str
    text: str


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Give the package spoilt files and command lines.')
    parser.add_argument('--inputs', type=int, default=1000, help='of all kinds together; default 1000')
    parser.add_argument('--seed', type=int, default=0, help='default 0')
    parser.add_argument('--kind', nargs='+', choices=list(KINDS), default=list(KINDS), help='default all')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/fuzz'), help='default work_dirs/fuzz')
    parser.add_argument('--limit', type=float, default=LIMIT, help=f'seconds an input may take; default {LIMIT}')
    parser.add_argument('--only', type=int, nargs='+', metavar='NUMBER', help='these inputs of one kind, with output')
    args = parser.parse_args()
    if args.inputs < 1 or args.seed < 0 or args.limit <= 0:
        parser.error('--inputs, --seed and --limit: expected numbers above 0, the seed from 0')
    if args.only and len(args.kind) > 1:
        parser.error('--only goes with one --kind')
    return args


# -- one input


def generator(seed: int, kind: str, number: int, part: int = 0) -> np.random.Generator:
    """The generator of an input: ``part`` 0 writes it, 1 decides how it is taken."""
    return np.random.default_rng([seed, *kind.encode(), number, part])


def attempt(kind: Kind, seed: int, number: int, folder: Path, guard: Guard) -> tuple[str, Verdict]:
    """Write an input and take it; what it was, in words, and what became of it."""
    out = folder / 'out'
    out.mkdir(parents=True)
    what = kind.write(generator(seed, kind.name, number), folder)
    seed_everything(number)
    forget_peak()
    with limited_memory(), guard.looking(out, Path(tempfile.gettempdir())):
        verdict = _taken(kind, generator(seed, kind.name, number, 1), folder, out)
    heard = [text for text in guard.seen if not text.startswith('WRITE') or '__pycache__' not in text]
    if (folder / CANARY).exists():
        heard.insert(0, f'EXECUTED: {CANARY} is there')
    if heard:
        verdict = Verdict(heard[0].split()[0].rstrip(':'), '\n'.join(heard[:5]))
    elif peak() > MEMORY:
        verdict = Verdict('MEMORY', f'a peak of {peak() / 2**30:.1f} GiB; {verdict.text}')
    return what, verdict


def _taken(kind: Kind, rng: np.random.Generator, folder: Path, out: Path) -> Verdict:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if kind.alone:
                kind.run(rng, folder, out)
                return Verdict('result', '')
            return Verdict('result', str(kind.run(rng, folder, out)))
    except UserError as error:
        return _message(str(error), error)
    except SystemExit as stop:
        return _of_a_tool(stop)
    except BaseException as error:
        return Verdict('MEMORY' if _is_memory(error) else 'TRACEBACK', traceback.format_exc()[-6000:])


def _message(text: str, error: BaseException | None) -> Verdict:
    if not text.strip():
        return Verdict('NO MESSAGE', '')
    if len(text) > LONGEST:
        return Verdict('LONG MESSAGE', text)
    while error is not None:
        if _is_memory(error):
            return Verdict('MEMORY', text)
        error = error.__cause__
    return Verdict('refused', text)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _OF_MEMORY.search(f'{type(error).__name__}: {error}') is not None


def _of_a_tool(stop: SystemExit) -> Verdict:
    """A tool that has come to its end: its messages are in the output of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.fsync(1) if os.path.isfile('/proc/self/fd/1') else None
    said = Path('/proc/self/fd/1').resolve().read_text(errors='replace') if os.path.isfile('/proc/self/fd/1') else ''
    if stop.code in (None, 0):
        return Verdict('result', said[-200:])
    found = re.search(r'^(?:[\w./ -]+: )?error: (.*)', said, re.MULTILINE | re.DOTALL)
    problems = re.search(r'^ *(?:PROBLEM: |failed: )(.*)', said, re.MULTILINE)
    if stop.code in (1, 2) and (found or problems):
        return _message((found or problems).group(1), None)
    return Verdict('NO MESSAGE', f'exit status {stop.code}: {said[-1000:]}')


# -- processes


def serve(kind: Kind, seed: int, numbers: list[int], folder: Path, answers: int, shown: bool) -> None:
    """Take inputs one after another and answer with a line each; the end of a process of its own."""
    guard = Guard()
    sys.dont_write_bytecode = True
    tempfile.tempdir = str(folder / 'tmp')
    os.makedirs(tempfile.tempdir, exist_ok=True)
    # where libraries keep their caches, which are no results
    os.environ.update(dict.fromkeys(('TMPDIR', 'HOME', 'MPLCONFIGDIR', 'TORCHINDUCTOR_CACHE_DIR'), tempfile.tempdir))
    faulthandler.disable()  # how a process dies is told by its signal
    for number in numbers:
        place = folder / f'{kind.name}-{number}'
        if not shown:
            stream = os.open(folder / 'output.txt', os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            for standard in (1, 2):
                os.dup2(stream, standard)
            os.close(stream)
        what, verdict = attempt(kind, seed, number, place, guard)
        os.chdir(folder)
        if verdict.outcome in GOOD and not shown:
            shutil.rmtree(place, ignore_errors=True)
        row = dict(kind=kind.name, number=number, what=what, outcome=verdict.outcome, text=verdict.text)
        os.write(answers, (json.dumps(row) + '\n').encode())
        if verdict.outcome == 'MEMORY':
            break  # another process goes on, without what is still held


class Worker:
    """A fork of this process that takes inputs of a kind, in their order."""

    def __init__(self, kind: Kind, seed: int, numbers: list[int], folder: Path, shown: bool) -> None:
        self.kind, self.numbers, self.folder = kind, list(numbers), folder
        self._text = b''
        self._answers, there = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                os.setsid()
                os.close(self._answers)
                serve(kind, seed, numbers, folder, there, shown)
                code = 0
            except BaseException:
                (folder / 'crash.txt').write_text(traceback.format_exc())
            finally:
                os._exit(code)
        os.close(there)

    def answer(self, limit: float) -> dict[str, Any] | None:
        """What became of the next input; None at the end."""
        start, used = time.monotonic(), self._seconds()
        while b'\n' not in self._text:
            ready, _, _ = select.select([self._answers], [], [], min(limit, 1.0))
            if not ready and self._seconds() - used < limit and time.monotonic() - start < PATIENCE * limit:
                continue
            if not ready:
                return self._lost('HANG', f'over {limit:g} seconds')
            part = os.read(self._answers, 1 << 16)
            if not part:
                return self._ended()
            self._text += part
        line, self._text = self._text.split(b'\n', 1)
        row = json.loads(line)
        self.numbers.remove(row['number'])
        return row

    def _seconds(self) -> float:
        """Time that the process has computed: others on a busy machine do not count."""
        fields = Path(f'/proc/{self.process}/stat').read_text().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def _ended(self) -> dict[str, Any] | None:
        _, status = os.waitpid(self.process, 0)
        self.process = 0
        if not self.numbers or not status:
            return None
        code = os.waitstatus_to_exitcode(status)
        crash = self.folder / 'crash.txt'
        if crash.is_file():  # of the fuzzer itself
            raise RuntimeError(crash.read_text())
        return self._lost('SIGNAL', f'{signal.Signals(-code).name if code < 0 else f"exit status {code}"}')

    def _lost(self, outcome: str, text: str) -> dict[str, Any]:
        """The input that this process died of, or did not come back from."""
        self.close()
        output = self.folder / 'output.txt'
        said = output.read_text(errors='replace')[-2000:] if output.is_file() else ''
        number = self.numbers.pop(0)
        return dict(kind=self.kind.name, number=number, what='', outcome=outcome, text=f'{text}\n{said}')

    def close(self) -> None:
        """End the process."""
        if self.process:
            os.killpg(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self.process = 0

    @property
    def ended(self) -> bool:
        """Whether it takes no more."""
        return not self.process


# -- all of them


def numbers_of(inputs: int, kinds: list[str]) -> dict[str, int]:
    """How many inputs each kind gets."""
    whole = sum(KINDS[name].share for name in kinds)
    return {name: max(1, round(inputs * KINDS[name].share / whole)) for name in kinds}


def prepared(kind: Kind, base: Path) -> None:
    """Write what the inputs of a kind are made of, in a process of its own, whose threads end with it."""
    done = base / 'done'
    if done.is_file():
        return
    child = os.fork()
    if child == 0:
        code = 1
        try:
            (base / 'files').mkdir(parents=True, exist_ok=True)
            kind.prepare(base / 'files')
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f'The files that inputs of kind {kind.name} are made of cannot be written.')
    done.touch()


def signature(row: dict[str, Any]) -> str:
    """What faults of one cause have in common: the kind of fault, and where it was raised."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', row['text'])
    last = next((f for f in reversed(frames) if 'frostnet_mm' in f[0]), frames[-1] if frames else None)
    end = row['text'].strip().splitlines()[-1:] or ['']
    cause = re.sub(r'0x[0-9a-f]+|\d+|\'[^\']*\'', '#', end[0])[:80]
    return f'{row["outcome"]} {Path(last[0]).name}:{last[1]} {cause}' if last else f'{row["outcome"]} {cause}'


def keep(row: dict[str, Any], folder: Path, out: Path) -> None:
    """Keep a fault with its input and the command that makes it again."""
    place = out / 'findings' / f'{row["kind"]}-{row["number"]}'
    source = folder / f'{row["kind"]}-{row["number"]}'
    shutil.rmtree(place, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, place, symlinks=True, ignore=_only_files)
        shutil.rmtree(source, ignore_errors=True)
    write_text(
        place / 'finding.txt', f'{row["outcome"]} {row["kind"]} {row["number"]} ({row["what"]})\n{row["text"]}\n'
    )


def _only_files(folder: str, names: list[str]) -> list[str]:
    paths = [Path(folder) / name for name in names]
    return [path.name for path in paths if not (path.is_symlink() or path.is_file() or path.is_dir())]


def read_results(path: Path, seed: int) -> list[dict[str, Any]]:
    """What was tried with this seed; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows += [row] if row['seed'] == seed else []
    return rows


def run_kind(kind: Kind, pending: list[int], args: argparse.Namespace, results: Path) -> None:
    """Take the inputs of a kind that were not taken yet."""
    out = args.out.resolve()
    base, folder = out / 'base' / kind.name, out / 'inputs'
    prepared(kind, base)
    kind.load(base / 'files')
    while pending:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        worker = Worker(kind, args.seed, pending[: 1 if kind.alone else RENEWED], folder, bool(args.only))
        while not worker.ended and (row := worker.answer(args.limit)) is not None:
            pending.remove(row['number'])
            with results.open('a') as file:
                file.write(json.dumps(dict(seed=args.seed) | row) + '\n')
            if row['outcome'] not in GOOD:
                keep(row, folder, out)
                print(f'{row["kind"]} {row["number"]}: {signature(row)}', flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def summary(rows: list[dict[str, Any]]) -> str:
    """Numbers by kind and outcome, and the faults by cause, as Markdown."""
    lines = ['| kind | inputs | results | refused | faults |', '|---|---|---|---|---|']
    for name in dict.fromkeys(row['kind'] for row in rows):
        count = Counter(row['outcome'] for row in rows if row['kind'] == name)
        bad = sum(count.values()) - count['result'] - count['refused']
        lines.append(f'| {name} | {sum(count.values()):,} | {count["result"]:,} | {count["refused"]:,} | {bad} |')
    causes = Counter(signature(row) for row in rows if row['outcome'] not in GOOD)
    lines += ['', *(f'- {count} x {cause}' for cause, count in causes.most_common())]
    return '\n'.join(lines).rstrip()


def main() -> int:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / ('only.jsonl' if args.only else 'results.jsonl')
    results.unlink(missing_ok=True) if args.only else None
    rows = read_results(results, args.seed)
    done = {(row['kind'], row['number']) for row in rows}
    for name, count in numbers_of(args.inputs, args.kind).items():
        pending = [number for number in args.only or range(count) if (name, number) not in done]
        if pending:
            run_kind(KINDS[name], pending, args, results)
    rows = [row for row in read_results(results, args.seed) if row['kind'] in args.kind]
    write_text(args.out / 'results.md', summary(rows) + '\n')
    print(summary(rows))
    return int(any(row['outcome'] not in GOOD for row in rows))


if __name__ == '__main__':
    run_tool(main)
