"""What TensorRT expects of a QDQ ONNX file, checked by rule: it is not run here.

The rules are those of NVIDIA's documentation ("Working with Quantized Types", "Explicit Quantization", TensorRT 10): a
symmetric scheme in signed integers, weights by output channel, no quantized bias, both inputs of a residual addition
quantized, standard operators.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .graph import OnnxGraph, attributes

CONVERSIONS = ('QuantizeLinear', 'DequantizeLinear')
#: Place of the output channels in the weights of an operator.
OUTPUT_AXIS = dict(Conv=0, ConvTranspose=1, Gemm=0, MatMul=1)


def violations(model: Any) -> list[str]:
    """What of a file is against TensorRT's rules for explicitly quantized networks.

    Args:
        model (onnx.ModelProto): QDQ ONNX.

    Returns:
        list[str]: A sentence each, with the name of the node; none if it keeps all rules.
    """
    graph = OnnxGraph(model.graph)
    found = [
        f'{node.name} is {node.domain}.{node.op_type}, not an operator of standard ONNX'
        for node in model.graph.node
        if node.domain not in ('', 'ai.onnx')
    ]
    for node in model.graph.node:
        if node.op_type in CONVERSIONS:
            found += _of_conversion(graph, node)
        elif node.op_type in OUTPUT_AXIS:
            found += _of_product(graph, node)
        elif node.op_type == 'Add':
            found += _of_addition(graph, node)
    return found


def _of_conversion(graph: OnnxGraph, node: Any) -> Iterator[str]:
    scale = graph.value(node.input[1])
    if scale is None or scale.dtype != np.float32 or not (scale > 0).all():
        yield f'{node.name} has no constant positive scale in float32'
    zero_point = graph.value(node.input[2]) if len(node.input) > 2 else None
    if zero_point is None or zero_point.dtype != np.int8 or zero_point.any():
        kind = 'none' if zero_point is None else f'{zero_point.dtype} with {np.unique(zero_point)[:3].tolist()}'
        yield f'{node.name} has the zero point {kind}, not 0 in int8'
    weight = node.input[0] in graph.initializers
    if scale is not None and scale.size > 1 and not weight:
        yield f'{node.name} quantizes a feature map by {scale.size} scales, not by one'


def _of_product(graph: OnnxGraph, node: Any) -> Iterator[str]:
    sources = [graph.dequantizer(name) for name in node.input[:2]]
    if (sources[0] is None) != (sources[1] is None):
        yield f'{node.name} has one quantized input of two'
    weight = sources[1]
    if weight is not None and weight.input[0] in graph.initializers:
        shape = graph.value(weight.input[0]).shape
        axis = OUTPUT_AXIS[node.op_type]
        if node.op_type == 'Gemm' and not attributes(node).get('transB', 0):
            axis = 1
        count = graph.value(weight.input[1]).size
        own = attributes(weight).get('axis', 1) % len(shape)
        if count > 1 and (own != axis or count != shape[axis]):
            yield f'{node.name} has weights {shape} with {count} scales along axis {own}, not by output channel'
    if len(node.input) > 2 and graph.dequantizer(node.input[2]) is not None:
        yield f'{node.name} has a quantized bias, not one in float'


def _of_addition(graph: OnnxGraph, node: Any) -> Iterator[str]:
    maps = [name for name in node.input if name not in graph.initializers]
    quantized = [graph.dequantizer(name) is not None for name in maps]
    if len(maps) == 2 and any(quantized) and not all(quantized):
        yield f'{node.name} adds a quantized feature map to one in float'
