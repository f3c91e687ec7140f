"""Biases of INT8 convolutions as the integers that they are.

onnxruntime fuses a convolution between a DequantizeLinear and a QuantizeLinear into an integer one only if its bias is
dequantized too. It would make such a bias by itself (its pass WeightBiasQuantization), but the same pass rounds weights
that are to stay in float, so deployments leave it out. Conversion has put the biases on the grid of the 32 bit
accumulator already: here they are written in it.
"""

from typing import Any

import numpy as np

from ..graph import OnnxGraph

_LIMIT = 2**31 - 1


def integer_biases(model: Any) -> list[str]:
    """Write the float biases of convolutions of quantized maps and weights as 32 bit integers.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the convolutions that were changed.
    """
    from onnx import helper

    graph = OnnxGraph(model.graph)
    changed = []
    for conv in [node for node in model.graph.node if node.op_type == 'Conv' and len(node.input) > 2]:
        maps, weights = (graph.dequantizer(name) for name in conv.input[:2])
        bias = graph.value(conv.input[2])
        if maps is None or weights is None or bias is None or bias.dtype != np.float32:
            continue
        scales = [graph.value(node.input[1]) for node in (maps, weights)]
        if any(scale is None for scale in scales) or scales[0].size != 1:
            continue
        grid = (scales[0].reshape(()) * scales[1]).astype(np.float32)
        integers = np.rint(bias.astype(np.float64) / grid)
        if grid.shape not in ((), bias.shape) or np.abs(integers).max() > _LIMIT:
            continue
        parts = [f'{conv.name}:bias/{what}' for what in ('integers', 'scale')]
        graph.add(parts[0], integers.astype(np.int32))
        graph.add(parts[1], grid)
        conv.input[2] = f'{conv.name}:bias'
        axis = {} if grid.ndim == 0 else dict(axis=0)
        graph.insert(conv, helper.make_node('DequantizeLinear', parts, [conv.input[2]], name=conv.input[2], **axis))
        changed.append(conv.name)
    if changed:
        graph.drop_unused()
    return changed
