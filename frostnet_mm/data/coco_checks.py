"""Checks of what a sound COCO json says: its classes against the config's, its boxes against its images."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from .coco_json import check_unique
from .coco_paths import sample
from .errors import DatasetError

#: COCO's own boxes overrun their images by up to about a pixel, from rounding: that is no mistake to report.
OVERRUN_TOLERANCE = 1.0
PARTLY_OUTSIDE = 'partly outside their image'


class Finding(NamedTuple):
    """Boxes of one annotation file that share one fault.

    Args:
        cause (str): What is wrong with the boxes.
        skipped (bool): Whether the boxes were taken out, otherwise they were clipped or left.
        ids (list): Ids of all annotations concerned.
    """

    cause: str
    skipped: bool
    ids: list


def check_classes(data: dict, classes: Sequence[str], path: str) -> tuple[list[str], int]:
    """Check a config's class names against the categories of a json.

    mmdet numbers labels in the json's order and names them in the config's: another order names every prediction
    wrongly, and is refused.

    Args:
        data (dict): Parsed annotation file.
        classes (Sequence[str]): The config's class names.
        path (str): Annotation file, for messages.

    Returns:
        tuple[list[str], int]: Categories of the json that the config leaves out, and the annotations they have.

    Raises:
        DatasetError: If names are missing in the json, repeated, in another order, or ``classes`` is a string.
    """
    if isinstance(classes, str):
        raise DatasetError(f"metainfo classes={classes!r} is a string, expected a tuple: classes=('{classes}', ).")
    names = [category['name'] for category in data['categories']]
    how = (
        "Set metainfo=dict(classes=(...)) to the file's names, or use configs/ssdlite_frostnet_custom.py, which "
        'reads them from the json.'
    )
    check_unique(list(classes), 'names in metainfo classes', path)
    lacking = [name for name in classes if name not in set(names)]
    if lacking:
        raise DatasetError(
            f"'{path}' lacks {len(lacking)} of the config's {len(classes)} classes: "
            f'{sample(lacking, 8)}. The config has {sample(list(classes), 8)}; '
            f'the json has {sample(names, 8)}. {how}'
        )
    kept = [name for name in names if name in set(classes)]
    if kept != list(classes):
        raise DatasetError(
            f"metainfo classes are in another order than the categories of '{path}', so that labels "
            f'would be named wrongly: the config has {sample(list(classes), 8)}, the json has '
            f'{sample(kept, 8)}. {how} Where two files differ, order the categories of one like the '
            'other.'
        )
    left_out = {
        category['id']: category['name'] for category in data['categories'] if category['name'] not in set(classes)
    }
    dropped = sum(annotation['category_id'] in left_out for annotation in data['annotations']) if left_out else 0
    return list(left_out.values()), dropped


def _to_array(rows: Iterable) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.float64)


def _find_faults(data: dict, clip: bool) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
    """Faults as (cause, mask over the annotations), the first cause that applies counts; and boxes within the image."""
    annotations = data['annotations']
    # fromiter over the flat numbers takes a fifth of the time that np.array takes over nested lists
    boxes = _to_array(annotation['bbox'] for annotation in annotations).reshape(-1, 4)
    areas = np.fromiter((annotation['area'] for annotation in annotations), np.float64)
    sizes = {image['id']: (image['width'], image['height']) for image in data['images']}
    limits = _to_array(sizes[annotation['image_id']] for annotation in annotations).reshape(-1, 2)
    finite = np.isfinite(boxes).all(axis=1)
    starts, extents = np.hsplit(np.where(finite[:, None], boxes, 0), 2)
    inner_starts = np.clip(starts, 0, limits)
    inner = np.clip(starts + extents, 0, limits) - inner_starts
    overrun = np.maximum(-starts, starts + extents - limits).max(axis=1)
    faults = [
        ('of a size that is not finite (NaN or infinity)', ~finite),
        ('of zero or negative width or height', (extents <= 0).any(axis=1)),
        ('narrower or lower than 1 pixel', (extents < 1).any(axis=1)),
        ('stated to have no area (area <= 0)', ~(areas > 0)),
        ('outside their image', (inner < 1 if clip else inner <= 0).any(axis=1)),
        (PARTLY_OUTSIDE, overrun > OVERRUN_TOLERANCE),
    ]
    return faults, np.hstack([inner_starts, inner])


def screen_boxes(data: dict, clip: bool) -> list[Finding]:
    """Take unusable boxes out of parsed annotations, in place, and clip those that overrun their image.

    Unusable is what mmdet passes over in silence as well (narrower or lower than 1 pixel, no area, wholly outside), and
    NaN and infinity, which it would train on.

    Args:
        data (dict): Parsed annotation file; its list ``annotations`` is replaced, and clipped boxes are rewritten.
        clip (bool): Whether to clip, and to take out boxes of which less than 1 pixel would be left. Ground truth of
            an evaluation is left as the file states it.

    Returns:
        list[Finding]: What was found, one entry a cause that occurred.
    """
    annotations = data['annotations']
    if not annotations:
        return []
    faults, inner_boxes = _find_faults(data, clip)
    findings, left = [], np.ones(len(annotations), dtype=bool)
    for cause, mask in faults:
        hits = np.flatnonzero(mask & left)
        if not len(hits):
            continue
        skipped = cause != PARTLY_OUTSIDE
        findings.append(Finding(cause, skipped, [annotations[i]['id'] for i in hits]))
        if skipped:
            left[hits] = False
        elif clip:
            for i in hits:
                annotations[i]['bbox'] = inner_boxes[i].tolist()
    if not left.all():
        data['annotations'] = [annotations[i] for i in np.flatnonzero(left)]
    return findings
