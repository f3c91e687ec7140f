"""Resizing images and maps, as mmcv and mmpretrain do.

With OpenCV, or Pillow where a test pipeline resizes by it, the pixels are those of the test pipeline, bit by bit.
Without OpenCV NumPy resizes bilinearly: a resized pixel differs by at most 1 of 255, a JPEG's decoder may add some
more.
"""

from typing import Any

import numpy as np

from .errors import DeploymentError, ImageError
from .image_files import optional

MOST_PIXELS = 1 << 26  # of an image on its way to the network, and of the network's input
EDGES = ('short', 'long', 'width', 'height')
#: By the names of mmcv: the library that resizes, its methods and their constants there.
METHODS = {
    'cv2': {
        'nearest': 'INTER_NEAREST',
        'bilinear': 'INTER_LINEAR',
        'bicubic': 'INTER_CUBIC',
        'area': 'INTER_AREA',
        'lanczos': 'INTER_LANCZOS4',
    },
    'pillow': {name: name.upper() for name in ('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming')},
}
DEFAULT = ('cv2', 'bilinear')
_WHOLE = (2, 3, 4)  # channels of an image of Pillow
_MODULES = {
    'cv2': ('cv2', 'OpenCV: pip install opencv-python-headless'),
    'pillow': ('PIL', 'Pillow: pip install pillow'),
}


def _neighbours(given: int, wanted: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of the wanted positions the two given ones, and the weight of the second; as torch computes them."""
    positions = np.arange(wanted, dtype=np.float32)
    if align_corners:
        source = positions * np.float32((given - 1) / (wanted - 1) if wanted > 1 else 0)
    else:
        source = np.maximum((positions + np.float32(0.5)) * np.float32(given / wanted) - np.float32(0.5), 0)
    first = np.minimum(source.astype(np.int64), given - 1)
    return first, np.minimum(first + 1, given - 1), np.clip(source - first.astype(np.float32), 0, 1)


def resize_plane(plane: np.ndarray, size: tuple[int, int], align_corners: bool = False) -> np.ndarray:
    """Resize bilinearly, as ``torch.nn.functional.interpolate`` does without antialiasing.

    Args:
        plane (np.ndarray): float32 of shape (H, W).
        size (tuple[int, int]): The height and width wanted.
        align_corners (bool): Whether the centres of the corner pixels stay where they are. Default: False.

    Returns:
        np.ndarray: float32 of that size.
    """
    if plane.shape == tuple(size):
        return plane
    cv2 = None if align_corners else optional('cv2')
    if cv2 is not None:
        return cv2.resize(np.ascontiguousarray(plane), size[::-1], interpolation=cv2.INTER_LINEAR)
    first, second, weight = _neighbours(plane.shape[1], size[1], align_corners)
    plane = plane[:, first] * (1 - weight) + plane[:, second] * weight
    first, second, weight = _neighbours(plane.shape[0], size[0], align_corners)
    return plane[first] * (1 - weight[:, None]) + plane[second] * weight[:, None]


def method_of(resize: dict | None) -> tuple[str, str]:
    """The library that resizes images, of ``METHODS``, and how."""
    settings = resize or {}
    return settings.get('backend', DEFAULT[0]), settings.get('interpolation', DEFAULT[1])


def require_method(resize: dict | None) -> None:
    """Refuse to resize by a library that is not installed.

    Raises:
        DeploymentError: It is not, and nothing here does the same.
    """
    method = method_of(resize)
    module, how = _MODULES[method[0]]
    if resize is not None and method != DEFAULT and optional(module) is None:
        raise DeploymentError(
            f'The deployment resizes images as the model was evaluated, {method[1]} by {method[0]}, which is not '
            f'installed here. Install {how}'
        )


def resize_image(image: np.ndarray, size: tuple[int, int], resize: dict | None = None) -> np.ndarray:
    """Resize an image.

    Args:
        image (np.ndarray): uint8 of shape (H, W, channels).
        size (tuple[int, int]): The height and width wanted.
        resize (dict, optional): ``preprocessing.resize`` of a deployment. Default: bilinearly.

    Returns:
        np.ndarray: uint8 of that size.

    Raises:
        DeploymentError: The library that is to do it is not installed.
    """
    require_method(resize)
    backend, method = method_of(resize)
    name = METHODS[backend][method]
    if backend == 'pillow':
        return _by_pillow(image, size, name)
    cv2 = optional('cv2')
    if cv2 is not None:
        return cv2.resize(image, size[::-1], interpolation=getattr(cv2, name)).reshape(*size, image.shape[2])
    planes = [resize_plane(image[..., c].astype(np.float32), size) for c in range(image.shape[2])]
    return np.rint(np.stack(planes, -1)).astype(np.uint8)


def _by_pillow(image: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """As mmcv: 2 and 4 channels are colours with an alpha channel for Pillow, which weighs them by it."""
    from PIL import Image

    filters: Any = getattr(Image, 'Resampling', Image)
    channels = image.shape[2]
    planes = [image] if channels in _WHOLE else [image[..., channel] for channel in range(channels)]
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], getattr(filters, method)))
        for plane in planes
    ]
    return resized[0] if channels in _WHOLE else np.stack(resized, -1)


def middle_of(image: np.ndarray, resize: dict | None) -> np.ndarray:
    """The part of an image that is resized: all, or as mmpretrain's ``EfficientNetCenterCrop`` a square of its middle.

    Args:
        image (np.ndarray): Of shape (H, W, channels).
        resize (dict, optional): ``preprocessing.resize``, where ``middle`` is the square's share of the shorter side.

    Raises:
        ImageError: It has no pixel.
    """
    if not resize or 'middle' not in resize:
        return image
    side, places = resize['middle'] * min(image.shape[:2]), []
    for whole in image.shape[:2]:
        first = max(0, round((whole - side) / 2))
        places.append(slice(first, int(first + side - 1) + 1))
    middle = image[places[0], places[1]]
    if 0 in middle.shape:
        raise ImageError(f'An image of {_size_text(image.shape)} is resized to nothing.')
    return middle


def _size_text(shape: tuple[int, ...]) -> str:
    return f'{shape[1]}x{shape[0]} pixels (width x height)'


def resized(size: tuple[int, int], resize: dict | None) -> tuple[int, int]:
    """The size that an image is resized to, rounded as mmcv's ``rescale_size`` and mmpretrain's ``ResizeEdge`` do.

    Args:
        size (tuple[int, int]): Height and width of an image.
        resize (dict, optional): ``preprocessing.resize`` of a deployment.

    Returns:
        tuple[int, int]: Height and width.

    Raises:
        ImageError: It has no pixel, or too many.
    """
    if resize is None:
        return size[0], size[1]
    wanted = _resized(*size, resize)
    if 0 in wanted or wanted[0] * wanted[1] > MOST_PIXELS:
        becomes = 'nothing' if 0 in wanted else f'{wanted[1]}x{wanted[0]}, more than {MOST_PIXELS} pixels'
        raise ImageError(f'An image of {_size_text(size)} is resized to {becomes}.')
    return wanted


def _resized(height: int, width: int, resize: dict) -> tuple[int, int]:
    if 'edge' in resize:
        side, edge = resize['width'], resize['edge']
        across = edge == 'width' or (edge == 'short' and width < height) or (edge == 'long' and width > height)
        return (int(side * height / width), side) if across else (side, int(side * width / height))
    if not resize['keep_ratio']:
        return resize['height'], resize['width']
    long, short = max(resize['width'], resize['height']), min(resize['width'], resize['height'])
    scale = min(long / max(height, width), short / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)
