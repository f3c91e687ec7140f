"""Checks of a download of Cityscapes, and the ``*_labelTrainIds.png`` that training needs and the download lacks."""

import json
import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..files import write_bytes
from .cityscapes import (
    CLASSES,
    IMAGE_SUFFIX,
    LABEL_IDS_SUFFIX,
    LABELS,
    OFFICIAL_COUNTS,
    POLYGONS_SUFFIX,
    TRAIN_IDS_SUFFIX,
    label_path,
    to_train_ids,
)
from .download_checks import MAX_BAD_FRACTION, Report, compare_count, image_size, relative, run_over
from .errors import BadImageError, DatasetError, DatasetNotFoundError
from .segmentation_checks import check_pairs
from .segmentation_files import Pair as FilePair
from .segmentation_files import find_images
from .segmentation_labels import count_values, read_labels
from .segmentation_values import LabelValues, looks_meaningless, wrong_values_message

WHERE = (
    'Get leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB) from '
    'https://www.cityscapes-dataset.com/downloads/ (free registration) and unpack both into one folder'
)
VALUES = LabelValues.of(CLASSES)  # of train ids
_NAMES = {label.id: label.name for label in LABELS}


class Pair(NamedTuple):
    """An image with its annotation files, and what to do with them.

    Args:
        root (str): Folder of the data set.
        image (str): The image.
        fast (bool): Read headers only where nothing has to be written.
        overwrite (bool): Make the train ids again where they differ from the label ids.
        polygons (bool): Make label ids from polygons where there are none.
    """

    root: str
    image: str
    fast: bool
    overwrite: bool
    polygons: bool


class PairResult(NamedTuple):
    """What became of a pair.

    Args:
        error (str | None): What is wrong with it.
        ids (tuple[int, ...]): Label ids that were found; empty without label ids, or if not read.
        counts (np.ndarray, optional): (256, ), pixels by train id; None if not read.
        form (str, optional): How the labels are stored, if neither as 8 bit grey nor as a palette.
        wrote (bool): Whether train ids were written.
        unreadable (bool): Whether the image cannot be read, which training and evaluation pass over.
    """

    error: str | None = None
    ids: tuple = ()
    counts: np.ndarray | None = None
    form: str | None = None
    wrote: bool = False
    unreadable: bool = False


def encode_labels(labels: np.ndarray) -> bytes:
    """PNG of labels (H, W) uint8."""
    done, data = cv2.imencode('.png', labels)
    if not done:
        raise RuntimeError(f'OpenCV could not encode a PNG of shape {labels.shape}')
    return data.tobytes()


def labels_from_polygons(path: str | os.PathLike) -> np.ndarray:
    """Label ids (H, W) of a polygons json, drawn by cityscapesscripts.

    Raises:
        DatasetError: The json is broken.
        ImportError: cityscapesscripts is not installed.
    """
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    annotation = Annotation()
    try:
        annotation.fromJsonFile(str(path))
    except (json.JSONDecodeError, KeyError) as error:
        raise DatasetError(f'{path} is no polygons json of Cityscapes: {error}') from error
    return np.array(createLabelImage(annotation, 'ids'))


def check_pair(pair: Pair) -> PairResult:
    """Check one image against its labels; make what is missing."""
    ids_path = label_path(pair.root, pair.image, LABEL_IDS_SUFFIX)
    train_path = label_path(pair.root, pair.image, TRAIN_IDS_SUFFIX)
    polygons_path = label_path(pair.root, pair.image, POLYGONS_SUFFIX)
    unreadable = True  # as long as it is the image that is read
    try:
        if not ids_path.is_file() and pair.polygons and polygons_path.is_file():
            write_bytes(ids_path, encode_labels(labels_from_polygons(polygons_path)))
        size = _size_of(pair)
        unreadable = False
        shown = ids_path if ids_path.is_file() else train_path
        if pair.fast and train_path.is_file():
            result, label_size = PairResult(), image_size(train_path, fast=True)
        else:
            labels, form = read_labels(shown)
            label_size = labels.shape
            result = (_of_label_ids if shown == ids_path else _of_train_ids)(pair, labels, form, shown, train_path)
    except (BadImageError, ValueError) as error:
        return PairResult(error=str(error), unreadable=unreadable and isinstance(error, BadImageError))
    if tuple(label_size) != tuple(size):
        return PairResult(error=f"'{pair.image}' is {size} (height, width), its labels are {tuple(label_size)}")
    return result


def _size_of(pair: Pair) -> tuple[int, int]:
    is_png = pair.image.lower().endswith('.png')  # which Pillow would decode for its EXIF
    return image_size(pair.image, pair.fast, oriented=not is_png)


def _of_label_ids(pair: Pair, labels: np.ndarray, form: str | None, path: Path, train_path: Path) -> PairResult:
    try:
        train_ids = to_train_ids(labels)
    except ValueError as error:
        return PairResult(error=f"'{path}': {error}")
    wrote = _settle_train_ids(train_ids, train_path, pair.overwrite)
    return PairResult(None, tuple(np.unique(labels).tolist()), count_values(train_ids), form, wrote)


def _of_train_ids(pair: Pair, labels: np.ndarray, form: str | None, path: Path, _: Path) -> PairResult:
    counts = count_values(labels)
    if VALUES.wrong(counts):
        return PairResult(error=wrong_values_message(str(path), labels, counts, VALUES, pair.root))
    return PairResult(counts=counts, form=form)


def _settle_train_ids(wanted: np.ndarray, path: Path, overwrite: bool) -> bool:
    """Write train ids unless they are there; returns whether they were written."""
    if path.is_file():
        try:
            same = np.array_equal(read_labels(path).values, wanted)
        except BadImageError:
            same = False
        if same:
            return False
        if not overwrite:
            raise ValueError(f"'{path}' is broken or not what its label ids give: --overwrite makes it again")
    write_bytes(path, encode_labels(wanted))
    return True


def _split_images(root: Path, split: str, report: Report | None = None) -> list[Path]:
    """The images of a split; those of another format than PNG count if they have labels."""
    folder = root / 'leftImg8bit' / split
    if not folder.is_dir():
        return []
    ends = (TRAIN_IDS_SUFFIX, LABEL_IDS_SUFFIX, POLYGONS_SUFFIX)
    names, others = find_images(str(folder), IMAGE_SUFFIX, str(root / 'gtFine' / split), ends)
    if others and report is not None:
        report.note(
            f"{split}: {len(others)} images are no *{IMAGE_SUFFIX}, such as '{others[0]}': our configs use them as "
            "well, mmseg's CityscapesDataset does not"
        )
    return sorted(folder / name for name in names + others)


def _check_files(root: Path, split: str, images: list[Path], polygons: bool, report: Report) -> list[Path]:
    """Images that have labels; reports those that have not, and labels without images."""
    suffixes = (LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX) + ((POLYGONS_SUFFIX,) if polygons else ())
    labelled = [path for path in images if any(label_path(root, path, suffix).is_file() for suffix in suffixes)]
    bare = relative(set(images) - set(labelled), root)
    report.listed(f'images of {split} have no *{LABEL_IDS_SUFFIX} nor *{TRAIN_IDS_SUFFIX}', bare)
    if bare and any(label_path(root, root / name, POLYGONS_SUFFIX).is_file() for name in bare):
        report.note(f'{split}: there are *{POLYGONS_SUFFIX}: --from-polygons makes labels of them')
    known = {path.stem.removesuffix(Path(IMAGE_SUFFIX).stem) for path in images}
    for suffix in (LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX):
        labels = (root / 'gtFine' / split).glob(f'*/*{suffix}')
        orphans = [path for path in labels if path.name.removesuffix(suffix) not in known]
        if orphans:
            report.note(f'{split}: {len(orphans)} *{suffix} without an image, which nothing reads')
    return labelled


def check_cityscapes(
    root: str | os.PathLike,
    fast: bool = False,
    overwrite: bool = False,
    polygons: bool = False,
    workers: int = 0,
    strict: bool = False,
) -> Report:
    """Check a folder in Cityscapes' layout, and make the missing ``*_labelTrainIds.png`` from ``*_labelIds.png``.

    Files that are there are kept, so that an interrupted run goes on. The test split has no public labels and is only
    counted.

    Args:
        root (str | PathLike): Folder with ``leftImg8bit`` and ``gtFine``.
        fast (bool): Do not decode images, nor read labels whose train ids are there. Default: False.
        overwrite (bool): Make train ids that differ from their label ids again. Default: False, they are a problem.
        polygons (bool): Make label ids from polygons where there are none; needs cityscapesscripts. Default: False.
        workers (int): Processes; 0: this one. Default: 0.
        strict (bool): Make each image a problem that cannot be read, not only more of them than training passes over.
            Default: False.

    Returns:
        Report: What was found.

    Raises:
        DatasetNotFoundError: ``root`` is no folder.
        DatasetError: Polygons are to be drawn, and cityscapesscripts is not installed.
    """
    root, report = Path(root), Report()
    if polygons and find_spec('cityscapesscripts') is None:
        raise DatasetError('Drawing polygons (--from-polygons) needs cityscapesscripts: pip install cityscapesscripts')
    if not root.is_dir():
        raise DatasetNotFoundError(f"The folder '{root}' does not exist. {WHERE}.")
    for folder in ('leftImg8bit', 'gtFine'):
        if not (root / folder).is_dir():
            report.problem(f"'{root / folder}' does not exist. {WHERE}.")
    if report.problems:
        return report
    for split in ('train', 'val'):
        images = _split_images(root, split, report)
        if not images:
            report.problem(f"'{root / 'leftImg8bit' / split}' holds no <city>/*{IMAGE_SUFFIX}. {WHERE}.")
            continue
        compare_count(report, split, len(images), OFFICIAL_COUNTS[split])
        labelled = _check_files(root, split, images, polygons, report)
        pairs = [Pair(str(root), str(path), fast, overwrite, polygons) for path in labelled]
        _summarize(report, split, list(run_over(check_pair, pairs, workers, split)), str(root), strict)
        if fast:
            _check_as_training(report, split, labelled, root)
    tests = len(_split_images(root, 'test'))
    if tests:
        compare_count(report, 'test', tests, OFFICIAL_COUNTS['test'])
    return report


def _check_as_training(report: Report, split: str, images: list[Path], root: Path) -> None:
    """Read a sample of the labels, as training does when it starts."""
    places = [label_path(root, path, TRAIN_IDS_SUFFIX) for path in images]
    pairs = [FilePair(str(path), str(place)) for path, place in zip(images, places, strict=True) if place.is_file()]
    try:
        findings = check_pairs(pairs, VALUES, True, str(root))
    except DatasetError as error:
        report.problem(f'{split}: {error}')
        return
    report.listed(
        f'faulty labels in {split}', [f.text for f in findings.faults.values() if f.kind == 'label unreadable']
    )
    if findings.read:
        report.note(f'{split}: train ids of {findings.read} labels: {VALUES.describe(findings.counts)}')


def _summarize(report: Report, split: str, results: list[PairResult], root: str, strict: bool) -> None:
    unread = [result.error for result in results if result.unreadable]
    limit, then = len(results), 'evaluation takes grey images for them'
    if split == 'train':
        limit, then = MAX_BAD_FRACTION * len(results), 'training leaves them out'
    report.faulty(f'faulty images in {split}', unread, limit, then, strict)
    report.listed(f'faulty files in {split}', [r.error for r in results if r.error and not r.unreadable])
    wrote = sum(result.wrote for result in results)
    if wrote:
        report.note(f'{split}: {wrote} *{TRAIN_IDS_SUFFIX} written')
    read = [result for result in results if result.counts is not None]
    if not read:
        return
    ids = {value for result in read for value in result.ids}
    if ids:
        report.note(f'{split}: labels found: {", ".join(_NAMES[value] for value in sorted(ids))}')
    without = sum(not result.ids for result in read)
    counts = sum(result.counts for result in read)
    if without:
        report.note(
            f'{split}: {without} images have train ids only ({len(VALUES.classes_in(counts))} classes): enough for '
            "training and IoUMetric, not for mmseg's CityscapesMetric"
        )
    for form, count in Counter(result.form for result in read if result.form).items():
        report.note(f'{split}: {count} labels are stored as {form}: taken as class indices')
    unlabelled = sum(not VALUES.classes_in(result.counts) for result in read)
    if 0 < unlabelled < len(read):
        report.note(f'{split}: {unlabelled} labels have no pixel of a class, only ignored ones')
    report.note(f'{split}: train ids: {VALUES.describe(counts)}')
    reason = looks_meaningless(counts, VALUES, root)
    if reason:
        report.problem(f'{split}: the labels cannot be used: {reason}')
