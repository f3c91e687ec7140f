"""Orientation of photographs: what a file says of how its stored pixels are to be turned, and the turning.

OpenCV 4.12 obeys the orientation of JPEG and PNG, always that of TIFF, never that of WebP and AVIF; other versions
differ, and so does Pillow. The tags are read here, so that every reader turns alike.
"""

import mmap
import os
import struct
from collections.abc import Iterator

import numpy as np

_TAG = 0x0112
_INVERSE = {6: 8, 8: 6}  # the others undo themselves


def orientation_of(content: bytes | mmap.mmap) -> int:
    """The orientation that a file states: EXIF in JPEG, PNG, WebP and TIFF, ``irot`` and ``imir`` in AVIF.

    Args:
        content (bytes | mmap): The whole file.

    Returns:
        int: 1 to 8 as EXIF counts; 1, upright, where nothing else is stated.
    """
    try:
        value = _stated(content)
    except (struct.error, IndexError):  # a damaged block says nothing
        value = 1
    return value if 1 <= value <= 8 else 1


def orientation_of_file(path: str | os.PathLike) -> int:
    """:func:`orientation_of` of a file, of which only the parts are read that are looked at."""
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return orientation_of(content)


def is_tiff(content: bytes | mmap.mmap) -> bool:
    """Whether a file is a TIFF, whose orientation OpenCV and Pillow apply while decoding."""
    return content[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as they are to be seen.

    Args:
        image (np.ndarray): Of shape (H, W, ...).
        orientation (int): 1 to 8, of :func:`orientation_of`.

    Returns:
        np.ndarray: Of shape (H, W, ...), or (W, H, ...) for 5 to 8.
    """
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::rows, ::columns])


def turned_back(image: np.ndarray, orientation: int) -> np.ndarray:
    """The opposite of :func:`turned`."""
    return turned(image, _INVERSE.get(orientation, orientation))


def _stated(content: bytes | mmap.mmap) -> int:
    if content[:2] == b'\xff\xd8':
        return _of_exif(_jpeg_exif(content))
    if content[:8] == b'\x89PNG\r\n\x1a\n':
        return _of_exif(_chunk(content, b'eXIf', 8, '>I4s', True, 4))
    if content[:4] == b'RIFF' and content[8:12] == b'WEBP':
        return _of_exif(_chunk(content, b'EXIF', 12, '<4sI', False, 0))
    if is_tiff(content):
        return _of_exif(content)
    if content[4:8] == b'ftyp' and b'avi' in content[8 : struct.unpack('>I', content[:4])[0]]:
        return _of_avif(content)
    return 1


def _jpeg_exif(content: bytes | mmap.mmap) -> bytes:
    """The EXIF block of a JPEG; empty without one."""
    position = 2
    while content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker in (0xD9, 0xDA):  # the end, or pixels
            break
        (length,) = struct.unpack('>H', content[position + 2 : position + 4])
        start, end = position + 4, position + 2 + length
        if marker == 0xE1 and content[start : start + 6] == b'Exif\0\0':
            return content[start + 6 : end]
        position = end
    return b''


def _chunk(content, wanted: bytes, position: int, head: str, length_first: bool, behind: int) -> bytes:
    """The data of the first chunk of a name in a PNG or RIFF file; empty without one."""
    while position + 8 <= len(content):
        length, name = struct.unpack(head, content[position : position + 8])[:: 1 if length_first else -1]
        if name == wanted:
            data = content[position + 8 : position + 8 + length]
            return data[6:] if data[:6] == b'Exif\0\0' else data
        position += 8 + length + behind
        position += 0 if length_first else length % 2  # RIFF pads to even lengths
    return b''


def _of_exif(block: bytes | mmap.mmap) -> int:
    """The orientation in a TIFF structure, which is what EXIF blocks are."""
    return tiff_number(block, _TAG) or 1 if is_tiff(block) else 1


def tiff_number(block: bytes | mmap.mmap, wanted: int) -> int | None:
    """The number that a tag of a TIFF's first page holds.

    Args:
        block (bytes | mmap): The TIFF, see :func:`is_tiff`.
        wanted (int): The tag.

    Returns:
        int | None: None without such a tag.

    Raises:
        struct.error, IndexError: The file is cut off.
    """
    order, big = '<' if block[:1] == b'I' else '>', block[2:4] in (b'+\0', b'\0+')
    offset_format, count_format, size = ('Q', 'Q', 20) if big else ('I', 'H', 12)
    start = 8 if big else 4
    (offset,) = struct.unpack(order + offset_format, block[start : start + struct.calcsize(offset_format)])
    entries = offset + struct.calcsize(count_format)
    (count,) = struct.unpack(order + count_format, block[offset:entries])
    for position in range(entries, min(entries + size * count, len(block) - size + 1), size):
        tag, kind = struct.unpack(order + 'HH', block[position : position + 4])
        if tag == wanted:
            value = position + size - (8 if big else 4)
            number = {1: 'B', 3: 'H', 4: 'I'}.get(kind, 'H')
            return struct.unpack(order + number, block[value : value + struct.calcsize(number)])[0]
    return None


def _boxes(content, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an ISO media file: name, begin and end of the data."""
    while start + 8 <= end:
        length, name = struct.unpack('>I4s', content[start : start + 8])
        head = 8
        if length == 1:
            (length,), head = struct.unpack('>Q', content[start + 8 : start + 16]), 16
        stop = start + length if length else end
        if length and length < head:
            return
        yield name, start + head, min(stop, end)
        start = stop


def _of_avif(content) -> int:
    """Rotation and mirroring of the primary item of an AVIF, as one EXIF orientation."""
    meta = next(((begin + 4, end) for name, begin, end in _boxes(content, 0, len(content)) if name == b'meta'), None)
    if meta is None:
        return 1
    parts = {name: (begin, end) for name, begin, end in _boxes(content, *meta)}
    if not {b'pitm', b'iprp'} <= set(parts):
        return 1
    begin = parts[b'pitm'][0]
    wide = content[begin] > 0
    (item,) = struct.unpack('>I' if wide else '>H', content[begin + 4 : begin + (8 if wide else 6)])
    properties = {name: (begin, end) for name, begin, end in _boxes(content, *parts[b'iprp'])}
    listed = list(_boxes(content, *properties.get(b'ipco', (0, 0))))
    angle, axis = 0, None
    for index in _associated(content, properties.get(b'ipma'), item):
        name, begin, _ = listed[index - 1] if 1 <= index <= len(listed) else (b'', 0, 0)
        if name == b'irot':
            angle = content[begin] & 3  # quarters, anticlockwise
        elif name == b'imir':
            axis = content[begin] & 1
    plain, mirrored = {0: 1, 1: 8, 2: 3, 3: 6}, {(0, 0): 4, (0, 1): 2, (1, 0): 5, (1, 1): 7, (2, 0): 2, (2, 1): 4}
    return plain[angle] if axis is None else (mirrored | {(3, 0): 7, (3, 1): 5})[angle, axis]


def _associated(content, place: tuple[int, int] | None, item: int) -> list[int]:
    """Numbers of the properties of an item, from 1."""
    if place is None:
        return []
    position, _ = place
    version, flags = content[position], content[position + 3]
    (entries,) = struct.unpack('>I', content[position + 4 : position + 8])
    position += 8
    for _ in range(entries):
        (number,) = struct.unpack(
            '>H' if version < 1 else '>I', content[position : position + (2 if version < 1 else 4)]
        )
        position += 2 if version < 1 else 4
        count, width = content[position], 2 if flags & 1 else 1
        position += 1
        if number == item:
            numbers = [content[position + width * k : position + width * (k + 1)] for k in range(count)]
            return [int.from_bytes(number, 'big') & (0x7FFF if width == 2 else 0x7F) for number in numbers]
        position += width * count
    return []
