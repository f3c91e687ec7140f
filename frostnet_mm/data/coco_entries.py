"""What exporters leave out of the images and annotations of a COCO json, or write twice: completed and merged."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .coco_lookup import file_key
from .coco_paths import sample
from .errors import DatasetError

#: Areas that a mask cannot have: above the box's own by this factor and number of pixels, from rounding.
AREA_FACTOR, AREA_SLACK = 2, 16
#: A file whose areas are all at most 1 while its boxes have at least this many pixels states fractions of the image.
MIN_BOX_AREA = 16
_LARGEST = int(sys.float_info.max)
FRACTIONS = 'is a fraction of the image, 0 to 1'


def is_number(value: Any) -> bool:
    """Whether a value of a json is a number that a float holds, true and false apart."""
    whole = isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
    return whole or isinstance(value, float)


def drop_boxless(data: dict, path: str) -> list[str]:
    """Take annotations without a box out, captions and key points; a polygon gives the box that is missing, in place.

    Args:
        data (dict): Parsed annotation file.
        path (str): Annotation file, for messages.

    Returns:
        list[str]: What was done, one message a kind.
    """
    boxless = [entry for entry in data['annotations'] if isinstance(entry, dict) and not entry.get('bbox', None)]
    if not boxless:
        return []
    for entry in boxless:
        corners = _polygon_corners(entry.get('segmentation'))
        if corners is not None:
            left, top, right, bottom = corners
            entry['bbox'] = [left, top, right - left, bottom - top]
    made = sum(bool(entry.get('bbox')) for entry in boxless)
    kept = [entry for entry in data['annotations'] if not isinstance(entry, dict) or entry.get('bbox')]
    dropped, total = len(data['annotations']) - len(kept), len(data['annotations'])
    data['annotations'] = kept
    messages = []
    if made:
        messages.append(f"'{path}': {made} of {total} annotations have no box: it is made of their polygons.")
    if dropped:
        captions = sum('caption' in entry for entry in boxless if not entry.get('bbox'))
        what = f' ({captions} of them are captions)' if captions else ''
        messages.append(f"'{path}': {dropped} of {total} annotations have no box{what}: left out.")
    return messages


def _polygon_corners(segmentation: Any) -> tuple | None:
    """x1, y1, x2, y2 of polygons; None for what is none."""
    if not isinstance(segmentation, list):
        return None
    polygons = [segmentation] if segmentation and is_number(segmentation[0]) else segmentation
    numbers = [value for polygon in polygons if isinstance(polygon, list) for value in polygon]
    if len(numbers) < 6 or not all(is_number(value) and math.isfinite(value) for value in numbers):
        return None
    xs, ys = numbers[::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def number_annotations(data: dict, path: str) -> list[str]:
    """Give annotations new ids, from 1 in the file's order, if some have none or share one, in place.

    Nothing refers to the ids of annotations.

    Args:
        data (dict): Parsed annotation file.
        path (str): Annotation file, for messages.

    Returns:
        list[str]: What was done.
    """
    annotations = data['annotations']
    ids = [entry.get('id') for entry in annotations]
    absent = sum(value is None or value != value for value in ids)
    foreign = sum(isinstance(value, (list, dict)) for value in ids)
    repeated = len(ids) - len(set(ids)) if not absent and not foreign else 0
    if not absent and not foreign and not repeated:
        return []
    for number, entry in enumerate(annotations, start=1):
        entry['id'] = number
    what = f'{absent + foreign} of {len(ids)} annotations have no id' if absent or foreign else (
        f'{repeated} of {len(ids)} annotations repeat the id of another'
    )  # fmt: skip
    return [f"'{path}': {what}: all are numbered from 1, in the file's order."]


def complete_annotations(data: dict, path: str) -> list[str]:
    """Fill in ``iscrowd`` (0) and ``area``, and correct areas that cannot be true, in place.

    The area of an object without a mask is its box's. An area that is absent, not positive, a fraction of the image, or
    far larger than the box is replaced by that.

    Args:
        data (dict): Parsed annotation file, its boxes four numbers each.
        path (str): Annotation file, for messages.

    Returns:
        list[str]: What was done, one message a kind.
    """
    annotations = data['annotations']
    total, messages = len(annotations), []
    bare = [entry for entry in annotations if 'iscrowd' not in entry]
    for entry in bare:
        entry['iscrowd'] = 0
    if bare:
        messages.append(f"'{path}': {len(bare)} of {total} annotations lack iscrowd: taken as 0.")
    for what, wrong in _wrong_areas(annotations).items():
        for entry in wrong:
            entry['area'] = _box_area(entry)
        if wrong:
            messages.append(
                f"'{path}': the area of {len(wrong)} of {total} annotations {what}: width * height of the box is taken "
                '(mAP_s, mAP_m and mAP_l sort objects by it).'
            )
    return messages


def _box_area(entry: dict) -> float:
    """Width times height of a box; 0 of one below a pixel, which nothing uses."""
    width, height = entry['bbox'][2:]
    return width * height if 1 <= width < math.inf and 1 <= height < math.inf else 0


def _wrong_areas(annotations: Sequence[dict]) -> dict[str, list[dict]]:
    wrong: dict[str, list[dict]] = {'is absent': [], 'is 0 or less': [], FRACTIONS: [], 'is far more than its box': []}
    areas = np.fromiter((_number(entry.get('area')) for entry in annotations), np.float64)
    sides = np.fromiter((side for entry in annotations for side in entry['bbox'][2:]), np.float64).reshape(-1, 2)
    with np.errstate(invalid='ignore', over='ignore'):
        boxes = np.where((sides >= 1).all(axis=1) & np.isfinite(sides).all(axis=1), sides.prod(axis=1), 0)
        limits = AREA_FACTOR * boxes + AREA_SLACK
        positive = areas[(areas > 0) & (boxes > 0)]
        usual = np.median(boxes[boxes > 0]) if (boxes > 0).any() else 0
        fractions = len(positive) > 0 and positive.max() <= 1 and usual >= MIN_BOX_AREA
        suspects = np.flatnonzero(~((areas > 0) & (areas <= limits)) | (fractions & (areas > 0)))
    for index in suspects:
        entry, area = annotations[index], annotations[index].get('area')
        if area is None or area != area:
            wrong['is absent'].append(entry)
        elif not is_number(area) or not boxes[index]:
            continue
        elif fractions and area > 0:
            wrong[FRACTIONS].append(entry)
        elif not entry.get('segmentation') and all(map(math.isfinite, entry['bbox'])):
            wrong['is 0 or less' if area <= 0 else 'is far more than its box'].append(entry)
    return wrong


def _number(value: Any) -> float:
    return value if is_number(value) else math.nan


def merge_images(data: dict, path: str) -> list[str]:
    """Make one entry of those that stand for one file, with the objects of all, in place.

    Exporters repeat an image, or write one entry for each object: the others' objects would be taught as background.
    Entries of one file that state different sizes stay.

    Args:
        data (dict): Parsed annotation file; ids of images hashable, names text.
        path (str): Annotation file, for messages.

    Returns:
        list[str]: What was done.

    Raises:
        DatasetError: If one id belongs to several files.
    """
    by_id: dict = {}
    for image in data['images']:
        kept = by_id.setdefault(image['id'], image)
        if file_key(kept['file_name']) != file_key(image['file_name']):
            raise DatasetError(
                f"'{path}': duplicate ids in 'images', expected each once: {image['id']!r} is the id of "
                f'{kept["file_name"]!r} and of {image["file_name"]!r}, so that nobody can tell whose objects are '
                'whose. Where files were joined, give the images of one new ids, in its annotations as well.'
            )
    repeated = len(data['images']) - len(by_id)
    data['images'] = list(by_id.values())
    messages = [f"'{path}': {repeated} images are repetitions (same id, same file) and merged."] if repeated else []
    return messages + _merge_files(data, path)


def _merge_files(data: dict, path: str) -> list[str]:
    first: dict = {}
    aliases, others = {}, []
    for image in data['images']:
        kept = first.setdefault(file_key(image['file_name']), image)
        if kept is image:
            continue
        if all(kept.get(side) == image.get(side) for side in ('width', 'height')):
            aliases[image['id']] = kept['id']
        else:
            others.append(image['file_name'])
    messages = []
    if others:
        messages.append(
            f"'{path}': {len(others)} images are listed again with another width or height: {sample(others)}. "
            'They are left as they are.'
        )
    if aliases:
        for annotation in data['annotations']:
            if annotation['image_id'] in aliases:
                annotation['image_id'] = aliases[annotation['image_id']]
        total = len(data['images'])
        data['images'] = [image for image in data['images'] if image['id'] not in aliases]
        messages.append(
            f"'{path}': {len(aliases)} of {total} images are listed again under another id: their objects go to the "
            f'first entry of the file, which leaves {len(data["images"])} images.'
        )
    return messages


def drop_repeated_boxes(data: dict, path: str) -> list[str]:
    """Take boxes out that are listed again: same image, class, place and flags, in place.

    Args:
        data (dict): Parsed annotation file, its flags settled and its unusable boxes taken out.
        path (str): Annotation file, for messages.

    Returns:
        list[str]: What was done.
    """
    annotations = data['annotations']
    keys = [
        (
            entry['image_id'],
            entry['category_id'],
            *entry['bbox'],
            entry.get('iscrowd', 0),
            entry.get('ignore', 0),
        )
        for entry in annotations
    ]
    if len(set(keys)) == len(keys):
        return []
    seen: set = set()
    kept = [entry for entry, key in zip(annotations, keys, strict=True) if not (key in seen or seen.add(key))]
    repeated = len(annotations) - len(kept)
    data['annotations'] = kept
    return [
        f"'{path}': {repeated} of {len(annotations)} boxes are listed again (same image, class and place): left out, "
        'as a prediction can match one of them only.'
    ]
