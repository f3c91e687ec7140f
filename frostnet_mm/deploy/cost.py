"""What a network costs: parameters, multiply-accumulates, and how many of them an engine does in INT8."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .engines.base import LayerTime
from .onnx.graph import attributes
from .onnx.rewrites.integer_matmul import PRODUCT

_MATRIX = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul', PRODUCT)
_PRODUCTS = ('conv', 'gemm', 'matmul', 'fullyconnected')  # in what engines call theirs


@torch.no_grad()
def count_macs(network: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of one pass, those of convolutions and matrix products.

    Args:
        network (nn.Module): Takes images.
        images (Tensor): Of shape (N, 3, H, W).
    """
    with FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops() // 2


def engine_int8_share(model: Any, layers: Sequence[LayerTime]) -> float | None:
    """The share of multiply-accumulates that an engine does in INT8.

    Args:
        model (onnx.ModelProto): The network that the engine was given, with a fixed input shape.
        layers (Sequence[LayerTime]): What the engine runs, named after the nodes of the network.

    Returns:
        float | None: Between 0 and 1; None if the sizes of the network are open, or nothing in it is multiplied.
    """
    integers = {_plain(layer.name) for layer in layers if layer.precision == 'int8'}
    macs = macs_by_node(model)
    if not macs or not sum(macs.values()):
        return None
    done = {node.name for node in model.graph.node if node.name in integers or node.output[0] in integers}
    return sum(value for name, value in macs.items() if name in done) / sum(macs.values())


@dataclass(frozen=True)
class LayerCost:
    """What a convolution or matrix product is, and costs.

    Args:
        form (str): Such as 'conv 1x1', 'conv 3x3 /2', 'depthwise 5x5', 'grouped 1x1', 'matmul'.
        macs (int): Multiply-accumulates.
    """

    form: str
    macs: int


def layer_costs(model: Any, layers: Sequence[LayerTime]) -> dict[str, LayerCost]:
    """Form and multiply-accumulates of an engine's operators, by the engine's names of them.

    Args:
        model (onnx.ModelProto): The network that the engine was given.
        layers (Sequence[LayerTime]): What the engine runs; what is no convolution or matrix product, and all where a
            size is open, has no entry.
    """
    macs = macs_by_node(model) or {}
    shapes = {value.name: list(value.dims) for value in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == 'DequantizeLinear'}
    costs: dict[str, LayerCost] = {}
    for node in model.graph.node:
        if node.name in macs:
            cost = LayerCost(_form(node, shapes.get(sources.get(node.input[1], node.input[1]), [])), macs[node.name])
            costs[node.name] = costs[node.output[0]] = cost
    products = [layer.name for layer in layers if any(word in layer.kind.lower() for word in _PRODUCTS)]
    return {name: costs[_plain(name)] for name in products if _plain(name) in costs}


def _form(node: Any, weight: list[int]) -> str:
    if node.op_type not in ('Conv', 'ConvTranspose') or len(weight) != 4:
        return 'matmul'
    options = attributes(node)
    groups, stride = options.get('group', 1), options.get('strides', [1])[0]
    kind = 'conv' if groups == 1 else 'depthwise' if weight[1] == 1 and groups == weight[0] else 'grouped'
    kind = 'transposed' if node.op_type == 'ConvTranspose' else kind
    return f'{kind} {weight[2]}x{weight[3]}' + (f' /{stride}' if stride > 1 else '')


def macs_by_node(model: Any) -> dict[str, int] | None:
    """Multiply-accumulates of each convolution and matrix product; None where a size is open."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    } | {value.name: list(value.dims) for value in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == 'DequantizeLinear'}
    result = {}
    for node in model.graph.node:
        if node.op_type not in _MATRIX:
            continue
        weight = shapes.get(sources.get(node.input[1], node.input[1]))
        # shapes behind an operator that ONNX does not know are not inferred
        output = shapes.get(node.output[0] if node.op_type != PRODUCT else node.input[0])
        if not weight or not output or 0 in output:
            return None
        if node.op_type == PRODUCT:
            result[node.name] = prod(output) * weight[1]
        elif node.op_type == 'Conv':
            result[node.name] = prod(output) * prod(weight[1:])
        elif node.op_type == 'ConvTranspose':
            result[node.name] = prod(shapes[node.input[0]]) * prod(weight[1:])
        else:
            result[node.name] = prod(output) * shapes[node.input[0]][-1]
    return result


def _plain(name: str) -> str:
    """The node, or the output, that an engine's operator makes: engines add endings to the name."""
    for ending in ('_original', '/WithoutBiases', '_token_', '_nchwc', '_quant'):
        name = name.partition(ending)[0]
    return name
