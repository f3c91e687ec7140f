"""Transforms of classification that neither mmcv nor mmdet has."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.image import impad
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmengine.structures import BaseDataElement

from ..registry import TRANSFORMS

ATTEMPTS = 10
INTERPOLATIONS = dict(
    nearest=cv2.INTER_NEAREST, bilinear=cv2.INTER_LINEAR, bicubic=cv2.INTER_CUBIC, area=cv2.INTER_AREA
)


def _is_range(pair: object) -> bool:
    """Whether something is two positive numbers in ascending order."""
    numbers = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(end, (int, float)) for end in pair)
    return numbers and 0 < pair[0] <= pair[1]


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
        self.scale = tuple(scale) if isinstance(scale, Sequence) else (scale, scale)
        if len(self.scale) != 2 or any(
            isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in self.scale
        ):
            raise ValueError(f'scale={scale!r}, expected a side in pixels, or (width, height)')
        if not _is_range(area) or area[1] > 1:
            raise ValueError(f'area={area!r}, expected two parts of the image, 0 < smallest <= largest <= 1')
        if not _is_range(ratio):
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
class RandomPaddedCrop(BaseTransform):
    """A random part, of the image's own size, of the image with a border around it: CIFAR's usual augmentation
    (`He et al. 2016 <https://arxiv.org/abs/1512.03385>`_, section 4.2). mmcv's ``Pad`` pads right and bottom alone.

    Required and modified keys: ``img`` (H, W, C), ``img_shape``.

    Args:
        padding (int): Pixels on every side: the image moves by at most as many each way.
        pad_val (int | tuple[int, ...]): Value of the border, or one a channel as they are stored (B, G, R). Defaults to
            (104, 116, 124), ImageNet's mean.

    Raises:
        ValueError: ``padding`` is no whole number of at least 0.
    """

    def __init__(self, padding: int, pad_val: int | tuple[int, ...] = (104, 116, 124)) -> None:
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise ValueError(f'padding={padding!r}, expected a whole number of pixels of at least 0')
        self.padding, self.pad_val = padding, pad_val

    @cache_randomness
    def draw(self) -> tuple[int, int]:
        """Draw left and top of the part in the padded image, each from 0 to twice the padding."""
        return np.random.randint(0, 2 * self.padding + 1), np.random.randint(0, 2 * self.padding + 1)

    def transform(self, results: dict) -> dict:
        """Pad and crop the image.

        Args:
            results (dict): With ``img`` (H, W, C).

        Returns:
            dict: The same, with an image of the same size.
        """
        height, width = results['img'].shape[:2]
        padded = impad(results['img'], padding=self.padding, pad_val=self.pad_val)
        left, top = self.draw()
        results['img'] = padded[top : top + height, left : left + width]
        results['img_shape'] = (height, width)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(padding={self.padding}, pad_val={self.pad_val})'


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
