"""Where the files of a COCO data set are, and what to say when they are not there."""

import os
import os.path as osp
from collections.abc import Sequence

from .errors import DatasetNotFoundError

WHERE_DATA_BELONGS = (
    'COCO belongs in data/coco/{annotations,train2017,val2017}. If it lies elsewhere, set COCO_ROOT=/path or pass '
    "--cfg-options data_root=/path. To run without it, 'python tools/make_mini_data.py coco' generates a small "
    'synthetic data set for configs/examples/ssdlite_frostnet_minicoco.py.'
)


def cut_off(text: str, most: int = 1000) -> str:
    """A text for a message; of a longer one its beginning and its end, where what is expected stands."""
    return text if len(text) < most else f'{text[: most * 6 // 10]} ... {text[-(most * 4 // 10) :]}'


def sample(values: Sequence, limit: int = 3) -> str:
    """The first ``limit`` values as text, and how many more there are."""
    text = ', '.join(cut_off(repr(value)) for value in list(values)[:limit])
    return text + (f' and {len(values) - limit} more' if len(values) > limit else '')


def check_paths(data_root: str | None, ann_file: str, img_dir: str) -> None:
    """Check that the annotation file and the image folder of a data set exist.

    Args:
        data_root (str, optional): Data root as configured; paths below it are searched for near misses.
        ann_file (str): Annotation file, already joined with ``data_root``.
        img_dir (str): Image folder, already joined with ``data_root``. '' is the working directory.

    Raises:
        DatasetNotFoundError: If one of the three does not exist. The message lists what was found instead.
    """
    if data_root and not osp.isdir(data_root):
        raise DatasetNotFoundError(not_found_message('data root', data_root, None))
    if not osp.isfile(ann_file):
        raise DatasetNotFoundError(not_found_message('annotation file', ann_file, data_root))
    if not osp.isdir(img_dir or '.'):
        raise DatasetNotFoundError(not_found_message('image folder', img_dir, data_root))


def list_folder(folder: str, limit: int = 8) -> str:
    """What a folder holds, in words: folders first, at most ``limit`` names.

    Args:
        folder (str): An existing folder.
        limit (int): Number of names. Defaults to 8.
    """
    with os.scandir(folder) as entries:
        names = sorted((not entry.is_dir(), entry.name) for entry in entries)
    if not names:
        return f"'{folder}' is empty"
    shown = ', '.join(name + ('' if is_file else '/') for is_file, name in names[:limit])
    return f"'{folder}' holds {shown}" + (f' and {len(names) - limit} more' if len(names) > limit else '')


def list_nearest(path: str) -> str:
    """What lies in the nearest folder above a path that does not exist, as text."""
    parent = osp.dirname(osp.abspath(path))
    while not osp.isdir(parent):
        parent = osp.dirname(parent)
    return list_folder(parent)


def not_found_message(what: str, path: str, data_root: str | None) -> str:
    """Say that a path does not exist, what lies near it, and where data belongs.

    Args:
        what (str): What the path was to be, such as 'image folder'.
        path (str): The path.
        data_root (str, optional): Folder in whose sub-folders the path is looked for.
    """
    if osp.exists(path):
        kind = 'a folder' if osp.isdir(path) else 'a file'
        return f"The {what} '{path}' is {kind}. {WHERE_DATA_BELONGS}"
    message = f"The {what} '{path}' does not exist (working directory '{os.getcwd()}'); {list_nearest(path)}. "
    near = _one_level_deeper(data_root, path) if data_root else []
    if near:
        message += f"Found one level deeper: '{near[0]}'; point data_root, ann_file or data_prefix there. "
    return message + WHERE_DATA_BELONGS


def _one_level_deeper(data_root: str, path: str) -> list[str]:
    relative = osp.relpath(path, data_root)
    with os.scandir(data_root) as entries:
        folders = sorted(entry.path for entry in entries if entry.is_dir())
    return [osp.join(folder, relative) for folder in folders if osp.exists(osp.join(folder, relative))]


def missing_images_message(
    img_dir: str, missing: Sequence[str], total: int, ann_file: str, candidates: Sequence[tuple[str, list[str]]] = ()
) -> str:
    """One sentence on missing images with the likely cause.

    Args:
        img_dir (str): Image folder.
        missing (Sequence[str]): File names that are missing.
        total (int): Number of images in the annotation file.
        ann_file (str): Annotation file, for the message.
        candidates (Sequence[tuple[str, list[str]]]): Of those that may be one of several files, name and files.
    """
    message = (
        f"{len(missing)} of {total} images ({len(missing) / total:.1%}) of '{ann_file}' are missing below "
        f"'{img_dir or '.'}': {sample(missing)}"
    )
    if candidates:
        name, paths = candidates[0]
        claimed = f'{len(candidates)} of them cannot be told from others'
        if len(paths) == 1:
            return f"{message}; {claimed}: '{paths[0]}' may be {name!r} or another image of the json"
        return f'{message}; {claimed}: {name!r} may be {sample(paths)}'
    folder = osp.dirname(osp.join(img_dir, missing[0])) or '.'
    if osp.normpath(missing[0]).split(os.sep)[0] == os.pardir:
        return f'{message}; these lead out of the folder, where no image is looked for; {list_folder(img_dir or ".")}'
    if not osp.isdir(folder):
        return f"{message}; '{folder}' does not exist, {list_folder(img_dir or '.')}"
    return f'{message}; {list_folder(folder)}'
