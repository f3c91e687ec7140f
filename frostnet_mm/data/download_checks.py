"""What the checks of downloaded data sets share: a report, decoding of files, and a pass over many files."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..device.orientation import orientation_of_file
from .coco_paths import sample
from .errors import DECODE_ERRORS

if TYPE_CHECKING:
    from .loading import LoadImage


#: Share of the images that may be unreadable before training stops, as data sets have it by default.
MAX_BAD_FRACTION = 0.1


@dataclass
class Report:
    """What a check found.

    Args:
        notes (list[str]): What the user may want to know.
        problems (list[str]): What keeps the data from being used as they are.
        changes (list[str]): What was changed in a mended copy.
    """

    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add something worth knowing."""
        self.notes.append(text)

    def problem(self, text: str) -> None:
        """Add something that keeps the data from being used."""
        self.problems.append(text)

    def change(self, text: str) -> None:
        """Add something that a mended copy has otherwise."""
        self.changes.append(text)

    def listed(self, what: str, names: Sequence[str]) -> None:
        """Add a problem of some files, with the first of their names; none without names."""
        if names:
            self.problem(f'{len(names)} {what}: {sample(names)}')

    def faulty(self, what: str, names: Sequence[str], limit: float, then: str, strict: bool) -> None:
        """Add files that cannot be read: a problem if there are more than a limit, else a note.

        Args:
            what (str): What they are.
            names (Sequence[str]): Their faults.
            limit (float): How many training or evaluation passes over.
            then (str): What training or evaluation does about them.
            strict (bool): Make each a problem.
        """
        if strict or len(names) > limit:
            self.listed(what, names)
        elif names:
            self.note(f'{len(names)} {what}: {sample(names)}; {then}')

    def text(self) -> str:
        """The findings, one a line, and a verdict."""
        marks = (('', self.notes), ('changed: ', self.changes), ('PROBLEM: ', self.problems))
        lines = [f'  {mark}{text}' for mark, texts in marks for text in texts]
        verdict = f'not usable as it is: {len(self.problems)} problems' if self.problems else 'usable'
        return '\n'.join([*lines, verdict])


@cache
def _loader(oriented: bool) -> 'LoadImage':
    from .loading import LoadImage  # with mmcv and torch, which reading headers does without

    return LoadImage(color_type='color' if oriented else 'color_ignore_orientation')


def image_size(path: str | os.PathLike, fast: bool = False, oriented: bool = False) -> tuple[int, int]:
    """Size of an image that is sound.

    Args:
        path (str | PathLike): The file.
        fast (bool): Read its header only, where that is enough. Default: False, decode it to the last pixel.
        oriented (bool): As displayed, and as training reads it: with EXIF orientation. Default: False.

    Returns:
        tuple[int, int]: (height, width).

    Raises:
        BadImageError: The file is missing, or no whole image.
    """
    if not fast:
        return _loader(oriented).transform(dict(img_path=str(path)))['ori_shape']
    try:
        with Image.open(path) as image:
            lying = orientation_of_file(path) in (5, 6, 7, 8)
            shown = image.format == 'TIFF'  # whose size is that of the picture as displayed
            return image.size if lying and oriented != shown else image.size[::-1]
    except DECODE_ERRORS:  # OpenCV reads some files that Pillow does not, and says better what is wrong
        return image_size(path, fast=False, oriented=oriented)


def run_over(work: Callable, items: Sequence, workers: int, name: str) -> Iterable:
    """Apply a function to many items, with a progress bar on a terminal; results come in the order of the items.

    Args:
        work (Callable): A function of a module, which takes one item.
        items (Sequence): The items.
        workers (int): Processes; 0: this one.
        name (str): What the bar says.

    Yields:
        The results.
    """
    from tqdm import tqdm

    bar = dict(total=len(items), desc=name, unit='image', disable=None)
    if workers == 0 or len(items) < 2:
        yield from tqdm(map(work, items), **bar)
        return
    with get_context('spawn').Pool(workers) as pool:  # fork after OpenCV's threads have started can hang
        yield from tqdm(pool.imap(work, items, chunksize=8), **bar)


def compare_count(report: Report, split: str, found: int, official: int) -> None:
    """Note how many images a split has, and how many the official one has."""
    more = '' if found == official else f', the official data set has {official:,}: part of it, or another data set'
    report.note(f'{split}: {found:,} images{more}')


def relative(paths: Iterable[Path], root: Path) -> list[str]:
    """Paths below a folder as text, sorted."""
    return sorted(str(path.relative_to(root)) for path in paths)
