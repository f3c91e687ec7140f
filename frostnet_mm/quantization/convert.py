"""From simulated INT8 to integers: batch norms folded into the convolutions, fake quantization replaced by Q/DQ."""

import copy
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from .capture import set_mode, unflatten
from .fake_quantize import ActivationFakeQuantize, WeightFakeQuantize
from .folding import affine_of, folded_weight, rounded_bias
from .network import QuantizedNetwork
from .quantizer import BATCH_NORM, TRANSPOSED, batch_norm_of, is_convolution

aten = torch.ops.aten


class ConvertedNetwork(nn.Module):
    """The integer-exact reference: INT8 weights, every quantized tensor between a Quantize and a Dequantize.

    It computes what an engine computes that follows the model, and is what engines are exported from.

    Args:
        module (GraphModule): The graph; one input, a flat tuple of outputs.
        spec (pytree.TreeSpec): How the outputs nest.
        names (tuple[str, ...]): A name for each output.
    """

    def __init__(self, module: GraphModule, spec: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.spec = spec
        self.names = names

    def train(self, mode: bool = True) -> 'ConvertedNetwork':
        """Integers are not trained: the mode does not matter."""
        return self

    def flat(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network on images (N, 3, H, W); the outputs as a flat tuple in the order of ``names``."""
        return self.module(images)

    def forward(self, images: Tensor) -> tuple[Any, list[Tensor]]:
        """Run the network on images (N, 3, H, W); as :meth:`frostnet_mm.DenseNetwork.forward`."""
        return unflatten(self.spec, self.flat(images))


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
    return ConvertedNetwork(convert_pt2e(module), network.program.spec, network.program.names)


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
    graph = network.program.copy_graph()
    set_mode(graph, training=False, update_norms=False)
    source = GraphModule(network.__dict__['root'], graph)
    module = GraphModule(copy.deepcopy(_attributes(source)), source.graph)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for quantizer in module.modules():
        if hasattr(quantizer, 'rectify'):
            quantizer.observing, quantizer.simulating = False, True
    for node in list(module.graph.nodes):
        if is_convolution(node):
            _fold_one(module, node)
    for node in list(module.graph.nodes):
        if node.target in BATCH_NORM:
            _scale_and_shift(module, node)
    _erase_unread(module.graph)
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
    quantizer = _quantizer_of(module, conv.args[1], WeightFakeQuantize)
    weight_node = conv.args[1].args[0] if quantizer is not None else conv.args[1]
    if weight_node.op != 'get_attr':
        return
    weight = _value(module, weight_node)
    bias = _value(module, conv.args[2]) if len(conv.args) > 2 else None
    if norm is not None:
        factor, shift = _affine(module, norm)
        weight, scale = folded_weight(weight, factor, 1 if conv.target in TRANSPOSED else 0, quantizer)
        bias = (0.0 if bias is None else bias) * factor + shift
        norm.replace_all_uses_with(conv)
        module.graph.erase_node(norm)
    elif quantizer is not None:
        scale, weight = quantizer.scale(weight).clone(), quantizer(weight)
    inputs = _quantizer_of(module, conv.args[0], ActivationFakeQuantize)
    if quantizer is not None and inputs is not None:
        bias = rounded_bias(bias, inputs, scale)
    if bias is not None and (quantizer is not None or norm is not None):
        _set_argument(module, conv, 2, bias, f'{_plain(weight_node)}_folded_bias_{conv.name}')
    name = f'{_plain(weight_node)}_folded_{conv.name}'
    if quantizer is None:
        if norm is not None:
            _set_argument(module, conv, 1, weight, name)
        return
    fixed = copy.copy(quantizer)
    fixed.fix(scale)
    module.add_submodule(f'quantizer_{name}', fixed)
    _set_argument(module, conv, 1, weight, name)
    with module.graph.inserting_before(conv):
        call = module.graph.call_module(f'quantizer_{name}', (conv.args[1],))
    conv.update_arg(1, call)


def _affine(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor]:
    return affine_of(*(_value(module, argument) for argument in norm.args[1:5]), norm.args[7])


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


def _erase_unread(graph: Graph) -> None:
    """Remove what folding has left without readers: all operators of an inference graph are pure."""
    for node in reversed(list(graph.nodes)):
        if node.op not in ('placeholder', 'output') and not node.users:
            graph.erase_node(node)


def _quantizer_of(module: GraphModule, node: Node, kind: type) -> Any:
    """The quantizer of a kind that is called at a node, or None."""
    found = module.get_submodule(str(node.target)) if node.op == 'call_module' else None
    return found if isinstance(found, kind) else None


def _value(module: GraphModule, node: Node | None) -> Tensor | None:
    return None if node is None else operator.attrgetter(str(node.target))(module)


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
