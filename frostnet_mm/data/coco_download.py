"""Checks COCO-format data as training and evaluation would, and writes mended annotations."""

import json
import logging
import os
import os.path as osp
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import write_text
from .coco_checks import OVERRUN_TOLERANCE, size_fault
from .coco_duplicates import leak_message, same_content
from .coco_frames import convert_boxes, scale_boxes
from .coco_paths import sample
from .coco_reading import CocoReading
from .coco_splits import OFFICIAL_COUNTS, Split, find_splits, single_split
from .download_checks import MAX_BAD_FRACTION, Report, compare_count, image_size, run_over
from .errors import BadImageError, DatasetError, DatasetNotFoundError

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
        boxes (Sequence): (x1, y1, x2, y2) of its objects, with which another size is judged.
        evaluated (bool): Every other size is a fault, as in evaluation. Default: False.
    """

    path: str
    size: tuple
    fast: bool
    boxes: Sequence
    evaluated: bool = False


class Checked(NamedTuple):
    """What the file of an image is.

    Args:
        fault (str, optional): Why it cannot be used as it is.
        size (tuple[int, int], optional): (height, width) of the file; None if it cannot be read.
        fits (bool): Whether the boxes fit the file.
    """

    fault: str | None
    size: tuple[int, int] | None = None
    fits: bool = False


def check_entry(entry: Entry) -> Checked:
    """Check an image."""
    try:
        size = tuple(image_size(entry.path, entry.fast, oriented=True))
    except BadImageError as error:
        return Checked(str(error))
    if size == entry.size:
        return Checked(None, size, True)
    boxes = np.array(entry.boxes, dtype=float).reshape(-1, 4)
    reason = size_fault(boxes, entry.size, size)
    fits = reason is None and bool((boxes[:, 2:] <= np.add(size[::-1], OVERRUN_TOLERANCE)).all())
    if fits and not entry.evaluated:
        return Checked(None, size, True)
    fault = f"'{entry.path}' is {size} (height, width), its json says {entry.size}" + (f': {reason}' if reason else '')
    return Checked(fault, size, fits)


def check_coco(
    root: str | os.PathLike, fast: bool = False, workers: int = 0, out: str | None = None, strict: bool = False
) -> Report:
    """Check a folder in the layout of COCO 2017, or with one json each for training and validation.

    Args:
        root (str | PathLike): Folder with ``annotations``, ``train2017`` and ``val2017``.
        fast (bool): Read only the headers of the images. Default: False, decode them.
        workers (int): Processes; 0: this one. Default: 0.
        out (str, optional): Folder for mended annotation files. Default: none are written.
        strict (bool): Make each file a problem that is missing or cannot be read, not only more of them than training
            passes over. Default: False.

    Returns:
        Report: What was found, and changed.

    Raises:
        DatasetNotFoundError: ``root`` is no folder.
        DatasetError: ``out`` would overwrite an annotation file, or is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetNotFoundError(f"The folder '{root}' does not exist. {WHERE}.")
    if out is not None and Path(out).suffix.lower() == '.json':
        raise DatasetError(f"--out {out} is one file, '{root}' has one for each part: give a folder.")
    splits = find_splits(root)
    targets = [
        out and Path(out) / (split.ann_file.name if _differ(splits) else f'{split.name}.json') for split in splits
    ]
    return _check(splits, targets, fast, workers, strict)


def _differ(splits: Sequence[Split]) -> bool:
    return len({split.ann_file.name for split in splits}) == len(splits)


def check_file(
    ann_file: str,
    folder: str,
    fast: bool = False,
    workers: int = 0,
    out: str | None = None,
    strict: bool = False,
) -> Report:
    """Check one annotation file and its images.

    Args:
        ann_file (str): The json. It is judged as ground truth if its name has "val" or "test", else as training data.
        folder (str): Its images.
        fast (bool): Read only the headers of the images. Default: False, decode them.
        workers (int): Processes; 0: this one. Default: 0.
        out (str, optional): Mended annotation file, or the folder for it. Default: none is written.
        strict (bool): See :func:`check_coco`. Default: False.

    Returns:
        Report: What was found, and changed.

    Raises:
        DatasetError: ``out`` would overwrite the annotation file.
    """
    split = single_split(ann_file, folder)
    target = out and (Path(out) if out.lower().endswith('.json') else Path(out) / split.ann_file.name)
    return _check([split], [target], fast, workers, strict)


def _check(splits: Sequence[Split], targets: Sequence[Path | None], fast: bool, workers: int, strict: bool) -> Report:
    report, checks = Report(), []
    for target in targets:
        if target and any(target.resolve() == split.ann_file.resolve() for split in splits):
            raise DatasetError(f"--out would overwrite '{target}': give another place; the originals are kept.")
    classes = None
    for split in splits:
        check = _SplitCheck(split, report, fast, workers, bool(targets[0]), strict)
        if check.load(classes):
            check.run()
            checks.append(check)
            if not split.evaluated:
                classes = [category['name'] for category in check.reading.data['categories']]
    for check in checks:
        check.compare([other for other in checks if other is not check])
        check.check_usable(classes)
    if targets[0] and not report.problems:
        for check, target in zip(checks, targets, strict=True):
            write_text(target, json.dumps(check.reading.data))
            report.note(f"'{target}' holds the mended annotations of '{check.split.ann_file}', for images in "
                        f"'{check.folder}'")  # fmt: skip
    elif targets[0]:
        report.note('nothing is written as long as there are problems')
    return report


class _SplitCheck:
    """The check of one part of a data set; with ``mend`` what can be mended is changed and no problem."""

    def __init__(self, split: Split, report: Report, fast: bool, workers: int, mend: bool, strict: bool) -> None:
        self.split, self.report, self.fast, self.workers = split, report, fast, workers
        self.mend, self.strict = mend, strict
        self.contents: list[list[str]] = []

    def _say(self, message: str, level: int = logging.WARNING, changed: bool = True) -> None:
        """Add what a reading says, with the name of the part for its annotation file."""
        add = self.report.change if self.mend and changed else self.report.note
        add(f'{self.split.name}: ' + message.removeprefix(f"'{self.split.ann_file}': "))

    def _fault(self, message: str, mended: str) -> None:
        """A problem, unless it is mended, which is then said."""
        if self.mend:
            self._say(f'{message}: {mended}')
        else:
            self.report.problem(message)

    def load(self, classes: Sequence[str] | None) -> bool:
        """Read the annotation file; False if there is none that can be read."""
        split = self.split
        absent = [path for path in (split.ann_file, split.folders[0]) if not path.exists()]
        if split.folders[1:] and any(folder.is_dir() for folder in split.folders):
            absent = [path for path in absent if path == split.ann_file]
        for path in absent:
            self.report.problem(f"'{path}' does not exist. {WHERE}.")
        if absent:
            return False
        try:
            self.reading = CocoReading(str(split.ann_file), str(split.ann_file), split.evaluated, self._say)
        except DatasetError as error:
            self.report.problem(str(error))
            return False
        data = self.reading.data
        if split.name in OFFICIAL_COUNTS:
            compare_count(self.report, split.name, len(data['images']), OFFICIAL_COUNTS[split.name])
        else:
            self.report.note(f'{split.name}: {len(data["images"]):,} images')
        used = {annotation['image_id'] for annotation in data['annotations']}
        bare = sum(image['id'] not in used for image in data['images'])
        self.report.note(
            f'{split.name}: {len(data["annotations"]):,} annotations of {len(data["categories"])} categories, {bare:,} '
            'images without any'
        )
        if self.mend and any(annotation['id'] == 0 for annotation in data['annotations']):
            for number, annotation in enumerate(data['annotations'], start=1):
                annotation['id'] = number
        self._fit(classes)
        self.folder = str(split.folder(data['images']))
        return True

    def _fit(self, classes: Sequence[str] | None) -> None:
        try:
            if classes is not None:
                self.reading.fit(classes)
        except DatasetError as error:
            self.report.problem(str(error))
            return
        if classes is not None and self.mend:
            self.reading.keep_classes(classes)

    def run(self) -> None:
        """Check images and boxes."""
        reading, count = self.reading, len(self.reading.data['images'])
        message = reading.locate(self.folder)
        if message is not None and 2 * len(reading.data['images']) < count:
            self.report.problem(f'images are missing in {self.split.name}: {message}')
        elif message is not None:
            lacking = count - len(reading.data['images'])
            tolerated = not (self.strict or self.split.evaluated or lacking > MAX_BAD_FRACTION * count)
            if tolerated and not self.mend:
                self.report.note(f'{self.split.name}: {message}; training leaves them out')
            else:
                self._fault(f'images are missing in {self.split.name}: {message}', 'left out')
        known = {osp.abspath(path) for path in self._paths()}
        files = [osp.abspath(entry.path) for entry in os.scandir(self.folder) if entry.is_file()]
        extra = [path for path in files if path not in known and not path.endswith('.json')]
        if extra and count:
            self.report.note(f'{self.split.name}: {len(extra)} files that the json does not list, which nothing reads')
        try:
            reading.settle_sizes(self.folder)
        except DatasetError as error:
            self.report.problem(str(error))
            return
        self._check_convention()
        self._check_images()
        reading.screen(clip=self.mend or None)

    def _check_convention(self) -> None:
        convention = self.reading.convention()
        if convention is None:
            return
        if self.mend:
            convert_boxes(self.reading.data, convention.name)
            self._say(f'bbox holds {convention.text} ({convention.evidence}): written as [x, y, width, height]')
            return
        try:
            self.reading.check_convention()
        except DatasetError as error:
            self.report.problem(str(error))

    def _check_images(self) -> None:
        boxes: dict = {image['id']: [] for image in self.reading.data['images']}
        for annotation in self.reading.data['annotations']:
            x, y, width, height = annotation['bbox']
            boxes[annotation['image_id']].append((x, y, x + width, y + height))
        images = self.reading.data['images']
        entries = [
            Entry(
                osp.join(self.folder, image['file_name']),
                (int(image['height']), int(image['width'])),
                self.fast,
                boxes[image['id']],
                self.split.evaluated,
            )
            for image in images
        ]
        checked = list(run_over(check_entry, entries, self.workers, self.split.name))
        if self.mend:
            self._mend_images(images, entries, checked)
            return
        unfit = [result.fault for result in checked if result.fault and result.size is not None]
        unread = [result.fault for result in checked if result.fault and result.size is None]
        if self.split.evaluated:  # another size than the json's is an error there, see CheckedCocoDataset
            self.report.listed(f'images of another size in {self.split.name}', unfit)
            limit, then = len(images), 'evaluation takes grey images for them, so that their objects count as missed'
        else:
            unread, then = unfit + unread, 'training leaves them out'
            limit = MAX_BAD_FRACTION * len(images)
        self.report.faulty(f'faulty images in {self.split.name}', unread, limit, then, self.strict)

    def _mend_images(self, images: list[dict], entries: list[Entry], checked: list[Checked]) -> None:
        out, resized = {}, []
        for image, entry, result in zip(images, entries, checked, strict=True):
            if not result.fits:
                out[image['id']] = result.fault
            elif result.size != entry.size:
                image['height'], image['width'] = result.size
                resized.append(image['file_name'])
        if resized:
            self._say(f'width and height of {len(resized)} images are taken from the files: {sample(resized)}')
        scaled = self._scale({image['id']: result.size for image, result in zip(images, checked, strict=True)})
        out = {image_id: fault for image_id, fault in out.items() if image_id not in scaled}
        if 2 * len(out) > len(images):
            self.report.listed(f'faulty images in {self.split.name}, too many to be left out', list(out.values()))
        elif out:
            self._say(f'{len(out)} faulty images are left out: {sample(list(out.values()))}')
            self.reading.leave_out(set(out))

    def _scale(self, sizes: dict) -> set:
        scaled = scale_boxes(self.reading.data, sizes)
        if scaled:
            self._say(
                f'the files of {len(scaled)} images are scaled versions of what the json describes, as boxes beyond '
                'them show: size, boxes and areas are scaled to the files'
            )
        return scaled

    def compare(self, others: Sequence['_SplitCheck']) -> None:
        """Find images that stand in this part twice, and in a training part that others are evaluated on."""
        own = self._paths()
        if not self.split.evaluated:
            copies = sum(len(group) - 1 for group in same_content(own))
            if copies:
                self.report.note(f'{self.split.name}: {copies} files are copies of others under another name')
        for other in others:
            if other.split.evaluated and not self.split.evaluated:
                self._compare_with(own, other._paths())

    def _paths(self) -> dict[str, object]:
        return {osp.join(self.folder, image['file_name']): image['id'] for image in self.reading.data['images']}

    def _compare_with(self, train: dict[str, object], val: dict[str, object]) -> None:
        groups = [group for group in same_content([*train, *val]) if set(group) & val.keys()]
        shared = [path for group in groups for path in group if path in val and set(group) & train.keys()]
        shared += [path for path in val if path in train and path not in shared]
        if not shared:
            return
        if self.mend:
            leaks = {path for group in groups for path in group if path in train} | (train.keys() & val.keys())
            self.reading.leave_out({train[path] for path in leaks})
            self._say(f'{len(leaks)} images that are validation images as well are left out: {sample(sorted(leaks))}')
        else:
            self.report.note(leak_message(shared, len(val)))

    def check_usable(self, classes: Sequence[str] | None) -> None:
        """Report a part that nothing can be learned from, or evaluated against."""
        if not self.reading.data['images']:
            return  # none was found, which is reported
        try:
            self.reading.check_usable(classes)
        except DatasetError as error:
            self.report.problem(str(error))
