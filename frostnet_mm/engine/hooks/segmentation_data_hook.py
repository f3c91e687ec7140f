"""Segmentation data of any data set class are looked at before training, and each batch before its loss."""

import sys
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import nn

from ...data.errors import DatasetError
from ...data.loading import inner_datasets
from ...models.dense import unwrap
from ...registry import HOOKS

DATA_BATCH = dict | tuple | list | None


@HOOKS.register_module()
class SegmentationDataHook(Hook):
    """Check mmseg's plain data sets before training and testing, and the label values of every batch.

    ``frostnet_mm.CheckedSegDataset`` has checked itself. A value beyond the classes would end in an IndexError or
    CUDA's "device-side assert triggered" in training, and be taken for another class in evaluation: here it is named
    with its file.

    Raises:
        DatasetError: A label holds a value that is neither a class nor ignored, or see
            :class:`~frostnet_mm.data.segmentation.CheckedSegDataset`.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        """Check the data sets of the loops that are built."""
        head = _head(runner.model)
        if head is None or 'mmseg' not in sys.modules:
            return
        from mmseg.datasets import BaseSegDataset

        from ...data.segmentation import CheckedSegDataset
        from ...data.segmentation_plain import check_plain

        names = [f'class {index}' for index in range(head.num_classes)]
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            for dataset in inner_datasets(getattr(getattr(loop, 'dataloader', None), 'dataset', None)):
                if isinstance(dataset, BaseSegDataset) and not isinstance(dataset, CheckedSegDataset):
                    check_plain(dataset, names)

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Look at the batch, which is still on the CPU."""
        check_batch(data_batch, runner.model)

    def before_val_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Look at the batch."""
        check_batch(data_batch, runner.model)
        check_sizes(data_batch, runner.model, 'val')

    def before_test_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Look at the batch."""
        check_batch(data_batch, runner.model)
        check_sizes(data_batch, runner.model, 'test')


def check_batch(data_batch: DATA_BATCH, model: nn.Module) -> None:
    """Refuse a batch whose labels hold a value that is neither a class nor ignored.

    Args:
        data_batch (dict): With ``data_samples`` that have ``gt_sem_seg``; others pass.
        model (nn.Module): A segmenter; others pass.

    Raises:
        DatasetError: Naming the file and the value.
    """
    head = _head(model)
    samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
    if head is None or not isinstance(samples, (list, tuple)):
        return
    count, ignored = head.num_classes, getattr(head, 'ignore_index', None)
    for sample in samples:
        data = getattr(getattr(sample, 'gt_sem_seg', None), 'data', None)
        if not isinstance(data, torch.Tensor):
            continue
        wrong = (data >= count) | (data < 0)
        if ignored is not None:
            wrong &= data != ignored
        if bool(wrong.any()):
            found = sorted(set(data[wrong].tolist()))
            path = getattr(sample, 'seg_map_path', None) or getattr(sample, 'img_path', '?')
            raise DatasetError(
                f"the label '{path}' holds {', '.join(map(str, found[:8]))} ({int(wrong.sum())} pixels as loaded). "
                'The head '
                f'has {count} classes, 0 to {count - 1}, and ignores {ignored}. Name all classes in '
                'metainfo=dict(classes=...) of the data sets and set num_classes of the heads, or correct the label.'
            )


def check_sizes(data_batch: DATA_BATCH, model: nn.Module, name: str) -> None:
    """Refuse a batch of images of different sizes, which mmseg pads in training only.

    Args:
        data_batch (dict): With a list of ``inputs``.
        model (nn.Module): A segmenter; others pass.
        name (str): 'val' or 'test'.

    Raises:
        DatasetError: Naming two sizes and the batch size that mends it.
    """
    preprocessor = getattr(unwrap(model), 'data_preprocessor', None)
    inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
    if _head(model) is None or getattr(preprocessor, 'test_cfg', None) or not isinstance(inputs, (list, tuple)):
        return
    sizes = sorted({tuple(image.shape[-2:]) for image in inputs})
    if len(sizes) > 1:
        raise DatasetError(
            f'A batch of {name}_dataloader has images of different sizes after resizing, {sizes[0]} and {sizes[1]} '
            f'(height, width), which one tensor cannot hold: set {name}_dataloader.batch_size=1.'
        )


def _head(model: Any) -> Any:
    """The decode head of a segmenter whose classes are known, or None."""
    head = getattr(unwrap(model), 'decode_head', None)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    return head if isinstance(getattr(head, 'num_classes', None), int) else None
