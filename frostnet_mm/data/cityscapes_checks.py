"""Checks of a download of Cityscapes, and the ``*_labelTrainIds.png`` that training needs and the download lacks."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..files import write_bytes
from .cityscapes import (
    IMAGE_SUFFIX,
    LABEL_IDS_SUFFIX,
    LABELS,
    NUM_CLASSES,
    OFFICIAL_COUNTS,
    POLYGONS_SUFFIX,
    TRAIN_IDS_SUFFIX,
    label_path,
    to_train_ids,
)
from .download_checks import Report, compare_count, image_size, relative, run_over
from .errors import BadImageError, DatasetError, DatasetNotFoundError

WHERE = (
    'Get leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB) from '
    'https://www.cityscapes-dataset.com/downloads/ (free registration) and unpack both into one folder'
)
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
        values (tuple[int, ...]): Label ids, or train ids where there are no label ids; empty if not read.
        has_ids (bool): Whether ``values`` are label ids.
        wrote (bool): Whether train ids were written.
    """

    error: str | None = None
    values: tuple = ()
    has_ids: bool = False
    wrote: bool = False


def read_labels(path: str | os.PathLike) -> np.ndarray:
    """Label image (H, W) uint8.

    Raises:
        BadImageError: The file is missing or broken, or has colours or 16 bits.
    """
    image_size(path)  # whole, to the last pixel
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        found = 'OpenCV cannot read it' if labels is None else f'it is {labels.dtype} of shape {labels.shape}'
        raise BadImageError(str(path), f'{found}, expected one channel of 8 bits')
    return labels


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
    try:
        if not ids_path.is_file() and pair.polygons and polygons_path.is_file():
            write_bytes(ids_path, encode_labels(labels_from_polygons(polygons_path)))
        size = image_size(pair.image, pair.fast)
        shown = ids_path if ids_path.is_file() else train_path
        if pair.fast and train_path.is_file():
            label_size, values, wrote = image_size(train_path, fast=True), (), False
        else:
            labels = read_labels(shown)
            label_size, values = labels.shape, tuple(np.unique(labels).tolist())
            wrote = _settle_train_ids(labels, train_path, pair.overwrite) if shown == ids_path else False
    except (BadImageError, ValueError) as error:
        return PairResult(error=str(error))
    if label_size != size:
        return PairResult(error=f"'{pair.image}' is {size} (height, width), its labels are {tuple(label_size)}")
    return PairResult(None, values, shown == ids_path, wrote)


def _settle_train_ids(label_ids: np.ndarray, path: Path, overwrite: bool) -> bool:
    """Write the train ids of label ids unless they are there; returns whether they were written."""
    wanted = to_train_ids(label_ids)
    if path.is_file():
        try:
            same = np.array_equal(read_labels(path), wanted)
        except BadImageError:
            same = False
        if same:
            return False
        if not overwrite:
            raise ValueError(f"'{path}' is broken or not what its label ids give: --overwrite makes it again")
    write_bytes(path, encode_labels(wanted))
    return True


def _split_images(root: Path, split: str) -> list[Path]:
    return sorted((root / 'leftImg8bit' / split).glob(f'*/*{IMAGE_SUFFIX}'))


def _check_files(root: Path, split: str, images: list[Path], polygons: bool, report: Report) -> list[Path]:
    """Images that have labels; reports those that have not, and labels without images."""
    suffixes = (LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX) + ((POLYGONS_SUFFIX,) if polygons else ())
    labelled = [path for path in images if any(label_path(root, path, suffix).is_file() for suffix in suffixes)]
    bare = relative(set(images) - set(labelled), root)
    report.listed(f'images of {split} have no *{LABEL_IDS_SUFFIX} nor *{TRAIN_IDS_SUFFIX}', bare)
    if bare and any(label_path(root, root / name, POLYGONS_SUFFIX).is_file() for name in bare):
        report.note(f'{split}: there are *{POLYGONS_SUFFIX}: --from-polygons makes labels of them')
    known = {path.name.removesuffix(IMAGE_SUFFIX) for path in images}
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
        images = _split_images(root, split)
        if not images:
            report.problem(f"'{root / 'leftImg8bit' / split}' holds no <city>/*{IMAGE_SUFFIX}. {WHERE}.")
            continue
        compare_count(report, split, len(images), OFFICIAL_COUNTS[split])
        labelled = _check_files(root, split, images, polygons, report)
        pairs = [Pair(str(root), str(path), fast, overwrite, polygons) for path in labelled]
        _summarize(report, split, list(run_over(check_pair, pairs, workers, split)))
    tests = len(_split_images(root, 'test'))
    if tests:
        compare_count(report, 'test', tests, OFFICIAL_COUNTS['test'])
    return report


def _summarize(report: Report, split: str, results: list[PairResult]) -> None:
    report.listed(f'faulty files in {split}', [result.error for result in results if result.error])
    wrote = sum(result.wrote for result in results)
    if wrote:
        report.note(f'{split}: {wrote} *{TRAIN_IDS_SUFFIX} written')
    of_ids = {value for result in results if result.has_ids for value in result.values}
    of_train_ids = {value for result in results if not result.has_ids for value in result.values}
    if of_ids:
        report.note(f'{split}: labels found: {", ".join(_NAMES[value] for value in sorted(of_ids))}')
    if of_train_ids:
        without = [result for result in results if result.values and not result.has_ids]
        wrong = sorted(of_train_ids - set(range(NUM_CLASSES)) - {255})
        report.note(
            f'{split}: {len(without)} images have train ids only ({len(of_train_ids - {255})} classes): enough for '
            "training and IoUMetric, not for mmseg's CityscapesMetric"
        )
        if wrong:
            report.problem(f'{split}: values {wrong[:8]} in *{TRAIN_IDS_SUFFIX} are no train ids (0 to 18, 255)')
