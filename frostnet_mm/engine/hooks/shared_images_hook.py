"""Validation images that are trained on, in the log of a training."""

import logging
from collections.abc import Iterable
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ...data.coco_duplicates import leak_message, shared_by_name
from ...registry import HOOKS


@HOOKS.register_module()
class SharedImagesHook(Hook):
    """Warn of validation images that training holds as well, under the same base name and byte by byte."""

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Compare the data sets of the loops that are built."""
        loader = getattr(runner._val_loop, 'dataloader', None)
        if loader is None:
            return
        val = list(image_paths(loader.dataset))
        shared = shared_by_name(image_paths(runner.train_dataloader.dataset), val) if val else []
        if shared:
            print_log(leak_message(shared, len(val)), logger='current', level=logging.WARNING)


def image_paths(dataset: Any) -> Iterable[str]:
    """The files of the images of a COCO data set of ours, or of those in a wrapper (``dataset`` or ``datasets``).

    Args:
        dataset: One of mm's data sets, or a wrapper. Others have none.
    """
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner[0] is not None:
        for part in inner:
            yield from image_paths(part)
    elif type(dataset).__name__ == 'CheckedCocoDataset':  # without importing mmdet, which segmentation lacks
        for index in range(len(dataset)):
            yield dataset.get_data_info(index)['img_path']
