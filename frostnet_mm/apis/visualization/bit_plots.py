"""A picture of an allocation of bits: what each layer got, and the error at the outputs against the size."""

import os
from collections.abc import Sequence

import matplotlib

from ...files import png_of, write_bytes

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

Point = dict[str, float]  # megabytes, error
_MIXED, _UNIFORM, _CHOSEN = '#1f77b4', '#ff7f0e', '#c0181f'
_MOST_NAMES = 60  # more names than this do not fit below the picture


def draw_bits(
    names: Sequence[str],
    bits: Sequence[int],
    counts: Sequence[int],
    mixed: Sequence[Point],
    uniform: Sequence[Point],
    chosen: Point,
    out_file: str | os.PathLike,
    title: str = '',
) -> None:
    """Draw the bits of each layer, and the measured errors of allocations and of uniform bits, into a PNG.

    Args:
        names (Sequence[str]): Of the layers.
        bits (Sequence[int]): Of each.
        counts (Sequence[int]): The weights of each.
        mixed (Sequence[Point]): 'megabytes' and 'error' of allocations.
        uniform (Sequence[Point]): The same of uniform bits, with 'bits'.
        chosen (Point): The same of the allocation that was chosen.
        out_file (str | PathLike): The picture.
        title (str): Heading.
    """
    width = min(16.0, 8.0 + 0.12 * len(names))
    figure, (above, below) = plt.subplots(2, 1, figsize=(width, 10.0), dpi=120, layout='constrained')
    _draw_layers(above, names, bits, counts)
    _draw_errors(below, mixed, uniform, chosen)
    for axis in (above, below):
        axis.grid(axis='y', alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title)
    write_bytes(out_file, png_of(figure))


def _draw_layers(axis: Axes, names: Sequence[str], bits: Sequence[int], counts: Sequence[int]) -> None:
    largest = max(counts)
    shades = [0.25 + 0.75 * count / largest for count in counts]
    axis.bar(range(len(names)), bits, color=[(*matplotlib.colors.to_rgb(_MIXED), shade) for shade in shades])
    axis.set_ylabel('bits (the darker, the more weights)')
    axis.set_yticks(range(9))
    axis.set_xlim(-0.7, len(names) - 0.3)
    if len(names) <= _MOST_NAMES:
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    else:
        axis.set_xlabel('layer, in the order of the network')


def _draw_errors(axis: Axes, mixed: Sequence[Point], uniform: Sequence[Point], chosen: Point) -> None:
    for points, style, color, label in (
        (mixed, 'o-', _MIXED, 'mixed bits'),
        (uniform, 's--', _UNIFORM, 'the same bits everywhere'),
        ([chosen], '*', _CHOSEN, 'chosen'),
    ):
        points = sorted(points, key=lambda point: point['megabytes'])
        values = [[point[name] for point in points] for name in ('megabytes', 'error')]
        axis.plot(*values, style, color=color, label=label, markersize=14 if points == [chosen] else 5)
    for point in uniform:
        axis.annotate(
            f'{point["bits"]:g}',
            (point['megabytes'], point['error']),
            xytext=(5, 4),
            textcoords='offset points',
            color=_UNIFORM,
        )
    if all(point['error'] > 0 for point in (*mixed, *uniform, chosen)):
        axis.set_yscale('log')
    axis.set_xlabel('parameters in MB, packed (quantized weights in their bits, others in 32)')
    axis.set_ylabel('relative squared error of the outputs, weights rounded')
    axis.legend(frameon=False)
