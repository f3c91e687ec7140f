"""Times of a callable, what is made of them, and whether the machine was quiet meanwhile. Standard library only."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

LEAST_REPETITIONS = 5  # of a round, however slow the network is
OTHERS_LIMIT = 0.25  # cores in use by others: a fully idle machine of a shared host shows up to 0.1
# Of (p75 - p25) / median of the rounds' medians: how uncertain the median over them is. On a virtual machine whose host
# has other guests single calls spread by up to 0.6 without other work, and medians of seven rounds agree to 0.04.
ROUNDS_LIMIT = 0.1
UNDISTURBED = 0.05  # the percentile of single times that others do not reach


@dataclass(frozen=True)
class Limits:
    """From when on a time is no result.

    Args:
        others (float): Cores in use by other processes. Default: 0.25.
        rounds_iqr (float): (p75 - p25) / median of the rounds' medians. Default: 0.1.
    """

    others: float = OTHERS_LIMIT
    rounds_iqr: float = ROUNDS_LIMIT


@dataclass(frozen=True)
class Timing:
    """The times of one network, of rounds in which it was called again and again.

    Args:
        latency (float): Median over the rounds of each round's median, in seconds.
        spread (float): (p90 - p10) / median of all single times.
        drift (float): (largest - smallest) / median of the rounds' medians.
        throughput (float): Images a second: batch / latency.
        rounds (int): How many rounds.
        repetitions (int): Single times in all rounds.
        others (float, optional): Cores that other processes used meanwhile, the median over the rounds; None where the
            system does not tell.
        load (float, optional): Load average of the machine, the highest of any round; None where it does not tell.
        rounds_iqr (float): (p75 - p25) / median of the rounds' medians. Default: 0.
        undisturbed (float, optional): p05 of all single times, in seconds. On a host with other guests it repeats to
            1 % where the median changes by a fifth. On a core that another process has too no long call is undisturbed.
        halves (float): How far ``undisturbed`` of every second round is from that of the others, relative. Default: 0.
    """

    latency: float
    spread: float
    drift: float
    throughput: float
    rounds: int
    repetitions: int
    others: float | None = None
    load: float | None = None
    rounds_iqr: float = 0.0
    undisturbed: float | None = None
    halves: float = 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lie, interpolated linearly between the two nearest.

    Args:
        values (Sequence[float]): At least one.
        share (float): 0 to 1.
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def summarize(rounds: Sequence[Sequence[float]], batch: int = 1) -> Timing:
    """Sum up rounds of times.

    Args:
        rounds (Sequence[Sequence[float]]): Seconds of single calls, by round.
        batch (int): Images of a call. Default: 1.

    Returns:
        Timing: What they say; nothing of other processes.

    Raises:
        ValueError: There is no round, or one without a time.
    """
    if not rounds or not all(rounds):
        raise ValueError(f'{len(rounds)} rounds of {[len(times) for times in rounds]} times were given, expected some.')
    medians = [median(times) for times in rounds]
    every = [value for times in rounds for value in times]
    latency = median(medians)
    return Timing(
        latency=latency,
        spread=(percentile(every, 0.9) - percentile(every, 0.1)) / median(every),
        drift=(max(medians) - min(medians)) / latency,
        throughput=batch / latency,
        rounds=len(rounds),
        repetitions=len(every),
        rounds_iqr=(percentile(medians, 0.75) - percentile(medians, 0.25)) / latency,
        undisturbed=percentile(every, UNDISTURBED),
        halves=_halves_apart(rounds),
    )


def _halves_apart(rounds: Sequence[Sequence[float]]) -> float:
    """The relative distance of what both halves of the rounds say of undisturbed calls."""
    halves = [[value for times in own for value in times] for own in (rounds[::2], rounds[1::2])]
    fastest = sorted(percentile(values, UNDISTURBED) for values in halves if values)
    return fastest[-1] / fastest[0] - 1 if fastest[0] > 0 else 0.0


def time_calls(
    function: Callable[[], object], seconds: float, least: int = LEAST_REPETITIONS, clock=time.perf_counter
) -> list[float]:
    """Call a function again and again.

    Args:
        function (Callable): What is timed.
        seconds (float): Until this much time has passed,
        least (int): but at least this often. Default: 5.
        clock (Callable): Tells the time in seconds.

    Returns:
        list[float]: Seconds of each call.
    """
    times: list[float] = []
    started = clock()
    while len(times) < least or clock() - started < seconds:
        before = clock()
        function()
        times.append(clock() - before)
    return times


class OtherWork:
    """Measures how many cores other processes use while it is open; None where the system does not tell.

    Time that a hypervisor gave to other machines counts as theirs. Work of this process, with its threads, does not.
    """

    def __init__(self) -> None:
        self.cores: float | None = None
        self.load: float | None = None

    def __enter__(self) -> 'OtherWork':
        self._started = time.perf_counter()
        self._before = machine_seconds(), time.process_time()
        return self

    def __exit__(self, *_) -> None:
        elapsed = time.perf_counter() - self._started
        machine, own = machine_seconds(), time.process_time()
        if machine is not None and self._before[0] is not None and elapsed > 0:
            self.cores = max(0.0, (machine - self._before[0]) - (own - self._before[1])) / elapsed
        self.load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None


def machine_seconds(path: str = '/proc/stat') -> float | None:
    """Seconds that all cores together have worked since the start, from Linux' /proc/stat; None elsewhere.

    Args:
        path (str): Default: '/proc/stat'.
    """
    try:
        with open(path) as file:
            fields = file.readline().split()
    except FileNotFoundError:
        return None
    # user nice system idle iowait irq softirq steal; guest time is part of user time (man proc)
    ticks = [int(value) for value in fields[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf('SC_CLK_TCK')


def busy_reason(others: float | None, rounds_iqr: float | None, limits: Limits) -> str | None:
    """Why a time is no result, or None.

    Args:
        others (float, optional): Cores in use by others meanwhile.
        rounds_iqr (float, optional): Of the times.
        limits (Limits): From when on.
    """
    reasons = []
    if others is not None and others > limits.others:
        reasons.append(f'other processes used {others:.2f} cores (limit {limits.others:g})')
    if rounds_iqr is not None and rounds_iqr > limits.rounds_iqr:
        reasons.append(f'half of the rounds differ by {rounds_iqr:.0%} (limit {limits.rounds_iqr:.0%})')
    return f'busy: {"; ".join(reasons)}' if reasons else None
