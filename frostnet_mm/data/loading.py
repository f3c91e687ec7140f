"""Image loading that names what is wrong with a file, and refuses half-decoded images."""

import io
import struct

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from PIL import Image, UnidentifiedImageError

from ..registry import TRANSFORMS
from .errors import DECODE_ERRORS, BadImageError

#: BGR of ImageNet's mean, which the data preprocessor of our configs maps to about 0.
MEAN_GREY = (104, 116, 124)
#: End markers lie in the last bytes; a file that carries more behind them is decoded by Pillow to decide.
TAIL = 1024
COLOR_TYPES = ('color', 'color_ignore_orientation')


@TRANSFORMS.register_module(name=['LoadImage', 'LoadImageFromFile'])
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with a clear error for every file that is not a whole image.

    Whatever OpenCV decodes is bitwise what mmcv yields. What it cannot read goes to Pillow. Some versions of OpenCV
    fill the missing rest of a truncated JPEG with grey and report success: files without the end marker of their format
    are decoded by Pillow first, which refuses them if pixels are missing. Damage in the middle of a file is not
    detected.

    Every image becomes (H, W, 3) BGR: grey is repeated, alpha is dropped, palettes and CMYK are converted, 16 bit
    values keep their upper 8 bits, EXIF orientation is applied.

    Registered as ``frostnet_mm.LoadImage`` and as ``frostnet_mm.LoadImageFromFile``: mmdet's ``DetInferencer`` looks
    for a transform with the latter name, so test pipelines need it.

    Required keys: ``img_path``; optional ``img_placeholder``, a size (height, width), for which a uniform mean grey
    image is made instead of reading the file.

    Added keys: ``img`` (H, W, 3), ``img_shape``, ``ori_shape``, each (height, width).

    Args:
        to_float32 (bool): Whether to convert the image to float32, otherwise it is uint8. Defaults to False.
        color_type (str): 'color', or 'color_ignore_orientation' for annotations that were made on the stored pixels
            without the EXIF rotation. Defaults to 'color'.
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
                f'color_type={color_type!r}, expected one of {COLOR_TYPES}: the result always has three '
                "channels. For others use type='LoadImageFromFile'."
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
        if not content:
            raise BadImageError(path, 'the file is empty (0 bytes)')
        if lacks_end(content):
            reason = pillow_error(content)
            if reason is not None:
                raise BadImageError(
                    path,
                    f'the file is truncated or damaged: {len(content):,} bytes without the end '
                    f'of its format, and {reason}',
                )
        return self._decode(path, content)

    def _decode(self, path: str, content: bytes) -> np.ndarray:
        try:
            img = mmcv.imfrombytes(content, flag=self.color_type, backend='cv2')
        except cv2.error as error:
            raise BadImageError(path, f'OpenCV refuses it: {error.err or error}') from error
        if img is None:
            img = self._decode_with_pillow(path, content)
        if img.size == 0 or img.dtype != np.uint8 or img.shape[2:] != (3,):
            raise BadImageError(
                path,
                f'it decodes to {img.dtype} of shape {img.shape}, expected uint8 of shape '
                '(height, width, 3) with at least one pixel',
            )
        return img

    def _decode_with_pillow(self, path: str, content: bytes) -> np.ndarray:
        reason = pillow_error(content)
        if reason is not None:
            raise BadImageError(
                path,
                f'it is no image that OpenCV or Pillow can read: {len(content):,} bytes that '
                f'start with {content[:12]!r}; {reason}',
            )
        with Image.open(io.BytesIO(content)) as image:
            if image.mode[0] in 'IF':  # 16 and 32 bit: Pillow would clip instead of scale
                raise BadImageError(
                    path, f'only Pillow reads it, in mode {image.mode}, expected 8 bits a channel: convert the file'
                )
        img = mmcv.imfrombytes(content, flag=self.color_type, backend='pillow')
        return np.ascontiguousarray(img)


def lacks_end(content: bytes) -> bool:
    """Tell from the bytes whether a file of a known format stops before its end; cheap, and only a suspicion.

    Args:
        content (bytes): The whole file.

    Returns:
        bool: True for JPEG, PNG, GIF without end marker and WebP, BMP shorter than their header says. Always False for
        other formats.
    """
    tail = content[-TAIL:]
    if content.startswith(b'\xff\xd8'):
        return b'\xff\xd9' not in tail
    if content.startswith(b'\x89PNG\r\n\x1a\n'):
        return b'IEND\xaeB`\x82' not in tail
    if content.startswith(b'GIF8'):
        return b';' not in tail[-16:]
    if content.startswith(b'RIFF') and content[8:12] == b'WEBP':
        return struct.unpack('<I', content[4:8])[0] + 8 > len(content)
    if content.startswith(b'BM') and len(content) >= 6:
        return struct.unpack('<I', content[2:6])[0] > len(content)
    return False


def pillow_error(content: bytes) -> str | None:
    """Decode an image with Pillow to the last pixel.

    Args:
        content (bytes): The whole file.

    Returns:
        str or None: Why it cannot be decoded, None if it can.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except UnidentifiedImageError:
        return 'Pillow does not know its format'
    except DECODE_ERRORS as error:
        return f'Pillow says: {error}'
    return None
