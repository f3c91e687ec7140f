"""Trained models on images: prediction, drawing; detectors, segmenters and classifiers by one code path."""

import copy
import os
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import nn

from ..data.loading import COLOR_TYPES, resize_errors
from ..device import drawing
from ..device.image_files import as_bgr
from ..device.results import ClassScores, Detections, LabelMap
from ..engine.config import ConfigError, dataset_for_testing
from ..registry import type_name

_LOADERS = ('LoadImageFromFile', 'LoadImage', 'LoadImageFromNDArray')


def build_pipeline(cfg: Config) -> Compose:
    """The test pipeline of a config for images without annotations; images are read as its loader's options say."""
    steps = []
    for step in copy.deepcopy(dataset_for_testing(cfg).pipeline):
        name = type_name(step)
        if name in _LOADERS:
            step = _file_loader(step, name)
        if not name.startswith('LoadAnnotations') and name not in ('LoadPanopticAnnotations', 'LoadSegAnnotations'):
            steps.append(step)
    if not steps or steps[0]['type'] != 'frostnet_mm.LoadImageFromFile':
        raise ConfigError('The test pipeline must begin with LoadImageFromFile.')
    return Compose(steps)


def _file_loader(step: dict, name: str) -> dict:
    """Our loader with the options of the config's, as far as it has them; images in arrays have none."""
    kept = () if name == 'LoadImageFromNDArray' else ('color_type', 'backend_args')
    options = {key: step[key] for key in kept if key in step}
    if options.get('color_type') not in COLOR_TYPES:  # ours yields three channels otherwise, as it has always done here
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
        list[BaseDataElement]: Data samples with ``pred_instances`` or ``pred_sem_seg``, in image coordinates, or with
        ``pred_score``.

    Raises:
        BadImageError: A file cannot be read as an image, or is resized to nothing.
    """
    batch = []
    for index, path in enumerate(paths):
        with resize_errors(str(path)):
            batch.append(pipeline(dict(img_path=str(path), img_id=index)))
    return model.test_step(pseudo_collate(batch))


@torch.no_grad()
def predict_shown(model: nn.Module, pipeline: Compose, path: str | os.PathLike) -> tuple[BaseDataElement, np.ndarray]:
    """Predict one image, and give it as the pipeline has read it.

    Args:
        model (nn.Module): A model of :func:`load_model`.
        pipeline (Compose): The pipeline of :func:`build_pipeline`.
        path (str | PathLike): An image file.

    Returns:
        tuple[BaseDataElement, np.ndarray]: As of :func:`predict`; and the image, uint8 BGR of shape (H, W, 3).

    Raises:
        BadImageError: The file cannot be read as an image, or is resized to nothing.
    """
    load, *rest = pipeline.transforms
    data = load(dict(img_path=os.fspath(path), img_id=0))
    image = as_bgr(data['img'])
    with resize_errors(os.fspath(path)):
        inputs = Compose(rest)(data)
    return model.test_step(pseudo_collate([inputs]))[0], image


def build_visualizer(cfg: Config, dataset_meta: dict) -> Visualizer:
    """The config's visualizer without its storage back ends."""
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name=f'infer{id(dataset_meta)}'))
    visualizer.dataset_meta = dataset_meta
    return visualizer


def plain_result(
    sample: BaseDataElement, classes: Sequence[str], score_thr: float
) -> Detections | LabelMap | ClassScores:
    """A prediction as deployments give it.

    Args:
        sample (BaseDataElement): A data sample of :func:`predict`.
        classes (Sequence[str]): Class names.
        score_thr (float): Detections below this score are left out.
    """
    if 'pred_score' in sample:
        return ClassScores(sample.pred_score.cpu().float().numpy(), classes)
    if 'pred_instances' not in sample:
        labels = sample.pred_sem_seg.cpu().data.squeeze(0).numpy()
        return LabelMap(labels.astype(np.uint8 if len(classes) <= 256 else np.uint16), classes)
    found = sample.pred_instances.cpu()
    found = found[found.scores >= score_thr]
    boxes = getattr(found.bboxes, 'tensor', found.bboxes)
    return Detections(boxes.float().numpy(), found.scores.float().numpy(), found.labels.numpy(), classes)


def draw(sample: BaseDataElement, image: np.ndarray, dataset_meta: dict, score_thr: float) -> np.ndarray:
    """Draw a prediction on its image, as deployments do; instance masks are drawn as well.

    Args:
        sample (BaseDataElement): A data sample of :func:`predict`.
        image (np.ndarray): uint8 BGR of shape (H, W, 3), as the pipeline has read it.
        dataset_meta (dict): With ``classes``, and the colours of ``palette`` if they are given one by one.
        score_thr (float): Detections below this score are left out.

    Returns:
        np.ndarray: uint8 BGR of shape (H, W, 3).
    """
    classes, palette = dataset_meta['classes'], dataset_meta.get('palette')
    palette = palette if isinstance(palette, (list, tuple)) else ()
    result = plain_result(sample, classes, score_thr)
    if 'masks' in sample.get('pred_instances', ()):
        found = sample.pred_instances.cpu()
        found = found[found.scores >= score_thr]
        image = drawing.tint(image, np.asarray(found.masks, bool), result.labels, len(classes), palette)
    return drawing.draw(image, result, len(classes), palette)


def describe(sample: BaseDataElement, classes: Sequence[str], score_thr: float) -> dict:
    """A prediction as plain data.

    Args:
        sample (BaseDataElement): A data sample of :func:`predict`.
        classes (Sequence[str]): Class names.
        score_thr (float): Detections below this score are left out.

    Returns:
        dict: ``height``, ``width`` in pixels, and ``detections`` (label, class, score and bbox as x1, y1, x2, y2 in
        pixels), ``pixels`` (number of pixels by class) or ``classes`` (label, class and score of the best).
    """
    height, width = sample.ori_shape[:2]
    return dict(height=int(height), width=int(width)) | plain_result(sample, classes, score_thr).to_dict()
