"""The size of the images that a test pipeline makes: its Resize, CenterCrop and Pad, and those of mmpretrain."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from mmengine.config import ConfigDict

from ..device.resizing import MOST_PIXELS
from ..registry import type_name
from .errors import ConfigError

CROPS = ('CenterCrop', 'EfficientNetCenterCrop')
EFFICIENTNET_PADDING = 32  # its default of crop_padding
RESIZINGS = ('Resize', 'ResizeEdge')
WIDEST = 32  # no image is longer by its width: a scale whose long side is beyond bounds the short side only

Size = tuple[int, int]


class ImageSizes(NamedTuple):
    """The sizes, (height, width), of the images behind a pipeline.

    Args:
        least (tuple[int, int]): What all images have at least.
        most (tuple[float, float]): What they have at most; infinite where nothing bounds it.
        nominal (tuple[int, int], optional): That of an image of the same ratio as the scale of Resize, of a square one
            where the scale bounds the short side only. None where no step has a size.
        longest (int, optional): The longer side, where it is the same for all images.
        cropped (bool): Whether there is a crop.
        padded (bool): Whether there is a Pad.
    """

    least: Size = (1, 1)
    most: tuple[float, float] = (math.inf, math.inf)
    nominal: Size | None = None
    longest: int | None = None
    cropped: bool = False
    padded: bool = False

    @property
    def fixed(self) -> Size | None:
        """The size that all images have; of a Pad without a crop, the size that larger images do not fit."""
        return self.least if self.least == self.most or (self.padded and not self.cropped) else None


def image_sizes(steps: Sequence[ConfigDict]) -> ImageSizes:
    """The sizes behind a pipeline, of which steps other than Resize, CenterCrop, Pad and mmpretrain's change none.

    Args:
        steps (Sequence[dict]): Its transforms.

    Raises:
        ConfigError: The size of one is none.
    """
    sizes = ImageSizes()
    for step in steps:
        kind = type_name(step)
        if kind == 'Resize' and step.get('scale') is not None:
            sizes = _resized(size_of(step, 'scale'), bool(step.get('keep_ratio', False)))
        elif kind == 'ResizeEdge':
            sizes = _with_edge(min(size_of(step, 'scale')), step.get('edge', 'short'))
        elif kind == 'CenterCrop':
            sizes = _bounded(sizes, size_of(step, 'crop_size'), min)._replace(cropped=True)
        elif kind == 'EfficientNetCenterCrop':  # resizes what it has cut out
            sizes = _resized(size_of(step, 'crop_size'), keep_ratio=False)._replace(cropped=True)
        elif kind == 'Pad':
            sizes = _padded(sizes, step)._replace(padded=True)
    return sizes


def set_image_size(steps: Sequence[ConfigDict], size: Size) -> None:
    """Have a pipeline make images of another size, in place.

    A crop takes the size, and Resize is scaled with it, so that the crop is the same part of an image as before;
    without a crop Resize takes the size itself, and so does Pad.

    Args:
        steps (Sequence[dict]): Its transforms.
        size (tuple[int, int]): Height and width.

    Raises:
        ConfigError: Its crop does not fill that size, however it is scaled; or the size of a step is none.
    """
    if any(type_name(step) in CROPS for step in steps):
        _scale(steps, tuple(size))
        return
    for step in steps:
        kind = type_name(step)
        if kind == 'Resize':
            step['scale'] = size[::-1]
        elif kind == 'ResizeEdge':
            edge = step.get('edge', 'short')
            step['scale'] = dict(short=min(size), long=max(size), width=size[1], height=size[0]).get(edge, min(size))
        elif kind == 'Pad' and 'size' in step:
            step['size'] = size[::-1]


def size_of(step: ConfigDict, key: str) -> Size:
    """(height, width) of mm's (width, height), or of one side of a square.

    Args:
        step (dict): A transform.
        key (str): Where its size stands.

    Raises:
        ConfigError: It is no size.
    """
    value = step.get(key)
    pair = value if isinstance(value, Sequence) and len(value) == 2 else (value, value)
    if not all(isinstance(side, (int, float)) and 1 <= side < math.inf for side in pair):
        raise ConfigError(
            f'{type_name(step)}.{key}={value!r} of a pipeline: expected one side of a square, or (width, height), of 1 '
            'pixel or more.'
        )
    width, height = pair
    return int(height), int(width)


def _resized(scale: Size, keep_ratio: bool) -> ImageSizes:
    if not keep_ratio:
        return ImageSizes(scale, scale, scale, max(scale))
    long, short = max(scale), min(scale)
    if long >= WIDEST * short:
        return ImageSizes((short, short), nominal=(short, short))
    least = max(1, min(short, long // WIDEST))
    return ImageSizes((least, least), (long, long), scale, long if long == short else None)


def _with_edge(side: int, edge: str) -> ImageSizes:
    """Behind mmpretrain's ``ResizeEdge``, which gives one edge of all images the same length."""
    least = max(1, side // WIDEST)
    if edge == 'long':
        return ImageSizes((least, least), (side, side), (side, side), side)
    if edge == 'short':
        return ImageSizes((side, side), nominal=(side, side))
    if edge == 'width':
        return ImageSizes((least, side), (math.inf, side), (side, side))
    return ImageSizes((side, least), (side, math.inf), (side, side))


def _bounded(sizes: ImageSizes, size: Size, bound: Any) -> ImageSizes:
    """Behind a crop (``min``) or a padding (``max``) to a size."""
    least, most, nominal = (
        tuple(map(bound, own, size)) for own in (sizes.least, sizes.most, sizes.nominal or (size[0], size[1]))
    )
    longest = None
    if least == most:
        longest = max(least)
    elif sizes.longest is not None and (size[0] == size[1] or bound(min(size), sizes.longest) == sizes.longest):
        longest = bound(sizes.longest, min(size))
    return sizes._replace(least=least, most=most, nominal=nominal, longest=longest)


def _padded(sizes: ImageSizes, step: ConfigDict) -> ImageSizes:
    if step.get('size') is not None:
        return _bounded(sizes, size_of(step, 'size'), max)
    if not step.get('pad_to_square'):
        return sizes
    if sizes.longest is not None:
        return _bounded(sizes, (sizes.longest, sizes.longest), max)
    least, most, nominal = ((max(own),) * 2 if own else None for own in (sizes.least, sizes.most, sizes.nominal))
    return sizes._replace(least=least, most=most, nominal=nominal)


def _scale(steps: Sequence[ConfigDict], size: Size) -> None:
    """As :func:`set_image_size`, of a pipeline with a crop: all its sizes by the same factors."""
    before = image_sizes(steps)
    if before.most == size:
        return
    down, across = (new / old for new, old in zip(size, before.most, strict=True))
    for step, key in product(steps, ('scale', 'crop_size', 'size')):
        if type_name(step) in (*RESIZINGS, *CROPS, 'Pad') and step.get(key) is not None:
            _scale_step(step, key, down, across)
    if before.nominal != before.most or image_sizes(steps).most != size:
        height, width = before.most
        raise ConfigError(
            f'The shape {size[0]} {size[1]} (height, width) was given, the crop of the test pipeline leaves '
            f'{height}x{width} at most and cannot be scaled to it with Resize and Pad. Give --shape {height} {width} '
            'or leave the size open (--dynamic); or change test_dataloader.dataset.pipeline of the config.'
        )


def _scale_step(step: ConfigDict, key: str, down: float, across: float) -> None:
    """The size of one transform by the factors of height and width, in place."""
    height, width = size_of(step, key)
    kind = type_name(step)
    if kind == 'EfficientNetCenterCrop':
        step[key] = round(width * across)
        step['crop_padding'] = round(step.get('crop_padding', EFFICIENTNET_PADDING) * across)
    elif kind == 'ResizeEdge':
        step[key] = max(1, round(width * max(down, across)))
    elif key == 'scale' and step.get('keep_ratio'):
        step[key] = _scaled_sides(width, height, max(down, across))
    else:
        step[key] = (max(1, round(width * across)), max(1, round(height * down)))


def _scaled_sides(width: int, height: int, factor: float) -> Size:
    """A scale that keeps the ratio; a long side that bounds nothing stays, as large as deployments hold it."""
    long, short = max(width, height), min(width, height)
    new = max(1, round(short * factor))
    endless = long >= WIDEST * max(short, new)
    other = min(long, max(MOST_PIXELS // new, WIDEST * new)) if endless else max(1, round(long * factor))
    return (other, new) if width >= height else (new, other)
