"""Which annotation files and image folders a folder of COCO-format data holds."""

import os.path as osp
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .coco_lookup import find_images

OFFICIAL_COUNTS = dict(train2017=118287, val2017=5000)  # images, https://cocodataset.org/#download
#: Words in the names of json files of other tasks, and of results.
OTHER_TASKS = ('caption', 'keypoint', 'panoptic', 'stuff', 'result', 'image_info')
_PROBED = 20


class Split(NamedTuple):
    """One part of a data set.

    Args:
        name (str): Its name in messages.
        ann_file (Path): Its annotation file.
        folders (tuple[Path, ...]): Where its images may lie.
        evaluated (bool): Whether it is for evaluation.
    """

    name: str
    ann_file: Path
    folders: tuple[Path, ...]
    evaluated: bool

    def folder(self, images: list[dict]) -> Path:
        """The folder that has most of the first images, the first of equal ones.

        Args:
            images (list[dict]): Of the json.
        """
        folders = [folder for folder in self.folders if folder.is_dir()]
        if len(folders) < 2:
            return (folders or self.folders)[0]
        names = [image['file_name'] for image in images[:_PROBED]]
        missing = {}
        for folder in folders:
            missing[folder] = len(find_images(str(folder), names).missing)
            if not missing[folder]:
                return folder
        return min(missing, key=missing.get)


def find_splits(root: Path) -> list[Split]:
    """The training and validation part below a folder.

    That is COCO 2017's layout, else one json each with "train" and "val" in its path, at most one folder deep, such as
    ``train/_annotations.coco.json``.

    Args:
        root (Path): An existing folder.

    Returns:
        list[Split]: Those of COCO 2017 if nothing else is there either.
    """
    official = [
        Split(name, root / 'annotations' / f'instances_{name}.json', (root / name,), name.startswith('val'))
        for name in OFFICIAL_COUNTS
    ]
    if any(split.ann_file.exists() for split in official):
        return official
    found = [_find_split(root, word, word == 'val') for word in ('train', 'val')]
    return [split for split in found if split] or official


def _find_split(root: Path, word: str, evaluated: bool) -> Split | None:
    files = [
        path
        for path in sorted([*root.glob('*.json'), *root.glob('*/*.json')])
        if word in str(path.relative_to(root)).lower() and not any(task in path.name.lower() for task in OTHER_TASKS)
    ]
    files = [path for path in files if 'instances' in path.name] or files
    if len(files) != 1:
        return None
    return Split(word, files[0], tuple(_folders(root, files[0], word)), evaluated)


def _folders(root: Path, ann_file: Path, word: str) -> Iterable[Path]:
    """Folders in which images may lie, the likeliest first."""
    named = [
        path for path in sorted([*root.glob('*'), *root.glob('*/*')]) if path.is_dir() and word in path.name.lower()
    ]
    return dict.fromkeys([*(path / 'images' for path in named), *named, ann_file.parent, root / 'images', root])


def single_split(ann_file: str, folder: str) -> Split:
    """An annotation file and its images; it is for evaluation if its name says so (val, test)."""
    name = osp.basename(ann_file).lower()
    return Split(Path(ann_file).stem, Path(ann_file), (Path(folder),), 'val' in name or 'test' in name)
