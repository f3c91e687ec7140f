"""Boxes without extent never reach an assigner."""

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log

from ...registry import HOOKS

DATA_BATCH = dict | tuple | list | None


@HOOKS.register_module()
class DegenerateBoxesHook(Hook):
    """Take ground truth boxes out of training batches that are not finite or have no width or height.

    Whatever data set and augmentation made them, an assigner or a box coder makes NaN of them, as of the logarithm of a
    width of 0. The first is logged with its image, and their number at the end of training. Small boxes stay: after
    resizing, an object may well be narrower than a pixel.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.count = 0

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Look at the batch, which is still on the CPU."""
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        for sample in samples if isinstance(samples, (list, tuple)) else ():
            boxes = getattr(getattr(sample, 'gt_instances', None), 'bboxes', None)
            boxes = getattr(boxes, 'tensor', boxes)
            if not isinstance(boxes, torch.Tensor) or boxes.ndim != 2 or boxes.shape[1] != 4:
                continue
            sound = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            if not bool(sound.all()):
                self._report(sample, int((~sound).sum()))
                sample.gt_instances = sample.gt_instances[sound]

    def _report(self, sample: object, count: int) -> None:
        if self.count == 0:
            name = getattr(sample, 'img_path', getattr(sample, 'img_id', '?'))
            print_log(
                f"'{name}': {count} boxes of this image are not finite or have no width or height after augmentation: "
                'left out. Further ones are counted and not logged.',
                logger='current',
            )
        self.count += count

    def after_train(self, runner) -> None:
        """Say how many there were."""
        if self.count:
            print_log(f'{self.count} boxes without extent were left out of the batches.', logger='current')
