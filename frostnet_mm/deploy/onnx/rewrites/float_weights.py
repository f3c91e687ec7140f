"""Float weights that stay floats in an engine that would quantize them.

onnxruntime rounds the float weights of a convolution between a DequantizeLinear and a QuantizeLinear to 8 bits, with
one scale a tensor and without saying so (its pass WeightBiasQuantization): layers that were to stay in float do not,
and 7 % of their results are a step off. It leaves weights alone that are dequantized along another axis than that of
the output channels. So such a weight is written as 24 bit integers with a scale along another axis, which loses no more
than float32 does.
"""

from typing import Any

import numpy as np

_STEPS = 2**23
_LAYERS = ('Conv', 'ConvTranspose')


def keep_float_weights(model: Any) -> list[str]:
    """Write float weights of convolutions that read and feed quantized tensors as integers with many digits.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the convolutions that were changed.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == 'DequantizeLinear'}
    constants = {value.name: value for value in graph.initializer}
    changed = {}
    for index, node in enumerate(graph.node):
        name = node.input[1] if node.op_type in _LAYERS and node.input[0] in dequantized else None
        if name not in constants:
            continue
        weight = numpy_helper.to_array(constants[name])
        axis = next((axis for axis in range(1, weight.ndim) if weight.shape[axis] > 1), None)
        if axis is None or weight.dtype != np.float32:
            continue  # one number a channel has no other axis
        others = tuple(other for other in range(weight.ndim) if other != axis)
        scale = np.maximum(np.abs(weight).max(others, keepdims=True) / _STEPS, np.finfo(np.float32).tiny)
        parts = [f'{node.name}:{what}' for what in ('integers', 'scale')]
        values = (np.rint(weight / scale).astype(np.int32), scale.ravel().astype(np.float32))
        graph.initializer.extend(numpy_helper.from_array(*pair) for pair in zip(values, parts, strict=True))
        node.input[1] = f'{node.name}:weight'
        changed[index] = helper.make_node('DequantizeLinear', parts, [node.input[1]], name=node.input[1], axis=axis)
    for index, node in reversed(changed.items()):
        graph.node.insert(index, node)
    used = {name for node in graph.node for name in node.input}
    unused = [value for value in graph.initializer if value.name not in used]
    for value in unused:
        graph.initializer.remove(value)
    return [node.name for node in changed.values()]
