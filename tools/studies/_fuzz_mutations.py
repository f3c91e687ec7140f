"""Ways to spoil bytes and plain data, by a random generator alone, so that an input can be made again."""

import copy
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Generator = np.random.Generator
_INTEGERS = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PNG = b'\x89PNG\r\n\x1a\n'


def nested(depth: int) -> list:
    """A list in a list, and so on."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


#: What stands in the place of a value; functions make a new one each time.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, float('nan'), float('inf'), float('-inf'),
    2**31, 2**31 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400, '', ' ', 'x', '1', '-1', 'nan', 'true', '\0', 'ä\u202e',
    '\ud800', '../x', '../../etc/passwd', '/etc/passwd', '/dev/zero', 'a/../../b', 'C:\\x', '%s%n', 'a' * 5000,
    '{}', [], {}, [[]], [None], [0], [1, 2, 3, 4], ['a'], {'a': 1}, {'': None}, [float('nan')] * 4, [0.0] * 100,
)  # fmt: skip


def pick(rng: Generator, values: Any) -> Any:
    """One of some values; unlike ``rng.choice`` it leaves their types alone."""
    return values[int(rng.integers(len(values)))]


def chance(rng: Generator, share: float) -> bool:
    """Whether something happens that does in a share of the inputs."""
    return bool(rng.random() < share)


# -- bytes


def _position(rng: Generator, data: bytearray) -> int:
    """A place, half of the time among the first bytes, where headers are."""
    end = min(len(data), 64 if chance(rng, 0.3) else 512) if chance(rng, 0.5) else len(data)
    return int(rng.integers(max(end, 1)))


def _flip(rng: Generator, data: bytearray) -> None:
    data[_position(rng, data)] ^= 1 << int(rng.integers(8))


def _set_byte(rng: Generator, data: bytearray) -> None:
    data[_position(rng, data)] = pick(rng, (0, 1, 0x7F, 0x80, 0xFE, 0xFF, int(rng.integers(256))))


def _set_integer(rng: Generator, data: bytearray) -> None:
    size, order, start = pick(rng, (2, 4, 8)), pick(rng, ('little', 'big')), _position(rng, data)
    data[start : start + size] = (pick(rng, _INTEGERS) % 256**size).to_bytes(size, order)


def _cut(rng: Generator, data: bytearray) -> None:
    start = _position(rng, data)
    del data[start : start + int(2 ** rng.uniform(0, 10))]


def _insert(rng: Generator, data: bytearray) -> None:
    start = _position(rng, data)
    data[start:start] = rng.bytes(int(2 ** rng.uniform(0, 8)))


def _repeat(rng: Generator, data: bytearray) -> None:
    start, length = _position(rng, data), int(2 ** rng.uniform(0, 10))
    data[start:start] = data[start : start + length] * pick(rng, (1, 1, 2, 50))


def _truncate(rng: Generator, data: bytearray) -> None:
    del data[int(rng.integers(len(data) + 1)) :]


def _overwrite(rng: Generator, data: bytearray) -> None:
    start, length = _position(rng, data), int(2 ** rng.uniform(0, 10))
    data[start : start + length] = bytes(length) if chance(rng, 0.3) else rng.bytes(length)


_BYTE_WAYS: tuple[Callable[[Generator, bytearray], None], ...] = (
    _flip, _flip, _set_byte, _set_byte, _set_integer, _set_integer, _cut, _insert, _repeat, _truncate, _overwrite,
)  # fmt: skip


def spoil_bytes(rng: Generator, content: bytes) -> bytes:
    """A file with one to eight changes: bits, bytes, integers, pieces cut, repeated, inserted, overwritten."""
    data = bytearray(content)
    for _ in range(1 + int(rng.geometric(0.5)) % 8):
        if data:
            pick(rng, _BYTE_WAYS)(rng, data)
    return bytes(data)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them, so that decoders go on to read it."""
    if not content.startswith(PNG):
        return content
    data, start = bytearray(content), len(PNG)
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], 'big')
        end = start + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[start + 4 : end]).to_bytes(4, 'big')
        start = end + 4
    return bytes(data)


# -- plain data


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) of plain data."""
    found, waiting = [], [data]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def _shallow(rng: Generator, data: Any) -> tuple[Any, Any] | None:
    """A place by a walk from the top, so that keys of few values are met as often as those of long lists."""
    place, node = None, data
    while isinstance(node, (dict, list)) and node and (place is None or chance(rng, 0.75)):
        key = pick(rng, list(node)) if isinstance(node, dict) else int(rng.integers(len(node)))
        place, node = (node, key), node[key]
    return place


def other_value(rng: Generator, value: Any) -> Any:
    """Something in the place of a value: of another type, near it, out of its domain."""
    way = int(rng.integers(6))
    if way == 0 and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return pick(rng, (-value, value + 1, value - 1, value * 1e6, str(value), float(value), value / 3, [value]))
    if way == 1 and isinstance(value, str):
        return pick(rng, (value + 'x', value[:-1], value.upper(), value * 3, [value], {value: value}, f'../{value}'))
    if way == 2 and isinstance(value, list):
        return pick(rng, (value * 2, value[:-1], value[::-1], dict(enumerate(map(str, value))), [value], tuple(value)))
    if way == 3 and isinstance(value, dict):
        return pick(rng, (list(value), list(value.values()), {}, {key: None for key in value}, [value]))
    return nested(pick(rng, (3, 50))) if chance(rng, 0.02) else copy.deepcopy(pick(rng, VALUES))


def spoil_data(rng: Generator, data: Any, changes: int | None = None) -> Any:
    """A copy of plain data with a few values replaced, left out, repeated, exchanged or under another key.

    Args:
        rng (Generator): Decides.
        data: Of dicts and lists.
        changes (int, optional): How many; by default one to four.
    """
    data = copy.deepcopy(data)
    for _ in range(changes or 1 + int(rng.geometric(0.6)) % 4):
        place = _shallow(rng, data) if chance(rng, 0.7) else pick(rng, places(data) or [None])
        if place is None:
            return other_value(rng, data)
        node, key = place
        way = int(rng.integers(10))
        if way == 0:
            del node[key]
        elif way == 1 and isinstance(node, list):
            node.insert(key, copy.deepcopy(node[key]))
        elif way == 1:
            node[pick(rng, (f'{key}x', str(key).upper(), '', 'id'))] = node.pop(key)
        elif way == 2:
            other, there = pick(rng, places(data))
            node[key], other[there] = copy.deepcopy(other[there]), copy.deepcopy(node[key])
        else:
            node[key] = other_value(rng, node[key])
    return data
