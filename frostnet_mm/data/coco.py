"""COCO detection data set that checks its files before training starts, and survives single bad images."""

import logging

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log

from ..registry import DATASETS
from .coco_checks import screen_instances, size_fault
from .coco_json import palette_for, read_coco_classes
from .coco_paths import WHERE_DATA_BELONGS, check_paths
from .coco_reading import CocoReading, in_words
from .coco_text import no_collection
from .counters import CountingDataset
from .errors import BadImageError, DatasetError, DatasetNotFoundError, ResizedAwayError
from .ground_truth import index_coco
from .loading import resize_errors

SQUARE = (640, 640)  # of the image that stands in, in evaluations, for one too narrow to be resized
__all__ = ['CheckedCocoDataset', 'DatasetError', 'DatasetNotFoundError', 'palette_for', 'read_coco_classes']


@DATASETS.register_module()
class CheckedCocoDataset(CountingDataset, CocoDataset):
    """mmdet's ``CocoDataset`` with its input checked.

    On sound data it is ``CocoDataset``. Before training, what is wrong with the annotation file as a whole raises one
    error. Single faults are skipped, counted in :attr:`problems` and logged, one line a cause: unusable boxes, and in
    training missing images. Boxes that overrun their image by more than 1 pixel are clipped in training; in test mode
    they are counted but stay what the file states. ``frostnet_mm.CocoMetric`` reads the file in the same way.

    While running, with ``frostnet_mm.LoadImage`` (or ``frostnet_mm.LoadImageFromFile``) in the pipeline:

    - training: an unreadable image is logged once, counted and replaced by another random sample, until more than
      ``max_bad_fraction`` of the data set is unreadable.
    - test mode: an unreadable image is logged as an error, counted, and replaced by a uniform grey image of the size
      that the json states. It stays in the metric, and its objects count as missed.
    - an image of another size than the json states is an error in test mode. In training its boxes are clipped to the
      image that was read (after EXIF orientation); turned by 90 degrees or scaled, the image counts as unreadable,
      unless its boxes fit it and not the json's size.

    The counters live in shared memory, so that they hold what all data loader workers of this process met.

    Args:
        max_bad_fraction (float): Fraction of images, 0 to 1, that may be missing, and that may be unreadable, before
            training stops. Defaults to 0.1.
        **kwargs: Arguments of ``mmdet.datasets.CocoDataset``.

    Raises:
        DatasetNotFoundError: If data root, annotation file, image folder or too many images do not exist.
        DatasetError: If the annotation file is broken, or does not fit the config's classes.
    """

    COUNTERS = ('bad_images', 'other_sizes')

    def __init__(self, *args, **kwargs) -> None:
        # by image id, boxes as they were stated, of images whose boxes overran the stated size
        self._stated_boxes: dict = {}
        super().__init__(*args, **kwargs)

    @property
    def num_bad_images(self) -> int:
        """Number of distinct images that could not be read so far, in all workers of this process."""
        return self._count('bad_images')

    @property
    def num_size_mismatches(self) -> int:
        """Number of distinct images read so far whose size differs from the json's."""
        return self._count('other_sizes')

    def load_data_list(self) -> list[dict]:
        """Check the paths, then load the annotations.

        Returns:
            list[dict]: As mmdet's ``CocoDataset``.

        Raises:
            DatasetError: See the class.
        """
        if not self.ann_file or 'img' not in self.data_prefix:
            raise DatasetError(
                f'ann_file={self.ann_file!r}, data_prefix={self.data_prefix}: expected the annotation '
                "file and the image folder, ann_file='annotations/instances_train2017.json' and "
                f"data_prefix=dict(img='train2017/'). {WHERE_DATA_BELONGS}"
            )
        if self._is_local(self.ann_file) and self._is_local(self.data_prefix['img']):
            check_paths(self.data_root, self.ann_file, self.data_prefix['img'])
        return super().load_data_list()

    def COCOAPI(self, local_path: str) -> COCO:  # noqa: N802, the name under which mmdet calls it
        """Parse the annotation file once, check it, and index what is left of it.

        Args:
            local_path (str): Local copy of :attr:`ann_file`.

        Returns:
            COCO: mmdet's pycocotools object.
        """
        with no_collection():
            return index_coco(self._read(local_path))

    def _read(self, local_path: str) -> dict:
        reading = CocoReading(local_path, self.ann_file, self.test_mode, self._warn)
        self.problems = reading.problems
        reading.fit(self.metainfo['classes'])
        img_dir = self.data_prefix['img'] if self._is_local(self.data_prefix['img']) else None
        if img_dir is not None:
            self._locate(reading, img_dir)
        reading.settle_sizes(img_dir, self._is_oriented())
        reading.check_convention()
        reading.screen()
        reading.check_usable(self.metainfo['classes'])
        self._stated_boxes = reading.stated_boxes
        return reading.data

    def _is_oriented(self) -> bool:
        """Whether the pipeline loads images with EXIF orientation."""
        kinds = [getattr(transform, 'color_type', 'color') for transform in self.pipeline.transforms]
        return 'color_ignore_orientation' not in kinds

    def _warn(self, message: str, level: int = logging.WARNING, changed: bool = True) -> None:
        print_log(message, logger='current', level=level)

    def _locate(self, reading: CocoReading, img_dir: str) -> None:
        total = len(reading.data['images'])
        message = reading.locate(img_dir)
        if message is None:
            return
        if self.test_mode:
            raise DatasetNotFoundError(
                f'{message}. An evaluation without them would give a wrong metric: complete '
                f'the folder, or take them out of the annotation file. {WHERE_DATA_BELONGS}'
            )
        if total - len(reading.data['images']) > self.max_bad_fraction * total:
            raise DatasetNotFoundError(
                f'{message}. More than max_bad_fraction={self.max_bad_fraction} of the images: '
                'complete the folder, correct data_prefix, or set max_bad_fraction of the data '
                f'set. {WHERE_DATA_BELONGS}'
            )
        self._warn(f'{message}. They are skipped.')

    def filter_data(self) -> list[dict]:
        """Filter by ``filter_cfg`` as mmdet does, and say what it left.

        Returns:
            list[dict]: The images kept.

        Raises:
            DatasetError: If no image is left.
        """
        total = len(self.data_list)
        kept = super().filter_data()
        if not kept:
            raise DatasetError(
                f"'{self.ann_file}': filter_cfg={self.filter_cfg} leaves none of its {total} images "
                f'(found before: {in_words(self.problems) or "nothing wrong"}). filter_empty_gt takes out '
                "images without boxes of the config's classes, min_size those with a shorter side."
            )
        if len(kept) < total:
            self._warn(
                f"'{self.ann_file}': {len(kept)} of {total} images kept by filter_cfg={self.filter_cfg}.", logging.INFO
            )
        return kept

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline on one image.

        Args:
            idx (int): Index of the image.

        Returns:
            dict or None: The pipeline's result; None for an unreadable image in training, upon which the base class
            takes another random sample.

        Raises:
            DatasetError: In training, if more than ``max_bad_fraction`` of the images are unreadable.
        """
        data_info = self.get_data_info(idx)
        index = data_info['sample_idx']
        size = (int(data_info['height']), int(data_info['width']))
        try:
            data = self._run_pipeline(data_info, index, size)
        except BadImageError as error:
            which = f"'{self.ann_file}' cannot be read"
            self._count_bad(index, error, which, ', so that its objects count as missed')
            if not self.test_mode:
                return None
            # again from the start, as transforms that cache or nest must run in their usual order
            data_info = self.get_data_info(idx)
            data_info['img_placeholder'] = SQUARE if isinstance(error, ResizedAwayError) else size
            return self.pipeline(data_info)
        return data

    def load_image(self, idx: int) -> np.ndarray:
        """The image (H, W, 3) that the pipeline loads, held against the size that the json states.

        Args:
            idx (int): Index of the image.

        Raises:
            BadImageError: It cannot be read, or its boxes were made on another frame.
        """
        data = self.get_data_info(idx)
        return self._run_pipeline(data, data['sample_idx'], (int(data['height']), int(data['width'])))['img']

    def _run_pipeline(self, data: dict, index: int, stated: tuple[int, int]) -> dict | None:
        """The pipeline; between loading the image and the rest, its boxes are held against the size that was read."""
        screened, path = False, data['img_path']
        for transform in self.pipeline.transforms:
            with resize_errors(path):
                data = transform(data)
            if data is None:
                return None
            if not screened and 'ori_shape' in data:
                screened = True
                self._screen(data, index, stated)
        return data

    def _screen(self, data: dict, index: int, stated: tuple[int, int]) -> None:
        found = tuple(int(side) for side in data['ori_shape'][:2])
        if found != stated:
            self._check_size(data, index, stated, found)
        if not self.test_mode and 'instances' in data:
            data['instances'], clipped, dropped = screen_instances(data['instances'], found)
            if found != stated:
                self._count_other_size(index, data, f'{clipped} of its boxes are clipped to it, {dropped} left out')

    def _check_size(self, data: dict, index: int, stated: tuple[int, int], found: tuple[int, int]) -> None:
        sizes = f'it is {found[1]}x{found[0]} (width x height), the json says {stated[1]}x{stated[0]}'
        boxes = np.array([instance['bbox'] for instance in data.get('instances', [])], dtype=float).reshape(-1, 4)
        fault = size_fault(self._stated_boxes.get(data['img_id'], boxes), stated, found)
        if self.test_mode:
            hint = size_fault(np.array([[0, 0, 0, 0]]), stated, found) or 'the boxes may not fit'
            raise DatasetError(
                f"the image '{data['img_path']}' does not fit '{self.ann_file}': {sizes}; {hint}. An evaluation would "
                'give a wrong metric: correct width and height in the json, or put the image there that it was '
                'made for.'
            )
        if fault is not None:
            raise BadImageError(data['img_path'], f'{sizes}, so its boxes do not fit; {fault}')

    def _count_other_size(self, index: int, data: dict, what: str) -> None:
        is_first = self.num_size_mismatches == 0
        is_new = self._flag('other_sizes', index)
        if is_first and is_new:
            height, width = data['ori_shape'][:2]
            self._warn(
                f"the image '{data['img_path']}' is {width}x{height} (width x height), the json says "
                f'{data["width"]}x{data["height"]}: {what}. Further ones are counted in num_size_mismatches and not '
                'logged.'
            )
