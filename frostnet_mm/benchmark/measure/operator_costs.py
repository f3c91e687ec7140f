"""What operators cost on engines: each measured in a process of the engine's, kept in a file."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import median

from ..cells import TORCH
from ..store import BUSY, DONE, FAILED, Kind, Store
from . import timing
from .machine import choose_cpus, describe_line
from .operators import CASES, OperatorCase
from .process import WorkerError, WorkerProcess
from .scheduler import require_quiet

TIMEOUT = 300.0


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
    def key(self) -> tuple[OperatorCase, str, int]:
        """What was measured."""
        return self.case, self.engine, self.threads

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
    """The result of what :func:`operators.measure` returned."""
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


def _machine_of(machine: dict) -> dict:
    return dict(line=describe_line(machine), versions=machine['versions'])


OPERATORS = Kind('operators.json', 'operators', OperatorResult.from_dict, _machine_of, ('line', 'versions'))


def operator_store(folder: str | os.PathLike, machine: dict) -> Store[OperatorResult]:
    """The store of what operators cost in a folder, ``operators.json``; it begins with none of another machine.

    Args:
        folder (str | PathLike): The folder.
        machine (dict): Of :func:`describe_machine`.

    Raises:
        BenchmarkError: The file there cannot be read.
    """
    return Store(OPERATORS, folder, machine, drop=True)


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
    store: Store[OperatorResult],
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
        store (Store): Of :func:`operator_store`, where results are kept.
        engines (Sequence[str]): Names of engines; those of them that read ONNX are taken.
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
        DeploymentError: An engine is not known.
    """
    from ...deploy.engines import engine_of

    if not allow_busy:
        require_quiet(limits)
    readers = [engine for engine in engines if engine != TORCH and engine_of(engine).reads_onnx]
    wanted = [OperatorResult(case, engine, count) for count in threads for engine in readers for case in cases]
    pending = store.pending(wanted, allow_busy, again)
    for (engine, count), group in groupby(pending, lambda entry: (entry.engine, entry.threads)):
        with ExitStack() as stack:
            worker = None
            for entry in group:
                if worker is None or worker.process.poll() is not None:  # one that crashed is followed by another
                    log = store.path.parent / 'logs' / f'operators-{engine}-t{count}.log'
                    worker = WorkerProcess(log, count)
                    stack.callback(worker.close)
                found = _measure(worker, entry.case, engine, count, effort, limits)
                store.add(found)
                say(f'  {engine} {found.case.name}, {found.case.shape}: {_brief(found)}')
    return store.of(wanted)


def _measure(
    worker: WorkerProcess,
    case: OperatorCase,
    engine: str,
    threads: int,
    effort: OperatorEffort,
    limits: timing.Limits,
) -> OperatorResult:
    from ...deploy.engines import engine_of

    file = engine_of(engine).device_file
    try:
        options = dict(case=asdict(case), engine=engine, threads=threads, cpus=choose_cpus(threads))
        options |= dict(engine_file=None if file is None else str(file))
        answer = worker.ask('operators', TIMEOUT, **options, **asdict(effort))
    except (WorkerError, ValueError) as error:  # a ValueError: fewer cores than threads
        return OperatorResult(case, engine, threads, FAILED, str(error))
    return summarize(case, engine, threads, answer, limits)


def _brief(entry: OperatorResult) -> str:
    if entry.status == FAILED:
        return f'not measured: {entry.reason}'
    values = (entry.float_ms, entry.int8_ms, entry.ratio)
    parts = (f'{value:#.3g}' if value else '–' for value in values)
    remark = f'  ({entry.reason})' if entry.reason else ''
    return 'float {} ms, INT8 {} ms, ratio {}'.format(*parts) + remark
