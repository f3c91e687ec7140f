"""Trained models on images: loading, prediction, drawing; detectors and segmenters by one code path.

What runs INT8 is imported where it is needed: float models need no torchao.
"""

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import MODELS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import nn

from ..compat import check_operators
from ..engine.config import ConfigError, inner_dataset, load_config
from ..models.checkpoints import CheckpointError, check_fit, read_checkpoint, state_dict_of
from ..quantization.names import META, NAME

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
RANGES = f'{NAME}.'  # the beginning of the ranges' names in a checkpoint
check_operators()  # before models of mm are built, which would fail deep inside
_LOADERS = ('LoadImageFromFile', 'LoadImage', 'LoadImageFromNDArray')


def classes_of(checkpoint: dict) -> tuple[str, ...] | None:
    """The class names that a checkpoint of mm was trained with, or None."""
    meta = checkpoint.get('meta') or {}
    classes = (meta.get('dataset_meta') or {}).get('classes')
    return tuple(classes) if classes else None


def load_weights(model: nn.Module, checkpoint: dict, source: str) -> None:
    """Load a checkpoint into the model it was trained as; everything must fit.

    Activation ranges are the exception: those of a quantized checkpoint are left out of a float model, and a quantized
    model keeps its own where a float checkpoint has none.

    Args:
        model (nn.Module): The model.
        checkpoint (dict): What :func:`read_checkpoint` returned.
        source (str): Name of the file, for messages.

    Raises:
        CheckpointError: An entry is missing, unexpected or of another shape.
    """
    state_dict = dict(state_dict_of(checkpoint, source))
    target = dict(model.state_dict())
    here, there = ({key for key in entries if key.startswith(RANGES)} for entries in (target, state_dict))
    if there and not here:
        print_log(f'{source}: the ranges of {len(there) // 2} quantized activations are left out.', logger='current')
        state_dict = {key: value for key, value in state_dict.items() if key not in there}
    if here and not there:
        print_log(f'{source} is a float checkpoint: it has no activation ranges.', logger='current')
        target = {key: value for key, value in target.items() if key not in here}
    check_fit(target, state_dict, type(model).__name__, source)
    unexpected = [key for key in state_dict if key not in target]
    if unexpected:
        raise CheckpointError(
            f'{source} has {len(unexpected)} entries that {type(model).__name__} lacks: '
            f'{", ".join(unexpected[:4])}{", …" if len(unexpected) > 4 else ""}. Use the config that '
            'the checkpoint was trained with.'
        )
    model.load_state_dict(state_dict, strict=False)


def quantization_of(checkpoint: dict) -> dict | None:
    """What a checkpoint says about its quantized network, or None for a float one."""
    return (checkpoint.get('meta') or {}).get(META)


def weight_bits_of(checkpoint: dict, wanted: int | None, source: str) -> int:
    """The bits of a quantized checkpoint's weights as it is to be run.

    Args:
        checkpoint (dict): The checkpoint.
        wanted (int, optional): 8 or 7; None for those that it was made with.
        source (str): Name of the file, for messages.

    Raises:
        CheckpointError: Others are wanted of a checkpoint whose scales were trained.
    """
    settings = (quantization_of(checkpoint) or {}).get('settings', {})
    own = settings.get('weight_bits', 8)
    if wanted not in (None, own) and settings.get('learned'):
        raise CheckpointError(
            f'{source} was trained with learned_scales=True and weights of {own} bits: its scales belong to them, and '
            f'weights of {wanted} bits cannot be made of it. Calibrate it: python tools/calibrate.py CONFIG CHECKPOINT '
            f'--weight-bits {wanted}'
        )
    return own if wanted is None else wanted


def choose_execution(checkpoint: dict, wanted: str | None, source: str) -> str:
    """How a checkpoint is to be run: as wanted, else in simulated INT8 if it is a quantized one.

    Args:
        checkpoint (dict): The checkpoint.
        wanted (str, optional): 'float', 'simulated' or 'converted'.
        source (str): Name of the file, for messages.

    Raises:
        CheckpointError: INT8 is wanted of a checkpoint without activation ranges.
    """
    quantized = quantization_of(checkpoint) is not None
    if wanted in ('simulated', 'converted') and not quantized:
        raise CheckpointError(
            f'{source} is a float checkpoint: it has no activation ranges, without which it cannot run in INT8. '
            'Train it '
            'with QATHook, or calibrate it: python tools/calibrate.py CONFIG CHECKPOINT'
        )
    return wanted or ('simulated' if quantized else 'float')


def load_model(
    config: str | os.PathLike,
    checkpoint_path: str | os.PathLike,
    device: str | None = None,
    cfg_options: dict | None = None,
    execution: str | None = None,
    weight_bits: int | None = None,
) -> tuple[nn.Module, Config]:
    """Build a config's model with trained weights, ready to predict.

    Args:
        config (str | PathLike): The config.
        checkpoint_path (str | PathLike): The checkpoint.
        device (str, optional): A torch device. Default: 'cuda' if there is one, else 'cpu'.
        cfg_options (dict, optional): Values that replace those of the config.
        execution (str, optional): 'float', 'simulated' (INT8) or 'converted' (integer-exact reference). Default:
            'simulated' for a quantized checkpoint, else 'float'.
        weight_bits (int, optional): 8 or 7, for INT8. Default: as the checkpoint was made.

    Returns:
        tuple[nn.Module, Config]: The model in eval mode with ``dataset_meta`` set, and its config.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    source = str(checkpoint_path)
    execution = choose_execution(checkpoint, execution, source)
    classes = classes_of(checkpoint)
    cfg = load_config(config, cfg_options, classes=classes)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if 'init_cfg' in cfg.model.get('backbone', {}):
        cfg.model.backbone.init_cfg = None  # the checkpoint brings the weights
    model = MODELS.build(cfg.model)
    network = None
    if execution != 'float':
        from ..quantization.hook import execute
        from ..quantization.prepare import check_quantization, prepare_model, settings_of

        settings = settings_of(quantization_of(checkpoint))
        settings.weight_bits = weight_bits_of(checkpoint, weight_bits, source)
        network = prepare_model(model, settings)
        check_quantization(quantization_of(checkpoint), network, settings, source)
    load_weights(model, checkpoint, source)
    meta = (checkpoint.get('meta') or {}).get('dataset_meta')
    if meta is None:
        raise CheckpointError(
            f'{checkpoint_path} does not say which classes it was trained with (meta.dataset_meta): '
            'use a checkpoint as tools/train.py writes it.'
        )
    model.dataset_meta = meta
    if cfg.get('channels_last'):
        model.to(memory_format=torch.channels_last)
    model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu')).eval()
    if network is not None:
        execute(model, network, execution)
    return model, cfg


def build_pipeline(cfg: Config) -> Compose:
    """The test pipeline of a config for images without annotations."""
    steps = []
    for step in copy.deepcopy(inner_dataset(cfg.test_dataloader.dataset).pipeline):
        name = step['type'].split('.')[-1]
        if name in _LOADERS:
            step = dict(type='frostnet_mm.LoadImageFromFile')
        if not name.startswith('LoadAnnotations') and name != 'LoadPanopticAnnotations':
            steps.append(step)
    if not steps or steps[0]['type'] != 'frostnet_mm.LoadImageFromFile':
        raise ConfigError('The test pipeline must begin with LoadImageFromFile.')
    return Compose(steps)


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
