"""Measures a group of cells in turns, each in a process of its own, all of them alive and one of them working."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..cells import Cell, Result
from ..store import BUSY, DONE, FAILED, BenchmarkError
from . import timing
from .machine import choose_cpus
from .process import WorkerError, WorkerProcess
from .turns import Turns, rotated

QUIET_SECONDS = 1.0  # how long the machine is watched before the first measurement


class BusyError(BenchmarkError):
    """The machine was busy with other work, so its times would be no result."""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        rounds (int): Turns of each cell. Default: 7.
        seconds (float): Length of a turn. Default: 1.
        cool_down (float): Seconds between turns. Default: 0.3.
        least (int): Calls of a turn, however long they take. Default: 5.
        stages (int): Images of a turn for the end-to-end time. Default: 5.
        timeout (float): Seconds after which a process that loads or measures is given up. Default: 900.
    """

    rounds: int = 7
    seconds: float = 1.0
    cool_down: float = 0.3
    least: int = timing.LEAST_REPETITIONS
    stages: int = 5
    timeout: float = 900.0


def require_quiet(limits: timing.Limits, seconds: float = QUIET_SECONDS) -> None:
    """Watch the machine for a moment and refuse to go on where others use it.

    Args:
        limits (timing.Limits): How much they may.
        seconds (float): How long. Default: 1.

    Raises:
        BusyError: They use more.
    """
    with timing.OtherWork() as others:
        time.sleep(seconds)
    reason = timing.busy_reason(others.cores, None, limits)
    if reason:
        raise BusyError(
            f'The machine is {reason}, load {others.load:.1f}. Times measured now would be no result: end the '
            'other work, or measure all the same and have every such time marked: --allow-busy'
        )


@dataclass
class _Measured:
    """A cell being measured."""

    cell: Cell
    worker: WorkerProcess
    result: Result
    turns: Turns = field(default_factory=Turns)
    stages: list = field(default_factory=list)


def measure_group(
    cells: Sequence[Cell],
    prepared: dict[str, dict],
    effort: Effort,
    limits: timing.Limits,
    logs: Path,
    say: Callable[[str], None] = print,
) -> list[Result]:
    """Measure cells in turns.

    Args:
        cells (Sequence[Cell]): Of one group.
        prepared (dict[str, dict]): For each cell's key ``spec``, what its process is to load, or ``reason``, why there
            is nothing to load.
        effort (Effort): How long.
        limits (timing.Limits): From when on a time is no result.
        logs (Path): Folder of the processes' messages.
        say (Callable): Prints a line of progress.

    Returns:
        list[Result]: Of each cell, a failed one with the reason.
    """
    reasons = {cell.key: cell.unavailable() or prepared[cell.key].get('reason') or '' for cell in cells}
    results = {cell.key: Result(cell, FAILED, reasons[cell.key], cell.checkpoint is None) for cell in cells}
    try:
        cpus = choose_cpus(cells[0].threads)
    except ValueError as error:  # fewer cores than threads
        for result in results.values():
            result.reason = result.reason or str(error)
        return list(results.values())
    measured: list[_Measured] = []
    try:
        for cell in cells:
            if not results[cell.key].reason:
                worker = WorkerProcess(logs / f'{cell.key}.log', cell.threads)
                measured.append(_Measured(cell, worker, results[cell.key]))
                worker.send('load', spec=dict(prepared[cell.key]['spec'], cpus=cpus))
        measured = [entry for entry in measured if _attempt(entry, _finish_loading, effort)]
        for number in range(effort.rounds):
            measured = [entry for entry in rotated(measured) if _attempt(entry, _take_turn, effort)]
            say(f'round {number + 1} of {effort.rounds}: {len(measured)} cells')
        for entry in measured:
            _finish(entry, limits)
    finally:
        for entry in measured:
            entry.worker.close()
    return list(results.values())


def _attempt(entry: _Measured, step: Callable, effort: Effort) -> bool:
    """Do a step of a cell; where it fails, end the process and keep the reason."""
    try:
        step(entry, effort)
    except WorkerError as error:
        entry.result.reason = str(error)
        entry.worker.close()
        return False
    return True


def _finish_loading(entry: _Measured, effort: Effort) -> None:
    answer = entry.worker.receive(effort.timeout)
    for name, value in answer['results'].items():
        setattr(entry.result, name, value)


def _take_turn(entry: _Measured, effort: Effort) -> None:
    time.sleep(effort.cool_down)
    entry.turns.add(entry.worker.ask('measure', effort.timeout, seconds=effort.seconds, least=effort.least))
    if not entry.result.no_end_to_end:
        entry.stages.append(entry.worker.ask('stages', effort.timeout, repetitions=effort.stages)['stages'])


def _finish(entry: _Measured, limits: timing.Limits) -> None:
    """Make the results of the times."""
    result = entry.result
    found = entry.turns.timing(entry.cell.batch)
    result.latency_ms, result.throughput = 1000 * found.latency, found.throughput
    result.spread, result.drift = found.spread, found.drift
    result.rounds, result.repetitions = found.rounds, found.repetitions
    result.others, result.load = found.others, found.load
    if entry.stages:
        stages = [1000 * timing.percentile(column, 0.5) for column in zip(*entry.stages, strict=True)]
        result.preprocess_ms, result.network_ms, result.decode_ms = stages
        result.end_to_end_ms = sum(stages)
    result.reason = timing.busy_reason(result.others, found.rounds_iqr, limits) or ''
    result.status = BUSY if result.reason else DONE
