"""Reads COCO annotation files and says in plain words what is wrong with them.

Nothing here needs mmdet or pycocotools: a config can read the classes of a json before a data set exists.
"""

import colorsys
import math
import os.path as osp
from array import array
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from .coco_categories import settle_categories
from .coco_entries import complete_annotations, drop_boxless, is_number, merge_images, number_annotations
from .coco_flags import settle_flags
from .coco_paths import cut_off, not_found_message, sample
from .coco_text import no_collection, parse_coco
from .errors import DatasetError, DatasetNotFoundError

#: What every entry of a COCO json must state (https://cocodataset.org/#format-data); the rest can be filled in.
REQUIRED_KEYS = {
    'images': ('id', 'file_name'),
    'categories': ('id', 'name'),
    'annotations': ('image_id', 'category_id', 'bbox'),
}


def load_coco_json(path: str, shown_as: str | None = None) -> tuple[dict, list[str]]:
    """Parse a COCO annotation file, complete and merge what exporters leave out or repeat, and check the rest.

    The data set, the metric, the configs that read classes and ``prepare_coco`` all read it here.

    Args:
        path (str): Local json file.
        shown_as (str, optional): Name of the file in messages, where ``path`` is a temporary copy. Defaults to
            ``path``.

    Returns:
        tuple[dict, list[str]]: The annotations, and what was changed in them, one message a kind. Images may lack width
        and height, which :func:`require_sizes` checks.

    Raises:
        DatasetNotFoundError: If the file does not exist.
        DatasetError: If it is not json, not COCO, or refers to images or categories that it does not define.
    """
    shown_as = shown_as or path
    if not osp.isfile(path):
        raise DatasetNotFoundError(not_found_message('annotation file', path, None))
    with no_collection():
        return _load(path, shown_as)


def _load(path: str, shown_as: str) -> tuple[dict, list[str]]:
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:  # no right to read it, a damaged disk
        raise DatasetError(
            f'The annotation file {shown_as!r} cannot be read: {error.strerror or error}. Expected a COCO json that '
            'this user may read.'
        ) from error
    data = parse_coco(content, shown_as)
    _check_images_and_categories(data, shown_as)
    changes = drop_boxless(data, shown_as)
    columns = _columns(data['annotations'], REQUIRED_KEYS['annotations'], 'annotations', shown_as)
    changes += number_annotations(data, shown_as)
    _check_annotations(columns, shown_as)
    changes += [*merge_images(data, shown_as), *settle_categories(data, shown_as)]
    _check_references(data, shown_as)
    changes += [*complete_annotations(data, shown_as), *settle_flags(data, shown_as)]
    _check_areas([annotation['area'] for annotation in data['annotations']], shown_as)
    return data, changes


def require_sizes(data: dict, path: str) -> None:
    """Check that every image of parsed annotations has a size.

    Args:
        data (dict): Parsed annotation file.
        path (str): Annotation file, for messages.

    Raises:
        DatasetError: If width or height of an image is absent, or no positive number.
    """
    images = data['images']
    _columns(images, ('id', 'file_name', 'width', 'height'), 'images', path)
    _reject(
        [(image['width'], image['height']) for image in images],
        lambda size: not all(is_number(side) and 0 < side < math.inf for side in size),
        lambda size: f'has width={size[0]!r}, height={size[1]!r}, expected positive pixel counts',
        'images',
        path,
    )


def _columns(entries: list[dict], keys: tuple[str, ...], section: str, path: str) -> dict[str, list]:
    try:
        return {key: [entry[key] for entry in entries] for key in keys}
    except (KeyError, TypeError):
        _reject(
            entries,
            lambda entry: not isinstance(entry, dict) or any(key not in entry for key in keys),
            lambda entry: _what_is_absent(entry, keys),
            section,
            path,
        )
        raise  # an entry that behaves as neither a dict nor anything else json can hold


def _what_is_absent(entry: Any, keys: tuple[str, ...]) -> str:
    if not isinstance(entry, dict):
        return f'is a {type(entry).__name__}, expected an object with {", ".join(keys)}'
    absent = [key for key in keys if key not in entry]
    return f'lacks {", ".join(repr(key) for key in absent)} of the required {", ".join(keys)}'


def _reject(
    entries: list[Any], is_bad: Callable[[Any], bool], describe: Callable[[Any], str], section: str, path: str
) -> None:
    """Raise one error that names the first bad entry and the number of bad ones, if there are any."""
    bad = [position for position, entry in enumerate(entries) if is_bad(entry)]
    if bad:
        first = entries[bad[0]]
        raise DatasetError(
            f"'{path}': {section}[{bad[0]}] {cut_off(describe(first), 200)}; {len(bad)} of {len(entries)} entries of "
            f"'{section}' are like that. The first is {cut_off(repr(first), 200)}. Mend the file or the export that "
            'wrote it (docs/data.md shows the smallest valid one).'
        )


def _check_ids(ids: list, section: str, path: str) -> None:
    """Refuse ids that cannot be sorted, which pycocotools does after the first evaluation has run."""
    as_text = isinstance(ids[0], str)
    _reject(
        ids,
        lambda value: not (isinstance(value, str) if as_text else is_number(value) and value == value),
        lambda value: f'has id={value!r}, expected {"text, as the first has" if as_text else "a number"}',
        section,
        path,
    )


def _check_images_and_categories(data: dict, path: str) -> None:
    columns = {
        section: _columns(data[section], REQUIRED_KEYS[section], section, path) for section in ('images', 'categories')
    }
    for section, values in columns.items():
        _require_hashable(values['id'], f"ids in '{section}'", path)
        _check_ids(values['id'], section, path)
    _reject(
        columns['images']['file_name'],
        lambda name: not (isinstance(name, str) and name),
        lambda name: f'has file_name={name!r}, expected a path below the image folder',
        'images',
        path,
    )
    _reject(
        [(image.get('width'), image.get('height')) for image in data['images']],
        lambda size: any(side and not (is_number(side) and (side > 0 or side != side)) for side in size),
        lambda size: f'has width={size[0]!r}, height={size[1]!r}, expected positive pixel counts',
        'images',
        path,
    )
    _reject(
        columns['categories']['name'],
        lambda name: not (isinstance(name, str) and name.strip()),
        lambda name: f'has name={name!r}, expected a string',
        'categories',
        path,
    )


def _check_annotations(columns: dict[str, list], path: str) -> None:
    if not _are_boxes(columns['bbox']):
        _reject(
            columns['bbox'],
            lambda box: not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))),
            lambda box: f'has bbox={box!r}, expected [x, y, width, height]',
            'annotations',
            path,
        )
    for key in ('category_id', 'image_id'):
        _reject(
            columns[key],
            lambda value: isinstance(value, (list, dict)),
            lambda value, key=key: f'has {key}={value!r}, expected an id',
            'annotations',
            path,
        )


def _check_areas(areas: list, path: str) -> None:
    if not _are_numbers(areas):
        _reject(
            areas,
            lambda area: not is_number(area),
            lambda area: f'has area={area!r}, expected a number',
            'annotations',
            path,
        )


def _are_numbers(values: Iterable) -> bool:
    values = list(values)
    if not set(map(type, values)) <= {int, float}:  # json has no other numbers; no python loop over 3.4M coordinates
        return False
    try:
        array('d', values)
    except OverflowError:  # a whole number beyond all floats
        return False
    return True


def _are_boxes(values: list) -> bool:
    return (
        set(map(type, values)) <= {list} and set(map(len, values)) <= {4} and _are_numbers(chain.from_iterable(values))
    )


def _require_hashable(values: list, what: str, path: str) -> None:
    unhashable = [value for value in values if isinstance(value, (list, dict))]
    if unhashable:
        raise DatasetError(
            f"'{path}': {len(unhashable)} {what} are lists or objects, expected numbers; the first is "
            f'{unhashable[0]!r}.'
        )


def _check_references(data: dict, path: str) -> None:
    annotations = data['annotations']
    for key, section in (('category_id', 'categories'), ('image_id', 'images')):
        ids = [entry['id'] for entry in data[section]]
        defined = set(ids)
        unknown = {annotation[key] for annotation in annotations} - defined
        if not unknown:
            continue
        hits = [annotation['id'] for annotation in annotations if annotation[key] in unknown]
        as_text = {str(value) for value in defined}
        other_type = any(str(value) in as_text for value in unknown)
        hint = ' (the same ids exist with another type: text and numbers differ in json)' if other_type else ''
        raise DatasetError(
            f"'{path}': {len(hits)} of {len(annotations)} annotations name a {key} that '{section}' does not "
            f'define: {sample(sorted(unknown, key=str))}{hint} (annotation ids {sample(hits)}); defined are '
            f"{sample(ids, 5)}. Add the entries to '{section}' or take these annotations out."
        )


def read_coco_classes(ann_file: str) -> tuple[str, ...]:
    """Read the class names of a COCO json in the order in which mmdet numbers the labels.

    That is the order of the file's list ``categories`` (pycocotools' ``getCatIds`` keeps it), which need not be the
    order of the ids.

    Args:
        ann_file (str): Local COCO annotation file.

    Returns:
        tuple[str]: Class names, label 0 first.

    Raises:
        DatasetNotFoundError: If the file does not exist.
        DatasetError: If it is not a sound COCO annotation file.
    """
    return tuple(category['name'] for category in load_coco_json(ann_file)[0]['categories'])


def palette_for(num_classes: int) -> list[tuple[int, int, int]]:
    """Make distinct, reproducible RGB colours: hues by the golden ratio, so that neighbours differ most.

    Args:
        num_classes (int): Number of colours, at least 0.

    Returns:
        list[tuple[int]]: RGB values of 0 to 255, one colour a class; the first colours do not depend on the number.
    """
    colours: dict[tuple[int, int, int], None] = {}
    step = 0
    while len(colours) < num_classes:
        value = (0.95, 0.75, 0.55)[step % 3]
        rgb = colorsys.hsv_to_rgb(step * 0.618033988749895 % 1, 0.85, value)
        colours[tuple(round(255 * channel) for channel in rgb)] = None
        step += 1
    return list(colours)
