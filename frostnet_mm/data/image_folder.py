"""Classification data set: a folder a class."""

import logging
import os
import os.path as osp
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.dataset import BaseDataset

from ..device.image_search import ImageSearch, images_in, is_litter
from ..registry import DATASETS
from .coco_json import palette_for
from .coco_paths import list_folder, list_nearest, sample
from .counters import CountingDataset
from .errors import BadImageError, DatasetError, DatasetNotFoundError
from .image_lists import WHERE, listed_images
from .loading import resize_errors

SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'test', 'testing'}
_NAMED = 8  # classes in a message
GREY = (224, 224)  # size of the image that stands in for one that cannot be read, in evaluations


def class_folders(folder: str) -> tuple[str, ...]:
    """The classes of a folder: the names of its sub-folders, sorted; hidden ones and known litter are none.

    Args:
        folder (str): The folder of a split, such as ``data/train``.

    Raises:
        DatasetNotFoundError: The folder does not exist, or has no sub-folder.
        DatasetError: Its sub-folders are splits.
    """
    if not osp.isdir(folder):
        raise DatasetNotFoundError(f"The image folder '{folder}' does not exist; {list_nearest(folder)}. {WHERE}.")
    names = tuple(sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and not is_litter(path.name)))
    if not names:
        raise DatasetNotFoundError(
            f"'{folder}' has no folder in it; {list_folder(folder)}. Expected a folder a class, such as "
            f"'{osp.join(folder, 'cat')}', with the images of that class. {WHERE}."
        )
    if splits := [name for name in names if name.lower() in SPLITS and _holds_folders_alone(Path(folder, name))]:
        raise DatasetError(
            f"'{folder}' holds the folders {sample(names)}: {splits[0]!r} is a split, no class. Expected the folder of "
            f'one split: data_prefix=dict(img_path={splits[0]!r}).'
        )
    return names


def _holds_folders_alone(folder: Path) -> bool:
    """Whether a folder is of a split: one of a class called train holds images, or is empty."""
    return not images_in(folder) and any(path.is_dir() and not is_litter(path.name) for path in folder.iterdir())


def check_training_classes(
    folder: str | os.PathLike, counts: Mapping[str, int], list_file: str | os.PathLike | None = None
) -> None:
    """Refuse training images that do not tell at least two classes apart.

    Args:
        folder (str | PathLike): Where they are, for the message.
        counts (Mapping[str, int]): Images of each class.
        list_file (str | PathLike, optional): The list that they are from.

    Raises:
        DatasetError: A class has no image, or there is one class alone.
    """
    lacking = [name for name, count in counts.items() if not count]
    if lacking and list_file:
        names = tuple(name for name in counts if name not in lacking)
        raise DatasetError(
            f"'{list_file}' lists no image of {len(lacking)} of {len(counts)} classes: {sample(lacking)}. List some of "
            f"'{folder}', or name the other classes in the config: classes = {_as_tuple(names)}."
        )
    if lacking:
        raise DatasetError(
            f"'{folder}' has no image of {len(lacking)} of {len(counts)} classes: {sample(lacking)}. Give images of "
            'them, or take out the empty folders.'
        )
    if len(counts) < 2:
        raise DatasetError(f"'{folder}' has one class, {', '.join(counts)}: expected at least two to tell apart.")


def _as_tuple(names: Sequence[str]) -> str:
    """Names as a config has them, the first of many."""
    return f'({", ".join(map(repr, names[:_NAMED]))}{", ..." if len(names) > _NAMED else "," * (len(names) == 1)})'


def _written_otherwise(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Those of the names that look as one of the others and are of other characters, as macOS writes accents."""
    looks = {unicodedata.normalize('NFC', name) for name in others}
    return [name for name in names if unicodedata.normalize('NFC', name) in looks]


@DATASETS.register_module()
class ImageFolder(CountingDataset, BaseDataset):
    """Images of classes, a folder a class, as ImageNet's training images lie.

    The classes are the sub-folders in alphabetical order, unless ``metainfo=dict(classes=...)`` names them: a
    validation set takes those of the training set, in their order, and may lack some. Images are found in the folders
    of a class and below, with the suffixes that ``tools/infer.py`` knows. Hidden folders, and those that file managers
    leave (``@eaDir``, ``__MACOSX``), are left out; the log says so, and counts what is no image.

    ``ann_file`` makes it some of the images: a text file with a path below ``img_path`` a line, such as ``cat/1.jpg``.

    In training, an image that cannot be read is logged once, counted and replaced by another random one, until more
    than ``max_bad_fraction`` of the data set is unreadable. In test mode it stays in the metric, as a uniform grey
    image.

    Args:
        data_root (str): Folder of the data. Defaults to ''.
        data_prefix (dict | str): ``img_path``, the folder of a split below ``data_root``, or that folder itself.
            Defaults to dict(img_path='').
        metainfo (dict, optional): ``classes``, names of folders in the order of their indices.
        leave_out_others (bool): Folders of other names than ``classes`` are left out, with a warning, as long as each
            class has its folder; otherwise they are an error. ``load_config`` sets it where a config names the classes
            itself. Defaults to False.
        is_part (bool): Other data sets are trained on together with this one, which may lack a class that they have.
            ``load_config`` sets it in a concatenation. Defaults to False.
        max_bad_fraction (float): Fraction of the images, 0 to 1, that may be unreadable before training stops.
            Defaults to 0.1.
        **kwargs: Arguments of mmengine's ``BaseDataset``, such as ``ann_file``, a path or one below ``data_root``.

    Raises:
        DatasetNotFoundError: There is no such folder, or no image in it.
        DatasetError: Images lie beside the folders; a folder is of no class that is named (see
            ``leave_out_others``); ``ann_file`` lists what is not there, twice, or in no folder of a class; or in
            training a class has no image, or there is one class alone.
    """

    def __init__(self, *args, leave_out_others: bool = False, is_part: bool = False, **kwargs) -> None:
        self.leave_out_others, self.is_part = leave_out_others, is_part
        if isinstance(kwargs.get('data_prefix'), str):
            kwargs['data_prefix'] = dict(img_path=kwargs['data_prefix'])
        super().__init__(*args, **kwargs)

    @classmethod
    def _load_metainfo(cls, metainfo: dict | None = None) -> dict:
        named = (metainfo or {}).get('classes')
        if named is not None and (isinstance(named, str) or len(set(named)) != len(named)):  # mmengine opens texts
            raise DatasetError(f'metainfo=dict(classes={named!r}): expected a tuple of different names.')
        return super()._load_metainfo(metainfo)

    @property
    def num_bad_images(self) -> int:
        """Number of distinct images whose files could not be used so far, in all workers of this process."""
        return self._count('bad_images')

    @property
    def folder(self) -> str:
        """The folder of the classes' folders."""
        return self.data_prefix.get('img_path') or self.data_root or '.'

    def load_data_list(self) -> list[dict]:
        """List the images.

        Returns:
            list[dict]: ``img_path`` and ``gt_label``, the index of the class, of each image.

        Raises:
            DatasetError: See the class.
        """
        found = class_folders(self.folder)
        classes = self._classes(found)
        self._say_skipped()
        beside = images_in(self.folder)
        if beside:
            raise DatasetError(
                f"'{self.folder}': {len(beside)} images lie beside the folders of the classes, such as "
                f"'{beside[0].name}', and have no class. Put them into one of {sample(found)}, or elsewhere."
            )
        if self.ann_file:
            images = listed_images(self.ann_file, self.folder, found)
        else:
            images = self._images(found)
        self._say_left_out({name: images.pop(name) for name in found if name not in classes})
        counts = {name: len(images.get(name, ())) for name in classes}
        labels = {name: label for label, name in enumerate(classes)}
        entries = [dict(img_path=path, gt_label=labels[name]) for name in images for path in images[name]]
        self._check_counts(counts)
        self._metainfo['classes'] = classes
        self._metainfo.setdefault('palette', palette_for(len(classes)))
        counts = {name: len(paths) for name, paths in images.items()}
        few, many = min(counts, key=counts.get), max(counts, key=counts.get)
        each = f'{counts[few]} ({few}) to {counts[many]} ({many})' if counts[few] < counts[many] else counts[few]
        self._warn(
            f"'{self.ann_file or self.folder}': {len(entries)} images of {len(counts)} classes, {each} a class.",
            logging.INFO,
        )
        return entries

    def _classes(self, found: Sequence[str]) -> tuple[str, ...]:
        named = self._metainfo.get('classes')
        if named is None:
            return tuple(found)
        unknown = [name for name in found if name not in named]
        lacking = [name for name in named if name not in found]
        if unknown and not (self.leave_out_others and not lacking):
            what = f"'{self.folder}' has the folders {sample(unknown)}, which are none of the {len(named)} classes "
            what += f'({sample(list(named))})'
            if alike := _written_otherwise(unknown, lacking):
                raise DatasetError(
                    f'{what}. {sample(alike)} looks as a class does and is written with other characters (Unicode NFC '
                    'and NFD, as macOS writes accents): rename the folder with the name of the class.'
                )
            if not self.leave_out_others:
                raise DatasetError(
                    f'{what}: the classes are those of the training data. Rename the folders, or take them out; a '
                    'config that names its classes, classes = (...), leaves them out.'
                )
            raise DatasetError(
                f'{what}, and no folder of {sample(lacking)}, which may be misspelt. Correct the name'
                + (', or make an empty folder of that name.' if self.test_mode else '.')
            )
        return tuple(named)

    def _say_skipped(self) -> None:
        """Warn of folders beside those of the classes that are none, and hold images."""
        folders = sorted(path for path in Path(self.folder).iterdir() if is_litter(path.name) and path.is_dir())
        skipped = [f'{path.name} ({len(images)} images)' for path in folders if (images := ImageSearch().add(path))]
        if skipped:
            self._warn(
                f"'{self.folder}': {', '.join(skipped)} left out: hidden folders and those of file managers are no "
                'classes. Rename one that is.'
            )

    def _images(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """The images of folders of classes, and a line in the log for each kind of what is left out."""
        search = ImageSearch()
        images = {name: [str(path) for path in search.add(Path(self.folder, name))] for name in folders}
        for note in search.notes(others=True):
            self._warn(note, logging.INFO)
        return images

    def _say_left_out(self, images: Mapping[str, list[str]]) -> None:
        if self.ann_file:
            images = {name: paths for name, paths in images.items() if paths}  # of the others nothing was asked for
        if images:
            self._warn(
                f"'{self.ann_file or self.folder}': the config's classes leave out {len(images)} folders: "
                f'{sample(list(images))}; {sum(map(len, images.values()))} images are not used. To use them, name them '
                'in metainfo=dict(classes=(...)).'
            )

    def _check_counts(self, counts: dict[str, int]) -> None:
        if not any(counts.values()):
            if self.ann_file:
                raise DatasetNotFoundError(
                    f"'{self.ann_file}' lists no image of the classes {sample(list(counts))}, below '{self.folder}'."
                )
            raise DatasetNotFoundError(f"'{self.folder}': the folders {sample(list(counts))} hold no image. {WHERE}.")
        lacking = [name for name, count in counts.items() if not count]
        if not self.test_mode and not (self.is_part and len(counts) > 1):
            check_training_classes(self.folder, counts, self.ann_file)
        elif lacking:
            where = self.ann_file or self.folder
            self._warn(f"'{where}' has no image of {len(lacking)} of {len(counts)} classes: {sample(lacking)}.")

    def get_cat_ids(self, idx: int) -> list[int]:
        """The class of an image, as mmengine's ``ClassBalancedDataset`` asks for it.

        Args:
            idx (int): Index of the image.

        Returns:
            list[int]: Its one class.
        """
        return [self.get_data_info(idx)['gt_label']]

    # -- while running

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline on one image.

        Args:
            idx (int): Index of the image.

        Returns:
            dict or None: The pipeline's result; None for a bad image in training, upon which the base class takes
            another random sample.

        Raises:
            DatasetError: In training, if more than ``max_bad_fraction`` of the images are bad.
        """
        info = self.get_data_info(idx)
        try:
            with resize_errors(info['img_path']):
                return self.pipeline(info)
        except BadImageError as error:
            self._count_bad(info['sample_idx'], error, f"'{self.folder}' cannot be used")
            if not self.test_mode:
                return None
            return self.pipeline(self.get_data_info(idx) | dict(img_placeholder=GREY))
