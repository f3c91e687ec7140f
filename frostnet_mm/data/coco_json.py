"""Reads COCO annotation files and says in plain words what is wrong with them.

Nothing here needs mmdet or pycocotools: a config can read the classes of a json before a data set exists.
"""

import colorsys
import gc
import json
import math
import os.path as osp
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from .coco_paths import not_found_message, sample
from .errors import DatasetError, DatasetNotFoundError

#: What each section of a COCO json must state for every entry (https://cocodataset.org/#format-data).
REQUIRED_KEYS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
}


def load_coco_json(path: str, shown_as: str | None = None, evaluated: bool = False) -> dict:
    """Parse a COCO annotation file once and check its structure and references.

    Args:
        path (str): Local json file.
        shown_as (str, optional): Name of the file in messages, where ``path`` is a temporary copy. Defaults to
            ``path``.
        evaluated (bool): Whether a metric will read the annotations: then each must state ``iscrowd``, without
            which pycocotools fails after the first evaluation has run. Defaults to False.

    Returns:
        dict: The parsed file.

    Raises:
        DatasetNotFoundError: If the file does not exist.
        DatasetError: If it is not json, not COCO, or refers to images or categories that it does not define.
    """
    shown_as = shown_as or path
    if not osp.isfile(path):
        raise DatasetNotFoundError(not_found_message('annotation file', path, None))
    with open(path, 'rb') as file:
        data = _parse(file.read(), shown_as)
    columns = {}
    for section, keys in REQUIRED_KEYS.items():
        keys += ('iscrowd',) if evaluated and section == 'annotations' else ()
        columns[section] = _columns(data[section], keys, section, shown_as)
        check_unique(columns[section]['id'], f"ids in '{section}'", shown_as)
        if section != 'annotations':  # whose ids nothing sorts
            _check_ids(columns[section]['id'], section, shown_as)
    _check_values(columns, shown_as)
    check_unique(columns['categories']['name'], "names in 'categories'", shown_as)
    _check_references(columns, shown_as)
    return data


def _parse(content: bytes, path: str) -> dict:
    size = f'{len(content):,} bytes'
    again = 'Download or export the file again, and compare its size with the source.'
    if not content.strip():
        raise DatasetError(f"The annotation file '{path}' is empty ({size}), expected COCO json. {again}")
    try:
        data = _loads(content)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"The annotation file '{path}' ({size}) is not text: {error}. It starts with "
            f'{content[:20]!r}. If it is an archive, unpack it. {again}'
        ) from error
    except json.JSONDecodeError as error:
        at_end = not error.doc[error.pos :].strip() or error.msg.startswith('Unterminated string')
        kind = 'is cut off: the json stops' if at_end else 'is not valid json'
        raise DatasetError(
            f"The annotation file '{path}' ({size}) {kind} at line {error.lineno} column {error.colno}: "
            f'{error.msg}. It starts with {content[:20]!r}. {again}'
        ) from error
    expected = "expected COCO's lists 'images', 'annotations' and 'categories'"
    if not isinstance(data, dict):
        raise DatasetError(
            f"The annotation file '{path}' is no COCO annotation file: its top level is a "
            f'{type(data).__name__}, {expected}. A list is what a result file holds: give the '
            'annotations (instances_*.json) as ann_file.'
        )
    absent = [section for section in REQUIRED_KEYS if not isinstance(data.get(section), list)]
    if absent:
        raise DatasetError(
            f"The annotation file '{path}' is no COCO annotation file: {sample(absent)} missing or not "
            f'a list, {expected}; it has the keys {sample(list(data), 8)}. Export the annotations as '
            "COCO detection json (docs/data.md shows the smallest one); for COCO's test files without "
            "annotations use type='mmdet.CocoDataset'."
        )
    empty = [section for section in ('images', 'categories') if not data[section]]
    if empty:
        raise DatasetError(
            f"The annotation file '{path}' lists no {' and no '.join(empty)}: nothing to train on. "
            'Check the export that wrote it.'
        )
    return data


def _loads(content: bytes) -> Any:
    """``json.loads`` without the garbage collector, whose walks over millions of live lists double the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(content)
    finally:
        if was_enabled:
            gc.enable()


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
    advice = {
        'area': "'area' is the object's area in pixels, width * height of the box if it has no mask",
        'iscrowd': "'iscrowd' is 0 for single objects, and pycocotools needs it to evaluate",
    }
    hints = ''.join(f'; {advice[key]}' for key in absent if key in advice)
    return f'lacks {", ".join(repr(key) for key in absent)} of the required {", ".join(keys)}{hints}'


def _reject(
    entries: list[Any], is_bad: Callable[[Any], bool], describe: Callable[[Any], str], section: str, path: str
) -> None:
    """Raise one error that names the first bad entry and the number of bad ones, if there are any."""
    bad = [position for position, entry in enumerate(entries) if is_bad(entry)]
    if bad:
        first = entries[bad[0]]
        shown = repr(first) if len(repr(first)) < 200 else repr(first)[:200] + '...'
        raise DatasetError(
            f"'{path}': {section}[{bad[0]}] {describe(first)}; {len(bad)} of {len(entries)} entries of "
            f"'{section}' are like that. The first is {shown}. Mend the file or the export that wrote "
            'it (docs/data.md shows the smallest valid one).'
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_ids(ids: list, section: str, path: str) -> None:
    """Refuse ids that cannot be sorted, which pycocotools does after the first evaluation has run."""
    as_text = isinstance(ids[0], str)
    _reject(
        ids,
        lambda value: not (isinstance(value, str) if as_text else _is_number(value) and value == value),
        lambda value: f'has id={value!r}, expected {"text, as the first has" if as_text else "a number"}',
        section,
        path,
    )


def _check_values(columns: dict[str, dict[str, list]], path: str) -> None:
    images, annotations = columns['images'], columns['annotations']
    _reject(
        images['file_name'],
        lambda name: not (isinstance(name, str) and name),
        lambda name: f'has file_name={name!r}, expected a path below the image folder',
        'images',
        path,
    )
    _reject(
        list(zip(images['width'], images['height'], strict=True)),
        lambda size: not all(_is_number(side) and 0 < side < math.inf for side in size),
        lambda size: f'has width={size[0]!r}, height={size[1]!r}, expected positive pixel counts',
        'images',
        path,
    )
    _reject(
        columns['categories']['name'],
        lambda name: not isinstance(name, str),
        lambda name: f'has name={name!r}, expected a string',
        'categories',
        path,
    )
    if not _are_boxes(annotations['bbox']):
        _reject(
            annotations['bbox'],
            lambda box: not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))),
            lambda box: f'has bbox={box!r}, expected [x, y, width, height]',
            'annotations',
            path,
        )
    if not _are_numbers(annotations['area']):
        _reject(
            annotations['area'],
            lambda area: not _is_number(area),
            lambda area: f'has area={area!r}, expected a number',
            'annotations',
            path,
        )


def _are_numbers(values: Iterable) -> bool:
    return set(map(type, values)) <= {int, float}  # json has no other numbers; no python loop over 3.4M coordinates


def _are_boxes(values: list) -> bool:
    return (
        set(map(type, values)) <= {list} and set(map(len, values)) <= {4} and _are_numbers(chain.from_iterable(values))
    )


def check_unique(values: list, what: str, path: str) -> None:
    """Check that no value occurs twice.

    Args:
        values (list): Ids or names.
        what (str): What they are, for the message.
        path (str): Annotation file, for the message.

    Raises:
        DatasetError: If a value is repeated, or can be no id because it is a list or an object.
    """
    try:
        if len(set(values)) == len(values):
            return
    except TypeError:
        unhashable = [value for value in values if isinstance(value, (list, dict))]
        raise DatasetError(
            f"'{path}': {len(unhashable)} {what} are lists or objects, expected numbers; the first is "
            f'{unhashable[0]!r}.'
        ) from None
    seen: set = set()
    repeated = list(dict.fromkeys(value for value in values if value in seen or seen.add(value)))
    raise DatasetError(
        f"'{path}': duplicate {what}, expected each once: {sample(repeated)} ({len(repeated)} distinct, "
        f'{len(values) - len(seen)} entries too many). Files that were joined need new ids: number them '
        'afresh.'
    )


def _check_references(columns: dict[str, dict[str, list]], path: str) -> None:
    annotations = columns['annotations']
    for key, section in (('category_id', 'categories'), ('image_id', 'images')):
        _reject(
            annotations[key],
            lambda value: isinstance(value, (list, dict)),
            lambda value, key=key: f'has {key}={value!r}, expected an id',
            'annotations',
            path,
        )
        defined = set(columns[section]['id'])
        unknown = set(annotations[key]) - defined
        if not unknown:
            continue
        hits = [i for i, value in zip(annotations['id'], annotations[key], strict=True) if value in unknown]
        as_text = {str(value) for value in defined}
        other_type = any(str(value) in as_text for value in unknown)
        hint = ' (the same ids exist with another type: text and numbers differ in json)' if other_type else ''
        raise DatasetError(
            f"'{path}': {len(hits)} of {len(annotations['id'])} annotations name a {key} that '{section}' does not "
            f'define: {sample(sorted(unknown, key=str))}{hint} (annotation ids {sample(hits)}); defined are '
            f"{sample(columns[section]['id'], 5)}. Add the entries to '{section}' or take these annotations out."
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
    return tuple(category['name'] for category in load_coco_json(ann_file)['categories'])


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
