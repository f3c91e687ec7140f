"""Image files to pixels: the one reader of training, of the tools and of deployments.

OpenCV decodes what it can, Pillow the rest; a deployment gets along with one of them.
"""

import importlib
import io
import os
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import ImageError
from .orientation import is_tiff, orientation_of, tiff_number, turned, turned_back

#: End markers lie in the last bytes; a file that carries more behind them is decoded by Pillow to decide.
TAIL = 1024
SEVERAL_FRAMES = 'holds several frames or pages: the first is read'
FLOAT_VALUES = 'holds floats from 0 to 1: read as 0 to 255'
_ABOUT = 0.05  # OpenCV writes floats as LogLuv, in which 0 comes out as -0.004 and 1 as 1.02
_PLANAR = 284  # the TIFF tag PlanarConfiguration
_PNG = b'\x89PNG\r\n\x1a\n'
_ANIMATION = (b'acTL', b'fcTL', b'fdAT')  # chunks of a PNG
_DEEP = (b'#?RADIANCE', b'#?RGBE', b'PF', b'Pf', b'v/1\x01')  # floats: HDR, PFM, EXR


class Decoded(NamedTuple):
    """An image, and what is to be said of how it was read, such as ``SEVERAL_FRAMES``; '' for nothing."""

    image: np.ndarray
    note: str


def optional(name: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def read_image(path: str | os.PathLike, ignore_orientation: bool = False) -> np.ndarray:
    """Read an image file, see :func:`decode_image`.

    Args:
        path (str | PathLike): The file.
        ignore_orientation (bool): Leave the pixels as they are stored, without EXIF orientation. Default: False.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3), BGR.

    Raises:
        ImageError: It is missing, empty, truncated or no image.
    """
    return read_decoded(path, ignore_orientation).image


def read_decoded(path: str | os.PathLike, ignore_orientation: bool = False) -> Decoded:
    """:func:`read_image` with a note on how it was read."""
    try:
        return decode_image(Path(path).read_bytes(), ignore_orientation)
    except OSError as error:
        raise ImageError(f"cannot use the image '{path}': {error.strerror or error}") from error
    except ImageError as error:
        raise ImageError(f"cannot use the image '{path}': {error}") from error


def decode_image(content: bytes, ignore_orientation: bool = False) -> Decoded:
    """Decode an image file to 8 bit colour.

    Grey is repeated, alpha is dropped, palettes and CMYK are converted, 16 bit values keep their upper 8 bits, floats
    from 0 to 1 become 0 to 255, of several frames the first is taken, and the orientation that the file states is
    applied.

    Args:
        content (bytes): The whole file.
        ignore_orientation (bool): Leave the pixels as they are stored. Default: False.

    Returns:
        Decoded: The image, uint8 of shape (H, W, 3), BGR; and a note.

    Raises:
        ImageError: It is no whole image; the message is the reason, without a path.
    """
    if not content:
        raise ImageError('the file is empty (0 bytes)')
    cv2, pillow = optional('cv2'), optional('PIL.Image')
    if cv2 is None and pillow is None:
        raise ImageError('reading images needs OpenCV or Pillow: pip install opencv-python-headless')
    _refuse_truncated(content, pillow is not None)
    image, reasons = None, []
    for decode in [_with_opencv] * (cv2 is not None) + [_with_pillow] * (pillow is not None):
        image, reason = decode(content)
        if image is not None:
            break
        reasons.append(reason)
    if image is None:
        raise ImageError(_refusal(content, reasons))
    note = SEVERAL_FRAMES if has_frames(content) else ''
    if image.dtype not in (np.uint8, np.uint16):
        image, note = _scaled(image, content), FLOAT_VALUES
    image, orientation = as_bgr(image), orientation_of(content)
    if is_tiff(content):  # its decoders have turned it
        return Decoded(turned_back(image, orientation) if ignore_orientation else image, note)
    return Decoded(image if ignore_orientation or orientation == 1 else turned(image, orientation), note)


def lacks_end(content: bytes) -> bool:
    """Tell from the bytes whether a file of a known format stops before its end; cheap, and only a suspicion.

    Args:
        content (bytes): The whole file.

    Returns:
        bool: True for JPEG, JPEG 2000, PNG, GIF without end marker and WebP, BMP shorter than their header says. Always
        False for other formats.
    """
    tail = content[-TAIL:]
    if content.startswith((b'\xff\xd8', b'\0\0\0\x0cjP  ', b'\xff\x4f\xff\x51')):
        return b'\xff\xd9' not in tail
    if content.startswith(_PNG):
        return b'IEND\xaeB`\x82' not in tail
    if content.startswith(b'GIF8'):
        return b';' not in tail[-16:]
    if content.startswith(b'RIFF') and content[8:12] == b'WEBP':
        return struct.unpack('<I', content[4:8])[0] + 8 > len(content)
    if content.startswith(b'BM') and len(content) >= 6:
        return struct.unpack('<I', content[2:6])[0] > len(content)
    return False


def has_frames(content: bytes) -> bool:
    """Whether a GIF, PNG, WebP, AVIF or TIFF holds several frames or pages, from its bytes.

    The previews that phones put behind a JPEG (MPO) do not count.
    """
    if content.startswith(b'GIF8'):
        frames = re.finditer(rb'\x00\x21\xf9\x04.{4}\x00[\x21\x2c]', content, re.DOTALL)
        return sum(1 for _, _ in zip(range(2), frames, strict=False)) > 1
    if content.startswith(b'\x89PNG'):
        return b'acTL' in content[:TAIL]
    if content.startswith(b'RIFF'):
        return content[12:16] == b'VP8X' and bool(content[20] & 2)
    if content[4:12] == b'ftypavis':
        return True
    if content[:4] in (b'II*\0', b'MM\0*'):
        order = '<' if content[:1] == b'I' else '>'
        try:
            (first,) = struct.unpack_from(f'{order}I', content, 4)
            (entries,) = struct.unpack_from(f'{order}H', content, first)
            return struct.unpack_from(f'{order}I', content, first + 2 + 12 * entries)[0] != 0
        except struct.error:
            return False
    return False


def without_animation(content: bytes) -> bytes:
    """A PNG without the chunks of its animation, which leaves its first picture; other files as they are.

    OpenCV 4.12 crashes on an animated PNG whose first picture is damaged, or mixes what lay in memory into it
    (https://github.com/opencv/opencv/issues/27744).
    """
    if not (content.startswith(_PNG) and b'acTL' in content):
        return content
    parts, start = [_PNG], len(_PNG)
    while len(content) - start >= 12:
        end = start + 12 + int.from_bytes(content[start : start + 4], 'big')
        if content[start + 4 : start + 8] not in _ANIMATION:
            parts.append(content[start:end])
        start = end
    return b''.join((*parts, content[start:]))


def pillow_error(content: bytes) -> str | None:
    """Decode an image with Pillow to the last pixel.

    Args:
        content (bytes): The whole file.

    Returns:
        str or None: Why it cannot be decoded, None if it can.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except UnidentifiedImageError:
        return 'Pillow does not know its format'
    except _pillow_errors() as error:
        return f'Pillow says: {error}'
    return None


def _pillow_errors() -> tuple[type[Exception], ...]:
    """What Pillow's decoders raise on broken input; it differs by format."""
    from PIL import Image

    of_python = (OSError, EOFError, IndexError, SyntaxError, ValueError, MemoryError, OverflowError, RuntimeError)
    return (*of_python, struct.error, Image.DecompressionBombError)


def _refuse_truncated(content: bytes, has_pillow: bool) -> None:
    """OpenCV fills what a truncated file lacks with grey: Pillow, which refuses it, decides."""
    if lacks_end(content):
        reason = pillow_error(content) if has_pillow else 'Pillow, which could tell more, is not installed'
        if reason is not None:
            raise ImageError(
                f'the file is truncated or damaged: {len(content):,} bytes without the end of its format, and {reason}'
            )


def _with_opencv(content: bytes) -> tuple[np.ndarray | None, str]:
    import cv2

    flags = [cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION]
    if is_tiff(content) or content.startswith(_DEEP):  # without ANYDEPTH floats are cut to 0 and 255
        flags = [flags[0] | cv2.IMREAD_ANYDEPTH, cv2.IMREAD_UNCHANGED]
    data = np.frombuffer(without_animation(content), np.uint8)
    for flag in flags:
        try:
            image = cv2.imdecode(data, flag)
        except cv2.error as error:
            return None, f'OpenCV says: {error.err or error}'
        if image is not None:
            return image, ''
    return None, 'OpenCV cannot decode it'


def _with_pillow(content: bytes) -> tuple[np.ndarray | None, str]:
    from PIL import Image

    reason = pillow_error(content)
    if reason is not None:
        return None, reason
    with Image.open(io.BytesIO(content)) as image:
        if image.mode.startswith('I;16'):  # Pillow would clip to 255 instead of scaling
            return np.asarray(image).astype(np.uint16), ''
        if image.mode == 'F':
            return np.asarray(image), ''
        if image.mode == 'I':
            return None, 'its mode I has no known range, expected 8 or 16 bits a channel: convert the file'
        return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1]), ''


def _refusal(content: bytes, reasons: list[str]) -> str:
    text = '; '.join(reasons)
    if 'CV_IO_MAX_IMAGE' in text or 'decompression bomb' in text:
        return f'it has more pixels than are decoded: shrink it or cut it into tiles ({text})'
    if content[4:8] == b'ftyp' and content[8:12] in (b'heic', b'heix', b'hevc', b'mif1', b'msf1'):
        return f'it is a HEIC photograph, which neither OpenCV nor Pillow reads: convert it to JPEG or PNG ({text})'
    if is_tiff(content):
        return f'it is a TIFF of a kind that is not decoded, or damaged: convert it to 8 bit TIFF or PNG ({text})'
    start = f'{len(content):,} bytes that start with {content[:12]!r}'
    return f'it is no image that OpenCV or Pillow can read: {start}; {text}'


def _scaled(image: np.ndarray, content: bytes) -> np.ndarray:
    """Floats from 0 to 1 as uint8.

    Raises:
        ImageError: They have another range, of which the file does not say how it is to be shown, or are no floats.
    """
    # before its values, which are noise
    if image.shape[2:] > (1,) and is_tiff(content) and tiff_number(content, _PLANAR) == 2:
        raise ImageError('it is a TIFF of float planes, one a channel, which OpenCV garbles: convert it to PNG')
    low, high = float(image.min()), float(image.max())
    known = np.issubdtype(image.dtype, np.floating) and low >= -_ABOUT and high <= 1 + _ABOUT  # NaN neither
    if not known:
        raise ImageError(
            f'its values are {image.dtype} from {low:g} to {high:g}; expected floats from 0 to 1, or unsigned integers '
            'of 8 or 16 bits. Convert all images with one scale, for example by '
            'cv2.imwrite("x.png", (x * 255 / highest).clip(0, 255).astype("uint8"))'
        )
    return np.rint(image * 255).clip(0, 255).astype(np.uint8)


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Bring an image array to uint8 BGR.

    Args:
        image (np.ndarray): uint8 or uint16 (of which the upper 8 bits are kept) of shape (H, W), (H, W, 1), (H, W, 3)
            as BGR, or (H, W, 4) as BGRA, of which alpha is dropped.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3).

    Raises:
        ImageError: It is of another kind, or has no pixel.
    """
    kind, shape = getattr(image, 'dtype', type(image).__name__), getattr(image, 'shape', ())
    channels = shape[2] if len(shape) == 3 else 1
    if kind not in (np.uint8, np.uint16) or len(shape) not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ImageError(
            f'The image is {kind} of shape {shape}, expected uint8 or uint16 of shape (height, width), '
            '(height, width, 3) in BGR order or (height, width, 4), with at least one pixel.'
        )
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return np.repeat(image.reshape(*shape[:2], 1), 3, 2) if channels == 1 else np.ascontiguousarray(image[..., :3])


def as_grey(image: np.ndarray) -> np.ndarray:
    """An image in grey, bit by bit as OpenCV's ``cvtColor``.

    Args:
        image (np.ndarray): uint8 BGR of shape (H, W, 3).

    Returns:
        np.ndarray: uint8 of shape (H, W).
    """
    blue, green, red = (image[..., channel].astype(np.int32) for channel in range(3))
    return ((3735 * blue + 19235 * green + 9798 * red + 16384) >> 15).astype(np.uint8)
