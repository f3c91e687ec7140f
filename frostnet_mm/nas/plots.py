"""The picture of a search: metric against milliseconds, of all networks that it saw and of what it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

from ..files import png_of
from .front import Point

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

BLUE, GREY, ORANGE, RED, GREEN = '#1f5f99', '#b4bec8', '#e0a040', '#c0392b', '#3d8b5f'


@dataclass
class Picture:
    """What is drawn.

    Args:
        metric (str): Name of the metric.
        engine (str): What the times are of.
        sampler (str): Who chose the candidates: 'nsga2' or 'random'.
        candidates (Sequence[Point]): Predicted milliseconds and metric of those that were evaluated.
        random (Sequence[Point]): The same of random search, as a control.
        front (Sequence[tuple[str, Point, float]]): Name, predicted milliseconds and metric, measured milliseconds.
        known (Sequence[tuple[str, Point]]): Other networks of the space: measured milliseconds and metric.
        lines (Sequence[tuple[str, float]]): Models whose time alone is known.
        target (float, optional): What a network may take.
    """

    metric: str
    engine: str
    sampler: str
    candidates: Sequence[Point]
    random: Sequence[Point] = ()
    front: Sequence[tuple[str, Point, float]] = ()
    known: Sequence[tuple[str, Point]] = ()
    lines: Sequence[tuple[str, float]] = ()
    target: float | None = None


def draw(picture: Picture) -> bytes:
    """A PNG of a search."""
    figure, axis = plt.subplots(figsize=(9, 5.6), dpi=130, layout='constrained')
    who = dict(nsga2='NSGA-II', random='random search')[picture.sampler]
    axis.scatter(*_columns(picture.candidates), s=16, color=GREY, label=f'candidates of {who}, predicted ms')
    if picture.random:
        axis.scatter(
            *_columns(picture.random),
            s=18,
            marker='x',
            linewidth=0.9,
            color=ORANGE,
            label='random search, predicted ms',
        )
    predicted = [point for _, point, _ in picture.front]
    measured = [(time, point[1]) for _, point, time in picture.front]
    for (x, y), (time, _) in zip(predicted, measured, strict=True):
        axis.plot([x, time], [y, y], color=BLUE, linewidth=0.8, alpha=0.5)
    axis.plot(*_columns(sorted(measured)), color=BLUE, linewidth=0.9, alpha=0.35)
    axis.scatter(*_columns(measured), s=46, color=BLUE, zorder=3, label='front, measured ms')
    for (name, _, _), (x, y) in zip(picture.front, measured, strict=True):
        axis.annotate(name, (x, y), xytext=(4, 5), textcoords='offset points', fontsize=7, color=BLUE)
    for name, (x, y) in picture.known:
        axis.scatter(x, y, s=60, marker='D', facecolor='white', edgecolor=GREEN, zorder=3)
        axis.annotate(name, (x, y), xytext=(5, -10), textcoords='offset points', fontsize=8, color=GREEN)
    if picture.known:
        axis.scatter([], [], s=60, marker='D', facecolor='white', edgecolor=GREEN, label='FrostNets of the space')
    for index, (name, time) in enumerate(sorted(picture.lines, key=lambda line: line[1])):
        axis.axvline(time, color=GREEN, linewidth=0.9, linestyle=':')
        height = 0.99 - 0.22 * (index % 4)  # lines may lie close together
        place = dict(transform=axis.get_xaxis_transform(), rotation=90, va='top', ha='right')
        axis.text(time, height, f' {name}', fontsize=8, color=GREEN, **place)
    if picture.target is not None:
        axis.axvline(picture.target, color=RED, linewidth=1.0, linestyle='--', label=f'target, {picture.target:g} ms')
    axis.set(xlabel=f'milliseconds on {picture.engine}', ylabel=f'{picture.metric} on the images held back')
    axis.margins(x=0.06, y=0.1)
    axis.grid(alpha=0.25)
    axis.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside lower center', ncols=3, frameon=False, fontsize=8)
    return png_of(figure)


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
