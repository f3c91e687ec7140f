"""Predictions drawn while validating and testing, on the images as the pipeline has loaded them."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ...data.loading import inner_datasets, loaded_image
from ...device.pictures import free_name, picture_suffix
from ...errors import UserError
from ...registry import HOOKS, type_name

_UPSTREAM = ('DetVisualizationHook', 'SegVisualizationHook')


def settle_drawing(hooks: Sequence[Any]) -> None:
    """Put :class:`VisualizationHook` into the place of mmdet's and mmseg's among the configs of hooks."""
    for hook in hooks:
        if isinstance(hook, dict) and type_name(hook) in _UPSTREAM:
            hook['type'] = 'frostnet_mm.VisualizationHook'


@HOOKS.register_module()
class VisualizationHook(Hook):
    """mmdet's ``DetVisualizationHook`` and mmseg's ``SegVisualizationHook``, which read the image files anew.

    They do so in another way than the pipeline: orientation is lost or comes in twice, and a file that OpenCV does not
    decode ends the evaluation. This hook draws on what the loader of the data set reads. An image that cannot be drawn
    is logged, and the evaluation goes on.

    Args:
        draw (bool): Whether to draw at all. Defaults to False.
        interval (int): In validation every so many iterations the first image of the batch. Defaults to 50.
        score_thr (float): Detections below are left out. Defaults to 0.3.
        show (bool): Show pictures in a window. Defaults to False.
        wait_time (float): For so many seconds. Defaults to 0.
        test_out_dir (str, optional): Folder for the pictures of tests, below the run's own if it is relative; else they
            go to the visualizer's back ends. Names are those of the images below their common folder; what is no JPEG
            or PNG gets the suffix ``.png``, behind its own if the name is taken by an image before it.
        backend_args (dict, optional): For the signature of mm's hooks; the loader has its own.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        self.draw, self.interval, self.score_thr = draw, interval, score_thr
        self.show, self.wait_time, self.test_out_dir = show, wait_time, test_out_dir
        self._taken: set[str] = set()
        self._count = 0

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Draw the first image of the batch every ``interval`` iterations."""
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0:
            self._draw(runner, runner.val_dataloader.dataset, outputs[0], 'val_img', None, step)

    def before_test(self, runner: Runner) -> None:
        """Forget the names of an earlier test."""
        self._taken.clear()
        self._count = 0

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Draw all images of the batch."""
        for sample in outputs if self.draw else ():
            self._count += 1
            dataset = runner.test_dataloader.dataset
            self._draw(runner, dataset, sample, 'test_img', self._out_file(runner, dataset, sample), self._count)

    def _out_file(self, runner: Runner, dataset: Any, sample: BaseDataElement) -> str | None:
        if self.test_out_dir is None:
            return None
        path = PurePath(os.path.abspath(sample.img_path))
        for folder in map(_image_folder, inner_datasets(dataset)):
            if folder is not None and path.is_relative_to(folder):
                name = path.relative_to(folder)
                break
        else:
            name = PurePath(path.name)
        name = free_name(name, picture_suffix(name), self._taken)
        return str(Path(runner.work_dir) / runner.timestamp / self.test_out_dir / name)

    def _draw(
        self, runner: Runner, dataset: Any, sample: BaseDataElement, name: str, out_file: str | None, step: int
    ) -> None:
        options = dict(pred_score_thr=self.score_thr) if 'pred_instances' in sample else {}
        if self.show:
            name = os.path.basename(sample.img_path)
            runner.visualizer._vis_backends = {}
        try:
            image = loaded_image(dataset, sample.img_path)[..., ::-1]
            if out_file is not None:
                os.makedirs(os.path.dirname(out_file), exist_ok=True)
            runner.visualizer.add_datasample(
                name,
                image,
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=out_file,
                step=step,
                **options,
            )
        except (UserError, OSError, ValueError, cv2.error) as error:
            print_log(f"'{sample.img_path}' is not drawn: {error}", logger='current', level=logging.WARNING)


def _image_folder(dataset: Any) -> str | None:
    prefix = getattr(dataset, 'data_prefix', None) or {}
    folder = prefix.get('img', prefix.get('img_path'))
    return None if folder is None else os.path.abspath(folder)
