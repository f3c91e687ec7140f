"""Checks of a download of COCO 2017, or of any data set in its layout."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .coco_checks import OVERRUN_TOLERANCE, screen_boxes, size_fault
from .coco_flags import check_usable, report_ignored, settle_flags
from .coco_json import load_coco_json
from .coco_paths import find_missing_images
from .download_checks import Report, compare_count, image_size, run_over
from .errors import BadImageError, DatasetError, DatasetNotFoundError

OFFICIAL_COUNTS = dict(train2017=118287, val2017=5000)  # images, https://cocodataset.org/#download
WHERE = (
    'Get train2017.zip (18 GB), val2017.zip (1 GB) and annotations_trainval2017.zip (241 MB) from '
    'https://cocodataset.org/#download and unpack them into one folder'
)


class Entry(NamedTuple):
    """An image of a COCO json.

    Args:
        path (str): The file.
        size (tuple[int, int]): (height, width) as the json states it.
        fast (bool): Read its header only.
        boxes (Sequence, optional): (x1, y1, x2, y2) of its objects, with which training judges another size. Without,
            as in evaluation, every other size is a fault. Default: None.
    """

    path: str
    size: tuple
    fast: bool
    boxes: Sequence | None = None


def check_entry(entry: Entry) -> str | None:
    """What is wrong with an image, or None."""
    try:
        size = image_size(entry.path, entry.fast, oriented=True)
    except BadImageError as error:
        return str(error)
    if size != entry.size and not _usable(entry, size):
        return f"'{entry.path}' is {size} (height, width), its json says {entry.size}"
    return None


def _usable(entry: Entry, size: tuple[int, int]) -> bool:
    """Whether training takes an image of another size with all of its boxes."""
    if entry.boxes is None:
        return False
    boxes = np.array(entry.boxes, dtype=float).reshape(-1, 4)
    inside = (boxes[:, 2:] <= np.add(size[::-1], OVERRUN_TOLERANCE)).all()
    return bool(inside) and size_fault(boxes, entry.size, size) is None


def check_coco(root: str | os.PathLike, fast: bool = False, workers: int = 0) -> Report:
    """Check a folder in the layout of COCO 2017.

    Args:
        root (str | PathLike): Folder with ``annotations``, ``train2017`` and ``val2017``.
        fast (bool): Read only the headers of the images. Default: False, decode them.
        workers (int): Processes; 0: this one. Default: 0.

    Returns:
        Report: What was found.

    Raises:
        DatasetNotFoundError: ``root`` is no folder.
    """
    root, report = Path(root), Report()
    if not root.is_dir():
        raise DatasetNotFoundError(f"The folder '{root}' does not exist. {WHERE}.")
    for split in OFFICIAL_COUNTS:
        _check_split(root, split, fast, workers, report)
    return report


def _check_split(root: Path, split: str, fast: bool, workers: int, report: Report) -> None:
    folder, ann_file = root / split, root / 'annotations' / f'instances_{split}.json'
    absent = [path for path, is_there in ((folder, folder.is_dir()), (ann_file, ann_file.is_file())) if not is_there]
    for path in absent:
        report.problem(f"'{path}' does not exist. {WHERE}.")
    if absent:
        return
    evaluated = split.startswith('val')
    try:
        data = load_coco_json(str(ann_file), evaluated=evaluated)
        understood = settle_flags(data, str(ann_file))
    except DatasetError as error:
        report.problem(str(error))
        return
    images, total = data['images'], len(data['annotations'])
    compare_count(report, split, len(images), OFFICIAL_COUNTS[split])
    used = {annotation['image_id'] for annotation in data['annotations']}
    bare = sum(image['id'] not in used for image in images)
    report.note(f'{split}: {total:,} annotations of {len(data["categories"])} categories, {bare:,} images without any')
    for message in understood:
        report.note(message)
    _check_boxes(data, split, str(ann_file), evaluated, report)
    missing = set(find_missing_images(str(folder), [image['file_name'] for image in images]))
    report.listed(
        f"images of '{ann_file}' are missing in '{folder}'", [images[i]['file_name'] for i in sorted(missing)]
    )
    known = {image['file_name'] for image in images}
    extra = [entry.name for entry in os.scandir(folder) if entry.is_file() and entry.name not in known]
    if extra:
        report.note(f'{split}: {len(extra)} files that the json does not list, which nothing reads')
    boxes: dict = {image['id']: [] for image in images}
    for annotation in data['annotations']:
        x, y, width, height = annotation['bbox']
        boxes[annotation['image_id']].append((x, y, x + width, y + height))
    trained = split.startswith('train')
    entries = [
        Entry(
            str(folder / image['file_name']),
            (int(image['height']), int(image['width'])),
            fast,
            boxes[image['id']] if trained else None,
        )
        for number, image in enumerate(images)
        if number not in missing
    ]
    errors = [error for error in run_over(check_entry, entries, workers, split) if error]
    report.listed(f'faulty images in {split}', errors)


def _check_boxes(data: dict, split: str, ann_file: str, evaluated: bool, report: Report) -> None:
    """Report the boxes that are left out, as training and evaluation leave them out."""
    total, found = len(data['annotations']), []
    for finding in screen_boxes(data, clip=not evaluated):
        report.note(f'{split}: {len(finding.ids)} of {total} boxes are {finding.cause}; training skips or clips them')
        found.append(f'{len(finding.ids)} {finding.cause}')
    ignored, message = report_ignored(data['annotations'], total)
    if ignored:
        report.note(f'{split}: {message}')
        found.append(f'{ignored} ignored')
    try:
        check_usable(data, ann_file, total, '; '.join(found) or 'all are fine', evaluated)
    except DatasetError as error:
        report.problem(str(error))
