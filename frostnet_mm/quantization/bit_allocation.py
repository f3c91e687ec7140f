"""Bits of weights layer by layer: how much each layer's rounding changes the outputs, and what is made of it.

The sensitivity of a layer at b bits is measured: the relative squared error of the network's outputs on some images
when this layer's weights alone are rounded, everything else in float (the inverse of the output's SQNR, by which
Pandey et al. 2023, arXiv 2302.05397, order layers). Errors of different layers are taken to add up, as in all methods
of this kind; :func:`output_errors` of the whole allocation says how far that holds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor
from torch.fx import Node

from .analysis import SignalToNoise
from .bit_allocation_program import Budget, allocate, size_range
from .errors import QuantizationError, RangeError
from .fake_quantize import WeightFakeQuantize
from .network import QuantizedNetwork
from .quantizer import is_convolution, module_paths
from .report import parameter_bits
from .scheme import Scheme


@dataclass(frozen=True)
class WeightLayer:
    """What gets bits of its own: a module with the weights that it reads, and all that shares them.

    Args:
        name (str): Of the module, as an override names it.
        count (int): Its weights.
        quantizers (tuple[WeightFakeQuantize, ...]): Those of its weights.
        fixed (int, optional): Bits that an override of the scheme gives it already.
        others (tuple[str, ...]): Further modules that read these weights.
    """

    name: str
    count: int
    quantizers: tuple[WeightFakeQuantize, ...]
    fixed: int | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sensitivities:
    """What all allocations of a network are made of.

    Args:
        layers (list[WeightLayer]): In the order of the network.
        errors (list[dict[int, float]]): Of each layer, the relative squared error of the outputs by bits.
        others (int): Bits of the parameters that are not quantized.
    """

    layers: list[WeightLayer]
    errors: list[dict[int, float]]
    others: int

    @property
    def counts(self) -> list[int]:
        """The weights of each layer."""
        return [layer.count for layer in self.layers]

    def size(self, bits: Sequence[int]) -> int:
        """Bits of all quantized weights together."""
        return sum(count * own for count, own in zip(self.counts, bits, strict=True))

    def predicted(self, bits: Sequence[int]) -> float:
        """The sum of the layers' errors."""
        return sum(row[own] for row, own in zip(self.errors, bits, strict=True))

    def uniform(self, bits: int) -> list[int]:
        """The same bits for all layers, except where an override gives others."""
        return [bits if layer.fixed is None else layer.fixed for layer in self.layers]

    def to_dict(self, bits: Sequence[int]) -> dict:
        """As plain data, with the bits that the layers have got."""
        return dict(
            other_parameters_megabytes=self.others / 8e6,
            layers=[
                dict(name=layer.name, weights=layer.count, bits=own, fixed=layer.fixed is not None, errors=row)
                for layer, own, row in zip(self.layers, bits, self.errors, strict=True)
            ],
        )

    @classmethod
    def from_dict(cls, content: dict, network: QuantizedNetwork) -> 'Sensitivities':
        """What :meth:`to_dict` has written, for the network that it was measured with.

        Args:
            content (dict): The plain data.
            network (QuantizedNetwork): The network.

        Raises:
            QuantizationError: It is of another network, or damaged.
        """
        layers = weight_layers(network)
        try:
            found = [(row['name'], row['weights'], row['fixed']) for row in content['layers']]
            errors = [{int(bits): float(error) for bits, error in row['errors'].items()} for row in content['layers']]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise QuantizationError(f'it holds no errors of layers ({type(error).__name__}: {error})') from error
        own = [(layer.name, layer.count, layer.fixed is not None) for layer in layers]
        if found != own:
            other = next(pair for pair in zip_longest(found, own) if pair[0] != pair[1])
            raise QuantizationError(f'it is of another network: there is {other[0]}, here {other[1]}')
        return cls(layers, errors, parameter_bits(network)[1])

    def within(self, budget: Budget) -> list[int]:
        """The bits of each layer with the least sum of errors that a budget allows.

        Raises:
            QuantizationError: Nothing fits into it; the message says what is possible.
        """
        count = sum(self.counts)
        available = budget.weight_bits(count, self.others)
        least, most = size_range(self.counts, self.errors)
        if available < least:
            low, high = (budget.shown(bits, count, self.others) for bits in (least, most))
            raise QuantizationError(
                f'--budget {budget.text} was given; with these --choices and the overrides of the config, possible are '
                f'{low} to {high}.'
            )
        return allocate(self.counts, self.errors, available)


def weight_layers(network: QuantizedNetwork) -> list[WeightLayer]:
    """The layers of a network whose weights are quantized, in its order.

    A weight that several convolutions read belongs to one layer, and so do all weights that one module reads itself.

    Args:
        network (QuantizedNetwork): The network.
    """
    modules = {name for name, _ in network.__dict__['root'].named_modules() if name}
    parameters = {name for name, _ in network.__dict__['root'].named_parameters()}
    weights = dict(network.weight_nodes(evaluation=True))
    found: dict[str, dict[WeightFakeQuantize, None]] = {}
    fixed: dict[str, int | None] = {}
    readers: dict[str, dict[str, None]] = {}
    first: dict[int, str] = {}  # of the modules that read a weight, by its identity
    layer_of: dict[str, str] = {}
    for conv in network.program.copy_graph(evaluation=True).nodes:  # heads of training alone have no error there
        quantizer = network._module_of(conv.args[1]) if is_convolution(conv) else None
        if not isinstance(quantizer, WeightFakeQuantize):
            continue
        names = _names(conv, parameters)
        name = next((own for own in reversed(names) if own in modules), None)
        if name is None:
            continue  # no override can name it
        layer = layer_of.get(name) or first.get(id(weights[quantizer])) or name
        layer_of[name] = first[id(weights[quantizer])] = layer
        found.setdefault(layer, {})[quantizer] = None
        readers.setdefault(layer, {})[name] = None
        own = network.scheme.override_of(names)
        fixed[layer] = own if fixed.get(layer) is None else fixed[layer]
    return [
        WeightLayer(
            name,
            _count(weights[own] for own in quantizers),
            tuple(quantizers),
            fixed[name],
            tuple(own for own in readers[name] if own != name),
        )
        for name, quantizers in found.items()
    ]


def _names(conv: Node, parameters: set[str]) -> list[str]:
    """What a convolution is called: by the modules that it was traced in, and by the one that owns its weight."""
    weight = str(conv.args[1].args[0].target)
    owner = [weight.rpartition('.')[0]] if weight in parameters else []
    return [*module_paths(conv), *owner]


def _count(weights: Iterable[Tensor]) -> int:
    """How many values there are, each weight counted once."""
    return sum({id(weight): weight.numel() for weight in weights}.values())


@contextmanager
def rounding(layers: Sequence[WeightLayer], bits: Mapping[int, int]) -> Iterator[None]:
    """Round the weights of some layers to some bits while the context is open.

    Args:
        layers (Sequence[WeightLayer]): All of them.
        bits (Mapping[int, int]): By index of the layer.
    """
    modules = [(module, own) for index, own in bits.items() for module in layers[index].quantizers]
    before = [(module.quant_max, module.simulating) for module, _ in modules]
    for module, own in modules:
        module.quant_max, module.simulating = module.scheme.largest_weight(own), True
        module.quant_min = -module.quant_max
    try:
        yield
    finally:
        for (module, _), (largest, simulating) in zip(modules, before, strict=True):
            module.quant_max, module.quant_min, module.simulating = largest, -largest, simulating


@torch.no_grad()
def output_errors(
    network: QuantizedNetwork,
    layers: Sequence[WeightLayer],
    variants: Sequence[Mapping[int, int]],
    batches: Iterable[Tensor],
) -> list[float]:
    """What rounding some weights costs at the outputs of a network that computes in float otherwise.

    Args:
        network (QuantizedNetwork): In evaluation mode; activation ranges are not needed. It is left as it was.
        layers (Sequence[WeightLayer]): Of :func:`weight_layers`.
        variants (Sequence[Mapping[int, int]]): What to round, each by index of the layer and bits.
        batches (Iterable[Tensor]): Preprocessed images of shape (N, 3, H, W).

    Returns:
        list[float]: Of each variant, sum of squared differences / sum of squares, the mean of all outputs.

    Raises:
        QuantizationError: The network is in training mode, or there was no image.
        RangeError: An output is not finite, or all are zero.
    """
    if network.training:
        raise QuantizationError('The network is in training mode: call eval() before.')
    totals = [[SignalToNoise() for _ in network.program.names] for _ in variants]
    was_simulating, count = network.simulating, 0
    network.simulate(False)
    try:
        for images in batches:
            count += len(images)
            expected = network.flat(images)
            for variant, sums in zip(variants, totals, strict=True):
                with rounding(layers, variant):
                    found = network.flat(images)
                for total, exact, rounded in zip(sums, expected, found, strict=True):
                    total.update(exact, rounded)
    finally:
        network.simulate(was_simulating)
    if not count:
        raise QuantizationError('There was no image to measure the layers with.')
    return [_mean_error(sums) for sums in totals]


def _mean_error(sums: Sequence[SignalToNoise]) -> float:
    if not all(total.finite for total in sums):
        raise RangeError(
            'The outputs of the network are NaN or infinite: the weights of the checkpoint are damaged or have '
            'diverged. Use an earlier one.'
        )
    alive = [total.noise / total.signal for total in sums if total.signal > 0]
    if not alive:
        raise RangeError(
            'All outputs of the network are 0 on these images: expected the checkpoint of a trained network.'
        )
    return sum(alive) / len(alive)


def choices_of(layers: Sequence[WeightLayer], choices: Sequence[int]) -> list[dict[int, int]]:
    """Each layer alone at each of its bits, as :func:`output_errors` takes it; those that an override fixes once."""
    return [
        {index: own}
        for index, layer in enumerate(layers)
        for own in (sorted(set(choices), reverse=True) if layer.fixed is None else [layer.fixed])
    ]


def measure(network: QuantizedNetwork, choices: Sequence[int], batches: Iterable[Tensor]) -> Sensitivities:
    """Measure what each layer costs at each number of bits.

    Args:
        network (QuantizedNetwork): In evaluation mode.
        choices (Sequence[int]): Bits that a layer may get.
        batches (Iterable[Tensor]): Preprocessed images of shape (N, 3, H, W).

    Raises:
        QuantizationError: There is nothing to choose, or no image.
    """
    layers = weight_layers(network)
    if all(layer.fixed is not None for layer in layers):
        raise QuantizationError(
            'The overrides of the config give bits to all layers already (or all are in float): there is nothing to '
            'allocate. Expected a config without them, such as the one that they were allocated for.'
        )
    variants = choices_of(layers, choices)
    rows: list[dict[int, float]] = [{} for _ in layers]
    for variant, error in zip(variants, output_errors(network, layers, variants, batches), strict=True):
        ((index, own),) = variant.items()
        rows[index][own] = error
    return Sensitivities(layers, rows, parameter_bits(network)[1])


def with_bits(scheme: Scheme, layers: Sequence[WeightLayer], bits: Sequence[int]) -> Scheme:
    """The scheme in which each layer has its bits; those that an override fixed stay as they were said.

    Args:
        scheme (Scheme): What the network was made with.
        layers (Sequence[WeightLayer]): Its layers.
        bits (Sequence[int]): Of each.
    """
    new = {
        name: own
        for layer, own in zip(layers, bits, strict=True)
        for name in (layer.name, *layer.others)
        if layer.fixed is None or layer.others
    }
    return replace(scheme, weight_bits=max(bits), overrides=dict(scheme.overrides) | new)


def compare(
    network: QuantizedNetwork,
    found: Sensitivities,
    bits: Sequence[int],
    choices: Sequence[int],
    batches: Iterable[Tensor],
) -> dict[str, dict | list[dict]]:
    """Measure the error of a whole allocation, of those of other sizes, and of the same bits everywhere.

    Args:
        network (QuantizedNetwork): In evaluation mode.
        found (Sensitivities): Of it.
        bits (Sequence[int]): The allocation.
        choices (Sequence[int]): Bits that a layer may get.
        batches (Iterable[Tensor]): The images that the layers were measured on.

    Returns:
        dict: 'chosen', and lists 'mixed' (in the sizes of uniform bits and between them) and 'uniform', the largest
        first: each point with 'bits' a weight, 'megabytes' of all parameters, measured 'error' and the 'predicted' one.
    """
    uniform = [found.uniform(own) for own in sorted(set(choices), reverse=True)]
    sizes = [found.size(own) for own in uniform]
    between = [(one + two) // 2 for one, two in zip(sizes, sizes[1:], strict=False)]
    mixed = [allocate(found.counts, found.errors, size) for size in sorted({*sizes, *between}, reverse=True)]
    every = [list(bits), *mixed, *uniform]
    errors = output_errors(network, found.layers, [dict(enumerate(own)) for own in every], batches)
    points = [_point(found, own, error) for own, error in zip(every, errors, strict=True)]
    return dict(chosen=points[0], mixed=points[1 : 1 + len(mixed)], uniform=points[1 + len(mixed) :])


def _point(found: Sensitivities, bits: Sequence[int], error: float) -> dict[str, float]:
    size = found.size(bits)
    return dict(
        bits=size / sum(found.counts),
        megabytes=(size + found.others) / 8e6,
        error=error,
        predicted=found.predicted(bits),
    )
