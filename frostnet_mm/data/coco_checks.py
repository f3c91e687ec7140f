"""Checks of what a sound COCO json says: its boxes against its images."""

import math
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import numpy as np

#: COCO's own boxes overrun their images by up to about a pixel, from rounding: that is no mistake to report.
OVERRUN_TOLERANCE = 1.0
#: Two sizes have one aspect ratio if it differs by less than this; and are one size, up to a rounding.
SAME_RATIO, SAME_SIZE = 0.02, 0.02
SCALED = 'the boxes were made for another version of the image'
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


def overrunning_boxes(data: dict) -> dict:
    """Boxes (N, 4), x1, y1, x2, y2 of the images that they overrun by more than a rounding, by image id."""
    limits = {image['id']: (image['width'], image['height']) for image in data['images']}
    over = {
        annotation['image_id']
        for annotation in data['annotations']
        for x, y, width, height in (annotation['bbox'],)
        if x + width > limits[annotation['image_id']][0] + OVERRUN_TOLERANCE
        or y + height > limits[annotation['image_id']][1] + OVERRUN_TOLERANCE
    }
    found: dict = {image_id: [] for image_id in over}
    for annotation in data['annotations'] if over else ():
        if annotation['image_id'] in over and all(map(math.isfinite, annotation['bbox'])):
            x, y, width, height = annotation['bbox']
            found[annotation['image_id']].append((x, y, x + width, y + height))
    return {image_id: np.array(boxes, dtype=float).reshape(-1, 4) for image_id, boxes in found.items()}


def size_fault(boxes: np.ndarray, stated: tuple[int, int], found: tuple[int, int]) -> str | None:
    """Why the boxes of an image do not belong to the file that was read, whose size differs from the json's.

    Turned by 90 degrees, or scaled, boxes were made on another frame than the one read, unless they show the contrary:
    they fit the file's size and overrun the stated one. A difference of another kind (a few pixels, a crop) is no
    fault: what lies outside is clipped.

    Args:
        boxes (np.ndarray): (N, 4), x1, y1, x2, y2 in pixels as the json states them.
        stated (tuple[int, int]): (height, width) of the json.
        found (tuple[int, int]): (height, width) of the image as it was read.

    Returns:
        str or None: What is wrong; None if the boxes can be used.
    """
    if stated == found or not len(boxes):
        return None
    furthest = boxes[:, 2:].max(axis=0)
    fits_stated, fits_found = ((furthest <= np.add(size[::-1], OVERRUN_TOLERANCE)).all() for size in (stated, found))
    if fits_found and not fits_stated:
        return None
    if stated == found[::-1]:
        return (
            'height and width are swapped, as by EXIF orientation: if the boxes were made on the stored pixels, set '
            "color_type='color_ignore_orientation' of frostnet_mm.LoadImage"
        )
    factors = np.divide(found, stated)
    scaled = abs(factors[0] / factors[1] - 1) < SAME_RATIO and abs(factors - 1).max() > SAME_SIZE
    return SCALED if scaled else None


def screen_instances(instances: list[dict], size: tuple[int, int]) -> tuple[list[dict], int, int]:
    """Clip boxes to the image that was read, and drop those of which less than 1 pixel is left.

    Args:
        instances (list[dict]): mmdet's, with ``bbox`` x1, y1, x2, y2.
        size (tuple[int, int]): (height, width) of the image.

    Returns:
        tuple[list[dict], int, int]: The instances left, and how many were clipped and dropped.
    """
    if not instances:
        return instances, 0, 0
    boxes = np.array([instance['bbox'] for instance in instances], dtype=np.float64)
    inner = np.clip(boxes, 0, np.tile(size[::-1], 2))
    with np.errstate(invalid='ignore'):
        kept = np.isfinite(boxes).all(axis=1) & ((inner[:, 2:] - inner[:, :2]) >= 1).all(axis=1)
        clipped = kept & (abs(inner - boxes) > OVERRUN_TOLERANCE).any(axis=1)
    left = []
    for index in np.flatnonzero(kept):
        changed = bool((inner[index] != boxes[index]).any())
        left.append(dict(instances[index], bbox=inner[index].tolist()) if changed else instances[index])
    return left, int(clipped.sum()), int((~kept).sum())


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
