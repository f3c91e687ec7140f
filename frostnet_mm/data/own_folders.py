"""Which part of a data set a file or folder is for, by its name; what the folders of a data set hold."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..device.image_search import is_litter
from .errors import DatasetError
from .segmentation_files import IMAGE_EXTENSIONS

TRAIN, VAL, TEST = 'train', 'val', 'test'
_WORDS = {
    TRAIN: 'train|training|trainset|trn',
    VAL: 'val|valid|validation|valset|dev|eval|evaluation',
    TEST: 'test|testing|testset',
}
_KINDS = 'images?|imgs?|labels?|masks?|annots?|annotations?|gt|data'  # as in CamVid's 'trainannot'
_PATTERNS = {role: re.compile(f'({words})({_KINDS})?') for role, words in _WORDS.items()}
_DEPTH = 5  # of folders that are searched


class Undecided(DatasetError):  # noqa: N818  (a question to the user, as the message says)
    """What a folder of data leaves open; the message asks, and names the option that answers."""


def role_of(path: Path) -> str | None:
    """The part of a data set that a relative path names, its last word first: 'train', 'val' or 'test'; None for none.

    Args:
        path (Path): Such as ``train/_annotations.coco.json``, ``instances_val2017.json`` or ``trainannot``.
    """
    for part in reversed(path.parts):
        words = re.findall('[a-z]+', part.lower())
        for role, pattern in _PATTERNS.items():
            if any(pattern.fullmatch(word) for word in words):
                return role
    return None


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders below a folder, itself included, with the names of their files, without hidden ones and litter."""
    for place, folders, files in os.walk(root, followlinks=True):
        depth = len(Path(place).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not is_litter(name) and depth < _DEPTH)
        yield Path(place), sorted(name for name in files if not is_litter(name))


def is_image(name: str) -> bool:
    """Whether a file is an image, by its extension."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def image_folders(root: Path) -> list[Path]:
    """The folders that hold images themselves."""
    return [place for place, files in walk(root) if any(map(is_image, files))]


def one_of(found: Sequence[Path], root: Path, what: str, option: str) -> Path | None:
    """The only one of several finds; None if there is none.

    Args:
        found (Sequence[Path]): What may be meant.
        root (Path): Folder of the data.
        what (str): What is looked for, as 'annotation file of training'.
        option (str): The option that says which.

    Raises:
        Undecided: There are several.
    """
    if len(found) > 1:
        names = ', '.join(path.relative_to(root).as_posix() for path in found[:6])
        raise Undecided(f"Which is the {what}? '{root}' holds {len(found)}: {names}. Say it: {option} {found[0]}.")
    return found[0] if found else None
