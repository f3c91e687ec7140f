"""The annotation files and images of a folder in COCO's format, however it is laid out, and what they hold."""

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import write_text
from .coco_json import load_coco_json
from .coco_lookup import find_missing_images
from .coco_reading import CocoReading
from .coco_splits import OTHER_TASKS, Split
from .errors import DatasetError
from .own_folders import TEST, TRAIN, VAL, Undecided, image_folders, one_of, role_of, walk

_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_MAX_MISSING = 0.1  # of the images, as max_bad_fraction of the data set
_SEED, _PROBED = 0, 20
# Where annotations of other formats are known by, and what converts them; `fiftyone` is a package of its own.
_FIFTYONE = 'fiftyone convert --input-dir {root} --input-type fiftyone.types.{kind} --output-dir OUT --output-type '
_OTHERS = {
    '.xml': ('Pascal VOC (.xml)', 'VOCDetectionDataset'),
    '.txt': ('YOLO (.txt)', 'YOLOv5Dataset'),
    '.yaml': ('YOLO (.yaml)', 'YOLOv5Dataset'),
}


class Part(NamedTuple):
    """Training or validation data, as they are read.

    Args:
        ann_file (Path): The annotation file.
        folder (Path): Folder of the images.
        images (int): Number of images that are used.
        boxes (Counter): Number of boxes by class.
        sizes (np.ndarray): (N, 2), width and height of the boxes as shares of their image's.
        image_sizes (np.ndarray): (M, 2), width and height of the images in pixels.
        notes (list[str]): What was read otherwise than it stands, or left out.
    """

    ann_file: Path
    folder: Path
    images: int
    boxes: Counter
    sizes: np.ndarray
    image_sizes: np.ndarray
    notes: list[str]


def annotation_files(root: Path) -> list[Path]:
    """The json files below a folder that hold boxes in COCO's format."""
    return [
        place / name
        for place, files in walk(root)
        for name in files
        if name.lower().endswith('.json')
        and not any(task in name.lower() for task in OTHER_TASKS)
        and _is_coco(place / name)
    ]


def _is_coco(path: Path) -> bool:
    try:
        content = path.read_bytes().replace(b'\0', b'')  # zeros: of UTF-16 and UTF-32
    except OSError as error:
        raise DatasetError(
            f'{path} cannot be read: {error.strerror or error}. Give it rights, or move it away.'
        ) from error
    return all(key in content for key in _KEYS)


def find_parts(
    root: Path, labels: tuple[Path | None, Path | None], images: tuple[Path | None, Path | None]
) -> tuple[Split, Split | None]:
    """The training and the validation part of a folder; a test part stands in for one that is missing.

    Args:
        root (Path): The folder.
        labels (tuple): Annotation file of training and of validation, where they are told.
        images (tuple): Folder of the images of each, where it is told.

    Returns:
        tuple[Split, Split | None]: Of training and of validation; None for the second if one file holds everything.

    Raises:
        Undecided: There is no annotation file, or several may be meant.
    """
    found = [] if all(labels) else annotation_files(root)
    roles = {path: role_of(path.relative_to(root)) for path in found}
    train = labels[0] or _of_role(roles, TRAIN, root, '--train-labels')
    val = labels[1] or _of_role(roles, VAL, root, '--val-labels') or _of_role(roles, TEST, root, '--val-labels')
    if train is None:
        rest = [path for path, role in roles.items() if role is None and path != val]
        train = one_of(rest, root, 'annotation file of training', '--train-labels')
    if train is None:
        raise Undecided(_no_annotations(root) if not found else _no_training(root, found))
    folders = None if all(images) else image_folders(root)
    parts = [
        Split(name, path, _places(path, name, root, folders, told), name == VAL)
        for name, path, told in zip((TRAIN, VAL), (train, val), images, strict=True)
        if path is not None
    ]
    return parts[0], parts[1] if val is not None else None


def _of_role(roles: dict[Path, str | None], role: str, root: Path, option: str) -> Path | None:
    own = [path for path, given in roles.items() if given == role]
    own = [path for path in own if 'instances' in path.name.lower()] or own
    return one_of(own, root, f'annotation file of {"training" if role == TRAIN else "validation"}', option)


def _places(path: Path, role: str, root: Path, folders: list[Path] | None, told: Path | None) -> tuple[Path, ...]:
    """Where the images of a file may lie, the likeliest first."""
    if told is not None:
        return (told,)
    named = [folder for folder in folders or () if role_of(folder.relative_to(root)) == role]
    return tuple(dict.fromkeys([*named, path.parent, path.parent / 'images', root / 'images', *(folders or ()), root]))


def _no_annotations(root: Path) -> str:
    names = Counter(Path(name).suffix.lower() for _, files in walk(root) for name in files)
    asked = f"What tells the boxes? '{root}' holds no json with images, annotations and categories (COCO's format)"
    for suffix, (name, kind) in _OTHERS.items():
        if names[suffix]:
            convert = _FIFTYONE.format(root=root, kind=kind) + 'fiftyone.types.COCODetectionDataset'
            return (
                f'{asked}, but {names[suffix]} files that may be {name}. Convert them, for example with `{convert}` '
                '(pip install fiftyone); Roboflow, CVAT and Label Studio export "COCO" themselves. '
                'Or say where the json is: --train-labels FILE.'
            )
    listed = ', '.join(f'{count} {suffix or "without extension"}' for suffix, count in names.most_common(4))
    return f'{asked}; there are: {listed or "no files"}. Say where the json is: --train-labels FILE --val-labels FILE.'


def _no_training(root: Path, found: list[Path]) -> str:
    names = ', '.join(path.relative_to(root).as_posix() for path in found)
    return f"Which annotation file is for training? '{root}' holds {names}. Say it: --train-labels FILE."


def set_apart(split: Split, share: float, train: Path, val: Path) -> tuple[Split, Split]:
    """Write two annotation files, for training and validation, of one; images are drawn at random, with a fixed seed.

    Args:
        split (Split): What there is.
        share (float): Of the images, for validation.
        train, val (Path): The files to write.
    """
    data, _ = load_coco_json(str(split.ann_file))
    images = sorted(data['images'], key=lambda image: str(image['file_name']))
    random.Random(_SEED).shuffle(images)
    count = min(max(1, round(share * len(images))), len(images) - 1)
    for path, own in ((val, images[:count]), (train, images[count:])):
        ids = {image['id'] for image in own}
        boxes = [annotation for annotation in data['annotations'] if annotation['image_id'] in ids]
        write_text(path, json.dumps(dict(images=own, categories=data['categories'], annotations=boxes)))
    return split._replace(ann_file=train), Split(VAL, val, split.folders, True)


def classes_of(split: Split) -> tuple[str, ...]:
    """The classes of an annotation file, in label order."""
    return tuple(category['name'] for category in load_coco_json(str(split.ann_file))[0]['categories'])


def read_part(split: Split, classes: tuple[str, ...], option: str) -> Part:
    """Read annotations and find their images, as training and evaluation will.

    Args:
        split (Split): What to read.
        classes (tuple[str, ...]): The classes.
        option (str): The option that tells the folder of the images.

    Raises:
        Undecided: More than a tenth of the images is not found; of validation, one.
        DatasetError: The annotations cannot be used.
    """
    notes: list[str] = []
    path = str(split.ann_file)
    reading = CocoReading(path, path, split.evaluated, lambda message, level, changed: notes.append(message))
    reading.fit(classes)
    total = len(reading.data['images'])
    folder = _folder(split, reading.data['images'])
    missing = reading.locate(str(folder))
    if missing is not None and (split.evaluated or total - len(reading.data['images']) > _MAX_MISSING * total):
        raise Undecided(f"Where are the images of '{path}'? {missing}. Say it: {option} FOLDER.")
    notes += [missing] if missing else []
    reading.settle_sizes(str(folder))
    reading.check_convention()
    reading.screen()
    reading.check_usable(classes)
    return Part(split.ann_file, folder, *_counted(reading), notes)


def _folder(split: Split, images: list[dict]) -> Path:
    """The folder that has the first images at their very names, else the one in which most of them are found."""
    names = [image['file_name'] for image in images[:_PROBED]]
    exact = (path for path in split.folders if path.is_dir() and not find_missing_images(str(path), names))
    return next(exact, None) or split.folder(images)


def _counted(reading: CocoReading) -> tuple[int, Counter, np.ndarray, np.ndarray]:
    names = {category['id']: category['name'] for category in reading.data['categories']}
    sizes = {image['id']: (image['width'], image['height']) for image in reading.data['images']}
    counted = [entry for entry in reading.data['annotations'] if not (entry.get('iscrowd') or entry.get('ignore'))]
    boxes = [np.divide(entry['bbox'][2:], sizes[entry['image_id']]) for entry in counted]
    return (
        len(sizes),
        Counter(names[entry['category_id']] for entry in counted),
        np.array(boxes, dtype=float).reshape(-1, 2),
        np.array(list(sizes.values()), dtype=float).reshape(-1, 2),
    )


def below(path: Path, root: Path) -> str:
    """A path as a config holds it: relative to the data root where it lies below it."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return path.relative_to(root).as_posix() if root in (path, *path.parents) else str(path)
