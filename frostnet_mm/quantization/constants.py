"""What a graph computes from parameters alone, such as a standardized weight: a constant once the network is trained.

In training it is computed anew in every step, with its gradient; conversion computes it once.
"""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg


def varying(graph: Graph) -> set[Node]:
    """The nodes of a graph whose values may differ from call to call.

    They depend on the images, draw random numbers, change a tensor in place or read one that is changed, or leave the
    graph.
    """
    found: set[Node] = set()
    for node in graph.nodes:
        if (
            node.op in ('placeholder', 'output')
            or (node.op == 'get_attr' and any(map(changes_operand, node.users)))
            or (node.op == 'call_function' and (changes_operand(node) or is_random(node)))
            or any(source in found for source in node.all_input_nodes)
        ):
            found.add(node)
    return found


def changes_operand(node: Node) -> bool:
    """Whether a node writes into a tensor that it is given."""
    schema = getattr(node.target, '_schema', None)
    return schema is not None and schema.is_mutable


def is_random(node: Node) -> bool:
    """Whether a node draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, 'tags', ())


def hashable(value: Any, nodes: Mapping[Node, Any]) -> Any:
    """An argument of a node as the key of a dictionary.

    Args:
        value (Any): Nested lists, tuples and dictionaries of nodes and constants.
        nodes (Mapping[Node, Any]): What stands for a node; others stand for themselves.
    """
    if isinstance(value, Mapping):
        return tuple((key, hashable(item, nodes)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(hashable(item, nodes) for item in value)
    # 1, 1.0 and True are equal, and other arguments
    return nodes.get(value, value) if isinstance(value, Node) else (type(value), value)


@torch.no_grad()
def value_of(root: nn.Module, node: Node) -> Tensor:
    """The value of a node that depends on parameters and buffers alone, from their present values.

    Args:
        root (nn.Module): What the graph reads.
        node (Node): The node.
    """
    return _evaluated(root, node, {})


def _evaluated(root: nn.Module, node: Node, known: dict[Node, Any]) -> Any:
    if node not in known:
        if node.op == 'get_attr':
            known[node] = operator.attrgetter(str(node.target))(root)
        elif node.op == 'call_function':
            args, kwargs = map_arg((node.args, node.kwargs), lambda source: _evaluated(root, source, known))
            known[node] = node.target(*args, **kwargs)
        else:
            raise ValueError(f'{node.name} ({node.op}) is no constant.')
    return known[node]


@torch.no_grad()
def fold_constants(module: GraphModule) -> None:
    """Put a buffer in the place of all that a graph computes from parameters alone; quantizers stay.

    Args:
        module (GraphModule): Changed in place; in evaluation mode.
    """
    graph = module.graph
    changing, known = varying(graph), {}
    computed = [node for node in graph.nodes if node.op == 'call_function' and node not in changing]
    computed = [node for node in computed if not _behind_quantizer(node, changing)]
    for node in computed:
        readers = [user for user in node.users if user in changing or user.op != 'call_function']
        value = _evaluated(module, node, known) if readers else None
        if not isinstance(value, Tensor):
            continue
        name = f'constant_{node.name}'
        module.register_buffer(name, value.detach().clone())
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta = dict(node.meta)
        for user in readers:
            user.replace_input_with(node, constant)
    for node in reversed(computed):
        if not node.users:
            graph.erase_node(node)


def _behind_quantizer(node: Node, changing: set[Node]) -> bool:
    """Whether a constant is computed from a quantized one, which is left to the engines."""
    waiting, seen = [node], set()
    while waiting:
        source = waiting.pop()
        if source.op == 'call_module':
            return True
        if source not in seen and source not in changing:
            seen.add(source)
            waiting.extend(source.all_input_nodes)
    return False
