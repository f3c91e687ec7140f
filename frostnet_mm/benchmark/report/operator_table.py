"""The table of what operators cost: measured in a process for each engine, kept in a file, put into words."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from ...files import write_text
from ..cells import BUSY, DONE, FAILED, BenchmarkError
from ..measure import timing
from ..measure.machine import choose_cpus, describe_line
from ..measure.operators import CASES, OperatorCase
from ..measure.scheduler import WorkerError, WorkerProcess, require_quiet
from .tables import NONE, millions, number, percent, thread_count

FILE = 'operators.json'
ENGINES = ('onnxruntime', 'openvino')  # those that read ONNX
TIMEOUT = 300.0
HEADINGS = (
    'operator', 'shape', 'MACs', 'float ms', 'INT8 ms', 'INT8 / float', 'float GMAC/s', 'INT8 GMAC/s', 'spread',
    'remark',
)  # fmt: skip
NOTES = (
    'Each operator: the time of a small model with it, less that of the same model without it; no conversion between '
    'float and INT8 is counted. GMAC/s: billions of multiply-accumulates a second. spread: (p90 − p10) / median of '
    'the differences. Activations u8, weights s8 per channel.',
)


@dataclass
class OperatorResult:
    """What an operator costs on an engine; times that are lost in the noise are None.

    Args:
        case (OperatorCase): The operator.
        engine (str): The engine.
        threads (int): Its threads.
        status (str): 'done', 'busy' (measured, but no result) or 'failed'.
        reason (str): Why something is missing.
        float_ms (float, optional): In float.
        int8_ms (float, optional): In INT8.
        spread (float, optional): The larger of both precisions' (p90 - p10) / median over the rounds.
    """

    case: OperatorCase
    engine: str
    threads: int
    status: str = FAILED
    reason: str = ''
    float_ms: float | None = None
    int8_ms: float | None = None
    spread: float | None = None

    @property
    def ratio(self) -> float | None:
        """INT8 by float."""
        return self.int8_ms / self.float_ms if self.int8_ms and self.float_ms else None

    def gmacs(self, milliseconds: float | None) -> float | None:
        """Billions of multiply-accumulates a second."""
        return self.case.macs / milliseconds / 1e6 if milliseconds and self.case.macs else None

    def to_dict(self) -> dict:
        """All as plain data."""
        rates = dict(gmacs_float=self.gmacs(self.float_ms), gmacs_int8=self.gmacs(self.int8_ms))
        return asdict(self) | dict(macs=self.case.macs, ratio=self.ratio) | rates

    @classmethod
    def from_dict(cls, values: dict) -> 'OperatorResult':
        """The opposite of :meth:`to_dict`."""
        names = ('engine', 'threads', 'status', 'reason', 'float_ms', 'int8_ms', 'spread')
        return cls(OperatorCase(**values['case']), **{name: values[name] for name in names})


def summarize(case: OperatorCase, engine: str, threads: int, answer: dict, limits: timing.Limits) -> OperatorResult:
    """Make the figures of what :func:`operators.measure` returned."""
    result = OperatorResult(case, engine, threads, DONE)
    spreads, lost = [], []
    for name in ('float', 'int8'):
        middle = median(answer[name])
        if middle <= 0:
            lost.append(f'{name} is lost in the noise')
            continue
        setattr(result, f'{name}_ms', 1000 * middle)
        spreads.append((timing.percentile(answer[name], 0.9) - timing.percentile(answer[name], 0.1)) / middle)
    result.spread = max(spreads, default=None)
    busy = timing.busy_reason(answer['others'], None, limits)  # differences of times spread more than times
    result.reason = '; '.join(filter(None, (*lost, busy)))
    if busy:
        result.status = BUSY
    return result


class OperatorStore:
    """The results in a folder, which is up to date after every operator.

    Args:
        folder (str | PathLike): Of ``operators.json``.
        machine (dict): Of :func:`describe_machine`; results of another one are not taken.

    Raises:
        BenchmarkError: The file there cannot be read.
    """

    def __init__(self, folder: str | os.PathLike, machine: dict) -> None:
        self.path = Path(folder) / FILE
        self.machine = dict(line=describe_line(machine), versions=machine['versions'])
        self.entries: list[OperatorResult] = []
        if self.path.is_file():
            try:
                content = json.loads(self.path.read_text())
                if content['machine'] == self.machine:
                    self.entries = [OperatorResult.from_dict(values) for values in content['operators']]
            except (ValueError, KeyError, TypeError) as error:
                raise BenchmarkError(
                    f'{self.path} is no file of this benchmark ({type(error).__name__}: {error}): remove it, or give '
                    'another --out.'
                ) from error

    def find(self, case: OperatorCase, engine: str, threads: int) -> OperatorResult | None:
        """The result of an operator, or None."""
        wanted = case, engine, threads
        return next((e for e in self.entries if (e.case, e.engine, e.threads) == wanted), None)

    def add(self, entry: OperatorResult) -> None:
        """Keep a result, in the file too, in the place of an earlier one."""
        old = self.find(entry.case, entry.engine, entry.threads)
        if old is None:
            self.entries.append(entry)
        else:
            self.entries[self.entries.index(old)] = entry
        content = dict(machine=self.machine, operators=[other.to_dict() for other in self.entries])
        write_text(self.path, json.dumps(content, indent=1, allow_nan=False))


@dataclass(frozen=True)
class OperatorEffort:
    """How long to measure.

    Args:
        rounds (int): Turns of the models. Default: 9.
        seconds (float): Length of a turn. Default: 0.04.
    """

    rounds: int = 9
    seconds: float = 0.04


def measure_operators(
    store: OperatorStore,
    engines: Sequence[str],
    threads: Sequence[int],
    effort: OperatorEffort,
    limits: timing.Limits,
    allow_busy: bool = False,
    again: bool = False,
    cases: Sequence[OperatorCase] = CASES,
    say: Callable[[str], None] = print,
) -> list[OperatorResult]:
    """Measure what operators cost; those with a result are not measured again.

    Args:
        store (OperatorStore): Where results are kept.
        engines (Sequence[str]): Those of them that read ONNX are taken.
        threads (Sequence[int]): Numbers of threads.
        effort (OperatorEffort): How long.
        limits (timing.Limits): From when on a time is no result.
        allow_busy (bool): Let times of a busy machine count. Default: False.
        again (bool): Measure all. Default: False.
        cases (Sequence[OperatorCase]): The operators.
        say (Callable): Prints a line.

    Returns:
        list[OperatorResult]: Of all that is wanted.

    Raises:
        BusyError: The machine is busy, and that is not allowed.
    """
    if not allow_busy:
        require_quiet(limits)
    taken = [engine for engine in engines if engine in ENGINES]
    results = []
    for engine, count in ((engine, count) for count in threads for engine in taken):
        with ExitStack() as stack:
            worker = None
            for case in cases:
                known = store.find(case, engine, count)
                done = (DONE, BUSY) if allow_busy else (DONE,)
                if known is None or again or known.status not in done:
                    if worker is None or worker.process.poll() is not None:  # one that crashed is followed by another
                        log = store.path.parent / 'logs' / f'operators-{engine}-t{count}.log'
                        worker = WorkerProcess(log, count)
                        stack.callback(worker.close)
                    known = _measure(worker, case, engine, count, effort, limits)
                    store.add(known)
                    say(f'  {engine} {case.name}, {case.shape}: {_brief(known)}')
                results.append(known)
    return results


def _measure(
    worker: WorkerProcess,
    case: OperatorCase,
    engine: str,
    threads: int,
    effort: OperatorEffort,
    limits: timing.Limits,
) -> OperatorResult:
    try:
        options = dict(case=asdict(case), engine=engine, threads=threads, cpus=choose_cpus(threads))
        answer = worker.ask('operators', TIMEOUT, **options, **asdict(effort))
    except (WorkerError, ValueError) as error:  # a ValueError: fewer cores than threads
        return OperatorResult(case, engine, threads, FAILED, str(error))
    return summarize(case, engine, threads, answer, limits)


def _brief(entry: OperatorResult) -> str:
    if entry.status == FAILED:
        return f'not measured: {entry.reason}'
    remark = f'  ({entry.reason})' if entry.reason else ''
    return f'float {number(entry.float_ms)} ms, INT8 {number(entry.int8_ms)} ms, ratio {number(entry.ratio)}{remark}'


def operator_lines(entries: Sequence[OperatorResult], allow_busy: bool = False) -> list[list[str]]:
    """The rows of the table, as text, under ``HEADINGS``."""
    lines = []
    for entry in entries:
        counts = entry.status == DONE or (entry.status == BUSY and allow_busy)
        times = [number(entry.float_ms), number(entry.int8_ms), number(entry.ratio)]
        times += [number(entry.gmacs(entry.float_ms)), number(entry.gmacs(entry.int8_ms)), percent(entry.spread)]
        if entry.status == BUSY:
            times = [f'{text}*' if text != NONE else text for text in times[:5]] + times[5:]
        line = [entry.case.name, entry.case.shape, millions(entry.case.macs or None)]
        lines.append([*line, *(times if counts else [NONE] * len(times)), entry.reason])
    return lines


def operator_tables(entries: Sequence[OperatorResult], allow_busy: bool = False) -> list[tuple[str, list[list[str]]]]:
    """A heading and rows for each engine and number of threads."""
    found: dict[tuple[str, int], list[OperatorResult]] = {}
    for entry in entries:
        found.setdefault((entry.engine, entry.threads), []).append(entry)
    return [
        (f'Operators on {engine}, {thread_count(count)}', operator_lines(group, allow_busy))
        for (engine, count), group in found.items()
    ]
