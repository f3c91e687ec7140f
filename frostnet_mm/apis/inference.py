"""Trained models on images: prediction, drawing; detectors and segmenters by one code path."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import nn

from ..data.loading import COLOR_TYPES
from ..engine.config import ConfigError, dataset_for_testing
from ..registry import type_name

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
_LOADERS = ('LoadImageFromFile', 'LoadImage', 'LoadImageFromNDArray')


def build_pipeline(cfg: Config) -> Compose:
    """The test pipeline of a config for images without annotations; images are read as its loader's options say."""
    steps = []
    for step in copy.deepcopy(dataset_for_testing(cfg).pipeline):
        name = type_name(step)
        if name in _LOADERS:
            step = _file_loader(step, name)
        if not name.startswith('LoadAnnotations') and name != 'LoadPanopticAnnotations':
            steps.append(step)
    if not steps or steps[0]['type'] != 'frostnet_mm.LoadImageFromFile':
        raise ConfigError('The test pipeline must begin with LoadImageFromFile.')
    return Compose(steps)


def _file_loader(step: dict, name: str) -> dict:
    """Our loader with the options of the config's, as far as it has them; images in arrays have none."""
    kept = () if name == 'LoadImageFromNDArray' else ('color_type', 'backend_args')
    options = {key: step[key] for key in kept if key in step}
    if options.get('color_type') not in COLOR_TYPES:  # ours always yields three channels, as it has always done here
        options.pop('color_type', None)
    return dict(type='frostnet_mm.LoadImageFromFile', **options)


@torch.no_grad()
def predict(model: nn.Module, pipeline: Compose, paths: Sequence[str | os.PathLike]) -> list[BaseDataElement]:
    """Predict images.

    Args:
        model (nn.Module): A model of :func:`load_model`.
        pipeline (Compose): The pipeline of :func:`build_pipeline`.
        paths (Sequence[str | PathLike]): Image files.

    Returns:
        list[BaseDataElement]: Data samples with ``pred_instances`` or ``pred_sem_seg``, in image coordinates.

    Raises:
        BadImageError: A file cannot be read as an image.
    """
    batch = [pipeline(dict(img_path=str(path), img_id=index)) for index, path in enumerate(paths)]
    return model.test_step(pseudo_collate(batch))


def build_visualizer(cfg: Config, dataset_meta: dict) -> Visualizer:
    """The config's visualizer without its storage back ends."""
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name=f'infer{id(dataset_meta)}'))
    visualizer.dataset_meta = dataset_meta
    return visualizer


def draw(
    visualizer: Visualizer, sample: BaseDataElement, image: np.ndarray, out_file: str | os.PathLike, score_thr: float
) -> None:
    """Draw a prediction on its image (RGB, (H, W, 3), uint8) and write the picture."""
    options = dict(pred_score_thr=score_thr) if 'pred_instances' in sample else {}
    visualizer.add_datasample('image', image, data_sample=sample, draw_gt=False, show=False, **options)
    mmcv.imwrite(visualizer.get_image()[..., ::-1], str(out_file))


def describe(sample: BaseDataElement, classes: Sequence[str], score_thr: float) -> dict:
    """A prediction as plain data.

    Args:
        sample (BaseDataElement): A data sample of :func:`predict`.
        classes (Sequence[str]): Class names.
        score_thr (float): Detections below this score are left out.

    Returns:
        dict: ``height``, ``width`` in pixels, and ``detections`` (label, class, score and bbox as x1, y1, x2, y2 in
        pixels) or ``pixels`` (number of pixels by class).
    """
    height, width = sample.ori_shape[:2]
    result: dict = dict(height=int(height), width=int(width))
    if 'pred_instances' in sample:
        found = sample.pred_instances.cpu()
        result['detections'] = [
            dict(
                label=int(label),
                **{'class': classes[int(label)]},
                score=round(float(score), 4),
                bbox=[round(float(v), 2) for v in box],
            )
            for label, score, box in zip(found.labels, found.scores, found.bboxes, strict=True)
            if score >= score_thr
        ]
    else:
        labels, counts = np.unique(sample.pred_sem_seg.cpu().data.numpy(), return_counts=True)
        result['pixels'] = {classes[int(i)]: int(n) for i, n in zip(labels, counts, strict=True)}
    return result


def list_images(path: str | os.PathLike) -> list[Path]:
    """The image file named, or all images below the folder named, sorted.

    Raises:
        FileNotFoundError: There is no such file or folder, or no image in the folder.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f'{path} does not exist: give an image or a folder of images.')
    images = sorted(p for p in path.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        raise FileNotFoundError(f'Folder {path} holds no image ({", ".join(IMAGE_SUFFIXES)}).')
    return images
