"""Draw docs/images/seam.png: where the dense network begins and ends, and what may stand in its place.

python tools/studies/draw_seam.py
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import _tools  # noqa: F401

from frostnet_mm.cli import run_tool
from frostnet_mm.files import png_of, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUT = Path(__file__).resolve().parent.parent.parent / 'docs' / 'images' / 'seam.png'
MM, OURS, ENGINE = '#e6e9ed', '#cfe3f5', '#f6dfbf'
ROWS = (  # what stands at the seam
    ('float', "mm's own modules", OURS),
    ('simulated INT8', 'the captured graph, rounded at each tensor: QAT', OURS),
    ('converted', 'integers in torch: the exact reference', OURS),
    ('engine', 'OpenVINO, onnxruntime, ExecuTorch, inductor', ENGINE),
)


def box(axis: 'Axes', corner: tuple[float, float], size: tuple[float, float], text: str, color: str) -> None:
    """A rounded box with its text in the middle."""
    from matplotlib.patches import FancyBboxPatch

    shape = 'round,pad=0,rounding_size=0.08'
    axis.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, facecolor=color, edgecolor='#5b6b7b', linewidth=0.8))
    axis.text(corner[0] + size[0] / 2, corner[1] + size[1] / 2, text, ha='center', va='center', fontsize=8.5)


def arrow(axis: 'Axes', begin: float, end: float, y: float, text: str) -> None:
    """An arrow to the right with what flows along it."""
    axis.annotate('', (end, y), (begin, y), arrowprops=dict(arrowstyle='-|>', color='#33475b'))
    axis.text((begin + end) / 2, y + 0.08, text, ha='center', va='bottom', fontsize=7.5, color='#33475b')


def draw() -> bytes:
    """The picture as PNG."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 3.3), dpi=130)
    axis.set(xlim=(0, 12.6), ylim=(0, 4.1))
    axis.axis('off')
    box(axis, (0.05, 1.35), (1.9, 1.1), "mm's data pipeline\nand preprocessor", MM)
    arrow(axis, 2.0, 3.35, 1.9, 'images\n(N, 3, H, W)')
    for index, (name, what, color) in enumerate(ROWS):
        box(axis, (3.5, 2.72 - 0.78 * index), (4.5, 0.68), f'{name}\n{what}', color)
    axis.text(5.75, 3.62, 'dense network: backbone, neck, convolutions of the head', ha='center', fontsize=8.5)
    axis.add_patch(plt.Rectangle((3.4, 0.28), 4.7, 3.24, fill=False, linestyle='--', edgecolor='#33475b'))
    axis.text(5.75, 0.08, 'one of the four at a time; the same weights', ha='center', fontsize=7.5, color='#33475b')
    arrow(axis, 8.15, 9.5, 1.9, 'maps, a tuple\nof tensors')
    box(axis, (9.65, 2.05), (2.9, 0.9), 'training: the losses\nof mm (loss_by_feat)', MM)
    box(axis, (9.65, 0.85), (2.9, 0.9), 'evaluation: decoding, NMS,\nresizing, metrics of mm', MM)
    figure.subplots_adjust(0, 0, 1, 1)
    return png_of(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description='Draw the seam between the dense network and the rest of a model.')
    parser.add_argument('--out', type=Path, default=OUT, help='PNG to write; default docs/images/seam.png')
    args = parser.parse_args()
    write_bytes(args.out, draw())
    print(args.out)


if __name__ == '__main__':
    run_tool(main)
