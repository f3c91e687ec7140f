"""Transforms of classification that neither mmcv nor mmdet has."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmengine.structures import BaseDataElement

from ..registry import TRANSFORMS

ATTEMPTS = 10
INTERPOLATIONS = dict(
    nearest=cv2.INTER_NEAREST, bilinear=cv2.INTER_LINEAR, bicubic=cv2.INTER_CUBIC, area=cv2.INTER_AREA
)


@TRANSFORMS.register_module()
class RandomResizedCrop(BaseTransform):
    """A random part of the image, resized: the augmentation of Inception (`Szegedy et al. 2014
    <https://arxiv.org/abs/1409.4842>`_), as torchvision draws it.

    Area and aspect ratio are drawn, the ratio from a log-uniform distribution; what does not fit into the image is
    drawn again, ten times, and then the largest centred part of an allowed ratio is taken.

    Required and modified keys: ``img`` (H, W, C), ``img_shape``.

    Args:
        scale (int | tuple[int, int]): Side, or (width, height), of the result.
        area (tuple[float, float]): Smallest and largest part of the image's area. Defaults to (0.08, 1.0).
        ratio (tuple[float, float]): Smallest and largest width / height. Defaults to (3 / 4, 4 / 3).
        interpolation (str): 'nearest', 'bilinear', 'bicubic' or 'area'. Defaults to 'bilinear'.

    Raises:
        ValueError: An argument is out of its domain.
    """

    def __init__(
        self,
        scale: int | tuple[int, int],
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = 'bilinear',
    ) -> None:
        self.scale = (scale, scale) if isinstance(scale, int) else tuple(scale)
        if len(self.scale) != 2 or any(not isinstance(side, int) or side < 1 for side in self.scale):
            raise ValueError(f'scale={scale!r}, expected a side in pixels, or (width, height)')
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f'area={area!r}, expected two parts of the image, 0 < smallest <= largest <= 1')
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f'ratio={ratio!r}, expected two ratios of width and height, 0 < smallest <= largest')
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f'interpolation={interpolation!r}, expected one of {", ".join(INTERPOLATIONS)}')
        self.area, self.ratio, self.interpolation = tuple(area), tuple(ratio), interpolation

    @cache_randomness
    def draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Draw a part of an image.

        Args:
            height (int): Of the image.
            width (int): Of the image.

        Returns:
            tuple[int, int, int, int]: Left, top, width and height of the part.
        """
        logs = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(ATTEMPTS):
            area = height * width * np.random.uniform(*self.area)
            ratio = math.exp(np.random.uniform(*logs))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return np.random.randint(0, width - w + 1), np.random.randint(0, height - h + 1), w, h
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        return (width - w) // 2, (height - h) // 2, w, h

    def transform(self, results: dict) -> dict:
        """Crop and resize the image.

        Args:
            results (dict): With ``img`` (H, W, C).

        Returns:
            dict: The same, with an image of the given scale.
        """
        image = results['img']
        left, top, width, height = self.draw(*image.shape[:2])
        part = image[top : top + height, left : left + width]
        results['img'] = cv2.resize(part, self.scale, interpolation=INTERPOLATIONS[self.interpolation])
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(scale={self.scale}, area={self.area}, ratio={self.ratio})'


@TRANSFORMS.register_module()
class PackClsInputs(BaseTransform):
    """Image and class as the classifiers here read them: ``inputs`` and ``data_samples``.

    Required keys: ``img`` (H, W, C); optional ``gt_label``, the index of the class.

    Args:
        meta_keys (Sequence[str]): What the data sample notes of the image. Defaults to ('img_path', 'ori_shape',
            'img_shape', 'scale_factor', 'flip', 'flip_direction').
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = ('img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack.

        Args:
            results (dict): Of the transforms before.

        Returns:
            dict: ``inputs``, a tensor (C, H, W) of the image's type, and ``data_samples``, with ``gt_label``, a tensor
            (1, ), where there is one.
        """
        image = results['img']
        image = image[..., None] if image.ndim == 2 else image
        sample = BaseDataElement(metainfo={key: results[key] for key in self.meta_keys if key in results})
        if 'gt_label' in results:
            sample.gt_label = torch.tensor([int(results['gt_label'])])
        return dict(inputs=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), data_samples=sample)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'
