"""What of a quantized network computes in INT8, and what stays in float."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from .constants import varying
from .fake_quantize import WeightFakeQuantize
from .network import QuantizedNetwork
from .quantizer import (
    ADDS,
    BATCH_NORM,
    INTEGER,
    MULTIPLICATIONS,
    is_convolution,
    is_quantized_norm,
    keeps_scale,
    module_paths,
    rectifier_bounds,
)


@dataclass(frozen=True)
class FloatOperators:
    """The operators of one kind that compute in float.

    Args:
        kind (str): Name of the operator in ATen, such as 'silu' or 'group_norm'.
        count (int): How often it is called.
        modules (tuple[str, ...]): Names of the modules that call it, in the order of the graph.
    """

    kind: str
    count: int
    modules: tuple[str, ...]


def float_operators(network: QuantizedNetwork) -> list[FloatOperators]:
    """List the operators of evaluation that compute in float, each of which costs a dequantization and a quantization.

    Computations on sizes or on parameters alone, and views of an output that leaves the network, are not listed.

    Args:
        network (QuantizedNetwork): The network.

    Returns:
        list[FloatOperators]: By kind, the most frequent first.
    """
    found: dict[str, list[str]] = {}
    graph = network.program.copy_graph(evaluation=True)
    changing = varying(graph)
    for node in graph.nodes:
        if node in changing and _is_computation(node) and not _computes_in_integers(network, node):
            found.setdefault(node.target._schema.name.split('::')[1].rstrip('_'), []).append(_module_name(node))
    groups = [FloatOperators(kind, len(names), tuple(dict.fromkeys(names))) for kind, names in found.items()]
    return sorted(groups, key=lambda group: -group.count)


def int8_share(network: QuantizedNetwork) -> float:
    """The share of multiply-accumulates that convolutions and linear layers with quantized input and weight do.

    All that multiplies is counted: convolutions and linear layers of any kind, and products of feature maps.

    Args:
        network (QuantizedNetwork): The network.

    Returns:
        float: Between 0 and 1, for images of the size that the network was captured with.

    Raises:
        ValueError: The network has no convolution.
    """
    quantized = total = 0
    graph = network.program.copy_graph(evaluation=True)
    changing = varying(graph)
    for node in graph.nodes:
        macs = _macs(node) if node in changing else 0
        total += macs
        if macs and is_convolution(node):
            quantized += macs * _reads_integers(network, node)
    if not total:
        raise ValueError('The network has no convolution and no matrix product, so no share of them is in INT8.')
    return quantized / total


def weight_megabytes(network: QuantizedNetwork) -> float:
    """What the network's parameters take, quantized weights packed in their bits and the others in 32.

    Args:
        network (QuantizedNetwork): The network.

    Returns:
        float: In MB (10^6 bytes), without scales.
    """
    return sum(parameter_bits(network)) / 8e6


def parameter_bits(network: QuantizedNetwork) -> tuple[int, int]:
    """The bits of the quantized weights, packed, and those of all other parameters, 32 each, that evaluation needs.

    A weight that is computed (weight standardization, a mask) is stored in place of what it is computed from.

    Args:
        network (QuantizedNetwork): The network.
    """
    nodes = list(network.weight_nodes(evaluation=True))  # held: a computed weight is a new tensor
    weights = {id(weight): weight.numel() * (module.quant_max.bit_length() + 1) for module, weight in nodes}
    others = {id(own): own.numel() for own in _read_in_float(network) if id(own) not in weights}
    return sum(weights.values()), 32 * sum(others.values())


def _read_in_float(network: QuantizedNetwork) -> list[Tensor]:
    """The parameters that evaluation reads for anything else than for weights that are stored in integers."""
    root, graph = network.__dict__['root'], network.program.copy_graph(evaluation=True)
    weights_alone: set[Node] = set()
    for node in reversed(graph.nodes):
        stored = (
            isinstance(network._module_of(user), WeightFakeQuantize) or user in weights_alone for user in node.users
        )
        if node.users and all(stored):
            weights_alone.add(node)
    parameters = dict(root.named_parameters(remove_duplicate=False))
    names = [str(node.target) for node in graph.nodes if node.op == 'get_attr' and node not in weights_alone]
    return [parameters[name] for name in names if name in parameters]


def describe_report(network: QuantizedNetwork) -> str:
    """Both in one line, for logs.

    Args:
        network (QuantizedNetwork): The network.

    Returns:
        str: Such as '92 weights and 96 activations are quantized: 100.0 % of the MACs in INT8; in float: 12 silu
        (backbone.stage1.0.conv1, …).'
    """
    weights, activations = len(list(network.weights())), len(list(network.activations()))
    groups = [
        f'{group.count} {group.kind} ({group.modules[0]}{", …" if len(group.modules) > 1 else ""})'
        for group in float_operators(network)
    ]
    return (
        f'{weights} weights and {activations} activations are quantized: {int8_share(network):.1%} of the MACs in '
        f'INT8; in float: {", ".join(groups) or "nothing"}. Parameters: {weight_megabytes(network):.2f} MB packed.'
    ).replace('%', ' %', 1)


def _is_computation(node: Node) -> bool:
    """Whether a node computes values of a feature map, other than reshaping what leaves the network."""
    value = node.meta.get('val')
    return (
        node.op == 'call_function'
        and isinstance(node.target, torch._ops.OpOverload)
        and isinstance(value, Tensor)
        and value.is_floating_point()
        and not (keeps_scale(node) and _only_leaves(node))
    )


def _only_leaves(node: Node) -> bool:
    return all(user.op == 'output' or (keeps_scale(user) and _only_leaves(user)) for user in node.users)


def _computes_in_integers(network: QuantizedNetwork, node: Node) -> bool:
    """Whether an engine has all it needs to compute a node with integers, alone or as part of the operator before."""
    if is_convolution(node):
        return _reads_integers(network, node)
    source = node.args[0] if isinstance(node.args[0], Node) else None
    if source is not None and len(source.users) == 1:
        if node.target in BATCH_NORM and is_convolution(source):
            return _reads_integers(network, source)
        if rectifier_bounds(node) is not None and not _is_quantizer(network, source):
            return _is_computation(source) and _computes_in_integers(network, source)
    if is_quantized_norm(node):
        return _is_quantizer(network, source)
    if node.target not in INTEGER and rectifier_bounds(node) is None:
        return False
    tensors = _tensors(node.args)
    if node.target in ADDS | MULTIPLICATIONS and len(tensors) < 2:
        return False  # with a number, which is not quantized
    return all(_is_quantizer(network, tensor) for tensor in tensors)


def _reads_integers(network: QuantizedNetwork, conv: Node) -> bool:
    return all(_is_quantizer(network, argument) for argument in conv.args[:2])


def _is_quantizer(network: QuantizedNetwork, node: Node) -> bool:
    return node.op == 'call_module' and network._module_of(node) is not None


def _tensors(arguments: Sequence) -> list[Node]:
    """The feature maps and parameters among the arguments of a node."""
    first = arguments[0]
    candidates = first if isinstance(first, (list, tuple)) else arguments[:2]
    return [node for node in candidates if isinstance(node, Node) and _has_values(node)]


def _has_values(node: Node) -> bool:
    return node.op == 'call_module' or isinstance(node.meta.get('val'), Tensor)


def _macs(node: Node) -> int:
    """Multiply-accumulates of an operator for the captured size, as torch counts them; 0 without products."""
    if node.op != 'call_function' or not isinstance(node.target, torch._ops.OpOverload):
        return 0
    if not _is_computation(node):
        return 0
    arguments, options = tree_map(_without_values, (node.args, node.kwargs))
    with FlopCounterMode(display=False) as counter:
        node.target(*arguments, **options)
    return counter.get_total_flops() // 2


def _without_values(argument: Any) -> Any:
    """What an argument is on the meta device: a tensor of the captured size without values."""
    if not isinstance(argument, Node):
        return argument
    while argument.op == 'call_module':  # a quantizer
        argument = argument.args[0]
    value = argument.meta.get('val')
    if isinstance(value, Tensor):
        return torch.empty([_hint(size) for size in value.shape], dtype=value.dtype, device='meta')
    return tree_map(_hint, value)


def _hint(size: Any) -> Any:
    """A size as a number; torch gives sizes that it has found to be constant no hint."""
    if not isinstance(size, torch.SymInt):
        return size
    return int(size.node.expr if size.node.hint is None else size.node.hint)


def _module_name(node: Node) -> str:
    return (module_paths(node) or [node.name])[-1]
