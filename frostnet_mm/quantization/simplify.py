"""What a graph in evaluation mode computes for nothing, or twice."""

import operator
import sys
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .constants import changes_operand, hashable, is_random
from .drop_path import drop_path
from .fake_quantize import ActivationFakeQuantize

aten = torch.ops.aten
#: Operators that pass everything on in evaluation, with its memory layout.
IDENTITIES = (
    aten.dropout.default,
    aten.feature_dropout.default,
    drop_path,
    aten.alias.default,
    aten.detach.default,
)
#: Operators that show all elements of their operand in another shape.
VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints)
#: Operators that copy where the operand does not lie in memory in the order of its dimensions.
COPIES = (aten.contiguous.default, aten.clone.default)


def erase_identities(module: GraphModule) -> None:
    """Remove what passes everything on, and the second rounding to the same grid behind it.

    What is changed in place stays. OpenVINO 2026.4 crashes on a concat whose result is quantized twice in a row.
    """
    graph = module.graph
    for node in list(graph.nodes):
        passes = node.target in IDENTITIES or _is_whole(node) or _keeps_shape(node)
        if passes and not _is_changed(node) and not _is_changed(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        source = node.args[0] if node.op == 'call_module' else None
        if not isinstance(source, Node) or source.op != 'call_module':
            continue
        if module.get_submodule(str(node.target)) is module.get_submodule(str(source.target)):
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def merge_twins(module: GraphModule) -> None:
    """Compute once what a graph computes twice, as ONNX's exporter does, such as the rows that two patches share."""
    graph, known = module.graph, {}
    vectors = _equal_vectors(module)
    for node in list(graph.nodes):
        if node.op not in ('call_function', 'call_module'):
            continue
        if changes_operand(node) or is_random(node) or _is_changed(node):
            continue
        target = _grid(module, node) if node.op == 'call_module' else node.target
        operands = [hashable(value, vectors) for value in (node.args, node.kwargs)]
        twin = known.setdefault((node.op, target, *operands), node)
        if twin is not node:
            node.replace_all_uses_with(twin)
            graph.erase_node(node)


def _equal_vectors(module: GraphModule) -> dict[Node, tuple]:
    """The content of vectors, of which norms of the same map that have not been trained have equal ones."""
    found = {}
    for node in module.graph.nodes:
        value = attribute_of(module, node) if node.op == 'get_attr' else None
        if isinstance(value, Tensor) and value.dim() == 1:
            found[node] = (str(value.dtype), value.detach().cpu().numpy().tobytes())
    return found


def _grid(module: GraphModule, node: Node) -> Any:
    """What tells the quantizer that a node calls from others: of an activation, the integers that it rounds to."""
    quantizer = quantizer_of(module, node, ActivationFakeQuantize)
    if quantizer is None:
        return node.target
    scale, zero_point = (value.item() for value in quantizer.calculate_qparams())
    ends = torch.iinfo(quantizer.dtype)
    low = max(quantizer.low, (ends.min - zero_point) * scale)  # a rectifier's bounds may lie outside of the integers
    high = min(quantizer.high, (ends.max - zero_point) * scale)
    return scale, zero_point, quantizer.dtype, low, high


def _is_whole(node: Node) -> bool:
    """Whether a node takes a part of a map that is all of it, as ``x[..., ::2]`` does in its first dimensions."""
    if node.target is not aten.slice.Tensor:
        return False
    _, _, start, end, step = (*node.args, *(0, None, None, 1)[len(node.args) - 1 :])
    return start in (0, None) and end in (None, sys.maxsize) and step == 1


def _keeps_shape(node: Node) -> bool:
    """Whether a node is a view, an expansion or a copy of a map that differs in nothing from it."""
    if node.target not in (*VIEWS, *COPIES, aten.expand.default):
        return False
    source = node.args[0]
    while source.op == 'call_module':  # a quantizer
        source = source.args[0]
    before, after = (each.meta.get('val') for each in (source, node))
    if before is None or after is None or before.dim() != after.dim():
        return False
    # as text: to compare symbolic sizes by themselves would settle their values
    other = sum(str(one) != str(two) for one, two in zip(before.shape, after.shape, strict=True))
    if node.target in COPIES:
        return before.is_contiguous() and node.kwargs.get('memory_format') in (None, torch.contiguous_format)
    return other <= (1 if node.target in VIEWS else 0)  # of as many elements, the last one is equal too


def _is_changed(node: Node) -> bool:
    """Whether an operator writes into a tensor."""
    return any(map(changes_operand, node.users))


def quantizer_of(module: GraphModule, node: Node, kind: type) -> Any:
    """The quantizer of a kind that is called at a node, or None."""
    found = module.get_submodule(str(node.target)) if node.op == 'call_module' else None
    return found if isinstance(found, kind) else None


def attribute_of(module: GraphModule, node: Node | None) -> Tensor | None:
    """The parameter, buffer or constant that a node reads; None for no node."""
    return None if node is None else operator.attrgetter(str(node.target))(module)
