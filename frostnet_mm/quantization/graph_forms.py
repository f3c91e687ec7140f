"""The forms in which operators of an exported graph are written for what follows: functional, and by one name each."""

import operator

import torch
from torch.fx import Graph, GraphModule, Node

from ..models.dense import UnsupportedModelError
from .quantizer import module_paths

aten = torch.ops.aten
#: What takes a part of a map, and what puts it back.
SCATTERS = {aten.slice.Tensor: aten.slice_scatter.default, aten.select.int: aten.select_scatter.default}


def normalize(module: GraphModule) -> None:
    """Give an exported graph plain operators, none of which changes its operands but the counters of batch norms.

    Args:
        module (GraphModule): Changed in place.

    Raises:
        UnsupportedModelError: It has an operator that has no such form; the message names the module.
    """
    graph = module.graph
    _inline_regions(module)
    _refuse_out(graph)
    _remove_assertions(graph)
    _remove_in_place(module)
    _name_silu(graph)
    _write_padding(graph)


def _inline_regions(module: GraphModule) -> None:
    """Put the operators of ``with torch.autocast(enabled=False)`` and ``with torch.no_grad()`` into the graph itself.

    Such regions are functions of their own in an exported graph, where nothing would be quantized.
    """
    regions = (torch.ops.higher_order.wrap_with_autocast, torch.ops.higher_order.wrap_with_set_grad_enabled)
    while calls := [node for node in module.graph.nodes if node.target in regions]:
        for call in calls:
            autocast = call.target is regions[0]
            enabled, (inner, *arguments) = call.args[2 if autocast else 0], call.args[4 if autocast else 1 :]
            if autocast and enabled:
                where = ', '.join(module_paths(call)[-1:]) or 'The network'
                raise UnsupportedModelError(
                    f'{where} computes in reduced precision (torch.autocast), expected float32.'
                )
            graph = operator.attrgetter(str(inner.target))(module).graph
            inputs = (node for node in graph.nodes if node.op == 'placeholder')
            with module.graph.inserting_before(call):
                results = module.graph.graph_copy(graph, dict(zip(inputs, arguments, strict=True)))
                if not autocast and not enabled:
                    results = [_detached(module.graph, result) for result in results]
            for item in list(call.users):  # a region returns a tuple
                item.replace_all_uses_with(results[item.args[1]])
                module.graph.erase_node(item)
            module.graph.erase_node(call)
            if not inner.users:
                module.graph.erase_node(inner)
    module.delete_all_unused_submodules()


def _refuse_out(graph: Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and any(a.is_out for a in node.target._schema.arguments):
            raise UnsupportedModelError(
                f'{(module_paths(node) or ["The network"])[-1]} writes into a tensor of its own in every step '
                f'({node.target}), as spectral_norm does to compute its weight: no graph without it can be trained. '
                'Remove that parametrization, or train the model in float (without QATHook).'
            )


def _detached(graph: Graph, node: Node) -> Node:
    detached = graph.call_function(aten.detach.default, (node,))
    detached.meta = dict(node.meta)
    return detached


def _remove_assertions(graph: Graph) -> None:
    """Remove checks of a tensor's type, and conversions to the type that it has."""
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target is aten.to.dtype and node.args[0].meta['val'].dtype == node.args[1] and len(node.args) == 2:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _remove_in_place(module: GraphModule) -> None:
    """Replace ``relu_`` by ``relu`` and so on, except for the counters of batch norms."""
    for node in list(module.graph.nodes):
        if node.op != 'call_function' or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.split('::')[1]
        changed = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if not name.endswith('_') or name.startswith('_') or changed is None or changed.op == 'get_attr':
            continue
        packet = getattr(aten, name[:-1], None)
        if packet is None or node.target._overloadname not in packet.overloads() or counts_batches(node):
            continue
        if name == 'copy_':  # of which the functional form has no derivative
            value = node.args[1]
            same = value.meta['val'].shape == changed.meta['val'].shape
            node.target, node.kwargs = aten.alias.default if same else aten.expand_as.default, {}
            node.args = (value,) if same else (value, changed)
        else:
            node.target = getattr(packet, node.target._overloadname)
        _read_result(module.graph, changed, node)
    module.graph.lint()


def _read_result(graph: Graph, changed: Node, result: Node) -> None:
    """Who reads a changed operand later means the result; of a part of a map that was changed, the map with it."""
    later, node = set(), result.next
    while node.op != 'root':
        later.add(node)
        node = node.next
    for user in list(changed.users):
        if user in later:
            user.replace_input_with(changed, result)
    if changed.target in SCATTERS:
        base, *where = changed.args
        with graph.inserting_before(result.next):
            whole = graph.call_function(SCATTERS[changed.target], (base, result, *where), dict(changed.kwargs))
        whole.meta = dict(result.meta, val=base.meta['val'])
        _read_result(graph, base, whole)


def _name_silu(graph: Graph) -> None:
    """Write x * sigmoid(x) as one operator, as engines compute it: nothing is rounded within."""
    for node in list(graph.nodes):
        if node.target is not aten.mul.Tensor:
            continue
        for x, gate in (node.args, node.args[::-1]):
            if isinstance(gate, Node) and gate.target is aten.sigmoid.default and gate.args[0] is x:
                node.target, node.args = aten.silu.default, (x,)
                if not gate.users:
                    graph.erase_node(gate)
                break


def _write_padding(graph: Graph) -> None:
    """Write the padding 'same' and 'valid' of convolutions as numbers, which quantizer and engines know."""
    for node in list(graph.nodes):
        if node.target is not aten.conv2d.padding and node.target is not aten.conv1d.padding:
            continue
        kernel = node.args[1].meta['val'].shape[2:]
        ones = [1] * len(kernel)
        defaults = (None, ones, 'valid', ones, 1)
        x, weight, bias, stride, padding, dilation, groups = [*node.args, *defaults[len(node.args) - 2 :]]
        total = [step * (size - 1) if padding == 'same' else 0 for size, step in zip(kernel, dilation, strict=True)]
        if any(size % 2 for size in total):  # one more behind than before
            ends = [end for size in reversed(total) for end in (size // 2, size - size // 2)]
            with graph.inserting_before(node):
                x = graph.call_function(aten.constant_pad_nd.default, (x, ends, 0.0))
            x.meta = dict(node.meta, val=torch.nn.functional.pad(node.args[0].meta['val'], ends))
            total = [0] * len(kernel)
        node.target = aten.conv2d.default if node.target is aten.conv2d.padding else aten.conv1d.default
        node.args = (x, weight, bias, stride, [size // 2 for size in total], dilation, groups)


def erase_unread(graph: Graph) -> None:
    """Remove what nothing reads: all operators of an inference graph are pure."""
    for node in reversed(list(graph.nodes)):
        if node.op not in ('placeholder', 'output') and not node.users:
            graph.erase_node(node)


def counts_batches(node: Node) -> bool:
    """Whether a node adds 1 to a batch norm's ``num_batches_tracked``."""
    while node.target is aten.add_.Tensor and isinstance(node.args[0], Node):
        node = node.args[0]
        if node.op == 'get_attr':
            return str(node.target).endswith('num_batches_tracked')
    return False
