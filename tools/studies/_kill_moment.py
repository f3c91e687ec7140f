"""A process that kills itself with SIGKILL at a moment of a training, known by its phase."""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.runner import Runner

CHECKPOINT, VALIDATION = 'checkpoint', 'validation'
PHASES = ('float warm-up', 'switch to INT8', 'QAT', 'batch norm frozen', 'ranges frozen', CHECKPOINT, VALIDATION)
PACKAGES = ('mmengine', 'frostnet_mm')  # of which lines count, in order to kill between any two of them


@dataclass(frozen=True)
class Span:
    """A stretch of one phase.

    Args:
        phase (str): Of ``PHASES``.
        number (int): Which of that phase, from 0.
        seconds (float): How long it took.
        lines (int): Lines of mmengine and of ours that it ran; counted in checkpoints only.
    """

    phase: str
    number: int
    seconds: float
    lines: int


@dataclass(frozen=True)
class Moment:
    """When to kill.

    Args:
        phase (str): Of ``PHASES``.
        number (int): In which of its spans.
        share (float): Of the span that is over, from 0 to 1.
        by_line (bool): Count lines, not seconds.
    """

    phase: str
    number: int
    share: float
    by_line: bool


class Watch:
    """Follows a training in this process: writes down its spans, or kills it in one of them.

    Args:
        spans (Path): The file of the spans: written without a moment, read with one.
        moment (Moment, optional): When to kill.
        killed (Path, optional): Gets the phase and the iteration in which it was.
    """

    def __init__(self, spans: Path, moment: Moment | None = None, killed: Path | None = None) -> None:
        self.path, self.moment, self.killed = spans, moment, killed
        known = json.loads(spans.read_text()) if moment else []
        self.target = next(
            (Span(**s) for s in known if moment and (s['phase'], s['number']) == (moment.phase, moment.number)), None
        )
        self.spans: list[Span] = []
        self.counts: Counter[str] = Counter()
        self.open: list[tuple[str, int, float]] = []
        self.lines = self.iteration = 0
        self.switched = False

    def install(self) -> None:
        """Have this process's trainings watched."""
        from mmengine.runner import Runner

        from frostnet_mm.engine.hooks import AtomicCheckpointHook

        call = Runner.call_hook

        def call_hook(runner: 'Runner', name: str, **kwargs) -> None:
            if name in ('after_train_iter', 'before_val'):
                self.iteration = runner.iter
            if name == 'before_val':
                self.begin(VALIDATION)
            call(runner, name, **kwargs)
            if name == 'before_train_iter':
                self.begin(self._phase(runner))
            elif name in ('after_train_iter', 'after_val'):
                self.end()

        Runner.call_hook = call_hook
        for name in ('_save_checkpoint', '_save_best_checkpoint'):
            self._wrap(AtomicCheckpointHook, name)

    def _wrap(self, kind: type, name: str) -> None:
        inner = getattr(kind, name)

        def save(*args) -> None:
            self.begin(CHECKPOINT)
            try:
                inner(*args)
            finally:
                self.end()

        setattr(kind, name, save)

    def _phase(self, runner: 'Runner') -> str:
        phase = next(hook for hook in runner.hooks if type(hook).__name__ == 'QATHook').phase
        if not phase.simulating:
            return PHASES[0]
        first, self.switched = not self.switched and runner.iter == 4, True
        if first:
            return PHASES[1]
        return PHASES[4] if phase.ranges_frozen else PHASES[3] if phase.norms_frozen else PHASES[2]

    def begin(self, phase: str) -> None:
        """A span begins; a checkpoint may lie in an iteration or a validation."""
        number, self.counts[phase] = self.counts[phase], self.counts[phase] + 1
        self.open.append((phase, number, time.monotonic()))
        self.lines = 0
        if phase == CHECKPOINT:
            sys.settrace(self._trace)
        if self._is_target(phase, number) and not self.moment.by_line:
            threading.Thread(target=self._kill_after, args=(self.moment.share * self.target.seconds,)).start()

    def end(self) -> None:
        """The span that began last is over."""
        phase, number, since = self.open[-1]
        if self._is_target(phase, number):
            self.kill()
        self.open.pop()
        if phase == CHECKPOINT:
            sys.settrace(None)
        self.spans.append(Span(phase, number, time.monotonic() - since, self.lines))
        if self.moment is None:
            self.path.write_text(json.dumps([asdict(span) for span in self.spans]))

    def kill(self) -> None:
        """Kill this process."""
        if self.killed is not None:
            phase = self.open[-1][0] if self.open else 'between phases'
            self.killed.write_text(json.dumps(dict(phase=phase, iteration=self.iteration, lines=self.lines)))
        os.kill(os.getpid(), signal.SIGKILL)

    def _is_target(self, phase: str, number: int) -> bool:
        return self.target is not None and (phase, number) == (self.target.phase, self.target.number)

    def _kill_after(self, seconds: float) -> None:
        time.sleep(seconds)
        self.kill()

    def _trace(self, frame: FrameType, event: str, argument: object):
        """Count the lines of two packages; others are not traced."""
        if not frame.f_globals.get('__name__', '').startswith(PACKAGES):
            return None
        if event == 'line':
            self.lines += 1
            phase, number, _ = self.open[-1]
            if self._is_target(phase, number) and self.moment.by_line:
                if self.lines > self.moment.share * self.target.lines:
                    self.kill()
        return self._trace
