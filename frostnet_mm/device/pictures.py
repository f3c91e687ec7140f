"""Files that show results: their names, pictures, and masks of class indices."""

import io
import itertools
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from .errors import ImageError
from .image_files import optional

_KEPT = ('.jpg', '.jpeg', '.png')  # what every viewer shows


def result_names(images: Sequence[str], mask_folder: str = 'masks') -> tuple[dict[str, PurePath], dict[str, PurePath]]:
    """Names for the pictures that are drawn of images, and for the masks of a segmenter.

    The picture of a JPEG or PNG keeps its name, that of another file gets ``.png`` in the place of the suffix. Where
    two would have one name, also in capitals alone, the later one's suffix goes into its name: the pictures of
    ``a.png`` and ``a.bmp`` are ``a.png`` and ``a_bmp.png``. Masks are ``.png`` in a folder of their own.

    Args:
        images (Sequence[str]): Relative paths of images, each once.
        mask_folder (str): The folder of the masks. Default: 'masks'.

    Returns:
        tuple[dict[str, PurePath], dict[str, PurePath]]: By image the relative paths of its picture and of its mask.
    """
    taken: set[str] = set()
    pictures: dict[str, PurePath] = {}
    for keeps in (True, False):  # kept names first
        for path in map(PurePath, images):
            if (path.suffix.lower() in _KEPT) == keeps:
                pictures[str(path)] = free_name(path, picture_suffix(path), taken)
    masks = {image: free_name(mask_folder / PurePath(image), '.png', taken) for image in images}
    return {image: pictures[str(PurePath(image))] for image in images}, masks


def refuse_replacing(targets: Iterable[Path], images: Iterable[Path], own: bool = True) -> None:
    """Refuse to write a picture over an image that was given, or over what no earlier run has written.

    Args:
        targets (Iterable[Path]): What is to be written.
        images (Iterable[Path]): What was given.
        own (bool): Whether what exists may be replaced, if it was not given. Default: True.

    Raises:
        ImageError: One would be.
    """
    given = {os.path.realpath(image) for image in images}
    for target in targets:
        if os.path.realpath(target) in given:
            raise ImageError(f'The picture {target} would replace an image that was given: choose another --out.')
        if not own and os.path.lexists(target):
            raise ImageError(
                f'The picture {target} would replace a file of yours (its folder holds no results of an earlier run): '
                'choose another --out, or take the file away.'
            )


def picture_suffix(path: PurePath) -> str:
    """The suffix of the picture that is drawn of an image: its own if that is a JPEG's or PNG's, else ``.png``."""
    return path.suffix if path.suffix.lower() in _KEPT else '.png'


def free_name(path: PurePath, suffix: str, taken: set[str]) -> PurePath:
    """A name that is not taken yet, for file systems that tell no capitals or Unicode forms apart either.

    Args:
        path (PurePath): The relative path of an image.
        suffix (str): What its own is replaced by.
        taken (set[str]): Names given so far; the new one is added.
    """
    longer = f'{path.stem}_{path.suffix.lstrip(".")}'
    for stem in itertools.chain((path.stem, longer), (f'{longer}_{number}' for number in itertools.count(2))):
        name = path.with_name(stem + suffix)
        key = unicodedata.normalize('NFC', str(name)).casefold()
        if key not in taken:
            break
    taken.add(key)
    return name


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a picture.

    Args:
        path (str | PathLike): Its suffix says in which format.
        image (np.ndarray): uint8 of shape (H, W, 3), BGR, or of shape (H, W), grey; also uint16 for PNG.

    Raises:
        ImageError: It cannot be written.
    """
    path, cv2 = Path(path), optional('cv2')
    errors = (OSError, ValueError) if cv2 is None else (OSError, ValueError, cv2.error)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if cv2 is None:
            content = _encoded_by_pillow(path.suffix, image)
        else:
            options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in ('.jpg', '.jpeg') else []
            content = cv2.imencode(path.suffix, image, options)[1].tobytes()
        write_whole(path, content)
    except errors as error:
        raise ImageError(f"cannot write '{path}': {getattr(error, 'strerror', None) or error}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one piece: on a full disk the earlier file stays, and no other.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f'.{path.name}.part')
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _encoded_by_pillow(suffix: str, image: np.ndarray) -> bytes:
    from PIL import Image

    kind = Image.registered_extensions().get(suffix.lower())
    if kind is None:
        raise ValueError(f'unknown format {suffix}')
    file = io.BytesIO()
    pixels = np.ascontiguousarray(image[..., ::-1] if image.ndim == 3 else image)
    Image.fromarray(pixels).save(file, kind, **(dict(quality=95) if kind == 'JPEG' else {}))
    return file.getvalue()
