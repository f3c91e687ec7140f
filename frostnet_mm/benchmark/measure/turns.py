"""Turns: what is compared is measured round by round, so that changes of the machine's speed hit all alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .timing import OtherWork, Timing, percentile, summarize, time_calls

UNCOUNTED = 2  # calls at the beginning of a turn, which refill the caches
Item = TypeVar('Item')


def take_turn(call: Callable[[], object], seconds: float, least: int) -> dict:
    """One turn.

    Args:
        call (Callable): What is timed; it is called UNCOUNTED times before.
        seconds (float): Call it until this much time has passed,
        least (int): but at least this often.

    Returns:
        dict: ``times`` of the calls in seconds; ``others`` and ``load`` of :class:`OtherWork`. Plain data.
    """
    for _ in range(UNCOUNTED):
        call()
    with OtherWork() as others:
        times = time_calls(call, seconds, least)
    return dict(times=times, others=others.cores, load=others.load)


@dataclass
class Turns:
    """What the turns of one network gave."""

    times: list[list[float]] = field(default_factory=list)
    others: list[float | None] = field(default_factory=list)
    loads: list[float | None] = field(default_factory=list)

    def add(self, turn: dict) -> None:
        """Keep what :func:`take_turn` returned."""
        self.times.append(turn['times'])
        self.others.append(turn['others'])
        self.loads.append(turn['load'])

    def timing(self, batch: int = 1) -> Timing:
        """Sum them up.

        Args:
            batch (int): Images of a call. Default: 1.

        Raises:
            ValueError: There was no turn.
        """
        others = [value for value in self.others if value is not None]
        return replace(
            summarize(self.times, batch),
            others=percentile(others, 0.5) if others else None,
            load=max((value for value in self.loads if value is not None), default=None),
        )


def rotated(items: Sequence[Item]) -> list[Item]:
    """The items for the next round: the first comes last, so that its place in the round changes."""
    return [*items[1:], *items[:1]]
