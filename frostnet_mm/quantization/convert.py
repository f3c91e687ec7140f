"""From simulated INT8 to integers: batch norms folded into the convolutions, fake quantization replaced by Q/DQ."""

import copy
import operator
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from ..models.dense import OutputLayout
from .captured import set_mode
from .constants import fold_constants
from .fake_quantize import ActivationFakeQuantize, WeightFakeQuantize
from .folding import affine_of, folded_weight, norm_as_convolution, rounded_bias, scale_with_room
from .graph_forms import erase_unread
from .network import QuantizedNetwork
from .quantizer import BATCH_NORM, KEY, TRANSPOSED, batch_norm_of, has_statistics, is_convolution, is_quantized_norm
from .simplify import attribute_of, erase_identities, merge_twins, quantizer_of

aten = torch.ops.aten
LARGEST_WINDOW = 49  # of an average pool that becomes a convolution: larger ones have no fast kernel there either


class ConvertedNetwork(nn.Module):
    """The integer-exact reference: INT8 weights, every quantized tensor between a Quantize and a Dequantize.

    It computes what an engine computes that follows the model, and is what engines are exported from.

    Args:
        module (GraphModule): The graph; one input, a flat tuple of outputs.
        layout (OutputLayout): How the outputs nest, and their names.
    """

    def __init__(self, module: GraphModule, layout: OutputLayout) -> None:
        super().__init__()
        self.module = module
        self.layout = layout

    def train(self, mode: bool = True) -> 'ConvertedNetwork':
        """Integers are not trained: the mode does not matter."""
        return self

    def flat(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network on images (N, 3, H, W); the outputs as a flat tuple in the order of ``layout.names``."""
        return self.module(images)

    def forward(self, images: Tensor) -> tuple[Any, list[Tensor]]:
        """Run the network on images (N, 3, H, W); as :meth:`frostnet_mm.DenseNetwork.forward`."""
        return self.layout.nest(self.flat(images))


@torch.no_grad()
def convert(network: QuantizedNetwork) -> ConvertedNetwork:
    """Convert a network with simulated INT8 to integers; the network itself is not changed.

    Args:
        network (QuantizedNetwork): With ranges, from training or calibration.

    Returns:
        ConvertedNetwork: The reference. It folds as the simulation in evaluation mode does, so that the two agree.

    Raises:
        RangeError: A layer has no usable range.
    """
    network.check_ranges()
    module = fold(network)
    return ConvertedNetwork(convert_pt2e(module), network.program.layout)


@torch.no_grad()
def fold(network: QuantizedNetwork) -> GraphModule:
    """A copy of the network in evaluation mode, with all batch norms behind convolutions folded into them.

    Quantized weights are rounded before they are multiplied by the batch norm's factor, and the scale of their channel
    is multiplied by its magnitude: the integers are those that were trained.

    Args:
        network (QuantizedNetwork): With ranges.

    Returns:
        GraphModule: With the quantizers still in it.
    """
    graph = network.program.copy_graph(evaluation=True)
    set_mode(graph, training=False, update_norms=False)
    source = GraphModule(network.__dict__['root'], graph)
    module = GraphModule(copy.deepcopy(_attributes(source)), source.graph)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for quantizer in module.modules():
        if hasattr(quantizer, 'rectify'):
            quantizer.observing, quantizer.simulating = False, True
    erase_identities(module)
    merge_twins(module)
    fold_constants(module)
    for node in list(module.graph.nodes):
        if is_convolution(node):
            _fold_one(module, node)
    for node in list(module.graph.nodes):
        if node.target in BATCH_NORM and has_statistics(node):
            inputs = quantizer_of(module, node.args[0], ActivationFakeQuantize)
            if is_quantized_norm(node) and inputs is not None:
                _convolve(module, node, inputs)
            else:
                _scale_and_shift(module, node)
        elif node.target in BATCH_NORM:
            _without_statistics(module.graph, node)
        elif node.target is aten.avg_pool2d.default and _averages_evenly(node):
            inputs = quantizer_of(module, node.args[0], ActivationFakeQuantize)
            if inputs is not None:
                _average(module, node, inputs)
        elif node.target is aten.avg_pool2d.default and not any(_pool_arguments(node)[2]):
            _exclude_padding(node)
    erase_unread(module.graph)
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    module.meta.update(network.program.meta)
    return module


def _attributes(module: GraphModule) -> nn.Module:
    """The tensors and quantizers that a graph reads, without the graph, which is too deep to be copied."""
    root = nn.Module()
    for name, child in module.named_children():
        root.add_module(name, child)
    return root


def _fold_one(module: GraphModule, conv: Node) -> None:
    """Fold the batch norm behind one convolution, if there is one, and fix the scales of its weight."""
    norm = batch_norm_of(conv)
    quantizer = quantizer_of(module, conv.args[1], WeightFakeQuantize)
    weight_node = conv.args[1].args[0] if quantizer is not None else conv.args[1]
    bias_node = conv.args[2] if len(conv.args) > 2 else None
    if weight_node.op != 'get_attr' or (bias_node is not None and bias_node.op != 'get_attr'):
        return  # computed from the images
    weight, bias = attribute_of(module, weight_node), attribute_of(module, bias_node)
    if norm is not None:
        factor, shift = _affine(module, norm)
        weight, scale = folded_weight(weight, factor, 1 if conv.target in TRANSPOSED else 0, quantizer)
        bias = (0.0 if bias is None else bias) * factor + shift
        norm.replace_all_uses_with(conv)
        module.graph.erase_node(norm)
    elif quantizer is not None:
        scale = quantizer.scale(weight).clone()
    inputs = quantizer_of(module, conv.args[0], ActivationFakeQuantize)
    if quantizer is not None and inputs is not None:
        scale = quantizer.joined(scale_with_room(scale, bias, inputs))
        bias = rounded_bias(bias, inputs, scale)
    if quantizer is not None:
        # as the simulation rounds it: torch's own operator multiplies by 1 / scale, and ties fall elsewhere
        weight = quantizer.with_scale(weight, scale)
    if bias is not None and (quantizer is not None or norm is not None):
        _set_argument(module, conv, 2, bias, f'{_plain(weight_node)}_folded_bias_{conv.name}')
    name = f'{_plain(weight_node)}_folded_{conv.name}'
    if quantizer is None:
        if norm is not None:
            _set_argument(module, conv, 1, weight, name)
        return
    fixed = copy.copy(quantizer)
    fixed.fix(scale)
    _set_quantized_weight(module, conv, weight, name, fixed)


def _set_quantized_weight(
    module: GraphModule, conv: Node, weight: Tensor, name: str, fixed: WeightFakeQuantize
) -> None:
    """Put a constant with a quantizer of fixed scales in the place of a convolution's weight."""
    module.add_submodule(f'quantizer_{name}', fixed)
    _set_argument(module, conv, 1, weight, name)
    with module.graph.inserting_before(conv):
        call = module.graph.call_module(f'quantizer_{name}', (conv.args[1],))
    conv.update_arg(1, call)


def _convolve(module: GraphModule, norm: Node, inputs: ActivationFakeQuantize) -> None:
    """Replace a batch norm between quantized tensors by a depthwise 1x1 convolution."""
    weight, bias, quantizer = norm_as_convolution(*_affine(module, norm), inputs)
    with module.graph.inserting_before(norm):
        conv = module.graph.call_function(
            aten.conv2d.default, (norm.args[0], None, None, [1, 1], [0, 0], [1, 1], len(weight))
        )
    conv.meta = dict(norm.meta)
    name = f'{_plain(norm.args[3]).removesuffix("_running_mean")}_weight_{conv.name}'
    _set_argument(module, conv, 2, bias, f'{name}_bias')
    _set_quantized_weight(module, conv, weight, name, quantizer)
    norm.replace_all_uses_with(conv)
    module.graph.erase_node(norm)


def _averages_evenly(pool: Node) -> bool:
    """Whether an average pool in INT8 divides by one number everywhere, and a convolution is faster, or right at all.

    A large window is left to the engines, unless it counts zeros around the map (OpenVINO 2026.4 counts integers of 0,
    which are no zeros) or divides by another number than its size, which ONNX cannot say.
    """
    window, _, padding, ceil_mode, include_pad, divisor = _pool_arguments(pool)
    even = not ceil_mode and (divisor is not None or include_pad or not any(padding))
    wrong = any(padding) or divisor is not None
    return KEY in pool.meta and even and (wrong or prod(window) <= LARGEST_WINDOW)


def _pool_arguments(pool: Node) -> tuple[list[int], list[int], list[int], bool, bool, int | None]:
    """Window, stride, padding, ceil_mode, count_include_pad and divisor_override of an average pool."""
    window, stride, padding, *rest = (*pool.args[1:], *([], 0, False, True, None)[len(pool.args) - 2 :])
    window, padding = _pair(window), _pair(padding)
    return window, _pair(stride) if stride else window, padding, *rest


def _pair(value: int | Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _exclude_padding(pool: Node) -> None:
    """Have a pool without padding count none: with ``ceil_mode`` onnxruntime's INT8 pool counts what is outside."""
    if len(pool.args) > 4 and pool.args[4]:
        pool.args = (*pool.args[:5], False, *pool.args[6:])


def _average(module: GraphModule, pool: Node, inputs: ActivationFakeQuantize) -> None:
    """Replace an average pool by a depthwise convolution of equal weights, which engines have fast kernels for.

    onnxruntime's own INT8 average pool is 40 to 70 times as slow, OpenVINO's 3 to 13 times (docs/deployment.md).
    """
    window, stride, padding, *_, divisor = _pool_arguments(pool)
    channels = int(pool.meta['val'].shape[-3])
    with module.graph.inserting_before(pool):
        conv = module.graph.call_function(
            aten.conv2d.default, (pool.args[0], None, None, stride, padding, [1, 1], channels)
        )
    conv.meta = dict(pool.meta)
    quantizer = WeightFakeQuantize(inputs.scheme.for_constants())
    weight = torch.full((channels, 1, *window), 1 / (divisor or prod(window)), device=inputs.min_val.device)
    quantizer.fix(quantizer.scale(weight))
    _set_quantized_weight(module, conv, weight, f'mean_weight_{conv.name}', quantizer)
    pool.replace_all_uses_with(conv)
    module.graph.erase_node(pool)


def _affine(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor]:
    return affine_of(*(attribute_of(module, argument) for argument in norm.args[1:5]), norm.args[7])


def _scale_and_shift(module: GraphModule, norm: Node) -> None:
    """Replace a batch norm that no convolution comes before; torchao would search the graph for one for a minute."""
    shape = [1, -1] + [1] * (norm.meta['val'].dim() - 2)
    result = norm.args[0]
    for function, value in zip((aten.mul.Tensor, aten.add.Tensor), _affine(module, norm), strict=True):
        name = f'{norm.name}_{function._schema.name.split("::")[1]}'
        module.register_buffer(name, value.view(shape).contiguous())
        with module.graph.inserting_before(norm):
            attribute = module.graph.get_attr(name)
            attribute.meta['val'] = value.view(shape)
            result = module.graph.call_function(function, (result, attribute))
        result.meta = dict(norm.meta)
    norm.replace_all_uses_with(result)
    module.graph.erase_node(norm)


def _without_statistics(graph: Graph, norm: Node) -> None:
    """Write a batch norm that keeps no statistics as an operator that torchao does not search the graph for."""
    with graph.inserting_before(norm):
        results = graph.call_function(aten._native_batch_norm_legit.no_stats, (*norm.args[:3], True, *norm.args[6:8]))
        results.meta = {key: value for key, value in norm.meta.items() if key != KEY}
        result = graph.call_function(operator.getitem, (results, 0))
    result.meta = dict(norm.meta)
    norm.replace_all_uses_with(result)
    graph.erase_node(norm)


def _plain(node: Node) -> str:
    return str(node.target).replace('.', '_')


def _set_argument(module: GraphModule, conv: Node, index: int, value: Tensor, name: str) -> None:
    """Put a constant in the place of a convolution's weight or bias, and forget what stood there."""
    module.register_buffer(name, value.contiguous())
    with module.graph.inserting_before(conv):
        attribute = module.graph.get_attr(name)
    attribute.meta['val'] = value
    args = list(conv.args) + [None] * (index + 1 - len(conv.args))
    args[index] = attribute
    conv.args = tuple(args)
