"""Images that a deployment is verified with."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ...apis.inference import build_pipeline
from ...device import DeploymentError
from ..loaded_model import LoadedModel

_NOISE_IMAGES = 4  # where there are no files: one alone says little of an output of few elements


def verification_images(
    source: LoadedModel, paths: Sequence[str], example: Tensor, dynamic: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What a deployment is verified with.

    Args:
        source (LoadedModel): The model.
        paths (Sequence[str]): Image files; noise takes their place where there are none.
        example (Tensor): Images of the shape that the network is written for.
        dynamic (bool): Whether the shape is open.

    Returns:
        list[tuple[ndarray, ndarray]]: Pairs of a raw batch (N, H, W, 3) and the preprocessed one (N, 3, H, W).

    Raises:
        DeploymentError: An image has another size than the network.
    """
    pairs = []
    size = example.shape[1:3] if example.dtype == torch.uint8 else example.shape[2:]
    for path in paths:
        raw, image = preprocess_image(source.model, source.cfg, path)
        if not dynamic and tuple(image.shape[2:]) != tuple(size):
            raise DeploymentError(
                f'{path} has the size {tuple(image.shape[2:])} behind the test pipeline, but the network is written '
                f'for {tuple(size)}. Deploy with --dynamic, or verify with images of one size (--images).'
            )
        pairs.append((raw, image))
    if not pairs:
        generator = np.random.default_rng(0)
        for _ in range(_NOISE_IMAGES):
            raw = generator.integers(0, 256, (1, *size, 3), dtype=np.uint8)
            pairs.append((raw, normalize(source.model, [torch.from_numpy(raw[0]).permute(2, 0, 1)])))
    if not dynamic:
        pairs = [tuple(np.repeat(part, len(example), 0) for part in pair) for pair in pairs]
    return pairs


def normalize(model: nn.Module, inputs: list[Tensor]) -> np.ndarray:
    """The model's data preprocessor on images (3, H, W)."""
    data = dict(inputs=inputs, data_samples=[])
    return model.data_preprocessor(data, False)['inputs'].contiguous().numpy()


def preprocess_image(model: nn.Module, cfg: Config, path: str) -> tuple[np.ndarray, np.ndarray]:
    """An image file behind the test pipeline: raw (1, H, W, 3), and normalized (1, 3, H, W)."""
    data = pseudo_collate([build_pipeline(cfg)(dict(img_path=str(path), img_id=0))])
    image = model.data_preprocessor(data, False)['inputs'].contiguous().numpy()
    raw = data['inputs'][0].permute(1, 2, 0).numpy()
    if raw.shape[:2] != image.shape[2:]:  # padded to a divisor: by what the normalization maps to about 0
        settings = getattr(model.data_preprocessor, 'mean', torch.zeros(3)).flatten().tolist()
        mean = settings[::-1] if getattr(model.data_preprocessor, '_channel_conversion', False) else settings
        padded = np.empty((*image.shape[2:], 3), np.uint8)
        padded[:] = np.round(mean)
        padded[: raw.shape[0], : raw.shape[1]] = raw
        raw = padded
    return np.ascontiguousarray(raw[None]), image
