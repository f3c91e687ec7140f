"""The values of ``deploy.json`` that are computed with: a file from elsewhere may hold anything."""

import math
from collections.abc import Callable
from typing import Any

from .errors import DeploymentError
from .resizing import EDGES, METHODS, MOST_PIXELS, method_of

_MOST = 1 << 31
Check = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that float32 holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -3e38 < value < 3e38


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number from ``least`` on."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < _MOST


def is_text(value: Any) -> bool:
    """Whether a value is text that can be written anywhere."""
    return isinstance(value, str) and not any('\ud800' <= letter <= '\udfff' for letter in value)


def _list(check: Check, length: int | None = None, least: int = 0) -> Check:
    def holds(value: Any) -> bool:
        fits = isinstance(value, list) and len(value) >= least and length in (None, len(value))
        return fits and all(map(check, value))

    return holds


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*known: str) -> Check:
    return lambda value: isinstance(value, str) and value in known


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _has_size(value: Any) -> bool:
    """A dict with a width and a height."""
    return isinstance(value, dict) and all(is_whole(value.get(side)) for side in ('width', 'height'))


def _is_resize(value: Any) -> bool:
    if not _has_size(value) or not _is_flag(value.get('keep_ratio')) or value['width'] * value['height'] > MOST_PIXELS:
        return False
    backend, method = method_of(value)
    return (
        _one_of(*METHODS)(backend)
        and _one_of(*METHODS[backend])(method)
        and _one_of(*EDGES)(value.get('edge', 'short'))
        and ('middle' not in value or (_is_positive(value['middle']) and value['middle'] <= 1))
    )


def _is_pad(value: Any) -> bool:
    if not _has_size(value) or value['width'] * value['height'] > MOST_PIXELS:
        return False
    pixel = value.get('value')
    return _list(_is_byte)(pixel) or _is_byte(pixel)


def _is_byte(value: Any) -> bool:
    return is_whole(value, 0) and value <= 255


def _is_shape(value: Any) -> bool:
    """Of images; None for what is open."""
    return _list(_optional(is_whole), 4)(value) and math.prod(size or 1 for size in value) <= 4 * MOST_PIXELS


def _is_coder(value: Any) -> bool:
    kind = value.get('type') if isinstance(value, dict) else None
    if kind != 'delta_xywh':
        return kind in ('distance', 'yolox')
    return (
        all(_list(is_number, 4)(value.get(key)) for key in ('means', 'stds'))
        and _is_positive(value.get('wh_ratio_clip'))
        and _optional(is_number)(value.get('ctr_clamp', ''))
    )


def _is_level(value: Any) -> bool:
    if not isinstance(value, dict) or not _list(_is_positive, 2)(value.get('stride')):
        return False
    return _list(_list(is_number, 4), least=1)(value['base_anchors']) if 'base_anchors' in value else True


def _is_numerics(value: Any) -> bool:
    """What is said of the INT8 arithmetic, as far as it is read."""
    if not isinstance(value, dict) or not (is_whole(bits := value.get('weight_bits', 8), 2) and bits <= 8):
        return value is None
    overrides = value.get('overrides') or []
    return isinstance(overrides, list) and all(
        isinstance(pair, list) and len(pair) == 2 and (pair[1] == 'float' or is_whole(pair[1])) for pair in overrides
    )


_text = (is_text, 'text')
_texts = (_list(is_text), 'a list of texts')
_flag = (_is_flag, 'true or false')
_number = (is_number, 'a finite number')
#: By the keys that lead to a value: what it must be, and that in words. What is not there is not looked at here.
VALUES: dict[tuple[str, ...], tuple[Check, str]] = {
    ('network',): _text,
    ('engine',): _text,
    ('geometry_input',): _text,
    ('classes',): _texts,
    ('palette',): (_list(_list(_is_byte, 3)), 'a list of colours of three numbers from 0 to 255'),
    ('requires',): (lambda value: isinstance(value, dict) and all(map(is_text, value.values())), 'versions by engine'),
    ('precision',): _text,
    ('numerics',): (_is_numerics, 'null, or weight_bits from 2 to 8 and overrides'),
    ('input', 'name'): _text,
    ('input', 'shape'): (_is_shape, 'four sizes, of at most 67 million pixels, or null for what is open'),
    ('input', 'dtype'): (_one_of('float32', 'uint8'), 'float32 or uint8'),
    ('preprocessing', 'resize'): (
        _optional(_is_resize),
        'null, or width, height (67 million pixels) and keep_ratio, with a known edge, backend, interpolation, and '
        'middle up to 1',
    ),
    ('preprocessing', 'crop'): (_has_size, 'width and height, whole numbers from 1'),
    ('preprocessing', 'pad'): (_optional(_is_pad), 'null, or width, height (67 million pixels) and value'),
    ('preprocessing', 'size_divisor'): (lambda value: is_whole(value) and value <= 1024, 'a whole number from 1'),
    ('preprocessing', 'bgr_to_rgb'): _flag,
    ('preprocessing', 'baked'): _flag,
    ('preprocessing', 'ignore_orientation'): _flag,
    ('preprocessing', 'pad_value'): _number,
    ('preprocessing', 'mean'): (_list(is_number, least=1), 'a number a channel'),
    ('preprocessing', 'std'): (_list(_is_positive, least=1), 'a number above 0 a channel'),
    ('decoding', 'levels'): (_list(_is_level, least=1), 'levels with stride, and base_anchors or offset'),
    ('decoding', 'coder'): (_is_coder, 'delta_xywh with its numbers, distance or yolox'),
    ('decoding', 'scores'): (_one_of('sigmoid', 'softmax'), 'sigmoid or softmax'),
    ('decoding', 'num_classes'): (is_whole, 'a whole number from 1'),
    ('decoding', 'score_threshold'): _number,
    ('decoding', 'iou_threshold'): _number,
    ('decoding', 'min_size'): _number,
    ('decoding', 'threshold'): _number,
    ('decoding', 'nms_pre'): (lambda value: is_whole(value, -_MOST), 'a whole number'),
    ('decoding', 'max_per_image'): (_optional(lambda value: is_whole(value, -1)), 'null or a whole number from -1'),
    ('decoding', 'class_agnostic'): _flag,
    ('decoding', 'clip'): _flag,
    ('decoding', 'align_corners'): _flag,
    ('decoding', 'output'): _text,
}


def check_values(description: dict, where: str, then: str) -> None:
    """Refuse values that cannot be computed with.

    Args:
        description (dict): Content of deploy.json, which has all keys that are needed.
        where (str): The file, for messages.
        then (str): What mends it, for messages.

    Raises:
        DeploymentError: One is of another type or out of its domain; or two of them contradict each other.
    """
    for keys, (check, expected) in VALUES.items():
        value: Any = description
        for key in keys:
            value = value.get(key, _absent) if isinstance(value, dict) else _absent
        if value is not _absent and not check(value):
            raise DeploymentError(f'{where}: {".".join(keys)} is {shown(value)}, expected {expected}. {then}')
    problem = _contradiction(description)
    if problem:
        raise DeploymentError(f'{where}: {problem}. {then}')


_absent = object()


def shown(value: Any) -> str:
    """A value for a message, which may be of any length."""
    text = repr(value)
    return text if len(text) < 200 else f'{text[:200]}...'


def _contradiction(description: dict) -> str | None:
    """What does not go together, in words."""
    settings, decoding, shape = description['preprocessing'], description['decoding'], description['input']['shape']
    names = [output['name'] for output in description['outputs']]
    channels = len(settings['mean'])
    pixel = (settings['pad'] or {}).get('value')
    if len(settings['std']) != channels or (settings['bgr_to_rgb'] and channels != 3):
        return f'preprocessing has {channels} means, {len(settings["std"])} deviations and bgr_to_rgb for 3 channels'
    if isinstance(pixel, list) and len(pixel) not in (1, channels):
        return f'preprocessing.pad has a pixel of {len(pixel)} values for {channels} channels'
    if shape[3 if settings['baked'] else 1] not in (None, channels):
        return f'the input has the shape {shape}, preprocessing is of {channels} channels'
    if len(set(names)) < len(names):
        return f'two outputs have one name: {names}'
    if decoding is None or decoding['kind'] == 'boxes':
        return None if decoding is None or set(decoding['outputs']) == {'boxes', 'scores', 'labels'} else 'no boxes'
    if decoding['kind'] == 'logits':
        lacks = decoding['num_classes'] == 1 and 'threshold' not in decoding
        return 'decoding of one class has no threshold' if lacks else _too_few(decoding, description['classes'])
    if decoding['kind'] == 'classes':
        return _too_few(decoding, description['classes'])
    return _of_boxes(decoding) or _too_few(decoding, description['classes'])


def _too_few(decoding: dict, classes: list) -> str | None:
    if decoding['num_classes'] in (1, len(classes)) and classes:
        return None
    return f'decoding.num_classes is {decoding["num_classes"]}, there are {len(classes)} classes'


def _of_boxes(decoding: dict) -> str | None:
    outputs, levels = decoding['outputs'], decoding['levels']
    if any(len(every) != len(levels) for every in outputs.values()) or not {'scores', 'boxes'} <= set(outputs):
        return (
            f'decoding.outputs is {shown(outputs)}, expected scores and boxes, a name for each of {len(levels)} levels'
        )
    wanted = 'base_anchors' if decoding['kind'] == 'anchors' else 'offset'
    if not all(wanted in level and (wanted != 'offset' or is_number(level['offset'])) for level in levels):
        return f'decoding.levels have no {wanted}'
    deltas = decoding['coder']['type'] == 'delta_xywh'
    return None if deltas == (decoding['kind'] == 'anchors') else f'decoding.coder does not go with {decoding["kind"]}'
