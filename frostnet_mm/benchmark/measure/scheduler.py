"""Measures a group of cells in turns, each in a process of its own, all of them alive and one of them working."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cells import BUSY, DONE, FAILED, BenchmarkError, Cell, Result
from . import timing
from .machine import choose_cpus

WORKER = Path(__file__).with_name('worker.py')
ROOT = WORKER.parents[3]
QUIET_SECONDS = 1.0  # how long the machine is watched before the first measurement


class WorkerError(RuntimeError):
    """A process failed, died or took too long; the message is the reason that the table gives."""


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


class WorkerProcess:
    """A process of :mod:`worker`.

    Args:
        log (Path): Where its messages go.
        threads (int): For libraries that ask the environment.
        package (bool): Whether it needs the package as a whole, for torch.
    """

    def __init__(self, log: Path, threads: int = 1, package: bool = False) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = (
            [sys.executable, '-m', 'frostnet_mm.benchmark.measure.worker'] if package else [sys.executable, str(WORKER)]
        )
        reading, writing = os.pipe()
        with log.open('w') as stream:
            self.process = subprocess.Popen(
                [*command, str(writing)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                pass_fds=(writing,),
                text=True,
                env=_environment(threads),
                start_new_session=True,  # Ctrl-C reaches the scheduler alone, which ends its processes
            )
        os.close(writing)
        self.answers: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()

    def _read(self, channel: int) -> None:
        """Queue the answers, then None."""
        with os.fdopen(channel) as lines:
            for line in lines:
                self.answers.put(line)
        self.answers.put(None)

    def send(self, command: str, **request: Any) -> None:
        """Send a request, to be answered by :meth:`receive`."""
        try:
            self.process.stdin.write(json.dumps(dict(request, command=command)) + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: receive says how

    def receive(self, timeout: float) -> dict:
        """Wait for the answer.

        Raises:
            WorkerError: The process reports an error, died, or did not answer in time.
        """
        try:
            line = self.answers.get(timeout=timeout)
        except queue.Empty:
            raise WorkerError(f'no answer within {timeout:.0f} s; its messages are in {self.log}') from None
        if line is None:
            code = self.process.wait()
            how = f'signal {-code}' if code < 0 else f'exit status {code}'
            raise WorkerError(f'the process ended with {how}: {_last_line(self.log)}')
        answer = json.loads(line)
        if 'error' in answer:
            raise WorkerError(answer['error'])
        return answer

    def ask(self, command: str, timeout: float, **request: Any) -> dict:
        """Send a request and wait for the answer."""
        self.send(command, **request)
        return self.receive(timeout)

    def close(self) -> None:
        """End the process: it ends by itself if it has nothing to do, else it is interrupted, and at last killed."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            self.process.kill()  # it has closed its side already
        for seconds, end in ((1, lambda: self.process.send_signal(signal.SIGINT)), (5, self.process.kill)):
            try:
                self.process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()


def _environment(threads: int) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    return dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
    return lines[-1] if lines else f'no message in {log}'


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
            'other work, or measure all the same and have every such figure marked: --allow-busy'
        )


@dataclass
class _Turns:
    """A cell being measured."""

    cell: Cell
    worker: WorkerProcess
    result: Result
    times: list = field(default_factory=list)
    stages: list = field(default_factory=list)
    others: list = field(default_factory=list)
    loads: list = field(default_factory=list)


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
    turns: list[_Turns] = []
    try:
        cpus = choose_cpus(cells[0].threads)
    except ValueError as error:  # fewer cores than threads
        for result in results.values():
            result.reason = result.reason or str(error)
        return list(results.values())
    try:
        for cell in cells:
            if not results[cell.key].reason:
                spec = prepared[cell.key]['spec']
                worker = WorkerProcess(logs / f'{cell.key}.log', cell.threads, spec['kind'] == 'torch')
                turns.append(_Turns(cell, worker, results[cell.key]))
                worker.send('load', spec=dict(spec, cpus=cpus))
        turns = [turn for turn in turns if _attempt(turn, _finish_loading, effort)]
        for number in range(effort.rounds):
            shift = number % len(turns) if turns else 0  # no cell always follows the same one
            turns = [turn for turn in turns[shift:] + turns[:shift] if _attempt(turn, _take_turn, effort)]
            say(f'round {number + 1} of {effort.rounds}: {len(turns)} cells')
        for turn in turns:
            _finish(turn, limits)
    finally:
        for turn in turns:
            turn.worker.close()
    return list(results.values())


def _attempt(turn: _Turns, step: Callable, effort: Effort) -> bool:
    """Do a step of a cell; where it fails, end the process and keep the reason."""
    try:
        step(turn, effort)
    except WorkerError as error:
        turn.result.reason = str(error)
        turn.worker.close()
        return False
    return True


def _finish_loading(turn: _Turns, effort: Effort) -> None:
    answer = turn.worker.receive(effort.timeout)
    for name, value in answer['figures'].items():
        setattr(turn.result, name, value)


def _take_turn(turn: _Turns, effort: Effort) -> None:
    time.sleep(effort.cool_down)
    answer = turn.worker.ask('measure', effort.timeout, seconds=effort.seconds, least=effort.least)
    turn.times.append(answer['times'])
    turn.others.append(answer['others'])
    turn.loads.append(answer['load'])
    if not turn.result.no_end_to_end:
        turn.stages.append(turn.worker.ask('stages', effort.timeout, repetitions=effort.stages)['stages'])


def _finish(turn: _Turns, limits: timing.Limits) -> None:
    """Make the figures of the times."""
    result = turn.result
    found = timing.summarize(turn.times, turn.cell.batch)
    result.latency_ms, result.throughput = 1000 * found.latency, found.throughput
    result.spread, result.drift = found.spread, found.drift
    result.rounds, result.repetitions = found.rounds, found.repetitions
    others = [value for value in turn.others if value is not None]
    result.others = timing.percentile(others, 0.5) if others else None
    result.load = max((value for value in turn.loads if value is not None), default=None)
    if turn.stages:
        stages = [1000 * timing.percentile(column, 0.5) for column in zip(*turn.stages, strict=True)]
        result.preprocess_ms, result.network_ms, result.decode_ms = stages
        result.end_to_end_ms = sum(stages)
    result.reason = timing.busy_reason(result.others, result.spread, limits) or ''
    result.status = BUSY if result.reason else DONE
