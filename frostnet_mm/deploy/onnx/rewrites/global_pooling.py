"""Means over whole maps in the form that an engine computes fast.

onnxruntime has no INT8 mean (ReduceMean): it converts the map to floats and takes 7 to 10 times as long as with its
global average pool, which is the same thing for maps (N, C, H, W).
"""

from typing import Any

from ..graph import attributes


def use_global_pools(model: Any) -> list[str]:
    """Write means of quantized maps over height and width as global average pools.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the nodes that were changed.
    """
    from onnx import numpy_helper, shape_inference

    means = [node for node in model.graph.node if node.op_type == 'ReduceMean']
    if not means:
        return []
    quantized = {node.output[0] for node in model.graph.node if node.op_type == 'DequantizeLinear'}
    constants = {value.name: value for value in model.graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in shape_inference.infer_shapes(model).graph.value_info
        if value.type.tensor_type.HasField('shape')
    }
    changed = []
    for node in means:
        source, axes = node.input[0], constants.get(node.input[1] if len(node.input) > 1 else '')
        keeps = attributes(node).get('keepdims', 1)
        if source not in quantized or axes is None or ranks.get(source) != 4 or not keeps:
            continue
        if sorted(axis % 4 for axis in numpy_helper.to_array(axes).tolist()) == [2, 3]:
            node.op_type = 'GlobalAveragePool'
            del node.input[1:], node.attribute[:]
            changed.append(node.name)
    return changed
