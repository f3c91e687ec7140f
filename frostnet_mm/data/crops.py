"""Detection data to classification data: the objects cut out, a folder a class."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..files import new_folder, require_new_folder, write_bytes
from .coco import CheckedCocoDataset
from .coco_json import read_coco_classes
from .errors import BadImageError, DatasetError, DatasetNotFoundError
from .loading import LoadImage

SPLITS = ('train', 'val')


class CropOptions(NamedTuple):
    """What is cut out.

    Args:
        margin (float): Part of a box's width and height that is added at each side. Default: 0.1.
        min_size (int): Boxes with a shorter side, in pixels, are left out. Default: 12.
        most (int, optional): Crops of a class and split; more are chosen among by chance. Default: all.
        seed (int): Of that choice. Default: 0.
    """

    margin: float = 0.1
    min_size: int = 12
    most: int | None = None
    seed: int = 0


class _Object(NamedTuple):
    image: int  # index in the data set
    number: int  # in the image
    box: tuple[float, float, float, float]
    label: int


def folder_names(classes: tuple[str, ...]) -> dict[str, str]:
    """A name of a folder for each class: its own, without what file systems do not take.

    Raises:
        DatasetError: Two classes would share a folder.
    """
    names = {name: re.sub(r'[\\/:*?"<>|\x00-\x1f]', '_', name).strip(' .') or '_' for name in classes}
    for folder, count in Counter(own.lower() for own in names.values()).items():
        if count > 1:
            alike = ', '.join(name for name in names if names[name].lower() == folder)
            raise DatasetError(f'The classes {alike} would share the folder {folder!r}: rename one in the annotations.')
    return names


def write_crops(
    root: str, out: str, options: CropOptions | None = None, progress: Callable[[Iterator, int], Iterator] | None = None
) -> dict[str, Counter]:
    """Cut the objects of a data set in COCO's layout out of its images.

    Crowds, boxes that are too small, and what :class:`CheckedCocoDataset` leaves out give no crops.

    Args:
        root (str): Folder with ``annotations/instances_{train,val}2017.json`` and ``{train,val}2017``.
        out (str): New folder: ``OUT/train/CLASS/IMAGE_NUMBER.png`` and so on.
        options (CropOptions, optional): What is cut out.
        progress (Callable, optional): Wraps the iteration over the images, as tqdm does, and takes their number.

    Returns:
        dict[str, Counter]: Crops by split and class.

    Raises:
        UserError: ``out`` is there.
        DatasetError: The data set cannot be used, or a class of the training data has no crop.
    """
    options = options or CropOptions()
    require_new_folder(out)
    annotations = f'{root}/annotations/instances_train2017.json'
    if not Path(annotations).is_file():
        raise DatasetNotFoundError(
            f"'{annotations}' does not exist: expected a folder with annotations/instances_train2017.json, "
            'instances_val2017.json, train2017 and val2017 (docs/data.md).'
        )
    classes = tuple(read_coco_classes(annotations))
    folders, counts = folder_names(classes), {}
    with new_folder(out) as partial:  # a part of the crops would be trained on like all
        for split in SPLITS:
            dataset = CheckedCocoDataset(
                data_root=root,
                ann_file=f'annotations/instances_{split}2017.json',
                data_prefix=dict(img=f'{split}2017/'),
                metainfo=dict(classes=classes),
                pipeline=[],
            )
            counts[split] = Counter({name: 0 for name in classes})
            images = [list(objects) for _, objects in groupby(_choose(dataset, options), lambda own: own.image)]
            stems = _distinct_stems([dataset.get_data_info(objects[0].image)['img_path'] for objects in images])
            shown = progress(iter(images), len(images)) if progress else images
            for objects, stem in zip(shown, stems, strict=True):
                for own, crop in _crops_of(dataset, objects, options.margin):
                    name = classes[own.label]
                    file = partial / split / folders[name] / f'{stem}_{own.number}.png'
                    write_bytes(file, cv2.imencode('.png', crop)[1].tobytes())
                    counts[split][name] += 1
            if lacking := [name for name in classes if split == 'train' and not counts[split][name]]:
                raise DatasetError(
                    f'No crop of {", ".join(lacking)} in the training data: lower --min-size, or take these classes '
                    'out of the annotations.'
                )
    return counts


def _crops_of(dataset: CheckedCocoDataset, objects: list[_Object], margin: float) -> Iterator[tuple]:
    """The objects of one image with what is cut out; none of an image that cannot be read, which is said."""
    try:
        image = LoadImage()(dict(img_path=dataset.get_data_info(objects[0].image)['img_path']))['img']
    except BadImageError as error:
        dataset._warn(f'{error}. It gives no crops.')
        return
    for own in objects:
        yield own, cut(image, own.box, margin)


def _distinct_stems(paths: list[str]) -> list[str]:
    """Names of files without folder and suffix; those of other folders or suffixes get ``_`` behind."""
    stems, taken = [], set()
    for path in paths:
        stem = Path(path).stem
        while stem.lower() in taken:
            stem += '_'
        taken.add(stem.lower())
        stems.append(stem)
    return stems


def _choose(dataset: CheckedCocoDataset, options: CropOptions) -> list[_Object]:
    found: dict[int, list[_Object]] = {}
    for index in range(len(dataset)):
        for number, entry in enumerate(dataset.get_data_info(index)['instances']):
            x1, y1, x2, y2 = entry['bbox']
            if not entry['ignore_flag'] and min(x2 - x1, y2 - y1) >= options.min_size:
                own = _Object(index, number, (x1, y1, x2, y2), entry['bbox_label'])
                found.setdefault(own.label, []).append(own)
    chance = random.Random(options.seed)
    for label, objects in sorted(found.items()):
        if options.most is not None and len(objects) > options.most:
            found[label] = chance.sample(objects, options.most)
    return sorted(own for objects in found.values() for own in objects)


def cut(image: np.ndarray, box: tuple[float, float, float, float], margin: float) -> np.ndarray:
    """A box of an image, with a margin as far as the image reaches.

    Args:
        image (np.ndarray): (H, W, 3).
        box (tuple[float, float, float, float]): x1, y1, x2, y2 in pixels.
        margin (float): Part of the box's width and height that is added at each side.
    """
    x1, y1, x2, y2 = box
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    left, top = max(0, round(x1 - dx)), max(0, round(y1 - dy))
    right, bottom = min(image.shape[1], round(x2 + dx)), min(image.shape[0], round(y2 + dy))
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]
