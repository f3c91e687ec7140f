"""The images of a folder of classes, however its training and validation parts are called, and a part set apart."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import write_names
from .coco_duplicates import first_of_equals
from .coco_paths import list_folder, sample
from .errors import DatasetError
from .own_folders import TEST, TRAIN, VAL, Undecided, image_folders, one_of, role_of
from .segmentation_checks import spread
from .segmentation_files import DECODE_ERRORS, header_size

_SEED, _SIZES_READ = 0, 100


class ClassFolders(NamedTuple):
    """The images of one part of a data set, a folder a class.

    Args:
        folder (Path): It holds the folders of the classes.
        images (dict[str, list[Path]]): The images of each class, in alphabetical order of the classes.
        list_file (Path, optional): The list that they are from, where they are some of the folder's.
    """

    folder: Path
    images: dict[str, list[Path]]
    list_file: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All images."""
        return [path for paths in self.images.values() for path in paths]


def find_class_folders(root: Path, given: tuple[Path | None, Path | None]) -> tuple[Path, Path | None]:
    """The folder of the training images and that of the validation images; a test part stands in for a missing one.

    Args:
        root (Path): Folder of the data.
        given (tuple): Folder of training and of validation, where told.

    Returns:
        tuple[Path, Path | None]: The folders; None if there is no validation part.

    Raises:
        Undecided: Several folders may be meant, or none.
    """
    train, val = given
    if train and val:
        return _inner(train), _inner(val)
    parts = _parts(root)
    if not train:
        train = one_of(parts[TRAIN], root, 'folder of the training images', '--train-images')
    if not val:
        held_out = parts[VAL] or parts[TEST]
        val = one_of(held_out, root, 'folder of the validation images', '--val-images')
    if train is None and val is not None:
        raise Undecided(
            f"Which images are for training? Of '{root}' '{val.name}' is for validation, and no folder for training; "
            f'{list_folder(str(root))}. Say it: --train-images FOLDER.'
        )
    return _inner(train) if train else _top(root), _inner(val) if val else None


def _parts(root: Path) -> dict[str, list[Path]]:
    """The folders that name a part and hold folders of images, those with the fewest levels above them."""
    found: dict[int, dict[str, list[Path]]] = defaultdict(lambda: {TRAIN: [], VAL: [], TEST: []})
    for folder in image_folders(root):
        names = folder.relative_to(root).parts
        for level, name in enumerate(names[:-1]):  # the last one is a class, whatever it is called
            role, place = role_of(Path(name)), root.joinpath(*names[: level + 1])
            if role and place not in found[level][role]:
                found[level][role].append(place)
    whole = [level for level, parts in found.items() if parts[TRAIN]]
    return found[min(whole or found, default=0)]


def _top(root: Path) -> Path:
    """The folder whose sub-folders are the classes, in data without parts."""
    if not image_folders(root):
        raise Undecided(f"Where are the images? '{root}' holds none; {list_folder(str(root))}. Say it: --data FOLDER.")
    top = _inner(root)
    if all(folder == top for folder in image_folders(top)):
        raise Undecided(
            f"Which images are of which class? '{top}' holds images and no folders. Expected a folder a class, such as "
            f"'{top / 'cat'}', with the images of that class."
        )
    return top


def _inner(top: Path) -> Path:
    """A folder, or the one that is alone in it and holds folders of images, as in seg_train/seg_train/CLASS."""
    while True:
        folders = image_folders(top)
        below = {folder.relative_to(top).parts[:1] for folder in folders}
        inner = top.joinpath(*next(iter(below), ()))
        if len(below) != 1 or inner in folders:
            return top
        top = inner


def read_class_folders(folder: Path) -> ClassFolders:
    """Find the images of a part, as training will.

    Args:
        folder (Path): Of the classes' folders.

    Raises:
        DatasetError: It cannot be used.
    """
    from .image_folder import ImageFolder

    data = ImageFolder(data_prefix=dict(img_path=str(folder)), pipeline=[], test_mode=True)
    images: dict[str, list[Path]] = {name: [] for name in data.metainfo['classes']}
    names = list(images)
    for index in range(len(data)):
        info = data.get_data_info(index)
        images[names[info['gt_label']]].append(Path(info['img_path']))
    return ClassFolders(folder, images)


def set_images_apart(whole: ClassFolders, share: float, train: Path, val: Path) -> tuple[ClassFolders, ClassFolders]:
    """Write two lists of images, for training and validation; they are drawn from each class, with a fixed seed.

    Images that are equal byte by byte are in one part, those in the folders of several classes in training. A class
    has at least one image for training.

    Args:
        whole (ClassFolders): What there is.
        share (float): Of each class, for validation.
        train, val (Path): The lists to write.

    Raises:
        Undecided: No class has a second image.
    """
    alike = first_of_equals(map(str, whole.paths))
    parts: dict[Path, dict[str, list[Path]]] = {train: {}, val: {}}
    keys = ({alike.get(str(path), str(path)) for path in paths} for paths in whole.images.values())
    held_out = part_of_each(keys, share, _SEED)
    for name, paths in whole.images.items():
        parts[train][name] = [path for path in paths if alike.get(str(path), str(path)) not in held_out]
        parts[val][name] = [path for path in paths if alike.get(str(path), str(path)) in held_out]
    if not any(parts[val].values()):
        raise Undecided(
            f"Which images are for validation? No class of '{whole.folder}' has a second image: --val-images FOLDER."
        )
    for path, images in parts.items():
        write_names(path, (image.relative_to(whole.folder).as_posix() for name in images for image in images[name]))
    return ClassFolders(whole.folder, parts[train], train), ClassFolders(whole.folder, parts[val], val)


def part_of_each(classes: Iterable[Collection[str]], share: float, seed: int) -> set[str]:
    """A random part of the names of each class, whatever their order: at least one, and never all of them.

    A name of several classes is not taken: what it shows is not decided.

    Args:
        classes (Iterable[Collection[str]]): Names of each class.
        share (float): How large a part.
        seed (int): Of the choice.
    """
    classes = [set(names) for names in classes]
    times = Counter(name for names in classes for name in names)
    generator, chosen = random.Random(seed), set()
    for names in classes:
        alone = sorted(name for name in names if times[name] == 1)
        count = min(max(1, round(share * len(names))), max(0, len(names) - 1), len(alone))
        chosen.update(generator.sample(alone, count))
    return chosen


def check_classes(train: ClassFolders, val: ClassFolders, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes, in their order.

    Args:
        train, val (ClassFolders): The parts.
        classes (Sequence[str], optional): Their order, where it is told.

    Raises:
        Undecided: Other names are told than there are folders.
        DatasetError: Training lacks a class that validation has, or has one alone, or none of one.
    """
    from .image_folder import check_training_classes

    found = tuple(train.images)
    if classes is not None and set(classes) != set(found):
        raise Undecided(
            f"Which classes? '{train.folder}' has the folders {sample(found, 20)}; --classes names "
            f'{sample(tuple(classes), 20)}. Give all of them, in the order that you want, or leave --classes out.'
        )
    unknown = [name for name, images in val.images.items() if images and not train.images.get(name)]
    if unknown:
        raise DatasetError(
            f"'{val.folder}' has images of {sample(unknown)}, of which '{train.folder}' has none. Give images of them, "
            'or take them out.'
        )
    check_training_classes(train.folder, {name: len(images) for name, images in train.images.items()})
    return tuple(classes or found)


def sizes_of(part: ClassFolders) -> np.ndarray:
    """(N, 2), width and height of a sample of the images, by their headers; of those that can be read."""
    paths, sizes = part.paths, []
    for position in spread(len(paths), _SIZES_READ):
        try:
            sizes.append(header_size(str(paths[position]), True)[::-1])
        except DECODE_ERRORS:
            continue
    if not sizes:
        raise DatasetError(f"No image of '{part.folder}' can be read, of {len(paths)}, such as '{paths[0]}'.")
    return np.array(sizes)
