"""Depthwise convolutions with a number of channels that an engine computes fast.

onnxruntime's INT8 depthwise kernels work on 16 channels at once, and leave the rest of the channels to a slow path *for
every position*: 120 channels at 40x40 with a 5x5 kernel take 1.45 ms, 128 take 0.60 ms (one AVX512-VNNI thread). The
channels between an expanding 1x1 convolution, a depthwise one and a projecting 1x1 convolution are nobody else's, so
zeros can be put there: the results are the same, bit by bit.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..graph import OnnxGraph, groups

MULTIPLE = 16
_BETWEEN = ('Relu', 'Clip', 'QuantizeLinear', 'DequantizeLinear')


def pad_depthwise(model: Any, multiple: int = MULTIPLE) -> list[str]:
    """Pad the channels of depthwise convolutions that lie between two dense ones.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place.
        multiple (int): What the number of channels becomes a multiple of. Default: 16.

    Returns:
        list[str]: The names of the depthwise convolutions that were padded.
    """
    graph = _Chains(model.graph)
    padded = []
    for node in [node for node in model.graph.node if node.op_type == 'Conv' and groups(node) > 1]:
        chain = graph.surroundings(node)
        weight = graph.value(graph.weight_name(node))
        if chain is None or weight is None or weight.shape[:2] != (groups(node), 1):
            continue
        missing = -len(weight) % multiple
        if missing:
            before, after = chain
            for conv in (before, node):
                graph.pad_outputs(conv, missing)
            graph.pad(graph.weight_name(after), missing, axis=1, value=0)
            for attribute in node.attribute:
                if attribute.name == 'group':
                    attribute.i += missing
            padded.append(node.name)
    if padded:
        del model.graph.value_info[:]  # shapes of before
    return padded


class _Chains(OnnxGraph):
    """An ONNX graph with the convolutions around a depthwise one."""

    def weight_name(self, conv: Any) -> str | None:
        """The integers behind a convolution's dequantized weight, if nothing else reads them."""
        maker = self.makers.get(conv.input[1])
        if maker is None or maker.op_type != 'DequantizeLinear' or self.uses[maker.output[0]] != 1:
            return None
        return maker.input[0] if self.uses[maker.input[0]] == 1 else None

    def surroundings(self, node: Any) -> tuple[Any, Any] | None:
        """The dense convolutions before and behind a depthwise one, if the tensors between are read by nothing else."""
        before = self._end(self._upstream(node))
        after = self._end(self._downstream(node))
        dense = (conv is not None and groups(conv) == 1 and self.weight_name(conv) for conv in (before, after))
        return (before, after) if all(dense) else None

    def _end(self, nodes: Iterator[Any]) -> Any | None:
        for node in nodes:
            if node is None or node.op_type not in _BETWEEN:
                return node if node is not None and node.op_type == 'Conv' else None
        return None

    def _upstream(self, node: Any) -> Iterator[Any]:
        while node is not None:
            name = node.input[0]
            node = self.makers.get(name) if len(self.readers[name]) == 1 and name not in self.outputs else None
            yield node

    def _downstream(self, node: Any) -> Iterator[Any]:
        while node is not None:
            name = node.output[0]
            readers = self.readers.get(name, [])
            only = readers[0] if len(readers) == 1 and name not in self.outputs else None
            node = only if only is not None and only.input[0] == name else None
            yield node

    def pad_outputs(self, conv: Any, missing: int) -> None:
        """Add output channels of zeros to a convolution."""
        weight = self.makers[conv.input[1]]
        self.pad(weight.input[0], missing, 0, 0)
        for place, value in ((1, 1.0), (2, 0)):
            name = self.own(weight, place)
            if self.value(name).ndim:  # one scale a channel
                self.pad(name, missing, 0, value)
        if len(conv.input) > 2 and conv.input[2]:
            self.pad(self.own(conv, 2), missing, 0, 0)

    def pad(self, name: str, missing: int, axis: int, value: float) -> None:
        from onnx import numpy_helper

        array = self.value(name)
        widths = [(0, missing if dimension == axis else 0) for dimension in range(array.ndim)]
        padded = np.pad(array, widths, constant_values=np.asarray(value, array.dtype))
        self.initializers[name].CopyFrom(numpy_helper.from_array(padded, name))
