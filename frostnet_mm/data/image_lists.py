"""Lists of images: some of those in the folders of classes, and which of those no list has."""

import os
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..device.image_search import ImageSearch
from .coco_paths import list_nearest, sample
from .errors import DatasetError, DatasetNotFoundError

WHERE = 'If the data lie elsewhere, --cfg-options data_root=/path says where'


def listed_images(list_file: str, folder: str, classes: Sequence[str]) -> dict[str, list[str]]:
    """The images of a list, by class.

    Args:
        list_file (str): A text file with a path below ``folder`` a line.
        folder (str): The folder of the classes' folders.
        classes (Sequence[str]): Names of those.

    Returns:
        dict[str, list[str]]: Paths of each class, in the order of the list.

    Raises:
        DatasetNotFoundError: The list does not exist.
        DatasetError: It lists nothing, or what cannot be used.
    """
    try:
        content = Path(list_file).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DatasetNotFoundError(
            f"The list of images '{list_file}' does not exist, or is no file; {list_nearest(list_file)}. {WHERE}."
        ) from error
    except OSError as error:
        raise DatasetError(f"The list of images '{list_file}' cannot be read: {error}.") from error
    names = _lines(content)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        if any('\0' in name or not osp.isfile(osp.join(folder, name)) for name in names):
            raise DatasetError(f"The list of images '{list_file}' cannot be read as text (UTF-8): {error}.") from error
    example = f"Expected a path below '{folder}' a line, such as {classes[0]}/1.jpg"
    if not names:
        raise DatasetError(f"'{list_file}' lists no image. {example}.")
    twice = [name for name, count in Counter(map(osp.normpath, names)).items() if count > 1]
    other = [name for name in names if osp.normpath(name).split(os.sep)[0] not in classes]
    absent = [name for name in names if not osp.isfile(osp.join(folder, name))] if not other else []
    for wrong, what in ((other, 'lie in no folder of a class'), (absent, 'do not exist'), (twice, 'are there twice')):
        if wrong:
            raise DatasetError(
                f"{len(wrong)} of the {len(names)} images of '{list_file}' {what}: {sample(wrong)}. {example}."
            )
    images: dict[str, list[str]] = {name: [] for name in classes}
    for name in names:
        images[osp.normpath(name).split(os.sep)[0]].append(osp.join(folder, name))
    return images


def unlisted_images(lists: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Images in folders of which lists take some, that none of the lists has.

    Args:
        lists (Iterable[tuple[str, str]]): A list, and the folder that its paths lie below. Those that cannot be read
            are for :func:`listed_images` to refuse, and have nothing here.

    Returns:
        dict[str, list[str]]: By folder the paths of such images, if there are any.
    """
    listed: dict[str, set[str]] = defaultdict(set)
    for list_file, folder in lists:
        if osp.isfile(list_file):
            names = _lines(Path(list_file).read_bytes())
            listed[osp.realpath(folder)].update(osp.normpath(osp.join(osp.realpath(folder), name)) for name in names)
    found = {folder: map(str, ImageSearch().add(Path(folder))) for folder in listed if osp.isdir(folder)}
    unlisted = {folder: [path for path in paths if path not in listed[folder]] for folder, paths in found.items()}
    return {folder: paths for folder, paths in unlisted.items() if paths}


def _lines(content: bytes) -> list[str]:
    """The lines of a list that hold something; names of files that are not UTF-8 as Python names such files."""
    lines = content.decode('utf-8-sig', 'surrogateescape').split('\n')
    return [line.removesuffix('\r') for line in lines if line.strip()]
