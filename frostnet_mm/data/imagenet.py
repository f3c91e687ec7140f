"""ImageNet in its own layout: folders of training images, validation images in one folder, and their ground truth."""

import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..device.image_search import images_in
from .coco_paths import list_folder, sample
from .errors import DatasetError, DatasetNotFoundError

CLASSES = 1000
IMAGES = dict(train=1_281_167, val=50_000)
TRUTH, META = 'ILSVRC2012_validation_ground_truth.txt', 'meta.mat'
LINKS = 'val_by_class'
_DAMAGED = (ValueError, LookupError, TypeError, NotImplementedError, OSError, EOFError, zlib.error)  # of scipy's reader
_SYNSET = re.compile(r'n\d{8}')
_NUMBER = re.compile(r'_(\d{8})\.')


@dataclass
class ImageNetReport:
    """What was found.

    Args:
        counts (dict[str, int]): Images by split.
        classes (int): Folders of training images.
        val (Path): Folder of the validation images with a folder a class.
        linked (int): Links that were made.
        notes (list[str]): Where it is not ImageNet as it was released.
    """

    counts: dict[str, int]
    classes: int
    val: Path
    linked: int = 0
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A line each."""
        lines = [f'train: {self.counts["train"]} images of {self.classes} classes']
        lines.append(f'val: {self.counts["val"]} images, a folder a class in {self.val}')
        lines += [f'{self.linked} links made: the images stay where they are'] * bool(self.linked)
        return '\n'.join([*lines, *(f'note: {note}' for note in self.notes)])


def prepare_imagenet(root: str, devkit: str | None = None) -> ImageNetReport:
    """Check ImageNet (ILSVRC 2012), and give its validation images a folder a class, of links.

    Args:
        root (str): Folder with ``train/n01440764/...`` and ``val``, of folders or of the 50,000 images as they come.
        devkit (str, optional): Folder of the development kit, with ``data/meta.mat`` and the ground truth of the
            validation images; for images in one folder.

    Returns:
        ImageNetReport: What was found.

    Raises:
        DatasetNotFoundError: A folder or file is missing.
        DatasetError: Training and validation have other classes, or images and ground truth do not fit.
    """
    train = Path(root) / 'train'
    for place in (Path(root), train, Path(root) / 'val'):
        if not place.is_dir():
            near = place.parent if place.parent.is_dir() else Path('.')
            raise DatasetNotFoundError(
                f"'{place}' does not exist; {list_folder(str(near))}. Expected a folder with train and val in it."
            )
    counts = {folder.name: len(images_in(folder)) for folder in sorted(train.iterdir()) if folder.is_dir()}
    odd = [name for name in counts if not _SYNSET.fullmatch(name)]
    if odd or not counts:
        raise DatasetError(
            f"'{train}' holds {sample(odd) if odd else 'no folder'}: expected a folder a class, such as n01440764, "
            'with its images (unpack the tar of each class into a folder of its name).'
        )
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise DatasetError(f"'{train}': {len(empty)} folders hold no image: {sample(empty)}.")
    val, linked = Path(root) / 'val', 0
    flat = images_in(val)
    if flat:
        val, linked = _link(flat, Path(root), devkit)
    found = {folder.name: len(images_in(folder)) for folder in sorted(val.iterdir()) if folder.is_dir()}
    if set(found) != set(counts):
        more, less = sorted(set(found) - set(counts)), sorted(set(counts) - set(found))
        parts = [
            f'{len(names)} {what} ({sample(names)})' for names, what in ((more, 'more'), (less, 'missing')) if names
        ]
        raise DatasetError(f"'{val}' has other classes than '{train}': {', '.join(parts)}.")
    totals = dict(train=sum(counts.values()), val=sum(found.values()))
    notes = [f'{split}: {count} images; the release has {IMAGES[split]}' for split, count in totals.items()
             if count != IMAGES[split]]  # fmt: skip
    notes += [f'{len(counts)} classes; the release has {CLASSES}'] * (len(counts) != CLASSES)
    return ImageNetReport(totals, len(counts), val, linked, notes)


def read_ground_truth(devkit: str) -> list[str]:
    """The class of each validation image, in the order of their numbers.

    Args:
        devkit (str): Folder of the development kit.

    Returns:
        list[str]: Names such as n01440764.

    Raises:
        DatasetNotFoundError: A file is missing. DatasetError: One cannot be read, or they do not fit.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    places = {name: next(Path(devkit).rglob(name), None) for name in (META, TRUTH)} if Path(devkit).is_dir() else {}
    missing = [name for name in (META, TRUTH) if places.get(name) is None]
    if missing:
        raise DatasetNotFoundError(
            f"'{devkit}' has no {' and no '.join(missing)}: expected the folder of ILSVRC2012_devkit_t12, unpacked."
        )
    try:
        rows = loadmat(places[META], squeeze_me=True)['synsets']
        names = {int(row['ILSVRC2012_ID']): str(row['WNID']) for row in rows if int(row['num_children']) == 0}
        numbers = [int(line) for line in places[TRUTH].read_text().split()]
        return [names[number] for number in numbers]
    except (*_DAMAGED, MatReadError) as error:
        raise DatasetError(
            f"The ground truth in '{devkit}' cannot be read: {type(error).__name__}: {error}. Expected {META} and "
            f'{TRUTH} as they are released: unpack ILSVRC2012_devkit_t12 again.'
        ) from error


def _link(images: list[Path], root: Path, devkit: str | None) -> tuple[Path, int]:
    """Links to validation images in a folder a class."""
    if devkit is None:
        raise DatasetError(
            f"'{root / 'val'}' holds {len(images)} images in one folder, whose classes the development kit tells: give "
            '--devkit with the folder of ILSVRC2012_devkit_t12.'
        )
    truth = read_ground_truth(devkit)
    wanted: dict[int, Path] = {}
    for number, image in _numbered(images, len(truth)):
        if number in wanted:
            raise DatasetError(
                f"'{wanted[number]}' and '{image}' have the same number: one of them is no validation image of "
                'ImageNet, or a copy. Take it out.'
            )
        wanted[number] = image
    out, made = root / LINKS, 0
    for number, image in sorted(wanted.items()):
        link = out / truth[number - 1] / image.name
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)  # one that leads nowhere
            link.symlink_to(os.path.relpath(image, link.parent))
            made += 1
    strangers = Counter(path.name for path in out.rglob('*') if path.is_symlink()) - Counter(own.name for own in images)
    if strangers:
        raise DatasetError(f"'{out}' holds links to other images: {sample(sorted(strangers))}. Remove the folder.")
    return out, made


def _numbered(images: list[Path], count: int) -> Iterator[tuple[int, Path]]:
    for image in images:
        match = _NUMBER.search(image.name)
        if match is None or not 1 <= int(match[1]) <= count:
            raise DatasetError(
                f"'{image}' has no number from 1 to {count} in its name, as ILSVRC2012_val_00000001.JPEG has: its "
                'class is not known.'
            )
        yield int(match[1]), image
