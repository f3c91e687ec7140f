"""What is best of networks with a time and a metric: the front, its hypervolume, and what a space can reach."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from ..models.frostnet_arch import FrostNetArch
from .errors import SearchError
from .space import SearchSpace

Point = tuple[float, float]  # milliseconds, metric
Item = TypeVar('Item')
SAMPLES = 200  # random networks that the range of a space is told by


def front_of(items: Iterable[Item], point: Callable[[Item], Point]) -> list[Item]:
    """The items that no other one beats: none is as fast and better, nor as good and faster. The fastest comes first.

    Args:
        items (Iterable): Items; of equal ones the first is taken.
        point (Callable): Of an item its milliseconds and its metric.
    """
    found: list[Item] = []
    for item in sorted(items, key=lambda own: (point(own)[0], -point(own)[1])):
        if not found or point(item)[1] > point(found[-1])[1]:
            found.append(item)
    return found


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The area that points dominate, up to a reference: milliseconds below it times the metric above it.

    Args:
        points (Iterable[Point]): Milliseconds and metrics.
        reference (Point): Points that are slower or worse than it count for nothing.
    """
    last, worst = reference
    inside = [point for point in points if point[0] < last and point[1] > worst]
    front, area = front_of(inside, lambda point: point), 0.0
    for index, (time, metric) in enumerate(front):
        until = front[index + 1][0] if index + 1 < len(front) else last
        area += (until - time) * (metric - worst)
    return area


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most so many items, evenly over a sequence, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def fastest(space: SearchSpace, predict: Callable[[FrostNetArch], float]) -> FrostNetArch:
    """The network of a space with the least predicted time.

    A time that is a sum over blocks, none of which costs less than nothing, is least where each place is alone.

    Args:
        space (SearchSpace): The networks.
        predict (Callable): The time of a network.
    """
    stages = [[[position.rows[0] for position in run.positions[: run.least]] for run in runs] for runs in space.stages]

    def network() -> FrostNetArch:
        return replace(space.base, stages=tuple(tuple(row for rows in stage for row in rows) for stage in stages))

    for runs, stage in zip(space.stages, stages, strict=True):
        for run, rows in zip(runs, stage, strict=True):
            for place in range(len(rows)):
                times = {}
                for row in run.positions[place].rows:
                    rows[place] = row
                    times[row] = predict(network())
                rows[place] = min(times, key=times.__getitem__)
    return network()


def require_reachable(space: SearchSpace, predict: Callable[[FrostNetArch], float], target: float | None) -> None:
    """Refuse a target that no network of a space meets.

    Args:
        space (SearchSpace): The networks.
        predict (Callable): The time of a network in milliseconds.
        target (float, optional): What a network may take; None is no limit.

    Raises:
        SearchError: The fastest takes longer. The message says the range.
    """
    if target is None:
        return
    least = predict(fastest(space, predict))
    if least <= target:
        return
    rng = random.Random(0)
    times = sorted(predict(space.sample(rng)) for _ in range(SAMPLES))
    most = max(times[-1], predict(space.largest))
    raise SearchError(
        f'target_ms={target:g}: no network of the space meets it. By the latency model the fastest takes {least:.2f} '
        f'ms, the slowest {most:.2f}, half of the random ones between {times[SAMPLES // 4]:.2f} and '
        f'{times[-SAMPLES // 4]:.2f}. Give a target from {least:.2f} on, or a space with smaller blocks or fewer.'
    )
