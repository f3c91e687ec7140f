"""Images on their way to a network: resizing, cropping, padding, normalization.

With OpenCV the network gets the pixels that the test pipeline gives it, bit by bit. Without it Pillow reads the files
and NumPy resizes them: a resized pixel differs by at most 1 of 255, a JPEG's decoder may add some more.
"""

import numpy as np

from .errors import DeploymentError, ImageError
from .image_files import as_bgr, as_grey, optional
from .results import Geometry


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


def _resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    cv2 = optional('cv2')
    if cv2 is not None:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(*size, image.shape[2])
    planes = [resize_plane(image[..., c].astype(np.float32), size) for c in range(image.shape[2])]
    return np.rint(np.stack(planes, -1)).astype(np.uint8)


def resized(size: tuple[int, int], resize: dict | None) -> tuple[int, int]:
    """The size (height, width) that an image of a size is resized to; rounded as ``mmcv.rescale_size``."""
    height, width = size
    if resize is None:
        return height, width
    long, short = max(resize['width'], resize['height']), min(resize['width'], resize['height'])
    if not resize['keep_ratio']:
        return resize['height'], resize['width']
    scale = min(long / max(height, width), short / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _cropped(image: np.ndarray, crop: dict) -> np.ndarray:
    """The middle of an image as mmcv's ``CenterCrop`` cuts it; of a smaller one all."""
    places = []
    for side, wanted in zip(image.shape[:2], (crop['height'], crop['width']), strict=True):
        first = max(0, round((side - wanted) / 2))
        places.append(slice(first, max(0, min(side, first + wanted))))
    return image[places[0], places[1]]


def channels_of(description: dict) -> int:
    """The channels of the images that a deployment's network reads."""
    return len(description['preprocessing']['mean'])


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """An image array as a network of some channels reads it.

    Args:
        image (np.ndarray): For 3 channels and for 1, as :func:`~.image_files.as_bgr` takes it; for 1, colours become
            grey as OpenCV computes it. For others uint8 or uint16 of shape (H, W, channels).
        channels (int): How many.

    Returns:
        np.ndarray: uint8 of shape (H, W, channels).

    Raises:
        ImageError: It is of another kind.
    """
    if channels in (1, 3):
        bgr = as_bgr(image)
        return bgr if channels == 3 else as_grey(bgr)[..., None]
    kind, shape = getattr(image, 'dtype', type(image).__name__), getattr(image, 'shape', ())
    if kind not in (np.uint8, np.uint16) or len(shape) != 3 or shape[2] != channels or 0 in shape:
        raise ImageError(
            f'The network reads images of {channels} channels, and was given {kind} of shape {shape}: expected an '
            f'array, uint8 or uint16 of shape (height, width, {channels}). Files are read with 1 or 3 channels only.'
        )
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def preprocess(image: np.ndarray, description: dict) -> tuple[np.ndarray, Geometry]:
    """What the test pipeline and the data preprocessor do: resize, crop, pad, normalize.

    Args:
        image (np.ndarray): uint8 of shape (H, W, channels), BGR if there are three.
        description (dict): What :func:`~.description.read_deployment` returned.

    Returns:
        tuple[np.ndarray, Geometry]: The network's input, and the sizes for :func:`~.decoding.decode`. An image smaller
        than the network's fixed size is padded at the right and the bottom, as in a batch with a larger one.

    Raises:
        DeploymentError: The image comes out larger than the network's fixed size; or smaller, of a classifier, which
            would average the padding in.
    """
    settings, original = description['preprocessing'], image.shape[:2]
    size = resized(original, settings['resize'])
    if 0 in size:
        raise ImageError(f'An image of {original[1]}x{original[0]} pixels (width x height) is resized to nothing.')
    scale = (size[1] / original[1], size[0] / original[0])
    image = image if size == original else _resize_image(image, size)
    if 'crop' in settings:
        image = _cropped(image, settings['crop'])
        size = image.shape[:2]
    if settings['pad'] is not None:
        padded = np.empty(
            (max(settings['pad']['height'], size[0]), max(settings['pad']['width'], size[1]), image.shape[2]), np.uint8
        )
        padded[:] = settings['pad']['value']
        padded[: size[0], : size[1]] = image
        image, size = padded, padded.shape[:2]
    divisor, shape = settings['size_divisor'], description['input']['shape']
    whole = tuple(-(-side // divisor) * divisor for side in size)
    fixed = shape[1:3] if settings['baked'] else shape[2:4]
    final = tuple(side if limit is None else limit for side, limit in zip(whole, fixed, strict=True))
    alone = description.get('task') == 'classification'
    if any(side > limit or (alone and side < limit) for side, limit in zip(whole, final, strict=True)):
        how = 'this shape, for a classifier takes no padding' if alone else 'a shape that holds it'
        raise DeploymentError(
            f'An image of {original[1]}x{original[0]} pixels becomes {whole[1]}x{whole[0]} (width x height), the '
            f'network has the fixed size {final[1]}x{final[0]}: deploy the model with {how}, or for any shape '
            '(dynamic).'
        )
    return normalize_pixels(image, final, settings), Geometry(original, size, final, scale)


def normalize_pixels(image: np.ndarray, size: tuple[int, int], settings: dict) -> np.ndarray:
    """A network's input of a resized image.

    Args:
        image (np.ndarray): uint8 of shape (H, W, channels), BGR if there are three.
        size (tuple[int, int]): Height and width of the input, padded at the right and the bottom.
        settings (dict): The description's ``preprocessing``.

    Returns:
        np.ndarray: float32 of shape (1, channels, H, W), or with preprocessing baked in pixels of shape
        (1, H, W, channels).
    """
    height, width, channels = image.shape
    mean, std = (np.asarray(settings[key], np.float32) for key in ('mean', 'std'))
    if settings['baked']:
        pixel, dtype = padding_pixel(settings)
        images = np.empty((1, *size, channels), dtype)
        images[:] = pixel
        images[0, :height, :width] = image
        return images
    images = np.full((1, channels, *size), settings.get('pad_value', 0), np.float32)
    for channel in range(channels):
        plane = images[0, channel, :height, :width]
        source = image[..., 2 - channel if settings['bgr_to_rgb'] else channel]
        np.subtract(source, mean[channel], out=plane, dtype=np.float32)
        np.divide(plane, std[channel], out=plane)
    return images


def padding_pixel(settings: dict) -> tuple[np.ndarray, type]:
    """The pixel that becomes ``pad_value`` where the network normalizes, and the type of all its pixels.

    Args:
        settings (dict): The description's ``preprocessing``.

    Returns:
        tuple[np.ndarray, type]: The pixel, BGR; and uint8, in which it is rounded to half a grey level, or float32
        where no such pixel lies from 0 to 255.
    """
    mean, std = (np.asarray(settings[key], np.float64) for key in ('mean', 'std'))
    pixel = settings.get('pad_value', 0) * std + mean
    pixel = pixel[::-1] if settings['bgr_to_rgb'] else pixel
    rounded = np.rint(pixel)
    if rounded.min() < 0 or rounded.max() > 255:
        return pixel.astype(np.float32), np.float32
    return rounded.astype(np.uint8), np.uint8
