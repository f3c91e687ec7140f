"""Pictures of segmentations: sheets of image, truth and prediction with a legend, and bars of the IoU by class."""

import os
from collections.abc import Sequence

import matplotlib
import mmcv
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

from ...data.loading import image_or_grey
from ...files import png_of, write_bytes
from ..iou_metric import scores_by_class

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

_VOID = (0, 0, 0)  # RGB of what is not evaluated
_TITLES = ('image', 'truth', 'prediction')


def colorize(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Labels (H, W) as RGB uint8 (H, W, 3); values outside of the palette are black."""
    table = np.full((256, 3), _VOID, np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def predict_labels(model: nn.Module, dataset: BaseDataset, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, truth and prediction of one sample.

    Args:
        model (nn.Module): A trained segmenter in eval mode.
        dataset (BaseDataset): A data set whose pipeline loads annotations.
        index (int): Which image.

    Returns:
        tuple[ndarray, ndarray, ndarray]: RGB uint8 (H, W, 3), and labels uint8 (h, w) twice, of the truth's size.
    """
    with torch.no_grad():
        sample = model.test_step(pseudo_collate([dataset[index]]))[0].cpu()
    truth = sample.gt_sem_seg.data[0].numpy().astype(np.uint8)
    found = sample.pred_sem_seg.data[0].numpy().astype(np.uint8)
    if found.shape != truth.shape:
        found = mmcv.imresize(found, truth.shape[::-1], interpolation='nearest')
    return image_or_grey(dataset, sample.img_path, truth.shape)[..., ::-1], truth, found


def draw_segmentation_sheet(
    model: nn.Module,
    dataset: BaseDataset,
    indices: Sequence[int],
    out_file: str | os.PathLike,
    title: str = '',
    width: float = 4.0,
) -> None:
    """Draw images of a data set into one PNG: a row each, image, truth and prediction, over a legend of their classes.

    Args:
        model (nn.Module): A trained segmenter in eval mode, with ``dataset_meta`` (classes and palette).
        dataset (BaseDataset): A data set whose pipeline loads annotations.
        indices (Sequence[int]): Which images.
        out_file (str | PathLike): The picture.
        title (str): Heading.
        width (float): Width of a column in inches, of 120 pixels each. Default: 4.
    """
    classes, palette = model.dataset_meta['classes'], model.dataset_meta['palette']
    rows = [predict_labels(model, dataset, index) for index in indices]
    aspect = np.mean([image.shape[0] / image.shape[1] for image, _, _ in rows])
    shown = sorted({int(value) for _, truth, found in rows for value in np.union1d(truth, found)})
    entries = [(classes[value], palette[value]) for value in shown if value < len(classes)]
    entries += [('not evaluated', _VOID)] if shown[-1] >= len(classes) else []
    legend_rows = -(-len(entries) // 7)
    below, above = 0.25 * legend_rows + 0.1, 0.3 + 0.3 * bool(title)
    height = len(rows) * width * aspect + below + above
    figure, axes = plt.subplots(len(rows), 3, figsize=(3 * width, height), dpi=120, squeeze=False)
    for line, (image, truth, found) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, (image, colorize(truth, palette), colorize(found, palette)), strict=True):
            axis.imshow(picture, aspect='auto', interpolation='nearest')
            axis.axis('off')
    for axis, name in zip(axes[0], _TITLES, strict=True):
        axis.set_title(name, fontsize=11, pad=4)
    figure.subplots_adjust(0, below / height, 1, 1 - above / height, wspace=0.01, hspace=0.02)
    handles = [Patch(color=np.array(color) / 255, label=name) for name, color in entries]
    figure.legend(handles=handles, loc='lower center', ncol=7, frameon=False, fontsize=10, borderaxespad=0.2)
    if title:
        figure.suptitle(title, y=1 - 0.06 / height, va='top')
    write_bytes(out_file, png_of(figure))


def draw_class_iou(
    metrics: dict[str, float],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    out_file: str | os.PathLike,
    title: str = '',
) -> None:
    """Draw the IoU of every class as bars into a PNG; classes that never occur in the truth are named as such.

    Args:
        metrics (dict[str, float]): What ``frostnet_mm.IoUMetric`` returned.
        classes (Sequence[str]): Class names.
        palette (Sequence[Sequence[int]]): RGB by class.
        out_file (str | PathLike): The picture.
        title (str): Heading.
    """
    values = scores_by_class(metrics)
    figure, axis = plt.subplots(figsize=(7, 0.28 * len(classes) + 1), dpi=120)
    for row, (name, color) in enumerate(zip(classes, palette, strict=True)):
        axis.barh(row, values.get(name, 0), color=np.array(color) / 255, height=0.75)
        text = f'{values[name]:.1f}' if name in values else 'not in the truth'
        axis.text(values.get(name, 0) + 1, row, text, va='center', fontsize=8, color='0.2' if name in values else '0.6')
    axis.axvline(metrics['mIoU'], color='0.3', linewidth=1, linestyle='--')
    axis.set(yticks=range(len(classes)), yticklabels=classes, xlim=(0, 108), ylim=(len(classes) - 0.4, -0.6))
    axis.set_xlabel(f'IoU in % (dashed: mean of {len(values)} classes, {metrics["mIoU"]:.1f})')
    axis.spines[['top', 'right']].set_visible(False)
    axis.set_title(title)
    figure.tight_layout()
    write_bytes(out_file, png_of(figure))
