"""Finds the images of a COCO json whose names there are not their paths below the image folder.

Exporters write Windows and foreign absolute paths, URLs, sub-folders that were flattened, or names that a file system
has changed. A file is taken where one alone can be meant; nothing outside the image folder is looked at.
"""

import os
import os.path as osp
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

IMAGE_SUFFIXES = frozenset(
    '.jpg .jpeg .jpe .jfif .png .bmp .dib .tif .tiff .webp .gif .avif .jp2 .ppm .pgm .pbm .mpo'.split()
)
_DRIVE = re.compile(r'^[A-Za-z]:(?=[/\\])|^[A-Za-z][A-Za-z0-9+.-]*://[^/]*')


class Found(NamedTuple):
    """Where the images of a json are.

    Args:
        renamed (dict[int, str]): By position, the path below the image folder of those found under another.
        missing (list[int]): Positions of those that are not there, or that may be several files.
        candidates (dict[int, list[str]]): By position, what the ambiguous ones of these may be.
    """

    renamed: dict[int, str]
    missing: list[int]
    candidates: dict[int, list[str]]


def file_key(name: str) -> str:
    """What two spellings of one path have in common: slashes, './', doubled slashes, Unicode composition."""
    slashed = unicodedata.normalize('NFC', name).replace('\\', '/')
    return osp.normpath(slashed)


def find_images(img_dir: str, names: Sequence[str]) -> Found:
    """Find images with one listing a folder, and one walk through the image folder if some are not at their path.

    Args:
        img_dir (str): Image folder; '' is the working directory.
        names (Sequence[str]): Their names in the json. An absolute one that exists is used as it is.

    Returns:
        Found: What is found under another name, and what is not.
    """
    absent = find_missing_images(img_dir, names)
    if not absent:
        return Found({}, [], {})
    index, unfound = _Index(img_dir), set(absent)
    taken = {file_key(name) for position, name in enumerate(names) if position not in unfound}
    guesses = {position: index.find(names[position], taken) for position in absent}
    claims = Counter(paths[0] for paths in guesses.values() if len(paths) == 1)
    renamed, missing, candidates = {}, [], {}
    for position, paths in guesses.items():
        if len(paths) == 1 and claims[paths[0]] == 1:
            renamed[position] = paths[0]
            continue
        missing.append(position)
        if paths:
            candidates[position] = paths
    return Found(renamed, missing, candidates)


def find_missing_images(img_dir: str, names: Sequence[str]) -> list[int]:
    """Find the images that are not at their path with one directory listing a folder instead of one stat an image.

    Args:
        img_dir (str): Image folder.
        names (Sequence[str]): File names below ``img_dir``, sub-folders allowed. One that leads out of ``img_dir`` by
            '..' counts as missing.

    Returns:
        list[int]: Positions in ``names`` of the missing ones.
    """
    listings: dict[str, set] = {}
    missing = []
    for position, name in enumerate(names):
        folder, base = osp.split(name)
        if folder not in listings:
            path = osp.join(img_dir, folder) or '.'
            outside = osp.normpath(folder).split(os.sep)[0] == os.pardir
            listings[folder] = set() if outside or not osp.isdir(path) else set(os.listdir(path))
        if base not in listings[folder]:
            missing.append(position)
    return missing


def describe_renamed(names: Iterable[tuple[str, str]]) -> str:
    """Say how images were found, with counts.

    Args:
        names (Iterable[tuple[str, str]]): The name in the json and the path below the image folder of each.
    """
    kinds: dict[str, list] = defaultdict(list)
    for name, path in names:
        kinds[_difference(name, path)].append((name, path))
    return '; '.join(f"{len(pairs)} {kind} ('{pairs[0][1]}' for {pairs[0][0]!r})" for kind, pairs in kinds.items())


def _difference(name: str, path: str) -> str:
    base, other = osp.basename(name.replace('\\', '/')), osp.basename(path)
    composed = unicodedata.normalize('NFC', base), unicodedata.normalize('NFC', other)
    if base == other:
        return 'with / for \\' if osp.normpath(name.replace('\\', '/')) == path else 'by their base name'
    if composed[0] == composed[1]:
        return 'in another Unicode normalization'
    if unicodedata.normalize('NFC', unquote(base)) == composed[1]:
        return 'URL-decoded'
    if composed[0].casefold() == composed[1].casefold():
        return 'with other capitals'
    return 'with another extension, or none'


class _Index:
    """The images below a folder, by path, base name and stem."""

    def __init__(self, root: str) -> None:
        self.paths: dict[str, list[str]] = defaultdict(list)
        self.folded: dict[str, list[str]] = defaultdict(list)
        self.bases: dict[str, list[str]] = defaultdict(list)
        self.folded_bases: dict[str, list[str]] = defaultdict(list)
        self.stems: dict[str, list[str]] = defaultdict(list)
        for folder, _, files in os.walk(root or '.'):
            below = osp.relpath(folder, root or '.')
            for name in files:
                path = name if below == '.' else osp.join(below, name)
                key, base = file_key(path), unicodedata.normalize('NFC', name)
                self.paths[key].append(path)
                self.folded[key.casefold()].append(path)
                self.bases[base].append(path)
                self.folded_bases[base.casefold()].append(path)
                if osp.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                    self.stems[osp.splitext(base)[0].casefold()].append(path)

    def find(self, name: str, taken: set[str]) -> list[str]:
        """Paths that a name may mean: those of the most literal reading that yields any, without those of others."""
        forms = _forms(name)
        readings: list[tuple[dict, Callable[[str], str], bool]] = [
            (self.paths, lambda form: form, True),
            (self.bases, osp.basename, False),
            (self.folded, str.casefold, True),
            (self.folded_bases, lambda form: osp.basename(form).casefold(), False),
            (self.stems, lambda form: osp.basename(form).casefold(), False),  # a name without extension
            (self.stems, _stem, False),
        ]
        for table, key, with_folders in readings:
            for form in forms:
                for part in _endings(form) if with_folders else [form]:
                    paths = [path for path in table.get(key(part), ()) if file_key(path) not in taken]
                    if paths:
                        return _nearest(form, sorted(paths))
        return []


def _nearest(form: str, paths: list[str]) -> list[str]:
    """Of several files those in the innermost folder that the name states, if it tells them apart."""
    folders = form.split('/')[:-1]
    alike = [path for path in paths if folders and folders[-1] in path.split(os.sep)[:-1]]
    return alike if len(paths) > 1 and len(alike) == 1 else paths


def _stem(form: str) -> str:
    stem, suffix = osp.splitext(osp.basename(form).casefold())
    return stem if suffix in IMAGE_SUFFIXES else stem + suffix


def _forms(name: str) -> list[str]:
    """Readings of a name as a relative path with slashes: as it is, and URL-decoded."""
    forms = []
    for text in (name, unquote(name), unquote(name).partition('?d=')[2], name.partition('?')[0]):
        parts = file_key(_DRIVE.sub('', text)).split('/') if text else []
        form = '/'.join(part for part in parts if part not in ('', '.', '..'))
        if form and form not in forms:
            forms.append(form)
    return forms


def _endings(form: str) -> Iterable[str]:
    """A path, and what is left of it without its first folders, the longest first."""
    parts = form.split('/')
    return ('/'.join(parts[start:]) for start in range(len(parts)))
