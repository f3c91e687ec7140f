"""What is around the network: a deployment's predictions against those of mm's own pipeline."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...apis.inference import plain_result
from ...device import (
    ClassScores,
    DeploymentError,
    Detections,
    ImageSizeError,
    LabelMap,
    Network,
    decode,
    geometry_values,
    preprocess,
)
from ...models.dense import attached, detached
from ..loaded_model import LoadedModel
from .images import mm_batch, mm_padding

SHARE = 0.95  # of the boxes or pixels: ties between equal scores are decided in another order
DECODED_SHARE = 0.98  # of the same outputs
WHOLE_SHARE = 0.9  # the same engine twice, with what ties there are
_NOISE, _LEAST_NOISE = 1e-3, 1e-2
#: Height and width of copies of an image that are predicted too, as shares of its own: smaller, of odd sizes.
SMALLER = ((1.0, 1.0), (0.61, 0.43), (0.37, 0.71))

_COUNTED = {Detections: 'boxes', LabelMap: 'pixels', ClassScores: 'scores'}

Predict = Callable[[np.ndarray], Detections | LabelMap | ClassScores]


def other_sizes(pixels: np.ndarray) -> list[np.ndarray]:
    """An image, and smaller copies of it in other ratios (H, W, channels)."""
    height, width = pixels.shape[:2]
    rows = [np.linspace(0, height - 1, max(8, int(height * share))).astype(int) for share, _ in SMALLER]
    columns = [np.linspace(0, width - 1, max(8, int(width * share))).astype(int) for _, share in SMALLER]
    return [np.ascontiguousarray(pixels[row][:, column]) for row, column in zip(rows, columns, strict=True)]


def predictor_of(network: Network | Callable, description: dict) -> Predict:
    """What ``predictor.py`` does with an image, by a network in the place of the deployment's."""

    def predict(pixels: np.ndarray) -> Detections | LabelMap | ClassScores:
        images, geometry = preprocess(pixels, description)
        more = [geometry_values(geometry)] if 'geometry_input' in description else []
        return decode(network(images, *more), description, geometry)

    return predict


def comparable(source: LoadedModel, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A network's outputs as the boxes of two implementations can be compared for.

    Of equal scores chance decides which comes first, so they get noise of a thousandth of their spread and, for
    networks that are hardly trained, a hundredth; the same for each image of a batch. Outputs of random weights may be
    so large that all scores are 1 and all boxes endless: they are brought to a mean of 0 and a deviation of 1.

    Args:
        source (LoadedModel): The model.
        outputs (Sequence[Tensor]): What its network puts out, (N, ...) each.

    Returns:
        list[Tensor]: Of the same shapes.
    """
    generator, changed = torch.Generator().manual_seed(0), []
    for output in outputs:
        dims = tuple(range(1, output.dim()))
        if source.facts['random_weights']:
            deviation = output.std(dims, correction=0, keepdim=True)  # 0 of a single value, not NaN
            output = (output - output.mean(dims, keepdim=True)) / deviation.clamp(min=1e-6)
        noise = torch.rand(output.shape[1:], generator=generator) - 0.5
        spread = output.amax(dims, keepdim=True) - output.amin(dims, keepdim=True)
        changed.append(output + noise * (spread * _NOISE + _LEAST_NOISE))
    return changed


def torch_network(source: LoadedModel) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The network that is deployed, as torch computes it, with comparable outputs."""

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [value.numpy() for value in comparable(source, source.network(torch.from_numpy(images)))]

    return run


def mm_predictor(source: LoadedModel, size: tuple[int, int] | None) -> Predict:
    """The test pipeline of mm, its data preprocessor and head around the same network.

    Args:
        source (LoadedModel): The model.
        size (tuple[int, int], optional): Height and width of the network's input; None for any.
    """
    layout = source.network.layout

    def execute(images: torch.Tensor) -> tuple:
        with detached(source.model):  # in float the network is the model's own modules
            outputs = comparable(source, source.network(images[:1]))  # the first result counts
        return layout.nest([output.expand(len(images), *output.shape[1:]) for output in outputs])

    def predict(pixels: np.ndarray) -> Detections | LabelMap | ClassScores:
        model = source.model
        with torch.no_grad(), mm_padding(model, size), attached(model, execute):
            sample = model.test_step(mm_batch(source, pixels, size))[0]
        return plain_result(sample, model.dataset_meta['classes'], -np.inf)

    return predict


def require_equal(
    found: Predict, expected: Predict, images: Sequence[np.ndarray], bound: float, what: str, whose: str
) -> float | None:
    """Compare two ways to predict.

    Args:
        found (Callable): From uint8 pixels (H, W, channels) to a prediction.
        expected (Callable): Likewise.
        images (Sequence[ndarray]): What to predict; those that do not fit the network are left out.
        bound (float): The least share of equal boxes, or pixels.
        what (str): What is compared, for the message.
        whose (str): What it is compared to.

    Returns:
        float | None: The share; None where there was nothing to compare, which is said.

    Raises:
        DeploymentError: It is smaller, or what is compared cannot predict.
    """
    equal = total = 0
    for pixels in images:
        try:
            own = found(pixels)
        except ImageSizeError:
            continue
        same, count = _equal(own, expected(pixels))
        equal, total = equal + same, total + count
    if not total:
        print(f'{what} was not compared with {whose}: no image fits the network, or none shows anything.', flush=True)
        return None
    share = equal / total
    if share < bound:
        raise DeploymentError(
            f'{what} gives {share:.1%} of the {_COUNTED[type(own)]} of {whose} for '
            f'the same network, expected at least {bound:.0%}.'
        )
    return share


def _equal(
    found: Detections | LabelMap | ClassScores, expected: Detections | LabelMap | ClassScores
) -> tuple[int, int]:
    """How many boxes, pixels or scores of classes are equal, of how many."""
    if isinstance(found, ClassScores):
        return int((np.abs(found.scores - expected.scores) < 1e-3).sum()), found.scores.size
    if isinstance(found, LabelMap):
        return int((found.labels == expected.labels).sum()), found.labels.size
    most = max(len(found.boxes), len(expected.boxes))
    if not len(found.boxes) or not len(expected.boxes):
        return 0, most
    near = np.abs(expected.boxes[:, None] - found.boxes[None]).max(2) < 0.5
    near &= expected.labels[:, None] == found.labels[None]
    near &= np.abs(expected.scores[:, None] - found.scores[None]) < 1e-3
    return int(near.any(1).sum()), most
