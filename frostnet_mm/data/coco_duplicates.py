"""Images that two parts of a data set share: a metric measured on training images says nothing."""

import hashlib
import os.path as osp
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

#: Bytes from the middle of a file that tell most images of equal size apart.
PART = 4096
#: Up to so many images are compared whatever their names.
ANY_NAME = 20_000


def shared_images(train: Iterable[str], val: Sequence[str]) -> list[str]:
    """Validation images that training has as well, byte by byte; see :func:`same_images`.

    Args:
        train (Iterable[str]): Paths of the training images.
        val (Sequence[str]): Paths of the validation images.

    Returns:
        list[str]: Paths of validation images.
    """
    trained = set(train)
    shared = trained & set(val)
    for group in same_images([*trained, *val]):
        if not trained.isdisjoint(group):
            shared.update(group)
    return [path for path in val if path in shared]


def of_two_classes(images: Iterable[tuple[str, int]]) -> list[list[str]]:
    """Images that are there with several classes, byte by byte; see :func:`same_images`.

    Args:
        images (Iterable[tuple[str, int]]): Paths and classes.

    Returns:
        list[list[str]]: Paths of equal images that have two classes or more.
    """
    labels = dict(images)
    return [group for group in same_images(labels) if len({labels[path] for path in group}) > 1]


def same_images(paths: Iterable[str]) -> list[list[str]]:
    """Group equal images: up to ``ANY_NAME`` whatever their names, of more only those of one base name.

    It costs a look at the size of each file; only files of equal size are read.

    Args:
        paths (Iterable[str]): Files.

    Returns:
        list[list[str]]: Groups of two or more.
    """
    paths = list(dict.fromkeys(paths))
    candidates = [paths] if len(paths) <= ANY_NAME else _grouped(paths, osp.basename)
    return [alike for group in candidates for alike in same_content(group)]


def first_of_equals(paths: Iterable[str]) -> dict[str, str]:
    """For each image that others equal byte by byte, the first of them.

    Args:
        paths (Iterable[str]): Files.
    """
    return {path: group[0] for group in same_content(paths) for path in group}


def same_content(paths: Iterable[str]) -> list[list[str]]:
    """Group files of equal content; only those of equal size and middle are read to the end.

    A file that cannot be read equals no other: it is reported when it is loaded.

    Args:
        paths (Iterable[str]): Files.

    Returns:
        list[list[str]]: Groups of two or more.
    """
    files = [path for path in dict.fromkeys(paths) if osp.isfile(path) and osp.getsize(path)]
    groups = _grouped(files, osp.getsize)
    for digest in (_digest_of_middle, _digest):
        groups = [alike for group in groups for alike in _grouped(group, digest)]
    return groups


def _grouped(paths: Iterable[str], key: Callable[[str], Any]) -> list[list[str]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _digest_of_middle(path: str) -> bytes | str:
    return _digest(path, max(0, osp.getsize(path) - PART) // 2, PART)


def _digest(path: str, start: int = 0, length: int = -1) -> bytes | str:
    try:
        with open(path, 'rb') as file:
            file.seek(start)
            return hashlib.sha256(file.read(length)).digest()
    except OSError:
        return path


def leak_message(shared: Sequence[str], total: int, coco: bool = True) -> str:
    """What to say of validation images that are training images as well.

    Args:
        shared (Sequence[str]): Their paths.
        total (int): Number of validation images.
        coco (bool): Whether they are of data in COCO's format.
    """
    advice = 'training file; tools/prepare_coco.py --out does.' if coco else 'training images.'
    return (
        f"{len(shared)} of {total} validation images are training images as well, such as '{shared[0]}': the metric is "
        f'better than it would be on new images. Take them out of the {advice}'
    )
