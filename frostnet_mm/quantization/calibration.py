"""Post-training quantization: activation ranges from images, without training."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e.observer import HistogramObserver

from .errors import QuantizationError, RangeError
from .methods import METHODS, PERCENTILE
from .network import QuantizedNetwork

_SAMPLE = 1 << 20  # values of a tensor that a percentile is taken of


class _Extremes(nn.Module):
    """Collects the range of each tensor: whole or without its tails."""

    def __init__(self, method: str, percentile: float) -> None:
        super().__init__()
        self.method = method
        self.tail = 1 - percentile / 100
        self.lows: list[float] = []  # of each image, whatever number of tensors share the range
        self.highs: list[float] = []

    def begin_pass(self) -> None:
        """Count what is seen from now on as another image."""
        self.lows.append(math.inf)
        self.highs.append(-math.inf)

    def forward(self, x: Tensor) -> Tensor:
        if self.method == 'percentile':
            values = x.flatten()
            values = values[:: max(1, math.ceil(values.numel() / _SAMPLE))].float()
            low, high = torch.quantile(values, torch.tensor([self.tail, 1 - self.tail], device=x.device))
        else:
            low, high = x.amin(), x.amax()
        self.lows[-1] = min(self.lows[-1], float(low))
        self.highs[-1] = max(self.highs[-1], float(high))
        return x

    def range(self) -> tuple[float, float]:
        if self.method == 'minmax':
            return min(self.lows), max(self.highs)
        return sum(self.lows) / len(self.lows), sum(self.highs) / len(self.highs)


class _LeastError(HistogramObserver):
    """torchao's histogram observer: the range that quantizes with the least squared error."""

    def begin_pass(self) -> None:
        """Nothing to do: all values count alike."""

    def range(self) -> tuple[float, float]:
        if not self.min_val and not self.max_val:
            return 0.0, 0.0  # for which torchao makes a range of its own
        scale, zero_point = (float(value) for value in self.calculate_qparams())
        return (self.quant_min - zero_point) * scale, (self.quant_max - zero_point) * scale


class _NotFinite(RuntimeError):
    """A layer's values are NaN or infinite; its argument is the layer's name."""


class _Finite(nn.Module):
    """Passes finite values on to an observer; the values of a layer that are not make an error in all methods."""

    def __init__(self, observer: nn.Module, name: str) -> None:
        super().__init__()
        self.observer, self.name = observer, name

    def forward(self, x: Tensor) -> Tensor:
        if not all(math.isfinite(float(end)) for end in (x.amin(), x.amax())):
            raise _NotFinite(self.name)
        return self.observer(x)

    def begin_pass(self) -> None:
        """Tell the observer."""
        self.observer.begin_pass()

    def range(self) -> tuple[float, float]:
        return self.observer.range()


@torch.no_grad()
def calibrate(
    network: QuantizedNetwork,
    batches: Iterable[Tensor],
    method: str = 'histogram',
    percentile: float = PERCENTILE,
    names: Sequence[str] = (),
) -> int:
    """Set the activation ranges of a network from images; weights are quantized by their own largest magnitudes.

    Args:
        network (QuantizedNetwork): In evaluation mode.
        batches (Iterable[Tensor]): Preprocessed images of shape (N, 3, H, W): training images, for the result is to be
            judged on others.
        method (str): 'minmax' (the extremes of all images), 'average' (the mean of each batch's extremes), 'percentile'
            (the same without the outermost values) or 'histogram' (least squared error). Default: 'histogram'.
        percentile (float): For 'percentile', in percent. Default: 99.99.
        names (Sequence[str]): A name for each batch, such as its image's file, for messages; it may
            grow as the batches come.

    Returns:
        int: The number of images.

    Raises:
        QuantizationError: An argument is out of its domain, or there was no image.
        RangeError: A layer's values are not finite. Layers that put out nothing but zeros are named in the log.
    """
    if method not in METHODS:
        raise QuantizationError(f'method={method!r} was given; expected one of {", ".join(map(repr, METHODS))}.')
    if not 50 < percentile <= 100:
        raise QuantizationError(f'percentile={percentile} was given; expected 50 < value <= 100.')
    modules = list(network.activations())
    for module in modules:
        module.observer = _Finite(_observer(module, method, percentile), module.name).to(module.min_val.device)
    network.simulate(False)
    network.observe(True, in_evaluation=True)
    count = 0
    try:
        for index, images in enumerate(batches):
            name = str(names[index]) if index < len(names) else f'Batch {index + 1}'
            _observe(network, images, name)
            count += len(images)
        if not count:
            raise QuantizationError('There was no image to calibrate with.')
        for module in modules:
            module.set_range(*module.observer.range())
    finally:
        for module in modules:
            module.observer = None
        network.observe(False)
    network.check_ranges()
    network.simulate(True)
    return count


def _observe(network: QuantizedNetwork, images: Tensor, name: str) -> None:
    try:
        network.flat(images)
    except _NotFinite as error:
        (layer,) = error.args
        if layer == 'images':
            raise RangeError(
                f'{name}: its values are NaN or infinite after preprocessing. Leave that image out, or mend its file '
                'or the mean and std of the data preprocessor.'
            ) from error
        raise RangeError(
            f'{name}: the values of {layer} are NaN or infinite on it, the first layer of which they are. The weights '
            'of the checkpoint are damaged or have diverged: use an earlier one.'
        ) from error


def _observer(module: nn.Module, method: str, percentile: float) -> nn.Module:
    if method != 'histogram':
        return _Extremes(method, percentile)
    return _LeastError(
        dtype=module.dtype,
        qscheme=torch.per_tensor_affine,
        quant_min=module.quant_min,
        quant_max=module.quant_max,
    )
