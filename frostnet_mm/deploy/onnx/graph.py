"""An ONNX graph with its links, for what changes one."""

from collections import Counter
from typing import Any

import numpy as np

_CONVERSIONS = ('QuantizeLinear', 'DequantizeLinear')


class OnnxGraph:
    """An ONNX graph with its links, as they are when this object is made.

    Args:
        graph (onnx.GraphProto): The graph.
    """

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.initializers = {value.name: value for value in graph.initializer}
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.outputs = {value.name for value in graph.output}

    def value(self, name: str | None) -> np.ndarray | None:
        """An initializer's value; None if the name is none of theirs."""
        from onnx import numpy_helper

        return None if name not in self.initializers else numpy_helper.to_array(self.initializers[name])

    def add(self, name: str, value: np.ndarray) -> str:
        """Add an initializer; return its name."""
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))
        self.initializers[name] = self.graph.initializer[-1]
        return name

    def dequantizer(self, name: str) -> Any | None:
        """The node that dequantizes a tensor; None if another node makes it."""
        maker = self.makers.get(name)
        return maker if maker is not None and maker.op_type == 'DequantizeLinear' else None

    def own(self, node: Any, place: int) -> str:
        """The initializer at a node's input, copied if other nodes read it too; return its name."""
        name = node.input[place]
        if self.uses[name] > 1:
            self.uses[name] -= 1
            node.input[place] = self.add(f'{node.name}:{place}', self.value(name))
            self.uses[node.input[place]] = 1
        return node.input[place]

    def insert(self, before: Any, *nodes: Any) -> None:
        """Put nodes in front of another one."""
        place = next(index for index, node in enumerate(self.graph.node) if node is before)
        for offset, node in enumerate(nodes):
            self.graph.node.insert(place + offset, node)

    def drop_unused(self) -> None:
        """Remove what no node reads any more: quantizers, dequantizers, and initializers."""
        while True:
            used = {name for node in self.graph.node for name in node.input} | self.outputs
            idle = [n for n in self.graph.node if n.op_type in _CONVERSIONS and n.output[0] not in used]
            if not idle:
                break
            for node in idle:
                self.graph.node.remove(node)
        for value in [value for value in self.graph.initializer if value.name not in used]:
            self.graph.initializer.remove(value)


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def groups(conv: Any) -> int:
    """Of a convolution."""
    return attributes(conv).get('group', 1)
