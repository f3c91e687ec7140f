"""What was measured of networks on an engine, and how times of different moments compare."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..benchmark.measure import Limits
from ..benchmark.measure.timing import Timing, busy_reason
from ..benchmark.store import BUSY, DONE
from .architectures import key
from .latency import steady

HALVES_LIMIT = 0.05  # from when on the undisturbed calls of a network are too few


@dataclass(frozen=True, kw_only=True)
class EngineTime:
    """The time of a model on an engine.

    Args:
        status (str): 'done', or 'busy': measured, but no result.
        reason (str): Why it is none.
        milliseconds (float): Median over the rounds.
        spread (float): (p90 - p10) / median of all calls.
        rounds (int): How many rounds.
        others (float, optional): Cores that other processes used meanwhile.
    """

    status: str
    reason: str
    milliseconds: float
    spread: float
    rounds: int
    others: float | None

    def to_dict(self) -> dict:
        """All as plain data."""
        return asdict(self)


def values_of(timing: Timing, limits: Limits) -> dict[str, Any]:
    """The fields of :class:`EngineTime` of what :func:`measure_deployments` has measured.

    Args:
        timing (Timing): Of one deployment.
        limits (Limits): From when on a time is no result.
    """
    return _fields(timing, busy_reason(timing.others, timing.rounds_iqr, limits))


def _fields(timing: Timing, reason: str | None) -> dict[str, Any]:
    return dict(
        status=BUSY if reason else DONE,
        reason=reason or '',
        milliseconds=timing.latency * 1000,
        spread=timing.spread,
        rounds=timing.rounds,
        others=timing.others,
    )


def values_against(timing: Timing, reference: Timing, limits: Limits) -> dict[str, Any]:
    """The fields of :class:`TimedNetwork`: what counts is how its undisturbed calls compare with the reference's."""
    reason = busy_reason(timing.others, None, limits)
    apart = max(timing.halves, reference.halves)
    if apart > HALVES_LIMIT:
        reason = f'{reason or "busy"}: the fastest calls of every second turn are {apart:.0%} from those of the others'
    fastest = timing.undisturbed, reference.undisturbed
    ratio = None if None in fastest else fastest[0] / fastest[1]
    return _fields(timing, reason) | dict(reference=reference.latency * 1000, ratio=ratio)


@dataclass(frozen=True)
class TimedNetwork(EngineTime):
    """A network and its time.

    Args:
        arch (dict): Its table.
        features (dict): Of :func:`features_of`.
        reference (float, optional): Milliseconds of the config's own network, measured in turns with this one.
        ratio (float, optional): Its undisturbed time (:class:`Timing`) by that of the config's own network.
    """

    arch: dict
    features: dict
    reference: float | None = None
    ratio: float | None = None

    @property
    def key(self) -> str:
        """A short name of the architecture."""
        return key(self.arch)


def comparable(networks: Sequence[TimedNetwork]) -> list[float]:
    """Milliseconds as if all had been measured at the same time.

    Networks are measured in groups, minutes apart, between which a machine that is shared with others changes its pace:
    by 4 % from group to group, on a busy host by 30 % within seconds, where the undisturbed calls of two networks keep
    their ratio within 1 %. So what counts is that ratio to the reference, times the reference's time in the group that
    was disturbed least, and then the pace that a regression finds for each group (:func:`steady`). Times without a
    reference stay as they are.

    Args:
        networks (Sequence[TimedNetwork]): Of one store.
    """
    references = [own.reference for own in networks if own.reference is not None]
    pace = min(references, default=0.0)
    times = [own.milliseconds * (1 if own.reference is None else pace / own.reference) for own in networks]
    times = [time if own.ratio is None else pace * own.ratio for time, own in zip(times, networks, strict=True)]
    if None in (own.reference for own in networks):
        return times
    return steady([own.features for own in networks], times, [own.reference for own in networks])
