"""Where INT8 loses accuracy: for each layer, the signal against what rounding does to it.

A graph is run once, each operator in float and in simulated INT8, side by side; of each layer only sums are kept.
"""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node
from torch.fx.node import map_arg

from .captured import set_mode
from .errors import QuantizationError, RangeError
from .fake_quantize import ActivationFakeQuantize, WeightFakeQuantize
from .network import QuantizedNetwork

ACTIVATION, WEIGHT, OUTPUT = 'activation', 'weight', 'output'
_SMALLEST_SIGNAL = 1e-30


@dataclass(frozen=True)
class LayerReport:
    """What INT8 does to one tensor. SQNRs are in dB, infinite where nothing is lost; None where one does not apply.

    Args:
        kind (str): 'activation', 'weight' or 'output' (of the network).
        name (str): As in the checkpoint; of an output as in ``QuantizedNetwork.program.names``.
        sqnr (float, optional): Of this rounding alone: the tensor as it is in the simulated network against its rounded
            values.
        accumulated (float, optional): Of this and all roundings before it: the tensor in the float network against
            the rounded one in the simulated network. None for weights.
        low (float, optional): Smallest value that an activation's 8 bits can hold.
        high (float, optional): Largest such value.
        scale (float, optional): Step of an activation.
        zero_point (int, optional): The integer that stands for 0.
        dtype (str, optional): 'uint8' or 'int8'.
        saturated (float, optional): Share of an activation's values that lie outside of the range, 0 to 1.
        levels (float, optional): Share of an activation's levels (256 for 8 bits) that occur, 0 to 1.
        shape (tuple[int, ...], optional): Of a weight.
        scale_ratio (float, optional): The largest scale of a weight's channels by the smallest, without channels that
            are 0. Batch norms are not folded in.
    """

    kind: str
    name: str
    sqnr: float | None = None
    accumulated: float | None = None
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    dtype: str | None = None
    saturated: float | None = None
    levels: float | None = None
    shape: tuple[int, ...] | None = None
    scale_ratio: float | None = None


@dataclass(frozen=True)
class Analysis:
    """What INT8 does to the tensors of a network.

    Args:
        images (int): How many images were run.
        layers (list[LayerReport]): Activations and weights, in the order in which the network computes.
        outputs (list[LayerReport]): The network's outputs.
    """

    images: int
    layers: list[LayerReport]
    outputs: list[LayerReport]

    def worst(self, count: int | None = None) -> list[LayerReport]:
        """The layers that lose most by their own rounding, worst first."""
        return sorted(self.layers, key=lambda layer: layer.sqnr)[:count]


class SignalToNoise:
    """Sums up a signal and its noise, tensor by tensor."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def update(self, signal: Tensor, rounded: Tensor) -> None:
        """Take in a tensor (any shape) and what became of it."""
        self.signal += _energy(signal)
        self.noise += _energy(rounded - signal)

    @property
    def finite(self) -> bool:
        """Whether all values so far were numbers."""
        return math.isfinite(self.signal + self.noise)

    @property
    def decibels(self) -> float:
        """10 log10(signal / noise), with energies summed over all tensors; infinite without noise."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(max(self.signal, _SMALLEST_SIGNAL) / self.noise)


class ActivationStatistics:
    """Sums up what a quantizer does to the tensors that it is given.

    Args:
        module (ActivationFakeQuantize): With a range.
    """

    def __init__(self, module: ActivationFakeQuantize) -> None:
        self.module = module
        scale, zero_point = module.calculate_qparams()
        self.scale, self.zero_point = float(scale), int(zero_point)
        # The integers without the zero point: a value of 0 is 0.
        self.first, self.last = module.quant_min - self.zero_point, module.quant_max - self.zero_point
        self.local, self.accumulated = SignalToNoise(), SignalToNoise()
        self.total = 0
        self.saturated = 0
        self.occurs: Tensor | None = None

    def update(self, x: Tensor, rounded: Tensor, reference: Tensor) -> None:
        """Take in a tensor; the three have one shape.

        One that was rounded to this scale before, as a pool or a concat passes it on, tells nothing new about what
        rounding costs and counts for the accumulated ratio alone.

        Args:
            x (Tensor): What enters the quantizer, behind the rectifier if the quantizer has one.
            rounded (Tensor): What leaves it.
            reference (Tensor): The same tensor in the float network.

        Raises:
            RangeError: A value is not finite.
        """
        self.accumulated.update(reference, rounded)
        moved = torch.equal(x, rounded)
        if not moved:
            self.local.update(x, rounded)
        if not (self.local.finite and self.accumulated.finite):
            raise RangeError(
                f'{self.module.name} has values that are not finite: a weight before it is, or the values overflow. '
                'Go back to an earlier checkpoint.'
            )
        level = x.float().mul(1.0 / self.scale).round_()
        if not moved:
            self.total += x.numel()
            self.saturated += int(((level < self.first) | (level > self.last)).sum())
        index = level.clamp_(self.first, self.last).sub_(self.first).flatten().to(torch.int32)
        occurs = torch.bincount(index, minlength=self.last - self.first + 1) > 0
        self.occurs = occurs if self.occurs is None else self.occurs | occurs

    def report(self) -> LayerReport:
        """The figures for all tensors so far."""
        return LayerReport(
            ACTIVATION,
            self.module.name,
            self.local.decibels,
            self.accumulated.decibels,
            low=self.first * self.scale,
            high=self.last * self.scale,
            scale=self.scale,
            zero_point=self.zero_point,
            dtype=str(self.module.dtype).removeprefix('torch.'),
            saturated=self.saturated / max(self.total, 1),
            levels=float(self.occurs.float().mean()),
        )


class _Pair(NamedTuple):
    """A value of the simulated network, and the one of the float network in the same place."""

    simulated: Any
    in_float: Any


class _SideBySide(Interpreter):
    """Runs a network's graph in simulated INT8 and in float at once; a value is freed behind its last reader.

    Rectifiers stay in the graph, though quantizers could do them: what enters a quantizer is then what it rounds.
    """

    def __init__(self, network: QuantizedNetwork, statistics: dict[str, ActivationStatistics]) -> None:
        super().__init__(network.__dict__['root'], graph=_evaluation_graph(network))
        self.extra_traceback = False
        self.statistics = statistics

    def run_node(self, n: Node) -> Any:
        """The pair of values of one node; of the output node, a tuple of them."""
        if n.op == 'placeholder':
            images = next(self.args_iter)
            return _Pair(images, images)
        if n.op == 'get_attr':
            value = operator.attrgetter(str(n.target))(self.module)
            return _Pair(value, value)
        if n.op == 'output':
            return tuple(self.env[node] for node in n.args[0])
        if n.op == 'call_module':
            return self._quantize(self.submodules[str(n.target)], self.env[n.args[0]])
        return _Pair(*(n.target(*self._pick(n.args, side), **self._pick(n.kwargs, side)) for side in (0, 1)))

    def _pick(self, arguments: Any, side: int) -> Any:
        return map_arg(arguments, lambda node: self.env[node][side])

    def _quantize(self, module: nn.Module, pair: _Pair) -> _Pair:
        rounded = module(pair.simulated)
        if isinstance(module, ActivationFakeQuantize):
            self.statistics[module.name].update(pair.simulated, rounded, pair.in_float)
        return _Pair(rounded, pair.in_float)


@torch.no_grad()
def analyze(network: QuantizedNetwork, batches: Iterable[Tensor]) -> Analysis:
    """Measure for each layer what INT8 costs, on images.

    Memory holds what one batch needs in two networks, however many layers and images there are.

    Args:
        network (QuantizedNetwork): With ranges, in evaluation mode. It is left as it was.
        batches (Iterable[Tensor]): Preprocessed images of shape (N, 3, H, W).

    Returns:
        Analysis: The figures.

    Raises:
        QuantizationError: The network is in training mode, or there was no image.
        RangeError: A layer has no usable range, or its values are not finite.
    """
    if network.training:
        raise QuantizationError('The network is in training mode, in which its ranges move: call eval() before.')
    network.check_ranges()
    weights = {module.name: _weight_report(module, weight) for module, weight in network.weight_nodes()}
    statistics = {module.name: ActivationStatistics(module) for module in network.activations()}
    outputs = [SignalToNoise() for _ in network.program.names]
    interpreter = _SideBySide(network, statistics)
    was_simulating = network.simulating
    network.simulate(True)
    count = 0
    try:
        for images in batches:
            pairs = interpreter.run(images, enable_io_processing=False)
            for total, pair in zip(outputs, pairs, strict=True):
                total.update(pair.in_float, pair.simulated)
            count += len(images)
    finally:
        network.simulate(was_simulating)
        interpreter.env = {}
    if not count:
        raise QuantizationError('There was no image to analyze the network with.')
    reports = weights | {name: layer.report() for name, layer in statistics.items() if layer.occurs is not None}
    names = (module.name for module in _in_network_order(interpreter))
    return Analysis(
        count,
        [reports[name] for name in names],
        [
            LayerReport(OUTPUT, name, accumulated=total.decibels)
            for name, total in zip(network.program.names, outputs, strict=True)
        ],
    )


def _energy(x: Tensor) -> float:
    """The sum of squares, in double precision: a map has more values than float32 has digits for."""
    return float(x.float().square().sum(dtype=torch.float64))


def _evaluation_graph(network: QuantizedNetwork) -> Graph:
    graph = network.program.copy_graph(evaluation=True)
    set_mode(graph, training=False, update_norms=False)
    return graph


def _weight_report(module: WeightFakeQuantize, weight: Tensor) -> LayerReport:
    noise = SignalToNoise()
    noise.update(weight, _rounded(module, weight))
    if not noise.finite:
        raise RangeError(f'{module.name} holds values that are not finite. Go back to an earlier checkpoint.')
    alive = weight.abs().amax([d for d in range(weight.dim()) if d != module.ch_axis]) > 0
    scales = module.scale(weight)[alive]
    ratio = float(scales.max() / scales.min()) if len(scales) else None
    return LayerReport(WEIGHT, module.name, noise.decibels, shape=tuple(weight.shape), scale_ratio=ratio)


def _rounded(module: WeightFakeQuantize, weight: Tensor) -> Tensor:
    simulating, module.simulating = module.simulating, True
    try:
        return module(weight)
    finally:
        module.simulating = simulating


def _in_network_order(interpreter: _SideBySide) -> list[nn.Module]:
    """The quantizers, each where it first acts: the graph itself rounds all weights before anything else."""
    position = {node: index for index, node in enumerate(interpreter.graph.nodes)}
    first: dict[nn.Module, int] = {}
    for node in interpreter.graph.nodes:
        if node.op == 'call_module':
            module = interpreter.submodules[str(node.target)]
            weight = isinstance(module, WeightFakeQuantize)
            first.setdefault(module, min(position[acting] for acting in (node.users if weight else (node,))))
    return sorted(first, key=first.__getitem__)
