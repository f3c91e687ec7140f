"""Reductions that an engine does not fuse with what follows them.

OpenVINO (2026.4) lets a reduction take up the products, sums and rounding behind it, and applies vectors among these
along another axis where the first or the second dimension is reduced: of a batch norm behind such a sum it made other
values, up to 255 steps off. A maximum with the lowest number of float32, which changes nothing, keeps the two apart.
"""

from typing import Any

import numpy as np

from ..graph import OnnxGraph

_FIRST = 2  # dimensions: batch and channels, as OpenVINO takes them


def separate_reductions(model: Any) -> list[str]:
    """Put a maximum behind reductions of the first two dimensions, unless their result is rounded or put out as it is.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the reductions.
    """
    from onnx import helper

    graph, kinds, changed = OnnxGraph(model.graph), _kinds(model), []
    for node in [node for node in model.graph.node if node.op_type.startswith('Reduce')]:
        readers = graph.readers.get(node.output[0], [])
        if not {reader.op_type for reader in readers} - {'QuantizeLinear', 'Max'} or not _fits(graph, node, kinds):
            continue
        result = f'{node.name}:apart'
        lowest = graph.add(f'{node.name}:lowest', np.array(np.finfo(np.float32).min, np.float32))
        graph.insert(readers[0], helper.make_node('Max', [node.output[0], lowest], [result], name=result))
        for reader in readers:
            reader.input[:] = [result if name == node.output[0] else name for name in reader.input]
        changed.append(node.name)
    return changed


def _kinds(model: Any) -> dict[str, tuple[int, int]]:
    """The type of each tensor and the number of its dimensions, 0 where it is not known."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    return {name: (kind.elem_type, len(kind.shape.dim)) for name, kind in types.items()}


def _fits(graph: OnnxGraph, node: Any, kinds: dict[str, tuple[int, int]]) -> bool:
    """Whether a reduction is of floats, and of one of the first two dimensions as far as the file says."""
    from onnx import TensorProto

    kind, rank = kinds.get(node.input[0], (0, 0))
    axes = graph.value(node.input[1] if len(node.input) > 1 else None)
    first = axes is None or not axes.size or not rank or any(axis % rank < _FIRST for axis in axes.tolist())
    return kind == TensorProto.FLOAT and first
