"""Label images of semantic segmentation: how they are read, in training and by tools/prepare_cityscapes.py alike."""

import io
import os
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import DECODE_ERRORS, BadImageError

_LOSSY = ('JPEG', 'MPO')
_GREY, _COLOURS = ('LA', 'La', 'PA'), ('RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'LAB', 'HSV')
_PNG = b'\x89PNG\r\n\x1a\n'


class BadLabelError(BadImageError):
    """A label image that cannot be used, see the base class."""

    def __str__(self) -> str:
        return f"cannot use the label '{self.path}': {self.reason}"


class LabelMap(NamedTuple):
    """The content of a label image.

    Args:
        values (np.ndarray): uint8 (H, W), as they are stored; of a palette the indices, not the colours.
        form (str, optional): How they are stored, if it is neither as 8 bit grey, nor as a palette, nor as 1 bit.
    """

    values: np.ndarray
    form: str | None = None


def read_labels(path: str | os.PathLike) -> LabelMap:
    """Read a label image, see :func:`decode_labels`."""
    try:
        with open(path, 'rb') as file:
            return decode_labels(file.read(), str(path))
    except FileNotFoundError as error:
        raise BadLabelError(str(path), 'the file does not exist') from error
    except OSError as error:
        raise BadLabelError(str(path), f'the file cannot be read ({error})') from error


def decode_labels(content: bytes, path: str) -> LabelMap:
    """Decode a label image, to the last pixel.

    Palettes give their indices, as Pillow and mmseg read them (OpenCV would give colours). Grey that is stored in
    three equal channels, with alpha or in 16 or 32 bits, is understood; so are 1, 2 and 4 bits, which are taken as
    class indices.

    Args:
        content (bytes): The whole file.
        path (str): Where it is from, for messages.

    Returns:
        LabelMap: The labels.

    Raises:
        BadLabelError: The file is empty, truncated or no image, a JPEG, has colours, or values beyond 255.
    """
    if not content:
        raise BadLabelError(path, 'the file is empty (0 bytes)')
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind, mode, pixels = image.format, image.mode, np.array(image)
    except UnidentifiedImageError as error:
        start = f'{len(content):,} bytes that start with {content[:12]!r}'
        raise BadLabelError(path, f'it is no image that Pillow can read: {start}') from error
    except DECODE_ERRORS as error:
        raise BadLabelError(path, f'the file is truncated or damaged: {error}') from error
    if kind in _LOSSY:
        raise BadLabelError(
            path, 'it is a JPEG, whose compression changes values next to each border: make the labels again as PNG'
        )
    depth, is_grey = _png_depth(content)
    if depth == 16 and not is_grey:  # Pillow would keep the upper 8 bits
        pixels = _decode_deep(content, path)
        return LabelMap(_in_bytes(_one_channel(pixels, path), path), 'colours of 16 bits with equal channels')
    if depth in (2, 4) and is_grey:  # Pillow spreads them over 0 to 255
        return LabelMap(pixels // (255 // (2**depth - 1)), f'{depth} bit grey')
    if mode in _GREY:
        return LabelMap(np.ascontiguousarray(pixels[..., 0]), 'grey with alpha')
    if mode in _COLOURS:
        return LabelMap(_one_channel(pixels, path), f'{mode} with equal channels')
    if pixels.dtype == np.uint8 or pixels.dtype == bool:
        return LabelMap(pixels.astype(np.uint8, copy=False))
    return LabelMap(_in_bytes(pixels, path), '16 bit' if mode.startswith('I;16') else '32 bit')


def count_values(labels: np.ndarray) -> np.ndarray:
    """Pixels by value, (256, ), of labels (H, W) uint8."""
    return cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def _png_depth(content: bytes) -> tuple[int, bool]:
    """Bits of a PNG's samples and whether it is plain grey; 8 and False for other files."""
    return (content[24], content[25] == 0) if content.startswith(_PNG) and len(content) > 25 else (8, False)


def _decode_deep(content: bytes, path: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BadLabelError(path, 'OpenCV cannot read it')
    return pixels[..., :3] if pixels.ndim == 3 else pixels


def _one_channel(pixels: np.ndarray, path: str) -> np.ndarray:
    """One of three equal channels; any alpha is dropped."""
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., :3]
    if (colours == colours[..., :1]).all():
        return np.ascontiguousarray(colours[..., 0])
    row, column = np.argwhere((colours != colours[..., :1]).any(axis=-1))[0]
    raise BadLabelError(
        path,
        f'it is a picture in colours (row {row}, column {column} is {tuple(colours[row, column].tolist())}), expected '
        'one class index a pixel: 0 for the first class, 1 for the second, 255 for what is ignored. '
        'docs/data.md ("Labels in colours") has the lines that convert it',
    )


def _in_bytes(pixels: np.ndarray, path: str) -> np.ndarray:
    """Values of more bits or of floating point as uint8."""
    wrong = (pixels < 0) | (pixels > 255) | (pixels % 1 != 0)
    if not wrong.any():
        return pixels.astype(np.uint8)
    row, column = np.argwhere(wrong)[0]
    value = pixels[row, column].item()
    hint = '. Values like 26001 are instance ids (class id x 1000 + number), no labels' if value >= 1000 else ''
    raise BadLabelError(
        path,
        f'row {row}, column {column} holds {value}, expected class indices, 0 to 254, or 255 for what is ignored{hint}',
    )
