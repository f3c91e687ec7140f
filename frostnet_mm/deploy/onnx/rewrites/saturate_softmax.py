"""Softmaxes whose integers end at the last one, in an engine that would begin anew.

onnxruntime (1.23 to 1.31) fuses a softmax between a DequantizeLinear and a QuantizeLinear into QLinearSoftmax, which
does not saturate: of a range that ends at 0.84, the probability 0.9 becomes the integer 0, not 255. Attention that
is surer of itself than in calibration came out as none. A minimum behind the softmax keeps the two apart.
"""

from typing import Any

import numpy as np

from ..graph import OnnxGraph, attributes

_MOVES = ('Reshape', 'Transpose', 'Squeeze', 'Unsqueeze', 'Flatten', 'Slice', 'Expand', 'Identity')


def saturate_softmax(model: Any) -> list[str]:
    """Put a minimum of 1 behind each softmax of quantized values whose integers end below 1.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the softmaxes.
    """
    from onnx import helper

    graph, changed = OnnxGraph(model.graph), []
    for node in [node for node in model.graph.node if node.op_type == 'Softmax']:
        if graph.dequantizer(node.input[0]) is None or all(end >= 1 for end in _ends(graph, node.output[0])):
            continue
        result, whole = node.output[0], f'{node.name}:whole'
        one = graph.add(f'{node.name}:one', np.ones((), np.float32))
        axis = attributes(node).get('axis', -1)
        graph.insert(
            node,
            helper.make_node('Softmax', [node.input[0]], [whole], name=node.name, axis=axis),
            helper.make_node('Min', [whole, one], [result], name=f'{node.name}:minimum'),
        )
        model.graph.node.remove(node)
        changed.append(node.name)
    return changed


def _ends(graph: OnnxGraph, name: str) -> list[float]:
    """The largest values of the integers that a tensor becomes, behind operators that move values."""
    ends = []
    for reader in graph.readers.get(name, ()):
        if reader.op_type in _MOVES:
            ends += _ends(graph, reader.output[0])
        elif reader.op_type == 'QuantizeLinear':
            scale, zero = (graph.value(value) for value in reader.input[1:3])
            ends.append(float(scale.max()) * (np.iinfo(zero.dtype).max - int(zero.min())))
    return ends
