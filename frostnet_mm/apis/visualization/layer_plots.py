"""A picture of what INT8 does to each layer of a network."""

import math
import os
from collections.abc import Sequence

import matplotlib

from ...files import png_of, write_bytes
from ...quantization.analysis import ACTIVATION, WEIGHT, Analysis, LayerReport

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

_MOST_NAMES = 40  # more names than this do not fit below the picture
_LOCAL, _ACCUMULATED, _WEIGHTS, _WORST = '#1f77b4', '#ff7f0e', '#8c8c8c', '#c0181f'


def draw_layers(analysis: Analysis, out_file: str | os.PathLike, title: str = '', labelled: int = 5) -> None:
    """Draw the SQNR and the saturation of all layers, in the order in which the network computes, into a PNG.

    Args:
        analysis (Analysis): The results.
        out_file (str | PathLike): The picture.
        title (str): Heading.
        labelled (int): How many layers are named, worst first. Default: 5.
    """
    layers = analysis.layers
    worst = analysis.worst(labelled)
    named = len(layers) <= _MOST_NAMES
    size = min(15.0, 7.0 + 0.1 * len(layers)), 9.0 if named else 7.0
    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=size, dpi=120, height_ratios=(3, 1), layout='constrained'
    )
    small = 20 if named else 10
    _draw_sqnr(above, layers, small)
    _draw_saturation(below, layers)
    _number(above, layers, worst, small)
    _name_positions(above, below, layers)
    for axis in (above, below):
        axis.grid(axis='y', alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
        axis.set_xlim(-0.7, len(layers) - 0.3)
    key = '\n'.join(f'{index}  {_decibels(layer.sqnr)}  {layer.name}' for index, layer in enumerate(worst, 1))
    figure.supxlabel(f'Largest loss by its own rounding:\n{key}', x=0.01, ha='left', fontsize=9, family='monospace')
    figure.suptitle(title)
    write_bytes(out_file, png_of(figure))


def _draw_sqnr(axis: Axes, layers: Sequence[LayerReport], small: float) -> None:
    activations = [x for x, layer in enumerate(layers) if layer.kind == ACTIVATION]
    weights = [x for x, layer in enumerate(layers) if layer.kind == WEIGHT]
    size = math.sqrt(small)
    for values, color, label in (
        ([layers[x].sqnr for x in activations], _LOCAL, 'activation: its own rounding'),
        ([layers[x].accumulated for x in activations], _ACCUMULATED, 'activation: all roundings up to it'),
    ):
        axis.plot(activations, _plottable(values), '-o', color=color, markersize=size, linewidth=0.9, label=label)
    axis.plot(
        weights,
        _plottable([layers[x].sqnr for x in weights]),
        linestyle='none',
        marker='x',
        color=_WEIGHTS,
        markersize=size,
        label='weight: its own rounding',
    )
    axis.set_ylabel('SQNR in dB (higher is better)')
    axis.legend(loc='lower center', bbox_to_anchor=(0.5, 1.06), ncols=3, frameon=False, fontsize=9)


def _draw_saturation(axis: Axes, layers: Sequence[LayerReport]) -> None:
    shares = [(x, 100 * layer.saturated) for x, layer in enumerate(layers) if layer.saturated is not None]
    axis.bar(*zip(*shares, strict=True), width=1.4, color=_LOCAL)
    axis.set_ylabel('saturated\nvalues in %')
    axis.set_ylim(0, max(1.1 * max(share for _, share in shares), 0.1))


def _number(axis: Axes, layers: Sequence[LayerReport], worst: Sequence[LayerReport], small: float) -> None:
    """Number the worst layers; a number that would cover its left neighbour's is put lower."""
    positions = {id(layer): x for x, layer in enumerate(layers)}
    taken: list[tuple[float, float]] = []
    for number, layer in sorted(enumerate(worst, 1), key=lambda entry: positions[id(entry[1])]):
        if not math.isfinite(layer.sqnr):
            continue
        x, depth = positions[id(layer)], 14
        while any(abs(x - other) < 0.03 * len(layers) and depth == used for other, used in taken):
            depth += 13
        taken.append((x, depth))
        axis.scatter([x], [layer.sqnr], s=4 * small, facecolors='none', edgecolors=_WORST, linewidths=1.3, zorder=3)
        axis.annotate(
            str(number),
            (x, layer.sqnr),
            xytext=(0, -depth),
            textcoords='offset points',
            ha='center',
            va='center',
            color=_WORST,
            fontweight='bold',
            bbox=dict(boxstyle='round,pad=0.1', facecolor='white', edgecolor='none', alpha=0.6),
            zorder=4,
        )
    axis.margins(y=0.12)


def _name_positions(above: Axes, below: Axes, layers: Sequence[LayerReport]) -> None:
    """Name every layer where there is room, else the parts of the network only; a line where a part begins."""
    parts = [_part(layer) for layer in layers]
    begins = [x for x in range(len(layers)) if x == 0 or parts[x] != parts[x - 1]]
    for x, end in zip(begins, [*begins[1:], len(layers)], strict=True):
        for axis in (above, below):
            if x:
                axis.axvline(x - 0.5, color='black', alpha=0.25, linewidth=0.8)
        if end - x >= 0.02 * len(layers):
            above.text(
                (x + end - 1) / 2, 1.01, parts[x], transform=above.get_xaxis_transform(), ha='center', fontsize=9
            )
    if len(layers) <= _MOST_NAMES:
        below.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=90, fontsize=7)
    else:
        below.set_xlabel('layer, in the order of the network')


def _part(layer: LayerReport) -> str:
    """The part of the network that a layer lies in: ``backbone``, ``neck``, …"""
    return layer.name.split('.')[0] if '.' in layer.name else ''


def _plottable(values: Sequence[float]) -> list[float]:
    """Infinity, for what loses nothing, leaves a gap."""
    return [value if math.isfinite(value) else math.nan for value in values]


def _decibels(value: float) -> str:
    return f'{value:5.1f} dB' if math.isfinite(value) else '   no loss'
