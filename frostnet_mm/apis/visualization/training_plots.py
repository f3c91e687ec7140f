"""Pictures of a training: curves of losses and metrics, and sheets of images with truth beside predictions."""

import io
import os
from collections.abc import Sequence

import matplotlib
import mmcv
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.visualization import Visualizer
from torch import nn

from ...data.loading import image_or_grey
from ...files import png_of, write_bytes
from .scalars import read_scalars
from .sheets import arrange

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

_PHASES = (('warm-up in float', '#eef1f4'), ('INT8 simulated', '#d6e6f4'), ('batch norms frozen', '#b3d0ea'))
_PHASES += (('ranges frozen', '#8fb9de'),)  # in the order in which QATHook enters them
_SEGMENTATION = ('mIoU', 'mAcc', 'aAcc')  # metrics of mmseg, which has no prefix before their names


def draw_curves(work_dir: str | os.PathLike, out_file: str | os.PathLike, title: str = '') -> None:
    """Draw the losses, the learning rate and the metrics of a training into a PNG.

    Behind the curves of a quantization-aware training are its phases.

    Args:
        work_dir (str | PathLike): Work dir of a training.
        out_file (str | PathLike): The picture.
        title (str): Heading, such as the name of the config.
    """
    records = read_scalars(work_dir)
    training = [r for r in records if 'loss' in r and 'iter' in r]
    metrics = [r for r in records if _is_evaluation(r)]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), dpi=120)
    for axis in axes:
        _draw_phases(axis, records)
    for key in sorted({k for r in training for k in r if 'loss' in k}):
        points = [(r['iter'], r[key]) for r in training if key in r]
        axes[0].plot(*zip(*points, strict=True), label=key, linewidth=1.8 if key == 'loss' else 1)
    axes[0].set(xlabel='iteration', ylabel='training loss', ylim=(0, None))
    axes[0].legend(loc='upper right', frameon=False)
    names = _metric_names(metrics)
    for key in names:
        points = [
            (r['at_iter'], r[key]) for r in metrics if key in r and r[key] >= 0
        ]  # COCO says -1 for "no such object"
        if points:
            axes[1].plot(*zip(*points, strict=True), marker='o', markersize=3, label=key.split('/')[-1])
    axes[1].set(xlabel='iteration', ylabel='validation metric', ylim=(0, None))
    if names:
        axes[1].legend(loc='best', frameon=False, fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title)
    figure.tight_layout()
    write_bytes(out_file, png_of(figure))


def _draw_phases(axis: Axes, records: Sequence[dict]) -> None:
    """Shade the phases that a ``QATHook`` logged, each with its name at the upper edge."""
    begins: dict[int, int] = {}  # by phase
    for record in records:
        if 'simulating' in record:
            phase = record['simulating'] + record['norms_frozen'] + record['ranges_frozen']
            begins.setdefault(phase, record['iter'])
    if not begins:
        return
    last = max(record['at_iter'] for record in records)
    ends = [*list(begins.values())[1:], last]
    for (phase, begin), end in zip(begins.items(), ends, strict=True):
        name, color = _PHASES[phase]
        axis.axvspan(begin, max(begin, end), color=color, linewidth=0, zorder=0)
        axis.text(
            begin, 1.01, f' {name}', transform=axis.get_xaxis_transform(), fontsize=7, rotation=20, color='#33526e'
        )


def _is_evaluation(record: dict) -> bool:
    return any('/' in key or key in _SEGMENTATION for key in record)


def _metric_names(metrics: Sequence[dict]) -> list[str]:
    keys = {
        key
        for r in metrics
        for key, value in r.items()
        if ('/' in key or key in _SEGMENTATION) and isinstance(value, (int, float))
    }
    main = [k for k in keys if k.split('/')[-1] in ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75', *_SEGMENTATION)]
    return sorted(main or keys)[:8]


def draw_sheet(
    model: nn.Module,
    dataset: BaseDataset,
    visualizer: Visualizer,
    indices: Sequence[int],
    out_file: str | os.PathLike,
    score_thr: float = 0.3,
    columns: int = 2,
    width: int = 512,
) -> None:
    """Draw images of a data set into one PNG, each with its truth on the left and the prediction on the right.

    Args:
        model (nn.Module): A trained model in eval mode.
        dataset (BaseDataset): A data set whose pipeline loads annotations.
        visualizer (Visualizer): mm's visualizer of the task, with ``dataset_meta`` set.
        indices (Sequence[int]): Which images.
        out_file (str | PathLike): The picture.
        score_thr (float): Detections below this score are left out. Default: 0.3.
        columns (int): Pairs in a row. Default: 2.
        width (int): Width of a pair in pixels. Default: 512.
    """
    tiles = []
    for index in indices:
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([dataset[index]]))[0]
        image = image_or_grey(dataset, sample.img_path, sample.ori_shape)[..., ::-1]
        options = dict(pred_score_thr=score_thr) if 'pred_instances' in sample else {}
        visualizer.add_datasample('sheet', image, data_sample=sample.cpu(), show=False, **options)
        tile = visualizer.get_image()
        tiles.append(mmcv.imresize(tile, (width, round(tile.shape[0] * width / tile.shape[1]))))
    buffer = io.BytesIO()
    plt.imsave(buffer, arrange(tiles, columns), format='png')
    write_bytes(out_file, buffer.getvalue())
