"""1x1 convolutions from integers to floats as matrix products of integers.

onnxruntime has integer convolutions from integers to integers only: a convolution whose result stays float (the last
one of a head) runs in float, and its weights are dequantized at every call. It does have the matrix product of integers
with a float result, which is what a 1x1 convolution is with the channels last.
"""

from typing import Any

import numpy as np

from ..graph import OnnxGraph, attributes, groups

DOMAIN, PRODUCT = 'com.microsoft', 'MatMulIntegerToFloat'  # onnxruntime's own; ONNX has no such operator
_FUSED = ('QuantizeLinear', 'Relu', 'Clip')  # behind these the result is no float


def integer_matmul(model: Any) -> list[str]:
    """Write 1x1 convolutions of quantized maps with float results as integer matrix products.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the convolutions that were changed.
    """
    from onnx import helper

    graph = OnnxGraph(model.graph)
    changed = []
    for conv in [node for node in model.graph.node if node.op_type == 'Conv']:
        maps, weights = graph.dequantizer(conv.input[0]), graph.dequantizer(conv.input[1])
        if maps is None or weights is None or not _pointwise(conv) or _stays_integer(graph, conv):
            continue
        weight = graph.value(weights.input[0])
        zero_point = graph.value(maps.input[2]) if len(maps.input) > 2 else None
        if weight is None or weight.shape[2:] != (1, 1) or zero_point is None or zero_point.dtype != np.uint8:
            continue  # of signed maps onnxruntime has no product with unsigned weights, which it may make of these
        bias, one_scale = _bias(graph, conv, len(weight)), graph.value(maps.input[1])
        zeros = graph.value(weights.input[2]) if len(weights.input) > 2 else np.zeros(())
        if bias is None or zeros is None or zeros.any() or one_scale is None or one_scale.size != 1:
            continue
        scales = np.broadcast_to(graph.value(weights.input[1]), len(weight)).copy()
        last, result = f'{conv.name}:channels_last', f'{conv.name}:product'
        matrix = graph.add(f'{conv.name}:matrix', np.ascontiguousarray(weight[:, :, 0, 0].T))
        operands = [last, matrix, maps.input[1], graph.add(f'{conv.name}:scales', scales), maps.input[2]]
        operands += [graph.add(f'{conv.name}:zero', np.zeros((), weight.dtype)), graph.add(f'{conv.name}:bias', bias)]
        graph.insert(
            conv,
            helper.make_node('Transpose', [maps.input[0]], [last], name=last, perm=[0, 2, 3, 1]),
            helper.make_node(PRODUCT, operands, [result], name=conv.name, domain=DOMAIN),
            helper.make_node('Transpose', [result], [conv.output[0]], name=result, perm=[0, 3, 1, 2]),
        )
        model.graph.node.remove(conv)
        changed.append(conv.name)
    if changed:
        graph.drop_unused()
        if DOMAIN not in {entry.domain for entry in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return changed


def _pointwise(conv: Any) -> bool:
    options = attributes(conv)
    plain = all(value == 1 for value in options.get('strides', [1, 1])) and not any(options.get('pads', [0]))
    return groups(conv) == 1 and plain and options.get('auto_pad', b'NOTSET') in (b'NOTSET', b'VALID')


def _stays_integer(graph: OnnxGraph, conv: Any) -> bool:
    name = conv.output[0]
    return name not in graph.outputs and any(node.op_type in _FUSED for node in graph.readers.get(name, []))


def _bias(graph: OnnxGraph, conv: Any, outputs: int) -> np.ndarray | None:
    """A convolution's bias in float, zeros if it has none; None if it is no constant."""
    name = conv.input[2] if len(conv.input) > 2 else ''
    if not name:
        return np.zeros(outputs, np.float32)
    integers = graph.dequantizer(name)
    if integers is None:
        return graph.value(name)
    value, scale = (graph.value(part) for part in integers.input[:2])
    return None if value is None or scale is None else (value * scale).astype(np.float32)
