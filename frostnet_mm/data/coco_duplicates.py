"""Images that two parts of a data set share: a metric measured on training images says nothing."""

import filecmp
import hashlib
import os.path as osp
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

#: Bytes of a file that tell most images of equal size apart.
PREFIX = 4096


def shared_by_name(train: Iterable[str], val: Sequence[str]) -> list[str]:
    """Validation images that training has under the same base name, byte by byte.

    It costs a look at each name, and reads only files of equal name and size.

    Args:
        train (Iterable[str]): Paths of the training images.
        val (Sequence[str]): Paths of the validation images.

    Returns:
        list[str]: Paths of validation images.
    """
    named = defaultdict(list)
    for path in val:
        named[osp.basename(path)].append(path)
    shared = set()
    for path in train:
        shared.update(other for other in named.get(osp.basename(path), ()) if _are_equal(path, other))
    return [path for path in val if path in shared]


def of_two_classes(images: Iterable[tuple[str, int]]) -> list[list[str]]:
    """Images that are there with several classes, under the same base name, byte by byte.

    It costs a look at each name, and reads only files of equal name and size.

    Args:
        images (Iterable[tuple[str, int]]): Paths and classes.

    Returns:
        list[list[str]]: Paths of equal images that have two classes or more.
    """
    labels = dict(images)
    same_name = _grouped(labels, osp.basename)
    suspect = [group for group in same_name if len({labels[path] for path in group}) > 1]
    groups = [alike for group in suspect for alike in same_content(group)]
    return [group for group in groups if len({labels[path] for path in group}) > 1]


def _are_equal(one: str, other: str) -> bool:
    try:
        return osp.samefile(one, other) or filecmp.cmp(one, other, shallow=False)
    except OSError:  # an image that cannot be read is reported when it is loaded
        return False


def same_content(paths: Iterable[str]) -> list[list[str]]:
    """Group files of equal content; only those of equal size and beginning are read to the end.

    Args:
        paths (Iterable[str]): Files.

    Returns:
        list[list[str]]: Groups of two or more.
    """
    files = [path for path in dict.fromkeys(paths) if osp.isfile(path) and osp.getsize(path)]
    groups = _grouped(files, osp.getsize)
    for length in (PREFIX, None):
        groups = [alike for group in groups for alike in _grouped(group, lambda path, n=length: _digest(path, n))]
    return groups


def _grouped(paths: Iterable[str], key: Callable[[str], Any]) -> list[list[str]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _digest(path: str, length: int | None) -> bytes:
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read(length)).digest()


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
