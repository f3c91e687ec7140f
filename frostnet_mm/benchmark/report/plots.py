"""Plots of a benchmark: bars by engine and precision, where the time of an image goes, accuracy against latency."""

from collections.abc import Sequence

import matplotlib

from ...files import png_of
from ..measure.operator_costs import OperatorResult
from ..store import counts
from .tables import Row, number

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

COLORS = dict(float='#9aa5b1', int8='#1f77b4', int8w7='#6baed6', bf16='#e0a040')
STAGES = (('preprocess_ms', 'preprocessing', '#8ab17d'), ('network_ms', 'network', '#1f77b4'))
STAGES += (('decode_ms', 'decoding and NMS', '#d1603d'),)
MARKERS = 'osD^vP*X'


def latency_bars(rows: Sequence[Row]) -> bytes | None:
    """A PNG of the network's latency: a panel an engine, a group of bars a model, a bar a precision.

    Args:
        rows (Sequence[Row]): With the same threads, batch and shape.

    Returns:
        bytes | None: None without a time.
    """
    rows = [row for row in rows if row.counts]
    if not rows:
        return None
    models = list(dict.fromkeys(row.result.cell.model for row in rows))
    engines = list(dict.fromkeys(row.result.cell.engine for row in rows))
    precisions = [name for name in COLORS if any(row.result.cell.precision == name for row in rows)]
    height = 0.9 + 0.28 * len(models) * (len(precisions) + 0.6)
    figure, axes = plt.subplots(
        1, len(engines), figsize=(max(5.0, 3.4 * len(engines)), height + 0.8), dpi=130, sharey=True, squeeze=False,
        layout='constrained',
    )  # fmt: skip
    found = {(row.result.cell.model, row.result.cell.engine, row.result.cell.precision): row for row in rows}
    for axis, engine in zip(axes[0], engines, strict=True):
        for index, precision in enumerate(precisions):
            _bars(axis, [found.get((model, engine, precision)) for model in models], index, precision, len(precisions))
        axis.set_title(engine, fontsize=10, loc='left')
        axis.set_xlabel('ms')
        _plain(axis)
        axis.set_xlim(0, 1.4 * max(row.result.latency_ms for row in rows))  # one scale for all, and room for labels
    axes[0][0].set_yticks(range(len(models)), models, fontsize=9)
    axes[0][0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLORS[name]) for name in precisions]
    figure.legend(handles, precisions, loc='outside lower center', ncols=len(precisions), frameon=False, fontsize=9)
    return png_of(figure)


def _bars(axis: Axes, rows: Sequence[Row | None], index: int, precision: str, count: int) -> None:
    """The bars of one precision, with the time and the ratio to float at their ends."""
    thickness = 0.8 / count
    for position, row in enumerate(rows):
        if row is None:
            continue
        y = position + (index - (count - 1) / 2) * thickness
        value = row.result.latency_ms
        half = value * row.result.spread / 2
        axis.barh(y, value, 0.92 * thickness, color=COLORS[precision])
        axis.errorbar(value, y, xerr=half, color='#333333', linewidth=0.8, capsize=1.5)
        ratio = '' if row.to_float is None else f'  ({row.to_float:.2f})'
        axis.annotate(
            f'{number(value)}{ratio}',
            (value + half, y),
            xytext=(4, 0),
            textcoords='offset points',
            va='center',
            fontsize=8,
        )


def stage_bars(rows: Sequence[Row]) -> bytes | None:
    """A PNG of where the time from image to result goes, a bar a cell.

    Args:
        rows (Sequence[Row]): With the same threads, batch and shape.

    Returns:
        bytes | None: None without an end-to-end time.
    """
    rows = [row for row in rows if row.counts and row.result.end_to_end_ms]
    if not rows:
        return None
    figure, axis = plt.subplots(figsize=(9, 1.1 + 0.3 * len(rows)), dpi=130, layout='constrained')
    ends = [0.0] * len(rows)
    for name, label, color in STAGES:
        values = [getattr(row.result, name) for row in rows]
        axis.barh(range(len(rows)), values, left=ends, height=0.72, color=color, label=label)
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    for position, end in enumerate(ends):
        axis.annotate(number(end), (end, position), xytext=(4, 0), textcoords='offset points', va='center', fontsize=8)
    axis.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel('ms from a decoded image to the result')
    axis.margins(x=0.08, y=0.01)
    _plain(axis)
    figure.legend(loc='outside lower center', ncols=3, frameon=False, fontsize=9)
    return png_of(figure)


def accuracy_plot(rows: Sequence[Row]) -> bytes | None:
    """A PNG of accuracy against latency, with a line from each model's float to its INT8 on the same engine.

    Args:
        rows (Sequence[Row]): With the same threads, batch and shape.

    Returns:
        bytes | None: None unless a cell has both.
    """
    rows = [row for row in rows if row.counts and row.metric is not None]
    if not rows:
        return None
    figure, axis = plt.subplots(figsize=(8, 5), dpi=130, layout='constrained')
    engines = list(dict.fromkeys(row.result.cell.engine for row in rows))
    models = list(dict.fromkeys(row.result.cell.model for row in rows))
    for model in models:
        color = f'C{models.index(model) % 10}'
        for engine in engines:
            points = [row for row in rows if (row.result.cell.model, row.result.cell.engine) == (model, engine)]
            xs, ys = [row.result.latency_ms for row in points], [row.metric.value for row in points]
            axis.plot(xs, ys, color=color, linewidth=0.8, alpha=0.5)
            for row, x, y in zip(points, xs, ys, strict=True):
                face = color if row.result.cell.precision.startswith('int8') else 'white'
                axis.scatter(
                    x, y, s=55, marker=MARKERS[engines.index(engine) % 8], facecolor=face, edgecolor=color, zorder=3
                )
    for model in models:
        axis.plot([], [], color=f'C{models.index(model) % 10}', label=model)
    for index, engine in enumerate(engines):
        axis.plot([], [], linestyle='none', marker=MARKERS[index % 8], color='#555555', label=engine)
    for face, label in (('white', 'float (open)'), ('#555555', 'int8 (filled)')):
        axis.plot([], [], linestyle='none', marker='h', color='#555555', markerfacecolor=face, label=label)
    axis.set(xlabel='latency of the network in ms', ylabel=rows[0].metric.name, xlim=(0, None))
    axis.margins(y=0.15)
    axis.grid(alpha=0.25)
    axis.spines[['top', 'right']].set_visible(False)
    axis.set_xlim(0, 1.1 * max(row.result.latency_ms for row in rows))
    figure.legend(loc='outside right upper', frameon=False, fontsize=9)
    return png_of(figure)


def operator_bars(entries: Sequence[OperatorResult], allow_busy: bool = False) -> bytes | None:
    """A PNG of what operators take: a panel an engine, two bars an operator, float and INT8, with their ratio.

    Args:
        entries (Sequence[OperatorResult]): With the same threads.
        allow_busy (bool): Let times of a busy machine count. Default: False.

    Returns:
        bytes | None: None without a time.
    """
    entries = [own for own in entries if counts(own.status, allow_busy) and own.ratio is not None]
    if not entries:
        return None
    engines = list(dict.fromkeys(own.engine for own in entries))
    cases = list(dict.fromkeys(own.case for own in entries))
    size = (max(6.0, 2.6 + 3.4 * len(engines)), 1.3 + 0.36 * len(cases))
    figure, axes = plt.subplots(
        1, len(engines), figsize=size, dpi=130, sharey=True, squeeze=False, layout='constrained'
    )
    for axis, engine in zip(axes[0], engines, strict=True):
        for own in (own for own in entries if own.engine == engine):
            position = cases.index(own.case)
            for offset, value, name in ((-0.2, own.float_ms, 'float'), (0.2, own.int8_ms, 'int8')):
                axis.barh(position + offset, value, 0.38, color=COLORS[name])
            axis.annotate(
                f'{own.ratio:.2f}',
                (max(own.float_ms, own.int8_ms), position),
                xytext=(4, 0),
                textcoords='offset points',
                va='center',
                fontsize=7.5,
                color='#b03a2e' if own.ratio > 1 else '#333333',
            )
        axis.set_title(engine, fontsize=10, loc='left')
        axis.set_xlabel('ms; beside the bars INT8 / float')
        axis.set_xscale('log')
        axis.spines[['top', 'right']].set_visible(False)
        axis.grid(axis='x', alpha=0.25)
        axis.set_axisbelow(True)
        axis.margins(x=0.15)
    axes[0][0].set_yticks(range(len(cases)), [f'{case.name}  {case.shape}' for case in cases], fontsize=8)
    axes[0][0].set_ylim(len(cases) - 0.4, -0.6)  # the first above
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLORS[name]) for name in ('float', 'int8')]
    figure.legend(handles, ('float', 'INT8'), loc='outside lower center', ncols=2, frameon=False, fontsize=9)
    return png_of(figure)


def _label(row: Row) -> str:
    cell = row.result.cell
    return f'{cell.model}  {cell.engine} {cell.precision}'


def _plain(axis: Axes) -> None:
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(axis='x', alpha=0.25)
    axis.set_axisbelow(True)
    axis.set_xlim(0, None)
