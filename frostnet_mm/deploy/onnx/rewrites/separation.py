"""What stays apart in an engine that would merge it into something else.

A maximum with the lowest number of float32 changes nothing, and OpenVINO (2026.4) merges nothing across it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..graph import OnnxGraph

_FIRST = 2  # dimensions: batch and channels, as OpenVINO takes them
_NEAR = 2.0  # integers by which the ends of two grids differ; OpenVINO leaves a rounding out up to 1
#: What passes on some of the values that it reads.
_MOVES = ('Concat', 'Relu', 'Reshape', 'Transpose', 'Squeeze', 'Unsqueeze', 'Flatten', 'Slice', 'Gather', 'Expand')


def separate_reductions(model: Any) -> list[str]:
    """Put a maximum behind reductions of the first two dimensions, unless their result is rounded or put out as it is.

    OpenVINO lets a reduction take up the products, sums and rounding behind it, and applies vectors among these along
    another axis where the first or the second dimension is reduced: of a batch norm behind such a sum it made other
    values, up to 255 steps off.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the reductions.
    """
    graph, kinds, changed = _Apart(model.graph), _kinds(model), []
    for node in [node for node in model.graph.node if node.op_type.startswith('Reduce')]:
        readers = graph.readers.get(node.output[0], [])
        if {reader.op_type for reader in readers} - {'QuantizeLinear', 'Max'} and _fits(graph, node, kinds):
            graph.separate(node.output[0], readers)
            changed.append(node.name)
    return changed


def separate_concats(model: Any) -> list[str]:
    """Put a maximum between concats and their rounding to signed integers.

    OpenVINO computed the convolutions behind such concats otherwise, where one of the maps is rectified and another is
    not: FrostNet's expansions up to 35 steps off in half of their elements.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the concats.
    """
    graph, changed = _Apart(model.graph), []
    for node in [node for node in model.graph.node if node.op_type == 'Concat']:
        readers = [own for own in graph.readers.get(node.output[0], []) if _rounds_to_signed(graph, own)]
        if readers:
            graph.separate(node.output[0], readers)
            changed.append(node.name)
    return changed


def _rounds_to_signed(graph: OnnxGraph, node: Any) -> bool:
    zero = graph.value(node.input[2]) if node.op_type == 'QuantizeLinear' and len(node.input) > 2 else None
    return zero is not None and zero.dtype == np.int8


def separate_grids(model: Any) -> list[str]:
    """Put a maximum between integers and their rounding to nearly the same grid, as in front of a concat's own.

    OpenVINO takes the two for one if their ends differ by less than an integer, and leaves the second rounding out: up
    to 5 % of such a tensor came out one step off.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the nodes that dequantize these integers.
    """
    graph, changed = _Apart(model.graph), []
    for node in [node for node in model.graph.node if node.op_type == 'QuantizeLinear']:
        own = graph.ends(node)
        for source, reader in list(_dequantizers(graph, node)):
            ends = graph.ends(source)
            if own is None or ends is None:
                continue
            step = (ends[1] - ends[0]) / 255
            apart = max(abs(one - other) / step for one, other in zip(own, ends, strict=True))
            if 0 < apart < _NEAR:
                graph.separate(source.output[0], [reader])
                changed.append(source.name)
    return changed


def separate_constants(model: Any) -> list[str]:
    """Give each node that dequantizes a tensor a scale and a zero point of its own.

    OpenVINO changes those in front of a sum over a dimension in place: of all tensors that read the same zero point, as
    the exporter has equal ones do, it made other values; of PIDNet's zeros.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.

    Returns:
        list[str]: The names of the nodes.
    """
    graph, changed = OnnxGraph(model.graph), []
    for node in [node for node in model.graph.node if node.op_type == 'DequantizeLinear']:
        before = list(node.input)
        for place in range(1, len(before)):
            value = graph.value(before[place])
            if value is not None and value.size == 1:
                graph.own(node, place)
        if before != list(node.input):
            changed.append(node.name)
    return changed


def _dequantizers(graph: OnnxGraph, node: Any) -> Iterator[tuple[Any, Any]]:
    """The nodes that dequantize what a node reads, through others that only move it, each with its reader."""
    for name in dict.fromkeys(node.input if node.op_type == 'Concat' else node.input[:1]):
        maker = graph.makers.get(name)
        if maker is not None and maker.op_type == 'DequantizeLinear':
            yield maker, node
        elif maker is not None and maker.op_type in _MOVES:
            yield from _dequantizers(graph, maker)


class _Apart(OnnxGraph):
    """An ONNX graph whose operators are kept apart."""

    def separate(self, name: str, readers: list[Any]) -> None:
        """Have readers of a tensor read its maximum with the lowest number."""
        from onnx import helper

        result = f'{name}:apart'
        if result not in self.makers:
            lowest = self.add(f'{name}:lowest', np.array(np.finfo(np.float32).min, np.float32))
            self.makers[result] = helper.make_node('Max', [name, lowest], [result], name=result)
            self.insert(self.readers[name][0], self.makers[result])
        for reader in readers:
            reader.input[:] = [result if source == name else source for source in reader.input]

    def ends(self, node: Any) -> tuple[float, float] | None:
        """The lowest and the highest value that a node's integers stand for, if they have one scale."""
        scale, zero = (self.value(name) for name in (*node.input[1:3], None)[:2])
        if scale is None or zero is None or scale.size != 1:
            return None
        types = np.iinfo(zero.dtype)
        return tuple(float(scale.item()) * (end - int(zero.item())) for end in (types.min, types.max))


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
