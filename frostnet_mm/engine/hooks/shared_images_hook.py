"""Validation images that are trained on, and images of two classes, in the log of a training."""

import logging
from collections.abc import Iterable
from numbers import Integral
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ...data.coco_duplicates import leak_message, of_two_classes, shared_images
from ...data.loading import inner_datasets
from ...registry import HOOKS

COCO = 'CheckedCocoDataset'  # by name: mmdet, which it is made of, is not imported for segmentation


@HOOKS.register_module()
class SharedImagesHook(Hook):
    """Warn of validation images that training holds as well, and of images that lie in the folders of two classes.

    Images are the same that are equal byte by byte, whatever their names; of more than 20,000, only those of one base
    name are compared.
    """

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Compare the data sets of the loops that are built."""
        loader = getattr(runner._val_loop, 'dataloader', None)
        val = [] if loader is None else [path for path, _ in images_of(loader.dataset)]
        first = next(iter(images_of(runner.train_dataloader.dataset)), None)
        if first is None or (not val and first[1] is None):  # nothing to compare with: the data set is not read through
            return
        train = list(images_of(runner.train_dataloader.dataset))
        shared = shared_images((path for path, _ in train), val)
        if shared:
            coco = type(loader.dataset).__name__ == COCO
            print_log(leak_message(shared, len(val), coco), logger='current', level=logging.WARNING)
        double = of_two_classes((path, label) for path, label in train if label is not None)
        if double:
            print_log(
                f'{len(double)} training images lie in the folders of several classes, such as '
                f'{" and ".join(map(repr, double[0]))}: each teaches against the other. Take out those that are wrong.',
                logger='current',
                level=logging.WARNING,
            )


def images_of(dataset: Any) -> Iterable[tuple[str, int | None]]:
    """The files of the images of one of mm's data sets, or of those in a wrapper (``dataset`` or ``datasets``).

    Args:
        dataset: The data set. One that lists no files has none.

    Yields:
        tuple[str, int | None]: The path of an image, and its class where it has one as a whole.
    """
    for part in inner_datasets(dataset):
        for index in range(len(part) if hasattr(part, 'get_data_info') else 0):
            info = part.get_data_info(index)
            label = info.get('gt_label')
            if isinstance(info.get('img_path'), str):
                yield info['img_path'], label if isinstance(label, Integral) else None
