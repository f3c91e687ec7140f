"""Weights that several convolutions share, as heads do that run on every level of a pyramid.

Where onnxruntime's sums would saturate it makes weights unsigned (``device.saturation_free_session``), under a name
made of theirs, and 1.31 fails if two operators read the same one. In memory each has a copy of its own anyway, in the
order that its kernel reads.
"""

from typing import Any

from ..graph import OnnxGraph


def untie_weights(model: Any) -> list[str]:
    """Give each convolution that reads quantized weights integers of its own.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the convolutions that were changed.
    """
    from onnx import helper

    graph, changed, seen = OnnxGraph(model.graph), [], set()
    for conv in [node for node in model.graph.node if node.op_type in ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')]:
        weights = graph.dequantizer(conv.input[1])
        if weights is None or graph.value(weights.input[0]) is None:
            continue
        if weights.input[0] not in seen:
            seen.add(weights.input[0])
            continue
        parts = [graph.add(f'{conv.name}:own/{i}', graph.value(name)) for i, name in enumerate(weights.input)]
        copied = helper.make_node('DequantizeLinear', parts, [f'{conv.name}:own'], name=f'{conv.name}:own')
        copied.attribute.extend(weights.attribute)
        graph.insert(conv, copied)
        conv.input[1] = copied.output[0]
        changed.append(conv.name)
    return changed
