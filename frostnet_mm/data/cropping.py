"""SSD's random crop without the attempts that cannot succeed."""

from numbers import Number

import numpy as np
from mmcv.transforms.utils import cache_randomness
from mmdet.datasets.transforms import MinIoURandomCrop as MmdetMinIoURandomCrop
from mmdet.structures.bbox import autocast_box_type

from ..registry import TRANSFORMS

#: Relative slack of the bound on an overlap, for float32 rounding: a mode is only left out if it is clearly impossible.
SLACK = 1e-4


@TRANSFORMS.register_module()
class MinIoURandomCrop(MmdetMinIoURandomCrop):
    """mmdet's ``MinIoURandomCrop`` with the same distribution of crops, for a fraction of the time.

    The crop of SSD (`Liu et al. 2016 <https://arxiv.org/abs/1512.02325>`_) draws a smallest overlap, tries 50 patches,
    and draws another overlap if none of them had it. mmdet asks for that overlap with *every* object, so that one small
    object makes most of the draws hopeless: no patch, which has at least ``min_crop_size`` of either side of the image,
    can overlap it enough. Here such values are not drawn. A hopeless draw never yields a crop, so what is left has
    the same probabilities as before; only the sequence of random numbers is another one.

    Required and modified keys, and arguments, are those of mmdet's class.

    Args:
        min_ious (Sequence[float]): Smallest IoUs of the patch with all boxes, one of which is drawn; "no crop" and "any
            crop" are drawn as often as each of them. Defaults to (0.1, 0.3, 0.5, 0.7, 0.9).
        min_crop_size (float): Smallest height and width of a patch, as a part of the image's. Defaults to 0.3.
        bbox_clip_border (bool): Whether boxes are clipped to the patch. Defaults to True.
    """

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Crop image, boxes, masks and segmentation map.

        Args:
            results (dict): With ``img`` (H, W, 3) and ``gt_bboxes``, N boxes in pixels.

        Returns:
            dict: The same, cropped or not.
        """
        reachable = self.largest_overlap(results['gt_bboxes'].areas.numpy(), results['img'].shape[:2])
        self._possible_modes = [mode for mode in self.sample_mode if mode == 1 or mode <= reachable]
        return super().transform(results)

    def largest_overlap(self, areas: np.ndarray, shape: tuple[int, int]) -> float:
        """Bound the IoU that a patch can have with the object that it overlaps least.

        Args:
            areas (np.ndarray): (N,), areas of the boxes in square pixels.
            shape (tuple[int, int]): Height and width of the image.

        Returns:
            float: The bound; infinite without boxes. The union is at least the patch, whose sides lose less than a
            pixel to rounding, and the intersection at most the box.
        """
        if not len(areas):
            return float('inf')
        height, width = (max(self.min_crop_size * side - 1, 1) for side in shape)
        return float(areas.min()) / (height * width) * (1 + SLACK)

    @cache_randomness
    def _random_mode(self) -> Number:
        return np.random.choice(self._possible_modes)
