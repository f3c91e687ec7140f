"""Pictures of what a model confuses: confusion matrix, precision by recall, a sheet of the worst predictions."""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from torch import nn

from ...data.loading import image_or_grey
from ...files import png_of, write_bytes
from ..mistakes import IOU, RECALLS, Report

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

NUMBERED = 25  # classes up to which cells of the matrix have their number
WORST = 12  # images on the sheet
COLORS = 20


def draw_mistakes(
    report: Report, folder: str | os.PathLike, model: nn.Module, dataset: BaseDataset, cfg: Config
) -> list[Path]:
    """Draw all that belongs to a task.

    Args:
        report (Report): What was confused.
        folder (str | PathLike): Where the pictures go.
        model (nn.Module): In eval mode, with ``dataset_meta``; it predicts the worst images again.
        dataset (BaseDataset): The test data.
        cfg (Config): For the visualizer.

    Returns:
        list[Path]: The pictures.
    """
    folder = Path(folder)
    files = [folder / 'confusion.png']
    write_bytes(files[0], confusion_plot(report))
    if report.curves:
        files.append(folder / 'precision_recall.png')
        write_bytes(files[-1], curves_plot(report))
    worst = report.worst(WORST)
    if worst:
        files.append(folder / 'worst.png')
        if report.task == 'classification':
            write_bytes(files[-1], _class_sheet(model, dataset, worst))
        elif report.task == 'segmentation':
            from .segmentation_plots import draw_segmentation_sheet

            draw_segmentation_sheet(model, dataset, worst, files[-1], 'Most pixels wrong, the worst first')
        else:
            from ..inference import build_visualizer
            from .training_plots import draw_sheet

            draw_sheet(model, dataset, build_visualizer(cfg, model.dataset_meta), worst, files[-1], width=1000)
    return files


def confusion_plot(report: Report) -> bytes:
    """The matrix, rows in percent; a row and a column without any entry are left out.

    Args:
        report (Report): What was confused.

    Returns:
        bytes: A PNG.
    """
    used = (report.matrix.sum(axis=0) + report.matrix.sum(axis=1)) > 0
    matrix = report.matrix[np.ix_(used, used)]
    names = [name for name, keep in zip(report.names, used, strict=True) if keep]
    totals = matrix.sum(axis=1, keepdims=True)
    shares = 100 * matrix / np.maximum(totals, 1)
    side = max(4.5, 0.45 * len(names) + 2) if len(names) <= NUMBERED else max(9, 0.17 * len(names))
    figure, axis = plt.subplots(figsize=(side + 1, side), dpi=110, layout='constrained')
    picture = axis.imshow(shares, cmap='Blues', vmin=0, vmax=100)
    size = 8 if len(names) <= NUMBERED else 5
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    labels = [f'{name} ({int(total):,})' for name, total in zip(names, totals[:, 0], strict=True)]
    axis.set_yticks(range(len(names)), labels, fontsize=size)
    if len(names) <= NUMBERED:
        for row, column in np.argwhere(matrix > 0):
            share = shares[row, column]
            color = 'white' if share > 55 else 'black'
            axis.text(column, row, f'{share:.0f}', ha='center', va='center', fontsize=8, color=color)
    unit = dict(detection='objects', segmentation='pixels', classification='images')[report.task]
    axis.set(xlabel='predicted', ylabel=f'truth ({unit})')
    limits = '' if report.score_thr is None else f'\n(score at least {report.score_thr:g}, IoU at least {IOU:g})'
    axis.set_title(f'Of the {unit} of a class, % predicted as{limits}', fontsize=10)
    figure.colorbar(picture, shrink=0.7)
    return png_of(figure)


def curves_plot(report: Report) -> bytes:
    """Precision by recall of each class, those of the lowest average precision first in the legend.

    Args:
        report (Report): Of detection.

    Returns:
        bytes: A PNG.
    """
    figure, axis = plt.subplots(figsize=(8.5, 5.5), dpi=110, layout='constrained')
    ordered = sorted(report.curves.items(), key=lambda item: item[1].mean())
    for index, (name, precision) in enumerate(ordered):
        label = f'{name} {precision.mean():.2f}' if index < COLORS else None
        color = plt.get_cmap('tab20')(index) if index < COLORS else '0.8'
        axis.plot(RECALLS, precision, color=color, linewidth=1.2, label=label, zorder=2 if index < COLORS else 1)
    mean = np.mean(list(report.curves.values()), axis=0)
    axis.plot(RECALLS, mean, color='black', linewidth=2, label=f'mean of {len(ordered)} classes {mean.mean():.2f}')
    axis.set(xlabel='recall', ylabel='precision', xlim=(0, 1.005), ylim=(0, 1.02))
    axis.set_title('Boxes at an IoU of 0.5; average precision beside the names, the lowest first', fontsize=10)
    axis.grid(alpha=0.25)
    figure.legend(loc='outside right upper', frameon=False, fontsize=8)
    return png_of(figure)


def _class_sheet(model: nn.Module, dataset: BaseDataset, indices: Sequence[int]) -> bytes:
    """Images with their class and the predicted one."""
    import torch
    from mmengine.dataset import pseudo_collate

    classes, columns = model.dataset_meta['classes'], 4
    rows = -(-len(indices) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(10, 2.9 * rows), dpi=110, layout='constrained', squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for axis, index in zip(axes.flat, indices, strict=False):
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([dataset[index]]))[0]
        score, found = sample.pred_score.max(dim=0)
        axis.imshow(image_or_grey(dataset, sample.img_path, sample.ori_shape)[..., ::-1])
        axis.set_title(f'{classes[int(sample.gt_label)]}\nas {classes[int(found)]}, {score:.2f}', fontsize=9)
    return png_of(figure)
