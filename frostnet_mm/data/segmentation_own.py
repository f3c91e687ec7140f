"""The images and labels of a folder, however it is laid out, and what the labels hold."""

import os.path as osp
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .cityscapes import CLASSES, LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX
from .errors import BadImageError
from .own_folders import TEST, TRAIN, VAL, Undecided, image_folders, is_image, one_of, role_of, walk
from .segmentation_checks import spread
from .segmentation_files import header_size
from .segmentation_labels import count_values, read_labels
from .segmentation_values import IGNORED, LabelValues, looks_meaningless

_LABELS = re.compile(r'.*(labels?|masks?|annots?|annotations?|annos?|gtfine|gtcoarse|gt|groundtruth|segmentation\w*)')
_IMAGES = re.compile(r'.*(images?|imgs?|photos?|rgb|leftimg)')
_NAMES = ('_classes.csv', 'class_dict.csv', 'labelmap.txt', 'classes.txt', 'class_names.txt', 'labels.txt')
_NO_LABELS = ('color', 'colour', 'instance', 'polygon')  # in names of label images of other kinds
_PROBED, _LABELS_READ, _SIZES_READ = 20, 200, 100
_FOUND = 0.9  # of the images must have a label, as max_bad_fraction of the data set


class Pairing(NamedTuple):
    """Images and labels of one part of a data set.

    Args:
        images (Path): Folder of the images; they may lie in sub-folders.
        labels (Path): Folder of the labels, with the same sub-folders.
        suffixes (tuple[str, str]): How the names of images and of labels end.
        names (list[str]): Names of the images below their folder, without suffix.
    """

    images: Path
    labels: Path
    suffixes: tuple[str, str]
    names: list[str]

    def image(self, name: str) -> Path:
        """The image of a name."""
        return self.images / f'{name}{self.suffixes[0]}'

    def label(self, name: str) -> Path:
        """The label of a name."""
        return self.labels / f'{name}{self.suffixes[1]}'


class Labelled(NamedTuple):
    """What labels hold.

    Args:
        classes (tuple[str, ...]): Names of the values 0, 1, 2, ...
        source (str): Where the names are from.
        shares (np.ndarray): (classes, ), share of the pixels that are not ignored.
        ignored (float): Share of the pixels that are ignored.
        palette (list, optional): The labels' own colours, (R, G, B) for each class.
        read (int): How many labels were read.
    """

    classes: tuple[str, ...]
    source: str
    shares: np.ndarray
    ignored: float
    palette: list[tuple[int, int, int]] | None
    read: int


# -- folders


def find_pairs(
    root: Path, images: tuple[Path | None, Path | None], labels: tuple[Path | None, Path | None]
) -> tuple[Pairing, Pairing]:
    """The training and the validation part of a folder; a test part stands in for one that is missing.

    Args:
        root (Path): The folder.
        images, labels (tuple): Folder of the images, and of the labels, of training and validation, where told.

    Raises:
        Undecided: Folders are not found, or several may be meant, or names do not belong together.
    """
    tops = {} if all((*images, *labels)) else _tops(root)
    pairs = []
    for index, roles in enumerate(((TRAIN, None), (VAL, TEST))):
        what, option = ('training', '--train') if index == 0 else ('validation', '--val')
        image_dir = images[index] or _find(
            tops, 'image', roles, root, f'folder of the images of {what}', f'{option}-images'
        )
        label_dir = labels[index] or _find(
            tops, 'label', roles, root, f'folder of the labels of {what}', f'{option}-labels'
        )
        for path, kind in ((image_dir, 'images'), (label_dir, 'labels')):
            if path is None:
                listed = ', '.join(f'{top.relative_to(root).as_posix()} ({found})' for top, (found, _) in tops.items())
                raise Undecided(
                    f"Where are the {kind} of {what}? Of '{root}' these folders hold images: {listed or 'none'}. "
                    f'Say it: {option}-{kind} FOLDER.'
                )
        pairs.append(pair_up(image_dir, label_dir))
    return pairs[0], pairs[1]


def _tops(root: Path) -> dict[Path, tuple[str, str | None]]:
    """By folder, whether it holds images or labels and for which part; sub-folders without a meaning are left out."""
    found: dict[Path, tuple[str, str | None]] = {}
    for folder in image_folders(root):
        parts = folder.relative_to(root).parts
        kinds = [_kind(part) for part in parts]
        told = [i for i, part in enumerate(parts) if kinds[i] or role_of(Path(part))]
        top = root.joinpath(*parts[: told[-1] + 1]) if told else folder
        if top not in found:
            kind = next((kind for kind in reversed(kinds) if kind), None)
            found[top] = (kind or ('label' if _are_labels(folder) else 'image'), role_of(Path(*parts)))
    return found


def _kind(part: str) -> str | None:
    words = re.findall('[a-z]+', part.lower())
    if any(_LABELS.fullmatch(word) for word in words):
        return 'label'
    return 'image' if any(_IMAGES.fullmatch(word) for word in words) else None


def _are_labels(folder: Path) -> bool:
    """Whether the first image of a folder can be read as labels."""
    first = next(path for path in sorted(folder.iterdir()) if is_image(path.name))
    try:
        read_labels(first)
    except BadImageError:
        return False
    return True


def _find(tops: dict, kind: str, roles: tuple, root: Path, what: str, option: str) -> Path | None:
    for role in roles:
        own = [top for top, found in tops.items() if found == (kind, role)]
        if own:
            return one_of(own, root, what, option)
    return None


# -- names


def pair_up(images: Path, labels: Path) -> Pairing:
    """Find how the names of images and labels end that belong together.

    Args:
        images, labels (Path): Their folders.

    Raises:
        Undecided: No two ends fit nine tenths of the images.
    """
    names, others = (
        [
            (place / name).relative_to(folder).as_posix()
            for place, files in walk(folder)
            for name in files
            if is_image(name)
        ]
        for folder in (images, labels)
    )
    suffixes = _suffixes(names, others)
    if suffixes is None:
        raise Undecided(
            f"Which label belongs to which image? '{images}' holds {_some(names)}, '{labels}' {_some(others)}. "
            'Expected are names that begin alike and end in one way each, such as a.jpg and a_mask.png '
            '(docs/own_data.md). Other folders: --train-images, --train-labels, --val-images, --val-labels.'
        )
    if suffixes[1].endswith(LABEL_IDS_SUFFIX.rpartition('_')[2]):
        raise Undecided(
            f"Which labels? '{labels}' holds label ids of Cityscapes (*{LABEL_IDS_SUFFIX}); training needs train ids: "
            f"'python tools/prepare_cityscapes.py ROOT' makes them of these."
        )
    ends = suffixes[0]
    return Pairing(images, labels, suffixes, [name.removesuffix(ends) for name in sorted(names) if name.endswith(ends)])


def _suffixes(images: list[str], labels: list[str]) -> tuple[str, str] | None:
    """The two ends, of image and label, that most of the first images speak for and nearly all fit."""
    by_folder: dict[str, list[str]] = {}
    for label in labels:
        by_folder.setdefault(osp.dirname(label), []).append(label)
    votes: Counter = Counter()
    for position in spread(len(images), _PROBED):
        name = images[position]
        stem, known = osp.splitext(name)[0], set()
        for label in by_folder.get(osp.dirname(name), ()):
            begin = len(osp.commonprefix([stem, label]))
            begin -= begin > 0 and stem[begin - 1] in '_-.'
            if begin > len(osp.dirname(name)) + bool(osp.dirname(name)):
                known.add((name[begin:], label[begin:]))
        votes.update(known)
    listed, best = set(labels), None
    for (image_end, label_end), _ in sorted(votes.items(), key=lambda item: (-item[1], _rank(item[0][1]))):
        own = [name for name in images if name.endswith(image_end)]
        fit = sum(name[: len(name) - len(image_end)] + label_end in listed for name in own)
        if fit >= _FOUND * len(images):
            best = best or (image_end, label_end)
            if _rank(label_end) < _rank(best[1]):
                best = image_end, label_end
    return best


def _rank(end: str) -> int:
    """Train ids before other labels, those before pictures of labels."""
    if end.endswith(TRAIN_IDS_SUFFIX.rpartition('_')[2]):
        return 0
    return 2 if any(word in end.lower() for word in _NO_LABELS) else 1


def _some(names: list[str]) -> str:
    return ', '.join(names[:2]) + (f' and {len(names) - 2} more' if len(names) > 2 else '') if names else 'no images'


# -- labels


def read_classes(root: Path, pairs: Pairing, classes: tuple[str, ...] | None) -> Labelled:
    """Read a sample of the labels, and find the names of their values.

    Args:
        root (Path): Folder of the data, in which a file may list the names.
        pairs (Pairing): Of training.
        classes (tuple[str, ...], optional): The names, where they are told.

    Raises:
        Undecided: There are fewer names than values.
        DatasetError: The labels cannot be used.
    """
    counts, read = np.zeros(256, np.int64), 0
    chosen = [pairs.names[position] for position in spread(len(pairs.names), _LABELS_READ)]
    for name in chosen:
        counts, read = counts + count_values(read_labels(pairs.label(name)).values), read + 1
    values = [value for value in np.flatnonzero(counts).tolist() if value != IGNORED]
    names, source = _names(root, pairs, classes, values)
    if values and values[-1] >= len(names):
        raise Undecided(
            f'What are the classes? The labels hold the values {", ".join(map(str, values[:12]))}'
            f'{", ..." if len(values) > 12 else ""}; {source} names {len(names)}: {", ".join(names)}. Name all, from '
            f'value 0 on: --classes NAME NAME ... (255 is ignored).'
        )
    meaningless = looks_meaningless(counts, LabelValues.of(names), str(root))
    if meaningless:
        raise Undecided(f"What do the labels say? Of those in '{pairs.labels}' {read} were read: {meaningless}.")
    own = counts[: len(names)]
    with Image.open(pairs.label(chosen[0])) as first:
        colours = first.getpalette('RGB') if first.mode == 'P' else None
    palette = [tuple(colours[3 * i : 3 * i + 3]) for i in range(len(names))] if colours else None
    if palette is not None and not all(len(colour) == 3 for colour in palette):
        palette = None
    return Labelled(names, source, own / own.sum(), counts[IGNORED] / counts.sum(), palette, read)


def _names(root: Path, pairs: Pairing, told: tuple[str, ...] | None, values: list[int]) -> tuple[tuple[str, ...], str]:
    if told:
        return told, '--classes'
    if _rank(pairs.suffixes[1]) == 0:
        return CLASSES, "Cityscapes' train ids"
    for place in (root, pairs.labels, pairs.labels.parent):
        for name in _NAMES:
            if (place / name).is_file() and (names := listed_names((place / name).read_text('utf-8-sig'))):
                return names, (place / name).as_posix()
    return tuple(f'class_{value}' for value in range((values or [0])[-1] + 1)), 'nothing'


def listed_names(text: str) -> tuple[str, ...]:
    """Names of classes, one a line, as exporters list them: alone, with a value before, or with colours behind.

    Args:
        text (str): Lines such as "sky", "0, sky" (Roboflow), "sky,128,64,0" or "sky:128,64,0::" (CVAT), with or without
            a header.
    """
    rows = [re.split(r'\s*[,:;\t]\s*', line.strip()) for line in text.splitlines()]
    rows = [row for row in rows if row[0] and not row[0].startswith('#')]
    if (
        rows
        and len(rows[0]) > 1
        and re.search('name|class|label|pixel', rows[0][0], re.I)
        and not any(field.isdigit() for field in rows[0])
    ):
        rows = rows[1:]
    if all(len(row) > 1 and row[0].isdigit() for row in rows):
        listed = {int(row[0]): row[1] for row in rows}
        return tuple(listed.get(value, f'class_{value}') for value in range(max(listed, default=-1) + 1))
    return tuple(row[0] for row in rows)


def image_sizes(pairs: Pairing) -> np.ndarray:
    """(N, 2), width and height of a sample of the images, by their headers."""
    chosen = [pairs.names[position] for position in spread(len(pairs.names), _SIZES_READ)]
    return np.array([header_size(str(pairs.image(name)), True)[::-1] for name in chosen])
