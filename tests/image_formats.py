"""Image files in every format and mode that is read, with what Pillow makes of them: ``FORMATS`` by file name."""

import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageOps


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth RGB picture that is the same in no direction."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


def saved(image_format: str, mode: str = 'RGB', orientation: int = 0, **options) -> bytes:
    """The scene as Pillow writes it, with an orientation in its EXIF block."""
    file = io.BytesIO()
    if orientation:
        options['exif'] = Image.Exif()
        options['exif'][0x0112] = orientation
    Image.fromarray(scene()).convert(mode).save(file, image_format, **options)
    return file.getvalue()


def encoded(suffix: str, values: np.ndarray) -> bytes:
    """Pixels (RGB or grey) as OpenCV writes them, floats as they are."""
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if suffix == '.tif' else []
    return cv2.imencode(suffix, values[..., ::-1] if values.ndim == 3 else values, options)[1].tobytes()


def logluv(values: np.ndarray) -> bytes:
    """Floats (RGB) as ``cv2.imwrite`` writes them, compressed with a loss."""
    return cv2.imencode('.tif', values[..., ::-1].astype(np.float32))[1].tobytes()


def frames(image_format: str, **options) -> bytes:
    """An animation, or pages, of which the scene is the first."""
    file, pages = io.BytesIO(), [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    pages[0].save(file, image_format, save_all=True, append_images=pages[1:], **options)
    return file.getvalue()


def by_pillow(content: bytes, ignore_orientation: bool = False) -> np.ndarray:
    """BGR of shape (H, W, 3) by Pillow alone, the second opinion."""
    with Image.open(io.BytesIO(content)) as image:
        if ignore_orientation and image.format == 'TIFF':  # Pillow has turned it already
            raise ValueError('not of a TIFF')
        upright = image if ignore_orientation else ImageOps.exif_transpose(image)
        return np.asarray(upright.convert('RGB'))[..., ::-1]


def sixteen() -> np.ndarray:
    return scene().astype(np.uint16) * 256 + 77


#: By file name: the content, and the most that a pixel may differ from Pillow's (decoders of JPEG round differently).
FORMATS: dict[str, tuple[Callable[[], bytes], int]] = {
    'plain.jpg': (lambda: saved('JPEG'), 2),
    'grey.jpg': (lambda: saved('JPEG', 'L'), 2),
    'cmyk.jpg': (lambda: saved('JPEG', 'CMYK'), 4),
    'turned.jpg': (lambda: saved('JPEG', orientation=6), 2),
    'turned.mpo': (lambda: saved('MPO', orientation=6), 2),
    'plain.png': (lambda: saved('PNG'), 0),
    'palette.png': (lambda: saved('PNG', 'P'), 0),
    'one_bit.png': (lambda: saved('PNG', '1'), 0),
    'grey_alpha.png': (lambda: saved('PNG', 'LA'), 0),
    'alpha.png': (lambda: saved('PNG', 'RGBA'), 0),
    'turned.png': (lambda: saved('PNG', orientation=6), 0),
    'plain.bmp': (lambda: saved('BMP'), 0),
    'plain.webp': (lambda: saved('WEBP', lossless=True), 0),
    'lossy.webp': (lambda: saved('WEBP', quality=90), 2),
    'turned.webp': (lambda: saved('WEBP', orientation=6, lossless=True), 0),
    'plain.tif': (lambda: saved('TIFF'), 0),
    'cmyk.tif': (lambda: saved('TIFF', 'CMYK'), 1),
    'palette.tif': (lambda: saved('TIFF', 'P'), 0),
    'turned.tif': (lambda: saved('TIFF', orientation=6), 0),
    'turned_lzw.tif': (lambda: saved('TIFF', orientation=6, compression='tiff_lzw'), 0),
    'pages.tif': (lambda: frames('TIFF'), 0),
    'plain.gif': (lambda: saved('GIF'), 0),
    'animated.gif': (lambda: frames('GIF', duration=100, loop=0), 0),
    'animated.webp': (lambda: frames('WEBP', duration=100, lossless=True), 0),
    'animated.png': (lambda: frames('PNG', duration=100), 0),
    'plain.avif': (lambda: saved('AVIF', quality=100), 2),
    'turned.avif': (lambda: saved('AVIF', orientation=6, quality=100), 2),
    'plain.jp2': (lambda: saved('JPEG2000'), 0),
    'cmyk.jp2': (lambda: saved('JPEG2000', 'CMYK'), 1),
    'plain.ppm': (lambda: saved('PPM'), 0),
    'plain.pgm': (lambda: saved('PPM', 'L'), 0),
}
#: The same of what Pillow cannot convert: the content, the RGB picture that it is to become, and the tolerance.
DEEP: dict[str, tuple[Callable[[], bytes], Callable[[], np.ndarray], int]] = {
    'colour16.png': (lambda: encoded('.png', sixteen()), scene, 0),
    'grey16.png': (lambda: encoded('.png', sixteen()[..., 0]), lambda: np.dstack([scene()[..., 0]] * 3), 0),
    'colour16.tif': (lambda: encoded('.tif', sixteen()), scene, 0),
    'float.tif': (lambda: encoded('.tif', (scene() / 255).astype(np.float32)), scene, 0),
    'logluv.tif': (lambda: logluv(scene() / 255), scene, 5),
    'double.tif': (lambda: encoded('.tif', scene() / 255), scene, 0),
    'float_grey.tif': (
        lambda: encoded('.tif', (scene()[..., 0] / 255).astype(np.float32)),
        lambda: np.dstack([scene()[..., 0]] * 3),
        0,
    ),
}


def write_formats(folder) -> dict[str, np.ndarray]:
    """Write all of them into a folder; what they are to be read as, BGR, by file name."""
    expected = {}
    for name, (make, _) in FORMATS.items():
        (folder / name).write_bytes(make())
        expected[name] = by_pillow(make())
    for name, (make, picture, _) in DEEP.items():
        (folder / name).write_bytes(make())
        expected[name] = picture()[..., ::-1]
    return expected
