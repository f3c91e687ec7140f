"""Images that a deployment is verified with."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor, nn

from ...apis.inference import build_pipeline
from ...device import DeploymentError, preprocess, with_channels
from ...models.dense import family_of
from ..flat_network import Normalization, pixels_last
from ..loaded_model import LoadedModel

INPUT_BOUND = 0.02  # of a grey level, in an engine's or torch's float32
NOISE_IMAGES = 4  # where there are no files: one alone says little of an output of few elements


@dataclass(frozen=True)
class VerificationImage:
    """An image on its way to the network, once by mm's own pipeline and once as the deployment prepares it.

    Args:
        pixels (ndarray): uint8 (H, W, channels), as it was read.
        raw (ndarray): What the deployment gives its network, baked or not.
        normalized (ndarray): What mm gives the network, float32 (N, channels, H, W).
        filled (tuple[int, int]): Height and width of that which the test pipeline made of the image; the rest is the
            data preprocessor's padding.
    """

    pixels: np.ndarray
    raw: np.ndarray
    normalized: np.ndarray
    filled: tuple[int, int]


def verification_images(
    source: LoadedModel,
    paths: Sequence[str],
    description: dict,
    example: Tensor,
    dynamic: bool,
    noise: int = NOISE_IMAGES,
) -> list[VerificationImage]:
    """What a deployment is verified with.

    Args:
        source (LoadedModel): The model.
        paths (Sequence[str]): Image files; noise takes their place where there are none.
        description (dict): Of the deployment.
        example (Tensor): Images of the shape that the network is written for.
        dynamic (bool): Whether the shape is open.
        noise (int): How many images of noise. Default: 4.

    Raises:
        DeploymentError: None of the images fits the network.
    """
    images, reasons, size = [], [], input_size(example)
    for path in paths:
        try:
            images.append(_prepared(source, mm_image(source, path), description, None if dynamic else size))
        except DeploymentError as error:
            reasons.append(f'{path}: {error}')
    if paths and not images:
        raise DeploymentError(f'None of the images to verify with fits the network. {reasons[0]}')
    if reasons:
        print(f'{len(reasons)} of {len(paths)} images do not fit the network, which will refuse them. {reasons[0]}')
    if not images:
        generator, channels = np.random.default_rng(0), len(description['preprocessing']['mean'])
        images = [
            _noise(source, generator.integers(0, 256, (*size, channels), dtype=np.uint8), description)
            for _ in range(noise)
        ]
    if dynamic:
        return images
    count = len(example)
    return [replace(i, raw=np.repeat(i.raw, count, 0), normalized=np.repeat(i.normalized, count, 0)) for i in images]


def input_size(example: Tensor) -> tuple[int, int]:
    """Height and width of a network's input."""
    return tuple(example.shape[1:3] if pixels_last(example.shape) else example.shape[2:])


def mm_image(source: LoadedModel, path: str) -> np.ndarray:
    """An image file as the first transform of the test pipeline reads it, (H, W, channels)."""
    image = build_pipeline(source.cfg).transforms[0](dict(img_path=str(path), img_id=0))['img']
    return image.reshape(*image.shape[:2], -1)


def mm_batch(source: LoadedModel, pixels: np.ndarray, size: tuple[int, int] | None) -> dict:
    """The test pipeline behind reading; beside a larger image, in a batch, if the network has a fixed size.

    A classifier's image stays alone: it has no other size than the network's, and pooling would average the padding in.

    Args:
        source (LoadedModel): The model.
        pixels (ndarray): uint8 (H, W, channels).
        size (tuple[int, int], optional): Height and width of the network's input.

    Returns:
        dict: Input of the model's ``test_step``, of which the first result counts.
    """
    image = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    about = dict(img=image.copy(), img_shape=image.shape[:2], ori_shape=image.shape[:2], img_path='', img_id=0)
    data = Compose(build_pipeline(source.cfg).transforms[1:])(about)
    alone = family_of(source.model).task == 'classification'
    if size is None or alone or type(source.model.data_preprocessor).__name__ == 'SegDataPreProcessor':
        return pseudo_collate([data])
    larger = dict(
        inputs=torch.zeros((data['inputs'].shape[0], *size), dtype=data['inputs'].dtype),
        data_samples=copy.deepcopy(data['data_samples']),
    )
    return pseudo_collate([data, larger])


@contextmanager
def mm_padding(model: nn.Module, size: tuple[int, int] | None) -> Iterator[None]:
    """Have a segmenter's data preprocessor pad to a size, as it may be told to for testing."""
    preprocessor = model.data_preprocessor
    if size is None or type(preprocessor).__name__ != 'SegDataPreProcessor':
        yield
        return
    before, preprocessor.test_cfg = preprocessor.test_cfg, dict(size=tuple(size))
    try:
        yield
    finally:
        preprocessor.test_cfg = before


def require_equal_inputs(
    source: LoadedModel, pixels: np.ndarray, description: dict, size: tuple[int, int] | None
) -> None:
    """Compare what a deployment gives its network with what mm gives it; an image that does not fit passes.

    Args:
        source (LoadedModel): The model.
        pixels (ndarray): uint8 (H, W, channels).
        description (dict): Of the deployment.
        size (tuple[int, int], optional): Height and width of the network's input; None for any.

    Raises:
        DeploymentError: They differ, by more than padding with whole pixels costs.
    """
    try:
        image = _prepared(source, pixels, description, size)
    except DeploymentError:
        return
    found, settings = torch.from_numpy(image.raw), description['preprocessing']
    if settings['baked']:
        found = Normalization.of(settings).apply(found)
    if found.shape != image.normalized.shape:
        (rows, columns), (height, width) = found.shape[2:], image.normalized.shape[2:]
        raise DeploymentError(
            f'An image of {pixels.shape[1]}x{pixels.shape[0]} pixels (width x height) reaches the network as '
            f"{columns}x{rows}, through mm's own pipeline as {width}x{height}; expected the same size."
        )
    difference = np.abs(found.numpy() - image.normalized) * np.asarray(settings['std']).reshape(1, -1, 1, 1)
    height, width = image.filled
    bound = np.full(difference.shape[2:], INPUT_BOUND)
    if image.raw.dtype == np.uint8:
        bound[height:] = bound[:, width:] = INPUT_BOUND + 0.5
    if (difference > bound).any():
        index = np.unravel_index((difference - bound).argmax(), difference.shape)
        row, column = int(index[2]), int(index[3])
        raise DeploymentError(
            f'An image of {pixels.shape[1]}x{pixels.shape[0]} pixels (width x height) reaches the network otherwise '
            f"than through mm's own pipeline: by {difference[index]:.2f} grey levels at row {row}, column {column}, "
            f'expected at most {bound[row, column]:g}.'
        )


def _prepared(
    source: LoadedModel, pixels: np.ndarray, description: dict, size: tuple[int, int] | None
) -> VerificationImage:
    raw, geometry = preprocess(with_channels(pixels, pixels.shape[2]), description)
    with mm_padding(source.model, size):
        batch = mm_batch(source, pixels, size)
        normalized = source.model.data_preprocessor(batch, False)['inputs'][:1]
    return VerificationImage(pixels, raw, normalized.contiguous().numpy(), geometry.image)


def _noise(source: LoadedModel, pixels: np.ndarray, description: dict) -> VerificationImage:
    inputs = torch.from_numpy(pixels).permute(2, 0, 1)
    data = source.model.data_preprocessor(dict(inputs=[inputs], data_samples=None), False)
    normalized = data['inputs'].contiguous().numpy()
    baked = description['preprocessing']['baked']
    raw = pixels[None].astype(description['input']['dtype']) if baked else normalized
    return VerificationImage(pixels, raw, normalized, pixels.shape[:2])
