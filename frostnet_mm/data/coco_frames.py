"""The frame that boxes were made in: sizes of images as the files have them, and what the four numbers of a box are."""

import math
import os.path as osp
from typing import NamedTuple

import numpy as np

from .coco_checks import OVERRUN_TOLERANCE, SCALED, overrunning_boxes, size_fault
from .download_checks import image_size
from .errors import BadImageError

#: Number of images whose headers are read before those of all are.
PROBED = 20
#: Distinct boxes from which a convention can be told, and those that have to overrun their image as they stand.
MIN_BOXES, MIN_OVERRUNNING = 20, 10
#: Number of boxes that rule out another convention before all are looked at.
PROBED_BOXES = 2000


def is_stated(image: dict) -> bool:
    """Whether an image of a json has a width and a height; absent, null, NaN and 0 state none."""
    return all(image.get(side) and image[side] == image[side] for side in ('width', 'height'))


def _extent(boxes: list) -> tuple[int, int]:
    """(height, width) that holds some boxes."""
    right, bottom = (
        np.nan_to_num(np.array(boxes or [[0, 0, 1, 1]], dtype=float), posinf=1, neginf=1).reshape(-1, 4).T[2:]
    )
    return max(1, math.ceil(bottom.max())), max(1, math.ceil(right.max()))


def fill_sizes(data: dict, img_dir: str, path: str, oriented: bool = True) -> list[str]:
    """Read the sizes that a json does not state from the headers of the images, in place.

    An image that cannot be read gets the extent of its boxes; reading it whole says what is wrong with it.

    Args:
        data (dict): Parsed annotation file, its images found.
        img_dir (str): Image folder.
        path (str): Annotation file, for messages.
        oriented (bool): With EXIF orientation. Default: True.

    Returns:
        list[str]: What was done.
    """
    unstated = {image['id']: image for image in data['images'] if not is_stated(image)}
    if not unstated:
        return []
    boxes: dict = {image_id: [] for image_id in unstated}
    for entry in data['annotations']:
        if entry['image_id'] in boxes:
            x, y, width, height = entry['bbox']
            boxes[entry['image_id']].append((x, y, x + width, y + height))
    for image_id, image in unstated.items():
        size = _header(image, img_dir, oriented) or _extent(boxes[image_id])
        image['height'], image['width'] = size
    return [
        f"'{path}': {len(unstated)} of {len(data['images'])} images state no width and height: read from the files."
    ]


def _header(image: dict, img_dir: str, oriented: bool) -> tuple[int, int] | None:
    try:
        return image_size(osp.join(img_dir, image['file_name']), fast=True, oriented=oriented)
    except BadImageError:
        return None


def swap_sizes(data: dict, img_dir: str, path: str, oriented: bool = True) -> list[str]:
    """Exchange width and height where the json has them the wrong way round, in place.

    That is proven for an image whose boxes overrun the stated size and fit the file, which has the two exchanged. If it
    is so for most of those whose boxes overrun, the others of the file are exchanged as well, unless their EXIF
    orientation explains the difference.

    Args:
        data (dict): Parsed annotation file with sizes, its images found.
        img_dir (str): Image folder.
        path (str): Annotation file, for messages.
        oriented (bool): With EXIF orientation. Default: True.

    Returns:
        list[str]: What was done.
    """
    over = overrunning_boxes(data)
    by_id = {image['id']: image for image in data['images']}
    probed = list(over)[:PROBED]
    proven = [image_id for image_id in probed if _is_swapped(by_id[image_id], over[image_id], img_dir, oriented)]
    if not proven:
        return []
    count = 0
    for image in data['images'] if 2 * len(proven) > len(probed) else [by_id[image_id] for image_id in over]:
        boxes = over.get(image['id'])
        if boxes is None and _header(image, img_dir, True) != _header(image, img_dir, False):
            continue  # turned by EXIF
        if _is_swapped(image, boxes, img_dir, oriented):
            image['width'], image['height'] = image['height'], image['width']
            count += 1
    return [
        f"'{path}': width and height of {count} of {len(data['images'])} images are exchanged, as their files and "
        'boxes show: those of the files are taken.'
    ]


def _is_swapped(image: dict, boxes: np.ndarray | None, img_dir: str, oriented: bool) -> bool:
    found = _header(image, img_dir, oriented)
    if found is None or found[0] == found[1] or found != (int(image['width']), int(image['height'])):
        return False
    return boxes is None or bool((boxes[:, 2:] <= np.add(found[::-1], OVERRUN_TOLERANCE)).all())


class Convention(NamedTuple):
    """Boxes that are not [x, y, width, height].

    Args:
        name (str): 'corners' or 'centres'.
        text (str): What they are.
        evidence (str): What shows it.
    """

    name: str
    text: str
    evidence: str


def box_convention(data: dict) -> Convention | None:
    """Tell boxes of another convention than COCO's, where the numbers leave no doubt.

    Two corners: third and fourth number exceed the first and second in every box, all corners lie within the image, and
    either the areas are those between the corners, or at least half of the boxes overrun as they stand. Centres: every
    box lies within its image as a centre, which no box at its left or upper border would do as it stands, and at least
    one in twenty overruns on the right or below.

    Args:
        data (dict): Parsed annotation file with sizes.

    Returns:
        Convention or None: None for COCO's, and where there is doubt.
    """
    sizes = {image['id']: (image['width'], image['height']) for image in data['images']}
    if _are_usual(data['annotations'][:PROBED_BOXES]):
        return None
    rows = [
        (*entry['bbox'], *sizes[entry['image_id']], entry['area'])
        for entry in data['annotations']
        if entry['bbox'][2] >= 1
    ]
    table = np.array(rows, dtype=float).reshape(-1, 7)
    table = table[np.isfinite(table).all(axis=1) & (table[:, 2:4] >= 1).all(axis=1)]
    starts, seconds, limits, areas = table[:, :2], table[:, 2:4], table[:, 4:6], table[:, 6]
    over = (starts + seconds > limits + OVERRUN_TOLERANCE).any(axis=1)
    if len(np.unique(table[:, :4], axis=0)) < MIN_BOXES:
        return None
    total = len(table)
    if (seconds > starts).all() and (seconds <= limits + OVERRUN_TOLERANCE).all() and (starts >= 0).all():
        between, stated = (seconds - starts).prod(axis=1), seconds.prod(axis=1)
        if _share(areas, between) > 0.9 and _share(areas, stated) < 0.1:
            return Convention('corners', 'two corners', f'the areas of {total} boxes are those between them')
        if over.sum() >= max(MIN_OVERRUNNING, total / 2):
            return Convention(
                'corners', 'two corners', f'as they stand {over.sum()} of {total} overrun their image, as corners none'
            )
    as_centres = np.hstack([starts - seconds / 2, limits - starts - seconds / 2])
    if (as_centres >= -OVERRUN_TOLERANCE).all() and over.sum() >= max(MIN_OVERRUNNING, total / 20):
        return Convention(
            'centres',
            'the centre, width and height',
            f'as they stand {over.sum()} of {total} overrun their image, as centres none',
        )
    return None


def _are_usual(annotations: list[dict]) -> bool:
    """Whether some boxes are neither all possible corners nor all possible centres, which spares a look at the rest."""
    boxes = [(x, y, a, b) for x, y, a, b in (entry['bbox'] for entry in annotations) if a >= 1 and b >= 1]
    corners = all(not (a <= x or b <= y) for x, y, a, b in boxes)
    slack = OVERRUN_TOLERANCE
    centres = all(not (x < a / 2 - slack or y < b / 2 - slack) for x, y, a, b in boxes)
    return not corners and not centres


def _share(areas: np.ndarray, expected: np.ndarray) -> float:
    return float(np.isclose(areas, expected, rtol=0.01, atol=1).mean())


def convert_boxes(data: dict, convention: str) -> None:
    """Write boxes of another convention as [x, y, width, height], in place.

    Args:
        data (dict): Parsed annotation file.
        convention (str): 'corners' or 'centres'.
    """
    for entry in data['annotations']:
        x, y, a, b = entry['bbox']
        entry['bbox'] = [x, y, a - x, b - y] if convention == 'corners' else [x - a / 2, y - b / 2, a, b]


def scale_boxes(data: dict, sizes: dict) -> set:
    """Scale boxes, areas and stated sizes to files that are scaled versions of the images which a json describes.

    It is done where the json's size holds the boxes, and if some of them lie beyond their file, which shows that they
    were made for the json's size.

    Args:
        data (dict): Parsed annotation file with sizes; it is changed.
        sizes (dict): (height, width) of the files by image id; None of those that cannot be read.

    Returns:
        set: Ids of the images that were scaled.
    """
    factors = {}
    for image in data['images']:
        stated, found = (image['height'], image['width']), sizes.get(image['id'])
        if found and found != stated and size_fault(np.array([[0, 0, 0, 0]]), stated, found) == SCALED:
            factors[image['id']] = np.divide(found, stated)[::-1]
    entries = [entry for entry in data['annotations'] if entry['image_id'] in factors]
    limits = {image['id']: np.array((image['width'], image['height'])) for image in data['images']}
    ends = [(entry['image_id'], np.add(entry['bbox'][:2], entry['bbox'][2:])) for entry in entries]
    beyond = any((end > limits[key] * factors[key] + OVERRUN_TOLERANCE).any() for key, end in ends)
    masks = any(entry.get('segmentation') for entry in entries)
    if not beyond or masks or any((end > limits[key] + OVERRUN_TOLERANCE).any() for key, end in ends):
        return set()
    for entry in entries:
        x_factor, y_factor = map(float, factors[entry['image_id']])
        x, y, width, height = entry['bbox']
        entry['bbox'] = [x * x_factor, y * y_factor, width * x_factor, height * y_factor]
        entry['area'] *= x_factor * y_factor
    for image in data['images']:
        if image['id'] in factors:
            image['height'], image['width'] = sizes[image['id']]
    return set(factors)
