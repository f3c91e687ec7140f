"""One graph for a network that computes something else in evaluation than in training, as many heads do.

The graphs of both modes are merged by value numbering (Alpern, Wegman and Zadeck 1988): a node of evaluation's graph
that computes the same as one of training's is that node, and what is left, the tail of evaluation, is appended. Nothing
that the losses read is changed. In training the tail is computed too, for its quantizers observe there; its batch norms
have running statistics.
"""

import logging
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ..models.dense import UnsupportedModelError
from .captured import CapturedNetwork
from .constants import changes_operand, hashable, is_random
from .drop_path import DROPPING
from .explain import line_of
from .graph_forms import counts_batches
from .quantizer import BATCH_NORM, has_statistics, is_convolution

aten = torch.ops.aten
#: What passes a value on in both modes.
TRANSPARENT = (aten.detach.default, aten.alias.default)
PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.mm.default, aten.addmm.default, aten.baddbmm.default)


class SeparateModesError(UnsupportedModelError):
    """Training and evaluation have too little in common for one graph; the message is the end of a sentence."""


def merge(training: CapturedNetwork, evaluation: CapturedNetwork) -> CapturedNetwork:
    """A graph that puts out what a network does in training, and what it does in evaluation.

    Args:
        training (CapturedNetwork): The network in training mode; it is left as it is.
        evaluation (CapturedNetwork): The same network in evaluation mode.

    Returns:
        CapturedNetwork: The outputs of training come first.

    Raises:
        SeparateModesError: Most of what evaluation multiplies is not in the graph of training.
        UnsupportedModelError: Evaluation draws random numbers or changes a buffer.
    """
    graph = Graph()
    outputs = list(graph.graph_copy(training.module.graph, {}))
    numbering = _Numbering(graph, _Side(training))
    numbering.number()
    side = _Side(evaluation)
    needed = _needed(side)
    new = numbering.append(side, needed)
    _require_common(needed, new)
    selected = []
    (wanted,) = side.outputs.args
    values = [numbering.value(output) for output in outputs]
    for leaf in wanted:
        value = numbering.value(leaf)
        if not any(value is own for own in values):
            values.append(value)
            outputs.append(value)
        selected.append(next(index for index, own in enumerate(values) if own is value))
    graph.output(tuple(outputs))
    module = GraphModule(numbering.attributes, graph)
    module.meta.update(training.module.meta)
    _say_merged(new, needed)
    return CapturedNetwork(
        module,
        evaluation.layout,
        tuple(one or other for one, other in zip(training.fixed_size, evaluation.fixed_size, strict=True)),
        numbering.constants,
        training_layout=training.training_layout or training.layout,
        selected=tuple(selected),
    )


def free_sizes(captured: CapturedNetwork) -> dict[sympy.Symbol, sympy.Symbol]:
    """The symbols of a graph for the sizes of the images that it is not bound to, with a name that graphs share."""
    (images,) = (node for node in captured.module.graph.nodes if node.op == 'placeholder')
    sizes = [size.node.expr if isinstance(size, torch.SymInt) else None for size in images.meta['val'].shape]
    names = [sympy.Symbol(f'{name}_of_images', integer=True) for name in 'NCHW']
    return {size: name for size, name in reversed([*zip(sizes, names, strict=True)]) if isinstance(size, sympy.Symbol)}


class _Side:
    """The graph of one mode."""

    def __init__(self, captured: CapturedNetwork) -> None:
        self.module, self.constants = captured.module, captured.constants
        self.sizes = free_sizes(captured)
        nodes = self.module.graph.nodes
        (self.outputs,) = (node for node in nodes if node.op == 'output')
        self.changed = {
            node.target
            for node in nodes
            if node.op == 'get_attr' and any(changes_operand(user) and not counts_batches(user) for user in node.users)
        }

    def tensor(self, node: Node) -> Tensor:
        """What a ``get_attr`` node reads."""
        return operator.attrgetter(str(node.target))(self.module)


@dataclass
class _Numbering:
    """The node of a graph that stands for each value, the first that computes it.

    Args:
        graph (Graph): A copy of that of training, which grows.
        training (_Side): What it was copied from.
    """

    graph: Graph
    training: _Side
    first: dict[tuple, Node] = field(default_factory=dict)
    of: dict[Node, Node] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def number(self) -> None:
        """Number the values of training."""
        self.constants.update(self.training.constants)
        for node in self.graph.nodes:
            if node.op == 'get_attr':
                self.attributes[str(node.target)] = self.training.tensor(node)
            passed = node.args[0] if node.target in (*TRANSPARENT, *DROPPING) else None
            self.of[node] = self.of[passed] if passed is not None else self._standing(node, self.training, node)

    def append(self, side: _Side, needed: Sequence[Node]) -> set[Node]:
        """Give a graph what it lacks of nodes of evaluation; return those."""
        new = set()
        for node in needed:
            if node.target in TRANSPARENT or (node.target in DROPPING and not (node.args[1] and node.args[2])):
                self.of[node] = self.value(node.args[0])
                continue
            self._refuse(node, side)
            key = self._key(node, side)
            if key is None or key not in self.first:
                new.add(node)
                copy = self._copy(node, side)
                self.of[copy] = copy
                self.of[node] = copy if key is None else self.first.setdefault(key, copy)
            else:
                self.of[node] = self.first[key]
        return new

    def value(self, leaf: Any) -> Any:
        """What stands for an output or an argument."""
        return self.of[leaf] if isinstance(leaf, Node) else leaf

    def _standing(self, node: Node, side: _Side, own: Node) -> Node:
        key = self._key(node, side)
        return own if key is None else self.first.setdefault(key, own)

    def _copy(self, node: Node, side: _Side) -> Node:
        copy = self.graph.node_copy(node, self.of.__getitem__)
        if node.op == 'get_attr':
            name = str(node.target)
            while name in self.attributes:
                name += '_in_evaluation'
            copy.target, self.attributes[name] = name, side.tensor(node)
            if node.target in side.constants:
                self.constants[name] = side.tensor(node)
        return copy

    def _key(self, node: Node, side: _Side) -> tuple | None:
        """What a node's value follows from; None for one that no other node has."""
        if node.op == 'placeholder':
            return ('images',)
        if node.op == 'get_attr':
            return _key_of_tensor(side.tensor(node), node.target in side.constants, node.target in side.changed)
        if node.op != 'call_function' or changes_operand(node) or is_random(node):
            return None
        size = getattr(getattr(node.meta.get('val'), 'node', None), 'expr', None)
        if size is not None and size.free_symbols <= side.sizes.keys():
            return 'size', str(size.xreplace(side.sizes))
        args = node.args
        if node.target in BATCH_NORM and has_statistics(node):
            args = (*args[:5], *args[7:])  # without the mode, and the weight of a new batch
        return node.target, hashable(args, self.of), hashable(node.kwargs, self.of)

    def _refuse(self, node: Node, side: _Side) -> None:
        if is_random(node):
            raise UnsupportedModelError(
                f'{line_of(node)} draws random numbers in evaluation too, so what is deployed would not compute what '
                'was trained. Switch that off, or leave the model in float (without QATHook).'
            )
        if node.op == 'get_attr' and node.target in side.changed:
            raise UnsupportedModelError(
                f'The network changes {node.target} in evaluation, so its outputs depend on the images before. Switch '
                'that off, or leave the model in float (without QATHook).'
            )


def _key_of_tensor(value: Tensor, constant: bool, changed: bool) -> tuple | None:
    if changed:
        return None
    if constant:
        return 'constant', str(value.dtype), tuple(value.shape), value.detach().cpu().contiguous().numpy().tobytes()
    return 'state', value.data_ptr(), str(value.dtype), tuple(value.shape), value.stride()


def _needed(side: _Side) -> list[Node]:
    """The nodes that the outputs follow from, in their order."""
    found, waiting = set(), list(side.outputs.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return [node for node in side.module.graph.nodes if node in found]


def _multiplies(node: Node) -> bool:
    return is_convolution(node) or node.target in PRODUCTS


def _require_common(needed: Sequence[Node], new: set[Node]) -> None:
    """Refuse a tail that is most of the network: what is deployed would not be what the losses have trained."""
    products = [node for node in needed if _multiplies(node)]
    own = [node for node in products if node in new]
    if 2 * len(own) > len(products):
        raise SeparateModesError(
            f'{len(own)} of the {len(products)} convolutions and matrix products of evaluation are none of training '
            f'(the first is {line_of(own[0])}), so what would be deployed is not what was trained. Have the network '
            'compute the same in both modes up to its last layers, or leave the model in float (without QATHook).'
        )


def _say_merged(new: set[Node], needed: Sequence[Node]) -> None:
    operators = [node for node in needed if node in new and isinstance(node.meta.get('val'), Tensor)]
    operators = [node for node in operators if node.op == 'call_function']
    if operators:
        products = sum(map(_multiplies, operators))
        print_log(
            f'Evaluation computes {len(operators)} operators of its own ({products} convolutions and matrix products), '
            f'from {line_of(operators[0])} on; in training they are computed too, for their ranges.',
            logger='current',
            level=logging.INFO,
        )
