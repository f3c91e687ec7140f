"""Finding the images that a command line names: files, folders, patterns."""

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import ImageError
from .image_files import optional

#: Suffixes of image files that are taken from folders, in training's tools and on devices alike.
IMAGE_SUFFIXES = (
    '.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.apng', '.bmp', '.dib', '.webp', '.tif', '.tiff', '.gif',
    '.avif', '.jp2', '.j2k', '.pbm', '.pgm', '.ppm', '.pnm',
)  # fmt: skip
_IF_PILLOW_DOES = ('.heic', '.heif')  # with a plugin such as pillow-heif registered
_OTHER_IMAGES = (
    '.jxl', '.jxr', '.svg', '.psd', '.xcf', '.ico', '.tga', '.exr', '.hdr', '.pfm', '.dcm', '.nii', '.pcx', '.eps',
    '.raw', '.cr2', '.cr3', '.nef', '.arw', '.dng', '.orf', '.rw2', '.raf',
)  # fmt: skip
_VIDEOS = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.mts', '.3gp')
_LITTER = ('__MACOSX', '@eaDir')  # folders that macOS' archives and Synology's servers leave beside images
RESULTS = 'results.json'  # marks a folder of results
_NAMED = 4  # names in a note
RESULTS_START = b'{\n "config":'


class Found(NamedTuple):
    """Images that were found.

    Args:
        images (list[Path]): The files, in the order given, those of a folder sorted.
        names (list[str]): What each is called in results: its path below the folder given, or below the folder that all
            that was given has in common.
        notes (list[str]): What was left out and why, one line each.
    """

    images: list[Path]
    names: list[str]
    notes: list[str]


def image_suffixes() -> tuple[str, ...]:
    """Suffixes of the files that are taken from folders; those of HEIC too where Pillow can read it."""
    pillow = optional('PIL.Image')
    known = pillow.registered_extensions() if pillow is not None else {}
    return IMAGE_SUFFIXES + tuple(suffix for suffix in _IF_PILLOW_DOES if suffix in known)


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is nobody's data: a hidden one, or a known leaving of other programs."""
    return name.startswith('.') or name in _LITTER


def images_in(folder: str | os.PathLike) -> list[Path]:
    """The image files right in a folder, sorted; hidden ones are none, such as ``._NAME`` of macOS."""
    suffixes = image_suffixes()
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name[0] != '.' and e.name.lower().endswith(suffixes) and e.is_file()]
    return [Path(folder, name) for name in sorted(names)]


def find_images(given: Sequence[str | os.PathLike], *out: str | os.PathLike) -> Found:
    """Find images.

    Args:
        given (Sequence[str | PathLike]): Image files of any name; folders, which are searched with their sub-folders
            for :data:`IMAGE_SUFFIXES`; patterns (``photos/*.jpg``). Hidden files and folders in them are left out.
        *out (str | PathLike): Folders of the results: left out, as are other folders with a ``results.json`` of ours.

    Returns:
        Found: At least one image.

    Raises:
        ImageError: Something given does not exist, is no file or folder, or there is no image; or one of ``out`` is
            a folder given.
    """
    search = ImageSearch({os.path.realpath(folder) for folder in out})
    places = [place for text in map(os.fspath, given) for place in _expanded(text)]
    for place in places:
        search.add(place)
    if not search.images:
        what = ' '.join(map(str, places))
        raise ImageError('\n'.join([f'{what} holds no image ({", ".join(image_suffixes())}).', *search.notes(True)]))
    roots = [place if place.is_dir() else place.parent for place in map(_absolute, places)]
    root = os.path.commonpath(roots)
    return Found(search.images, [os.path.relpath(_absolute(image), root) for image in search.images], search.notes())


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _expanded(text: str) -> list[Path]:
    """The paths that something given stands for.

    Raises:
        ImageError: It does not exist.
    """
    if os.path.lexists(text):
        return [Path(text)]
    if '://' in text:
        raise ImageError(f'{text} is an address: download the file, and give its path.')
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        what = 'matches no file' if glob.has_magic(text) else 'does not exist'
        raise ImageError(f'{text} {what}: give an image, a folder of images, or a pattern such as "photos/*.jpg".')
    return [Path(match) for match in matches]


class ImageSearch:
    """A search in several places, which sums up what it leaves out.

    Args:
        out (set[str]): Real paths of the folders of the results. Default: none.
    """

    def __init__(self, out: Collection[str] = ()) -> None:
        self.out = out
        self.images: list[Path] = []
        self.seen: set[Path] = set()
        self.folders: set[str] = set()
        self.twice = 0
        self.left_out: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.hidden: list[str] = []
        self.results: list[str] = []
        self.closed: list[str] = []
        self.upward: list[str] = []
        self.root = ''

    def add(self, path: Path) -> list[Path]:
        """Take a file that was given, or those of a folder.

        Args:
            path (Path): Of either.

        Returns:
            list[Path]: The images that are new.

        Raises:
            ImageError: It is neither, a video, or the folder of the results.
        """
        before = len(self.images)
        if path.is_dir():
            if os.path.realpath(path) in self.out:
                raise ImageError(
                    f'{path} is the folder of the images and of the results: give another folder with --out.'
                )
            self.folders.clear()
            self.root = os.path.realpath(path)
            for image in self._walk(path):
                self._take(image)
        elif path.suffix.lower() in _VIDEOS:
            raise ImageError(f'{path} is a video: cut it into images, such as ffmpeg -i {path.name} frames/%06d.png')
        elif path.is_file() or path.is_symlink():
            self._take(path)
        else:
            raise ImageError(f'{path} is neither a file nor a folder.')
        return self.images[before:]

    def _take(self, path: Path) -> None:
        place = _absolute(path)
        self.twice += place in self.seen
        if place not in self.seen:
            self.seen.add(place)
            self.images.append(path)

    def _walk(self, folder: Path) -> Iterator[Path]:
        """Images below a folder, sorted; links are followed, but not to where the search has been or came from."""
        place = os.path.realpath(folder)
        if place in self.folders:
            return
        if self.root != place and self.root.startswith(os.path.join(place, '')):
            self.upward.append(str(folder))  # all that lies beside the folder would count as lying in it
            return
        self.folders.add(place)
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self.closed.append(f'{folder} ({error.strerror})')
            return
        if place in self.out or (len(self.folders) > 1 and holds_results(folder)):
            self.results.append(str(folder))
            return
        suffixes, folders = image_suffixes(), []
        for entry in entries:
            suffix = entry.suffix.lower()
            if is_litter(entry.name):
                self._note_hidden(entry, suffix in suffixes)
            elif entry.is_dir():
                folders.append(entry)
            elif not (entry.is_file() or entry.is_symlink()):
                self.others['pipe or device'] += 1
            elif suffix in suffixes:
                yield entry
            elif suffix in (*_IF_PILLOW_DOES, *_OTHER_IMAGES, *_VIDEOS):
                self.left_out[suffix] += 1
            else:
                self.others[suffix or 'without a suffix'] += 1
        for inner in folders:
            yield from self._walk(inner)

    def _note_hidden(self, entry: Path, is_image: bool) -> None:
        if entry.name.startswith('._') and not entry.is_dir():  # what macOS keeps beside a file of the same name
            self.left_out['._*'] += 1
        elif is_image or entry.is_dir():  # of .DS_Store and the like nobody asks
            self.hidden.append(str(entry))

    def notes(self, others: bool = False) -> list[str]:
        """What was left out.

        Args:
            others (bool): Also files that nobody takes for images, such as texts. Default: False.
        """
        notes = []
        if self.left_out:
            notes.append(
                f'Left out: {_counted(self.left_out)}; these formats are not read: convert the files to JPEG or PNG.'
            )
        if others and self.others:
            notes.append(f'Left out: {_counted(self.others)}: no images.')
        if self.hidden:
            more = f' and {len(self.hidden) - _NAMED} more' if len(self.hidden) > _NAMED else ''
            notes.append(f'Left out: hidden images and folders: {", ".join(self.hidden[:_NAMED])}{more}.')
        if self.results:
            notes.append(f'Left out: folders of results: {", ".join(self.results)}.')
        if self.closed:
            notes.append(f'Left out: folders that cannot be read: {", ".join(self.closed)}.')
        if self.upward:
            notes.append(f'Left out: links to a folder that they lie in: {", ".join(self.upward)}.')
        if self.twice:
            notes.append(f'Given twice, taken once: {self.twice} images.')
        return notes


def _counted(kinds: Counter[str]) -> str:
    """Such as '2 .txt, 1 without a suffix'; of many kinds the most frequent."""
    named = sorted(kinds.most_common(_NAMED * 2))
    more = sum(kinds.values()) - sum(count for _, count in named)
    return ', '.join(f'{count} {kind}' for kind, count in named) + (f' and {more} others' if more else '')


def holds_results(folder: Path) -> bool:
    """Whether pictures of an earlier run lie in a folder."""
    try:
        with open(folder / RESULTS, 'rb') as file:
            return file.read(len(RESULTS_START)) == RESULTS_START
    except OSError:
        return False
