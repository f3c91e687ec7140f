"""Detection data to classification data: the objects cut out, a folder a class."""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..device.image_search import is_litter
from ..files import new_folder, require_new_folder, write_bytes
from .coco import CheckedCocoDataset
from .coco_duplicates import leak_message, shared_images
from .coco_json import read_coco_classes
from .errors import BadImageError, DatasetError, DatasetNotFoundError

SPLITS = ('train', 'val')
LONGEST = 200  # bytes of the name of a folder
RESERVED = re.compile(r'(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?', re.IGNORECASE)  # by Windows


class CropOptions(NamedTuple):
    """What is cut out.

    Args:
        margin (float): Part of a box's width and height that is added at each side. Default: 0.1.
        min_size (int): Boxes with a shorter side, in pixels, are left out. Default: 12.
        most (int, optional): Crops of a class and split; more are chosen among by chance. Default: all.
        seed (int): Of that choice. Default: 0.
        ignore_orientation (bool): The boxes were made on the stored pixels, without EXIF orientation. Default: False.
    """

    margin: float = 0.1
    min_size: int = 12
    most: int | None = None
    seed: int = 0
    ignore_orientation: bool = False


class _Object(NamedTuple):
    image: int  # index in the data set
    number: int  # in the image
    box: tuple[float, float, float, float]
    label: int


def folder_names(classes: tuple[str, ...]) -> dict[str, str]:
    """A name of a folder for each class: its own, without what file systems do not take.

    Raises:
        DatasetError: Two classes would share a folder, also where capitals or Unicode's forms are not told apart.
    """
    names = {name: _folder_name(name) for name in classes}
    for folder, count in Counter(map(_alike, names.values())).items():
        if count > 1:
            alike = ', '.join(name for name in names if _alike(names[name]) == folder)
            raise DatasetError(f'The classes {alike} would share the folder {folder!r}: rename one in the annotations.')
    return names


def _folder_name(name: str) -> str:
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f]', '_', name)
    name = name.encode()[:LONGEST].decode(errors='ignore').strip(' .') or '_'
    return f'{name}_' if is_litter(name) or RESERVED.fullmatch(name) else name


def _alike(name: str) -> str:
    return unicodedata.normalize('NFC', name).casefold()


def write_crops(
    root: str, out: str, options: CropOptions | None = None, progress: Callable[[Iterator, int], Iterator] | None = None
) -> dict[str, Counter]:
    """Cut the objects of a data set in COCO's layout out of its images.

    Crowds, boxes that are too small, and what :class:`CheckedCocoDataset` leaves out give no crops; nor do images that
    their boxes were not made on. Images that both splits have are warned of.

    Args:
        root (str): Folder with ``annotations/instances_{train,val}2017.json`` and ``{train,val}2017``.
        out (str): New folder: ``OUT/train/CLASS/IMAGE_NUMBER.png`` and so on.
        options (CropOptions, optional): What is cut out.
        progress (Callable, optional): Wraps the iteration over the images, as tqdm does, and takes their number.

    Returns:
        dict[str, Counter]: Crops by split and class.

    Raises:
        UserError: ``out`` is there.
        DatasetError: The data set cannot be used, too many images cannot, or a class of the training data has no crop.
    """
    options = options or CropOptions()
    require_new_folder(out)
    for split in SPLITS:
        if not Path(annotations := f'{root}/annotations/instances_{split}2017.json').is_file():
            raise DatasetNotFoundError(
                f"'{annotations}' does not exist: expected a folder with annotations/instances_train2017.json, "
                'instances_val2017.json, train2017 and val2017 (docs/data.md).'
            )
    classes = tuple(read_coco_classes(f'{root}/annotations/instances_train2017.json'))
    folders, counts = folder_names(classes), {}
    datasets = {split: _dataset(root, split, classes, options) for split in SPLITS}
    chosen = {split: _choose(dataset, options) for split, dataset in datasets.items()}
    _require_all(classes, {own.label for own in chosen['train']})
    _warn_of_shared_images(datasets)
    with new_folder(out) as partial:  # a part of the crops would be trained on like all
        for split, dataset in datasets.items():
            counts[split] = Counter({name: 0 for name in classes})
            for own, stem, crop in _crops_of(dataset, chosen[split], options, progress):
                file = partial / split / folders[classes[own.label]] / f'{stem}_{own.number}.png'
                write_bytes(file, cv2.imencode('.png', crop)[1].tobytes())
                counts[split][classes[own.label]] += 1
        _require_all(classes, {label for label, name in enumerate(classes) if counts['train'][name]})
    return counts


def _dataset(root: str, split: str, classes: tuple[str, ...], options: CropOptions) -> CheckedCocoDataset:
    color_type = 'color_ignore_orientation' if options.ignore_orientation else 'color'
    return CheckedCocoDataset(
        data_root=root,
        ann_file=f'annotations/instances_{split}2017.json',
        data_prefix=dict(img=f'{split}2017/'),
        metainfo=dict(classes=classes),
        pipeline=[dict(type='frostnet_mm.LoadImage', color_type=color_type)],
    )


def _require_all(classes: tuple[str, ...], found: set[int]) -> None:
    if lacking := [name for label, name in enumerate(classes) if label not in found]:
        raise DatasetError(
            f'No crop of {", ".join(lacking)} in the training data: lower --min-size, or take these classes '
            'out of the annotations.'
        )


def _warn_of_shared_images(datasets: dict[str, CheckedCocoDataset]) -> None:
    """Crops of one image are no copies of each other: what is shared has to be looked for before they are cut."""
    paths = {
        split: [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
        for split, dataset in datasets.items()
    }
    if shared := shared_images(paths['train'], paths['val']):
        datasets['val']._warn(leak_message(shared, len(paths['val'])))


def _crops_of(
    dataset: CheckedCocoDataset,
    chosen: list[_Object],
    options: CropOptions,
    progress: Callable[[Iterator, int], Iterator] | None,
) -> Iterator[tuple[_Object, str, np.ndarray]]:
    """Objects with the stems of their images and what is cut out; none of an image that cannot be used, which is said.

    Raises:
        DatasetError: More than ``max_bad_fraction`` of the images cannot be used.
    """
    images = [list(objects) for _, objects in groupby(chosen, lambda own: own.image)]
    stems = _distinct_stems([dataset.get_data_info(objects[0].image)['img_path'] for objects in images])
    shown, bad = progress(iter(images), len(images)) if progress else images, 0
    for objects, stem in zip(shown, stems, strict=True):
        try:
            image = dataset.load_image(objects[0].image)
        except BadImageError as error:
            bad += 1
            dataset._warn(f'{error}. It gives no crops.')
            if bad > dataset.max_bad_fraction * len(images):
                raise DatasetError(
                    f"{bad} of {len(images)} images of '{dataset.ann_file}' give no crops, more than "
                    f'{dataset.max_bad_fraction:.0%}. The latest: {error}. Boxes that were made on the stored pixels '
                    'need --ignore-orientation; replace images that are damaged or of another size.'
                ) from error
            continue
        for own in objects:
            box = _inside(own.box, image)
            if min(box[2] - box[0], box[3] - box[1]) >= options.min_size:
                yield own, stem, cut(image, box, options.margin)


def _inside(box: tuple[float, float, float, float], image: np.ndarray) -> tuple[float, float, float, float]:
    height, width = image.shape[:2]
    x1, x2 = (min(max(0.0, x), width) for x in box[::2])
    y1, y2 = (min(max(0.0, y), height) for y in box[1::2])
    return x1, y1, x2, y2


def _distinct_stems(paths: list[str]) -> list[str]:
    """Names of files without folder and suffix; those of other folders or suffixes get ``_`` behind."""
    stems, taken = [], set()
    for path in paths:
        stem = Path(path).stem.lstrip('.') or '_'  # hidden files are no images of a class
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
