"""From the bytes of an annotation file to parsed json: encodings, compression, and what is no COCO json at all."""

import gc
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .coco_paths import sample
from .errors import DatasetError

SECTIONS = ('images', 'categories', 'annotations')
AGAIN = 'Download or export the file again, and compare its size with the source.'
GZIP = b'\x1f\x8b'


def parse_coco(content: bytes, path: str) -> dict:
    """Parse an annotation file.

    Args:
        content (bytes): The file: json in UTF-8, UTF-16 or UTF-32, with or without byte order mark, or gzip of it.
        path (str): Annotation file, for messages.

    Returns:
        dict: With the lists images, categories and annotations, of which the first two hold entries.

    Raises:
        DatasetError: If it is not json, or not COCO's.
    """
    text = _decode(_unpacked(content), content, path)
    data = _parse(text, content, path)
    expected = "expected COCO's lists 'images', 'annotations' and 'categories'"
    if not isinstance(data, dict):
        raise DatasetError(
            f"The annotation file '{path}' is no COCO annotation file: its top level is a "
            f'{type(data).__name__}, {expected}. A list is what a result file holds: give the '
            'annotations (instances_*.json) as ann_file.'
        )
    if any(text.count(f'"{section}"') > 1 for section in SECTIONS):
        _refuse_repeated_keys(text, path)
    absent = [section for section in ('images', 'annotations', 'categories') if not isinstance(data.get(section), list)]
    if absent:
        absent = [section for section in SECTIONS if section in absent]
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


def _unpacked(content: bytes) -> bytes:
    if content.startswith(GZIP):
        try:
            return gzip.decompress(content)
        except (OSError, EOFError, zlib.error):  # refused below, as bytes that are no text
            return content
    return content


def _decode(unpacked: bytes, content: bytes, path: str) -> str:
    size = f'{len(content):,} bytes'
    if not unpacked.strip():
        raise DatasetError(f"The annotation file '{path}' is empty ({size}), expected COCO json. {AGAIN}")
    try:
        return unpacked.decode(json.detect_encoding(unpacked), 'surrogatepass')
    except UnicodeDecodeError as error:
        if b'\0' not in unpacked and unpacked.lstrip()[:1] in (b'{', b'['):
            near = unpacked[max(0, error.start - 12) : error.start + 12]
            raise DatasetError(
                f"The annotation file '{path}' is not UTF-8: byte 0x{unpacked[error.start]:02x} at {error.start:,} of "
                f'{size}, in {near!r}. Save it as UTF-8; its encoding may be cp1252 (editors say ANSI or Latin-1) or '
                'that of the Windows that wrote it, such as gbk: iconv -f cp1252 -t utf-8 OLD.json > NEW.json'
            ) from error
        raise DatasetError(
            f"The annotation file '{path}' ({size}) is not text: {error}. It starts with "
            f'{content[:20]!r}. If it is an archive, unpack it. {AGAIN}'
        ) from error


def _parse(text: str, content: bytes, path: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == 'Extra data' and _are_json_lines(text):
            raise DatasetError(
                f"The annotation file '{path}' is JSON Lines, one value a line; expected one COCO json, an object with "
                "the lists 'images', 'annotations' and 'categories'. Export it as COCO detection json (docs/data.md "
                'shows the smallest one).'
            ) from error
        at_end = not error.doc[error.pos :].strip() or error.msg.startswith('Unterminated string')
        kind = 'is cut off: the json stops' if at_end else 'is not valid json'
        raise DatasetError(
            f"The annotation file '{path}' ({len(content):,} bytes) {kind} at line {error.lineno} column "
            f'{error.colno}: {error.msg}. It starts with {content[:20]!r}. {AGAIN}'
        ) from error
    except (RecursionError, ValueError) as error:  # brackets without end; a number of thousands of digits
        raise DatasetError(
            f"The annotation file '{path}' holds no COCO annotations that can be read: {error}."
        ) from error


def _are_json_lines(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()][:3]
    try:
        return len(lines) > 1 and all(isinstance(json.loads(line), (dict, list)) for line in lines)
    except (ValueError, RecursionError):
        return False


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector still, whose walks over millions of live lists double the time of reading them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refuse_repeated_keys(text: str, path: str) -> None:
    """Refuse a section that stands twice, of which json keeps the last in silence.

    It takes a second parse, with a call for each object; only files that name a section more often get here.
    """
    last: list = []

    def keep(pairs: list) -> dict:
        last[:] = pairs  # the outermost object is the last to be finished
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    keys = [key for key, _ in last]
    for section in SECTIONS:
        if keys.count(section) > 1:
            counts = [
                len(value) if isinstance(value, list) else repr(value)[:20] for key, value in last if key == section
            ]
            raise DatasetError(
                f"The annotation file '{path}' has the key '{section}' {len(counts)} times, with "
                f'{" and ".join(map(str, counts))} entries: json keeps the last alone. Join them into one list, and '
                'give entries of different files different ids.'
            )
