"""A graph for batches of any size, of a network that counts the images of a batch in Python.

Such a graph is bound to the batch that it was captured with: the number of images has become constants, and lists that
a loop over the images has made. A capture with another batch differs in those alone, which tells them from others.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from .captured import CapturedNetwork

aten = torch.ops.aten
#: What joins the tensors of a list.
JOINS = (aten.cat.default, aten.stack.default)


class OtherGraphError(ValueError):
    """Two captures differ in more than numbers that follow from that of the images."""


def unbind_batch(captured: CapturedNetwork, other: CapturedNetwork, counts: tuple[int, int]) -> None:
    """Write a graph's constants that follow from the number of images as functions of it.

    Args:
        captured (CapturedNetwork): The network; its graph is changed in place.
        other (CapturedNetwork): The same, captured with another batch; it is left as it is.
        counts (tuple[int, int]): The images in the batch of each.

    Raises:
        OtherGraphError: They have other operators, or numbers that are no linear function of that of the images.
    """
    graph, twins = captured.module.graph, other.module.graph
    if len(graph.nodes) != len(twins.nodes):
        raise OtherGraphError('number of operators')
    pairs = list(zip(graph.nodes, twins.nodes, strict=True))
    numbers = _Numbers(graph, counts, {twin: node for node, twin in pairs})
    for node, twin in pairs:
        if (node.op, node.target) != (twin.op, twin.target):
            raise OtherGraphError(str(node.target))
        if node.op == 'get_attr':
            _require_equal(*(operator.attrgetter(str(node.target))(each.module) for each in (captured, other)))
            continue
        with graph.inserting_before(node):
            if node.target in JOINS and len(node.args[0]) != len(twin.args[0]):
                numbers.repeat(node, twin)
            else:
                node.args, node.kwargs = numbers.common((node.args, node.kwargs), (twin.args, twin.kwargs), node)
    graph.lint()
    captured.module.recompile()


class _Numbers:
    """The arguments that two captures have in common."""

    def __init__(self, graph: Graph, counts: tuple[int, int], twins: dict[Node, Node]) -> None:
        self.graph, self.counts, self.twins = graph, counts, twins
        (images,) = (node for node in graph.nodes if node.op == 'placeholder')
        with graph.inserting_after(images):
            self.images = graph.call_function(aten.sym_size.int, (images, 0))
        self.images.meta['val'] = images.meta['val'].shape[0]

    def common(self, one: Any, other: Any, node: Node) -> Any:
        """What arguments are for any number of images."""
        if isinstance(one, Node) and isinstance(other, Node) and self.twins.get(other) is one:
            return one
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            return {key: self.common(value, other[key], node) for key, value in one.items()}
        if type(one) is type(other) and isinstance(one, (list, tuple)) and len(one) == len(other):
            return type(one)(self.common(a, b, node) for a, b in zip(one, other, strict=True))
        if type(one) is type(other) and not isinstance(one, (Node, list, tuple, dict)):
            if one == other:
                return one
            if type(one) is int:
                return self._number(one, other, node)
        raise OtherGraphError(str(node.target))

    def _number(self, one: int, other: int, node: Node) -> Node:
        step, rest = divmod(other - one, self.counts[1] - self.counts[0])
        if rest:
            raise OtherGraphError(str(node.target))
        value, start = self.images, one - step * self.counts[0]
        for function, number, neutral in ((operator.mul, step, 1), (operator.add, start, 0)):
            if number != neutral:
                meta = function(value.meta['val'], number)
                value = self.graph.call_function(function, (value, number))
                value.meta['val'] = meta
        return value

    def repeat(self, node: Node, twin: Node) -> None:
        """Write what joins the same tensors for each image, such as ``cat([x] * images)``, as a repetition."""
        parts, others = list(node.args[0]), [self.twins.get(part) for part in twin.args[0]]
        block = parts[: (len(others) - len(parts)) // (self.counts[1] - self.counts[0])]
        if any(block * count != every for count, every in zip(self.counts, (parts, others), strict=True)):
            raise OtherGraphError(str(node.target))
        shape = node.meta['val'].shape
        dim = node.args[1] % len(shape) if len(node.args) > 1 else 0
        joined = block[0]
        if len(block) > 1 or node.target is aten.stack.default:
            joined = self.graph.call_function(node.target, (block, *node.args[1:]))
            joined.meta = dict(node.meta)
        single = shape[dim] == self.counts[0]
        rest = -1 if single else 1  # of which nothing is copied, and the scale is kept
        node.target = aten.expand.default if single else aten.repeat.default
        node.args = (joined, [self.images if index == dim else rest for index in range(len(shape))])


def _require_equal(one: Any, other: Any) -> None:
    if one is not other and not (isinstance(one, Tensor) and isinstance(other, Tensor) and _equal(one, other)):
        raise OtherGraphError('constants')


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() or (one.dtype == other.dtype and torch.equal(one, other))
