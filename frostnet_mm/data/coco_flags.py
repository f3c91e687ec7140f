"""Which boxes of a COCO json are ignored: its flags ``iscrowd`` and ``ignore``, as people write them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .coco_paths import sample
from .errors import DatasetError

#: Flags of an annotation. COCO has ``iscrowd``; ``ignore`` is mmdet's, and what converters make of VOC's ``difficult``.
FLAGS = ('iscrowd', 'ignore')
IGNORED = 'boxes ignored (iscrowd or ignore is 1)'
_TEXTS = {'0': 0, '0.0': 0, 'false': 0, 'no': 0, '1': 1, '1.0': 1, 'true': 1, 'yes': 1}


def settle_flags(data: dict, path: str) -> list[str]:
    """Turn the flags of parsed annotations into 0 and 1, in place.

    Numbers, true and false of value 0 or 1 stand for themselves. Text of them is understood, and null counts as 0; both
    are worth a message. An annotation without a flag stays without.

    Args:
        data (dict): Parsed annotation file.
        path (str): Annotation file, for messages.

    Returns:
        list[str]: What was understood, with counts, one message a flag; empty for a sound file.

    Raises:
        DatasetError: If a flag has another value. Names the annotation and the value.
    """
    messages = []
    for flag in FLAGS:
        holders = [annotation for annotation in data['annotations'] if flag in annotation]
        values = [annotation[flag] for annotation in holders]
        if set(map(type, values)) <= {int} and set(values) <= {0, 1}:
            continue
        settled = [_as_flag(value) for value in values]
        bad = [i for i, value in enumerate(settled) if value is None]
        if bad:
            raise DatasetError(
                f"'{path}': the annotation {holders[bad[0]]['id']!r} has {flag}={values[bad[0]]!r}, expected 0 (a "
                f'single object) or 1 (ignored); {len(bad)} of {len(values)} annotations are like that. Mend the file '
                'or the export that wrote it.'
            )
        for annotation, value in zip(holders, settled, strict=True):
            annotation[flag] = value
        unusual = Counter(
            (repr(value), number)
            for value, number in zip(values, settled, strict=True)
            if value is None or isinstance(value, str)
        )
        if unusual:
            how = ', '.join(f'{text} as {number} ({count} times)' for (text, number), count in unusual.most_common(4))
            messages.append(
                f"'{path}': {flag} is text or null in {sum(unusual.values())} of {len(data['annotations'])} "
                f'annotations, expected the number 0 or 1: {how} understood.'
            )
    return messages


def _as_flag(value: Any) -> int | None:
    """0 or 1; None for what can be no flag."""
    if value is None:
        return 0
    if isinstance(value, str):
        return _TEXTS.get(value.strip().lower())
    return int(value) if isinstance(value, (int, float)) and value in (0, 1) else None


def is_ignored(annotation: dict) -> bool:
    """Whether an annotation with settled flags is neither learned nor demanded of a prediction."""
    return bool(annotation.get('iscrowd') or annotation.get('ignore'))


def report_ignored(annotations: Iterable[dict], num_boxes: int) -> tuple[int, str]:
    """Count the ignored boxes of annotations with settled flags, and say so.

    Args:
        annotations (Iterable[dict]): Of a parsed file.
        num_boxes (int): Number of boxes that the file has.

    Returns:
        tuple[int, str]: Their number, and a message.
    """
    ids = [annotation['id'] for annotation in annotations if is_ignored(annotation)]
    return len(ids), (
        f'{len(ids)} of {num_boxes} boxes are ignored (iscrowd or ignore is 1): neither learned nor demanded in an '
        f'evaluation (annotation ids {sample(ids)}).'
    )


def check_usable(
    data: dict, path: str, num_boxes: int, found: str, evaluated: bool, classes: Sequence[str] | None = None
) -> None:
    """Check that annotations which were screened hold a box to learn from, or to evaluate against.

    Args:
        data (dict): Parsed annotation file, its flags settled and its unusable boxes taken out.
        path (str): Annotation file, for messages.
        num_boxes (int): Number of boxes that the file has.
        found (str): What was found wrong with them.
        evaluated (bool): Whether a metric reads them.
        classes (Sequence[str], optional): Class names that count. Default: all of the file.

    Raises:
        DatasetError: If there is none: training would have no loss, the metric no value (pycocotools says -1).
    """
    kept = {entry['id'] for entry in data['categories'] if classes is None or entry['name'] in set(classes)}
    if any(entry['category_id'] in kept and not is_ignored(entry) for entry in data['annotations']):
        return
    aim = 'evaluate against: every metric would be -1' if evaluated else 'learn'
    if not num_boxes:
        raise DatasetError(
            f"'{path}' holds no annotations, so that there is nothing to {aim}. Check the export that wrote it; for "
            "images without annotations use type='mmdet.CocoDataset'."
        )
    hints = ['bbox is [x, y, width, height] in pixels of the image, not fractions of it and not two corners.']
    if any(is_ignored(entry) for entry in data['annotations']):
        hints = ['iscrowd and ignore are 0 for every object that counts: set them to 0 in the file.']
    raise DatasetError(
        f"'{path}': none of its {num_boxes} boxes can be used ({found}): there is nothing to {aim}. {hints[0]}"
    )
