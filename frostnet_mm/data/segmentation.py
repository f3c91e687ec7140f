"""Segmentation data sets that check their files before training starts, and survive single bad ones."""

import logging
import os.path as osp
from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset, CityscapesDataset

from ..registry import DATASETS
from .cityscapes import LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX
from .coco_json import palette_for
from .coco_paths import sample
from .counters import CountingDataset
from .errors import BadImageError, DatasetError, DatasetNotFoundError
from .loading import LoadImage, resize_errors
from .segmentation_checks import Findings, check_pairs
from .segmentation_files import (
    Pair,
    check_folders,
    find_images,
    header_size,
    list_names,
    missing_labels_message,
    no_images_message,
    stem_of,
)
from .segmentation_labels import BadLabelError
from .segmentation_loading import checked_loader, reads_label_images
from .segmentation_values import LabelValues

OWN_CLASSES = (
    "For classes of one's own: type='frostnet_mm.CheckedSegDataset' with metainfo=dict(classes=(...)), or a config "
    'that inherits configs/espnetv2_frostnet_custom_seg.py (docs/data.md)'
)


@DATASETS.register_module()
class CheckedSegDataset(CountingDataset, BaseSegDataset):
    """mmseg's ``BaseSegDataset`` with its input checked.

    On sound data it is ``BaseSegDataset``. Before training (and testing) the headers of all images and labels are read,
    and a sample of the labels to the last pixel. What makes the labels meaningless as a whole raises one error: values
    that are no class, label ids in the place of Cityscapes' train ids, nothing but ignored pixels, one class only. What
    is wrong with single files, such as a label of another size than its image, is counted in :attr:`problems` and
    logged; in training these images are left out, in test mode it is an error.

    Images with another extension than ``img_suffix`` are taken where they have a label, and the log says so. mm's
    plain loaders in the pipeline become ``frostnet_mm.LoadImage`` and ``frostnet_mm.LoadSegAnnotations``.

    While running:

    - training: an image or label that cannot be read, or of different sizes, is logged once, counted and replaced by
      another random sample, until there are more than ``max_bad_fraction`` of the data set.
    - test mode: an unreadable image is logged as an error, counted, and replaced by a uniform grey image of its label's
      size. It stays in the metric. A bad label is an error.
    - a value that is no class is an error at once: the config and the labels contradict each other.

    Args:
        max_bad_fraction (float): Fraction of images, 0 to 1, that may be left out before training, and that may turn
            out to be bad, before training stops. Defaults to 0.1.
        **kwargs: Arguments of mmseg's ``BaseSegDataset``; ``metainfo=dict(classes=...)`` is required.

    Raises:
        DatasetNotFoundError: If data root, image folder, label folder or too many files do not exist.
        DatasetError: See above, or if the classes are not told.
    """

    COUNTERS = ('bad_images', 'unlabelled')

    # -- classes

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """Index of a class by its value in the labels, see the base class.

        Raises:
            DatasetError: The classes are not told, or a subset of another data set's is asked for that is none.
        """
        if isinstance(new_classes, str) or not new_classes:
            raise DatasetError(
                f"metainfo=dict(classes={new_classes!r}) of {cls.__name__}: expected the names of the labels' values "
                "0, 1, 2, ..., such as metainfo=dict(classes=('background', 'object'))."
            )
        try:
            return super().get_label_map(new_classes)
        except ValueError as error:
            old = cls.METAINFO['classes']
            unknown = [name for name in new_classes if name not in old]
            raise DatasetError(
                f'metainfo=dict(classes=...) of {cls.__name__} names {sample(unknown)}; it knows {", ".join(old)}, of '
                f'which a config may name some, the others are ignored. {OWN_CLASSES}.'
            ) from error

    def _update_palette(self) -> list:
        classes, palette = self._metainfo['classes'], self._metainfo.get('palette') or []
        if not palette:
            return palette_for(len(classes))
        if len(palette) != len(classes) and self.label_map is None:
            raise DatasetError(
                f'metainfo has {len(palette)} colours in palette and {len(classes)} classes: give one (R, G, B) a '
                'class, or no palette.'
            )
        return super()._update_palette()

    # -- counters

    @property
    def num_bad_images(self) -> int:
        """Number of distinct images whose files could not be used so far, in all workers of this process."""
        return self._count('bad_images')

    @property
    def num_unlabelled(self) -> int:
        """Number of distinct images read so far whose label has no pixel of a class."""
        return self._count('unlabelled')

    def full_init(self) -> None:
        """Check the files and list them, see the base class."""
        if not self._fully_initialized:
            self.pipeline.transforms = [checked_loader(transform) for transform in self.pipeline.transforms]
        super().full_init()

    # -- the list of files

    @property
    def values(self) -> LabelValues:
        """What the labels may hold."""
        return LabelValues.of(self.metainfo['classes'], self.label_map, self.reduce_zero_label, self.ignore_index)

    @property
    def _place(self) -> str:
        return self.data_prefix.get('img_path') or '.'

    @property
    def _root(self) -> str:
        return self.data_root or 'ROOT'

    def load_data_list(self) -> list[dict]:
        """List images and labels, and check them.

        Returns:
            list[dict]: As mmseg's ``BaseSegDataset``.

        Raises:
            DatasetError: See the class.
        """
        if not self.test_mode and self.data_prefix.get('seg_map_path') is None:
            raise DatasetError(
                f'data_prefix={self.data_prefix} names no labels: expected '
                "data_prefix=dict(img_path='images/train', seg_map_path='labels/train') for training."
            )
        if not self._is_local(self._place):
            return super().load_data_list()
        labelled = reads_label_images(self.pipeline.transforms)
        check_folders(
            self.data_root, self._place, self.data_prefix.get('seg_map_path') if labelled else None, self.ann_file
        )
        pairs = self._list_pairs()
        if not pairs:
            raise DatasetNotFoundError(no_images_message(self._place, self.img_suffix))
        if labelled:
            pairs = self._check(pairs)
        return [self._info(pair) for pair in pairs]

    def _list_pairs(self) -> list[Pair]:
        label_dir = self.data_prefix.get('seg_map_path')
        if self.ann_file and not osp.isdir(self.ann_file):
            names = list_names(self.ann_file, self.img_suffix)
            # the search lists images of other extensions by their whole name
            names = [name if osp.isfile(osp.join(self._place, name)) else name + self.img_suffix for name in names]
        else:
            ends = (self.seg_map_suffix,)
            if self.seg_map_suffix == TRAIN_IDS_SUFFIX:  # of which the train ids are still to be made
                ends += (LABEL_IDS_SUFFIX,)
            names, others = find_images(self._place, self.img_suffix, label_dir, ends)
            if others:
                endings = sorted({osp.splitext(name)[1] for name in others})
                self._warn(
                    f"'{self._place}': {len(others)} images end in {', '.join(endings)} instead of img_suffix="
                    f"'{self.img_suffix}', such as '{others[0]}': they are used as well.",
                    logging.INFO,
                )
            names = sorted(names + others)
        pairs = []
        for name in names:
            label = None
            if label_dir is not None:
                label = osp.join(label_dir, stem_of(name, self.img_suffix) + self.seg_map_suffix)
            pairs.append(Pair(osp.join(self._place if self.data_prefix.get('img_path') else '', name), label))
        return sorted(pairs, key=lambda pair: pair.image)

    def _info(self, pair: Pair) -> dict:
        info = dict(img_path=pair.image)
        if pair.label is not None:
            info['seg_map_path'] = pair.label
        return info | dict(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label, seg_fields=[])

    def _check(self, pairs: list[Pair]) -> list[Pair]:
        """Check the files, say what was found, and return what is left to train on."""
        loader = next((step for step in self.pipeline.transforms if isinstance(step, LoadImage)), None)
        oriented = loader is None or loader.color_type == 'color'
        values = self.values
        missing = [pair for pair in pairs if pair.label is not None and not osp.isfile(pair.label)]
        if missing and (self.test_mode or len(missing) > self.max_bad_fraction * len(pairs)):
            raise DatasetNotFoundError(
                f'{missing_labels_message(missing, len(pairs), self._root)}.{self._how_to_go_on()}'
            )
        findings = check_pairs(pairs, values, oriented, self._root)
        if self.test_mode:  # such images stay in the metric, see the class
            findings.faults = {i: fault for i, fault in findings.faults.items() if fault.kind != 'image unreadable'}
        self.problems = findings.kinds()
        self._report(findings, values, len(pairs))
        return [pair for index, pair in enumerate(pairs) if index not in findings.faults]

    def _how_to_go_on(self) -> str:
        if self.test_mode:
            return ' An evaluation without them would give a wrong metric: complete or mend the files.'
        return (
            f' More than max_bad_fraction={self.max_bad_fraction} of the images: complete or mend the files, or set '
            'max_bad_fraction of the data set.'
        )

    def _report(self, findings: Findings, values: LabelValues, total: int) -> None:
        if findings.faults:
            kinds = ', '.join(f'{count} {kind}' for kind, count in self.problems.items())
            first = next(iter(findings.faults.values())).text
            count = len(findings.faults)
            message = f"'{self._place}': {count} of {total} images cannot be used ({kinds}); the first: {first}."
            if self.test_mode or count > self.max_bad_fraction * total:
                raise DatasetError(message + self._how_to_go_on())
            self._warn(f'{message} They are left out.')
        for form, count in findings.forms.items():
            self._warn(
                f'{count} of {findings.read} labels read are stored as {form}: taken as class indices.', logging.INFO
            )
        if findings.unlabelled:
            self._warn(
                f'{len(findings.unlabelled)} of {findings.read} labels read have no pixel of a class, only ignored '
                f'ones: {sample(findings.unlabelled, 2)}. Nothing is learned from these images.'
            )
        if findings.read:
            self._warn(
                f"Labels of '{self.data_prefix['seg_map_path']}' ({findings.read} of {total} read): "
                f'{values.describe(findings.counts)}.',
                logging.INFO,
            )

    # -- while running

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline on one image.

        Args:
            idx (int): Index of the image.

        Returns:
            dict or None: The pipeline's result; None for a bad image or label in training, upon which the base class
            takes another random sample.

        Raises:
            DatasetError: In training, if more than ``max_bad_fraction`` of the images are bad; for a bad label in test
                mode.
        """
        info = self._info_for_pipeline(idx)
        try:
            return self._run_pipeline(info)
        except BadImageError as error:
            self._count_bad_image(info['sample_idx'], error)
            if not self.test_mode:
                return None
            info = self._info_for_pipeline(idx)
            info['img_placeholder'] = self._placeholder_size(info, error)
            return self._run_pipeline(info)

    def _info_for_pipeline(self, idx: int) -> dict:
        return self.get_data_info(idx) | dict(label_values=self.values, data_root=self.data_root)

    def _run_pipeline(self, data: dict) -> dict | None:
        index, path, seen = data['sample_idx'], data['img_path'], False
        for transform in self.pipeline.transforms:
            with resize_errors(path):
                data = transform(data)
            if data is None:
                return None
            if not seen and 'unlabelled' in data:
                seen = True
                if data['unlabelled']:
                    self._count_unlabelled(index, data['seg_map_path'])
        return data

    def _placeholder_size(self, info: dict, error: BadImageError) -> tuple[int, int]:
        try:
            if info.get('seg_map_path') is not None:
                return header_size(info['seg_map_path'], False)
            return header_size(info['img_path'], True)
        except OSError:
            raise DatasetError(f'{error}. Its size is not known: mend the file, or take it out.') from error

    def _count_bad_image(self, index: int, error: BadImageError) -> None:
        if self.test_mode and isinstance(error, BadLabelError):
            raise DatasetError(f'{error}.{self._how_to_go_on()}') from error
        self._count_bad(index, error, f"'{self._place}' or their labels cannot be used")

    def _count_unlabelled(self, index: int, path: str) -> None:
        is_first = self.num_unlabelled == 0
        self._flag('unlabelled', index)
        if is_first:
            self._warn(
                f"the label '{path}' has no pixel of a class, only ignored ones. Further ones are counted in "
                'num_unlabelled and not logged.'
            )


@DATASETS.register_module()
class CheckedCityscapesDataset(CheckedSegDataset, CityscapesDataset):
    """mmseg's ``CityscapesDataset`` with its input checked, see :class:`CheckedSegDataset`.

    Args:
        **kwargs: Arguments of :class:`CheckedSegDataset`. Classes of ``metainfo`` may be some of Cityscapes'; the
            others are ignored.
    """
