"""Images on their way to a network: resizing, cropping, padding, normalization."""

import numpy as np

from .errors import ImageError, ImageSizeError
from .image_files import as_bgr, as_grey
from .resizing import middle_of, resize_image, resized
from .results import Geometry


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
        ImageSizeError: The image comes out larger than the network's fixed size; or smaller, of a classifier, which
            would average the padding in.
    """
    settings, original = description['preprocessing'], image.shape[:2]
    size = resized(original, settings['resize'])
    scale = (size[1] / original[1], size[0] / original[0])
    image = middle_of(image, settings['resize'])
    image = image if size == image.shape[:2] else resize_image(image, size, settings['resize'])
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
        raise ImageSizeError(
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
