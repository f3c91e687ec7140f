"""Image loading that names what is wrong with a file, and refuses half-decoded images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log

from ..device.errors import ImageError
from ..device.image_files import as_bgr, as_grey, decode_image, lacks_end, pillow_error
from ..registry import TRANSFORMS
from .errors import BadImageError, ResizedAwayError

__all__ = [
    'COLOR_TYPES',
    'MEAN_GREY',
    'LoadImage',
    'image_or_grey',
    'inner_datasets',
    'lacks_end',
    'loaded_image',
    'pillow_error',
    'resize_errors',
]

#: BGR of ImageNet's mean, which the data preprocessor of our configs maps to about 0.
MEAN_GREY = (104, 116, 124)
COLOR_TYPES = ('color', 'color_ignore_orientation', 'grayscale')
_NO_SIDE = ('inv_scale_x > 0', 'inv_scale_y > 0', '!dsize.empty()', 'height and width must be > 0')
_SAID: set[str] = set()  # notes on how images were read that this process has logged


@TRANSFORMS.register_module(name=['LoadImage', 'LoadImageFromFile'])
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with a clear error for every file that is not a whole image.

    It reads as deployments do, by :func:`frostnet_mm.device.image_files.decode_image`. Whatever OpenCV decodes is
    bitwise what mmcv yields, but that the orientation of WebP and AVIF is applied, and floats are not cut off. What it
    cannot read goes to Pillow. Some versions of OpenCV fill the missing rest of a truncated JPEG with grey and report
    success: files without the end marker of their format are decoded by Pillow first, which refuses them if pixels are
    missing. Damage in the middle of a file is not detected.

    Every image becomes (H, W, 3) BGR: grey is repeated, alpha is dropped, palettes and CMYK are converted, 16 bit
    values keep their upper 8 bits, floats from 0 to 1 become 0 to 255 (other floats are refused), of several frames the
    first is read, the orientation that the file states is applied.

    Registered as ``frostnet_mm.LoadImage`` and as ``frostnet_mm.LoadImageFromFile``: mmdet's ``DetInferencer`` looks
    for a transform with the latter name, so test pipelines need it.

    Required keys: ``img_path``; optional ``img_placeholder``, a size (height, width), for which a uniform mean grey
    image is made instead of reading the file.

    Added keys: ``img`` (H, W, 3), ``img_shape``, ``ori_shape``, each (height, width).

    Args:
        to_float32 (bool): Whether to convert the image to float32, otherwise it is uint8. Defaults to False.
        color_type (str): 'color', or 'color_ignore_orientation' for annotations that were made on the stored pixels
            without the EXIF rotation; or 'grayscale' for networks of one channel: (H, W), colours become grey. Defaults
            to 'color'.
        imdecode_backend (str): Only 'cv2'; there for the signature of mmcv's class. Defaults to 'cv2'.
        ignore_empty (bool): Whether to return None for a bad image instead of raising. Defaults to False.
        backend_args (dict, optional): File backend of mmengine. Defaults to None.

    Raises:
        ValueError: For another ``color_type`` or ``imdecode_backend``.
        BadImageError: On a file that is missing, empty, no image, truncated or of no size.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        imdecode_backend: str = 'cv2',
        ignore_empty: bool = False,
        *,
        backend_args: dict | None = None,
    ) -> None:
        if color_type not in COLOR_TYPES:
            raise ValueError(
                f'color_type={color_type!r}, expected one of {COLOR_TYPES}: the result has three channels, or is grey. '
                "For others use type='LoadImageFromFile'."
            )
        if imdecode_backend != 'cv2':
            raise ValueError(
                f"imdecode_backend={imdecode_backend!r}, expected 'cv2'. For others use type='LoadImageFromFile'."
            )
        super().__init__(
            to_float32=to_float32,
            color_type=color_type,
            imdecode_backend=imdecode_backend,
            ignore_empty=ignore_empty,
            backend_args=backend_args,
        )

    def transform(self, results: dict) -> dict | None:
        """Load the image of ``results``.

        Args:
            results (dict): Has ``img_path``, or also ``img_placeholder``.

        Returns:
            dict or None: ``results`` with the image; None for a bad image if ``ignore_empty``.

        Raises:
            BadImageError: If the image cannot be used.
        """
        placeholder = results.pop('img_placeholder', None)
        if placeholder is not None:
            img = np.full((*placeholder, 3), MEAN_GREY, dtype=np.uint8)
        else:
            try:
                img = self._read(results['img_path'])
            except BadImageError:
                if self.ignore_empty:
                    return None
                raise
        if self.color_type == 'grayscale':
            img = as_grey(img)
        results['img'] = img.astype(np.float32) if self.to_float32 else img
        results['img_shape'] = img.shape[:2]
        results['ori_shape'] = img.shape[:2]
        return results

    def _read(self, path: str) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise BadImageError(path, 'the file does not exist') from error
        except OSError as error:
            raise BadImageError(path, f'the file cannot be read ({error})') from error
        try:
            image, note = decode_image(content, self.color_type == 'color_ignore_orientation')
        except ImageError as error:
            raise BadImageError(path, str(error)) from error
        if note and note not in _SAID:
            _SAID.add(note)
            print_log(f"'{path}' {note}. Others like it are not named.", logger='current')
        return image


@contextmanager
def resize_errors(path: str) -> Iterator[None]:
    """Name the image of which a Resize leaves nothing, in place of what OpenCV or Pillow says.

    Args:
        path (str): The image file.

    Raises:
        ResizedAwayError: Its sides differ too much for the scale.
    """
    try:
        yield
    except (cv2.error, ValueError) as error:
        if isinstance(error, BadImageError) or not any(text in str(error) for text in _NO_SIDE):
            raise
        raise ResizedAwayError(path, 'it is resized to nothing: its sides differ too much for the scale') from error


def inner_datasets(dataset: Any) -> list[Any]:
    """The data sets inside wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    return [dataset] if inner[0] is None else [each for one in inner for each in inner_datasets(one)]


def loaded_image(dataset: Any, path: str) -> np.ndarray:
    """An image as the pipeline of a data set loads it, to be drawn on.

    Args:
        dataset: One of mm's data sets, or a wrapper around some.
        path (str): The image file.

    Returns:
        np.ndarray: uint8 BGR of shape (H, W, 3).

    Raises:
        BadImageError: The file cannot be read as an image.
    """
    pipeline = getattr(inner_datasets(dataset)[0], 'pipeline', None)
    loaders = [step for step in getattr(pipeline, 'transforms', ()) if isinstance(step, LoadImageFromFile)]
    from_file = [step for step in loaders if type(step).__name__ != 'LoadImageFromNDArray']
    results = (from_file[0] if from_file else LoadImage())(dict(img_path=path))
    if results is None:
        raise BadImageError(path, 'the loader of the data set leaves it out')
    image = results['img']
    if np.issubdtype(image.dtype, np.floating):  # to_float32
        image = image.clip(0, 255).astype(np.uint8)
    try:
        return as_bgr(image)
    except ImageError as error:
        raise BadImageError(path, str(error)) from error


def image_or_grey(dataset: Any, path: str, shape: tuple[int, int]) -> np.ndarray:
    """As :func:`loaded_image`; of a file that cannot be read, the uniform grey that evaluations take in its place.

    Args:
        dataset: One of mm's data sets, or a wrapper around some.
        path (str): The image file.
        shape (tuple[int, int]): Height and width of the grey image.

    Returns:
        np.ndarray: uint8 BGR of shape (H, W, 3).
    """
    try:
        return loaded_image(dataset, path)
    except BadImageError:
        return np.full((*shape, 3), MEAN_GREY, dtype=np.uint8)
