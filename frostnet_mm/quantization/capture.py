"""From a dense network to a graph of ATen operators, whose parameters stay the network's own."""

import linecache
import logging
import operator
import traceback
from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from ..models.dense import DenseNetwork, OutputLayout, UnsupportedModelError
from .checkpointing import without_checkpointing
from .quantizer import BATCH_NORM, module_paths
from .settings import EXAMPLE_SHAPE

aten = torch.ops.aten
#: Sizes at which a graph is compared with its network: one that suits every stride, and an odd one.
CHECK_SIZES = ((160, 224), (151, 217))
STRIDE = 32  # of the first of them, and of the padding that mm's configs use


@dataclass
class CapturedNetwork:
    """A dense network as a graph.

    Args:
        module (GraphModule): One input, the images; a flat tuple of tensors as output.
        layout (OutputLayout): How the outputs nest, and their names.
        fixed_size (tuple[int | None, ...]): The sizes of N, C, H and W that the graph is bound to; None for any.
        size_divisor (int): What H and W must be multiples of.
        constants (dict[str, Tensor]): Tensors that the network computes with, but that are neither parameter nor
        buffer.
    """

    module: GraphModule
    layout: OutputLayout
    fixed_size: tuple[int | None, ...]
    constants: dict[str, Tensor]
    size_divisor: int = 1


def capture(dense: DenseNetwork, example_shape: tuple[int, int, int, int] = EXAMPLE_SHAPE) -> CapturedNetwork:
    """Capture a dense network in training mode, for any batch size, height and width if it can be.

    The graph is compared with the network at several sizes. One that depends on the size of the images beyond what a
    graph can express, such as by ``int(size * 2.0)``, is captured for the example's height and width alone.

    Args:
        dense (DenseNetwork): The network; it is left in the mode that it was in.
        example_shape (tuple[int, int, int, int]): Shape of the images that it is captured with.

    Returns:
        CapturedNetwork: Its graph.

    Raises:
        UnsupportedModelError: An operation cannot be captured, or the network computes something else in evaluation
            than in training. The message names the operation and the module.
    """
    modes = {module: module.training for module in dense.modules()}
    device = next(dense.parameters()).device
    _refuse_sync_batchnorm(dense)
    try:
        dense.train()  # mm's backbones keep their frozen norms in evaluation mode by themselves
        example = torch.randn(example_shape, device=device)
        with without_checkpointing() as calls:
            captured = _capture_sizes(dense, example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if calls:
        print_log(
            'Gradient checkpointing is left out under QATHook: the captured graph keeps its activations in memory.',
            logger='current',
        )
    return captured


def without_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Replace synchronized batch norms by plain ones, which compute the same on one device; parameters are kept.

    Args:
        model (nn.Module): Changed in place.

    Returns:
        nn.Module: The model.
    """
    return revert_sync_batchnorm(model)


def _refuse_sync_batchnorm(dense: DenseNetwork) -> None:
    for name, module in dense.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise UnsupportedModelError(
                f'{name} is a SyncBatchNorm, which cannot be captured; expected BatchNorm2d: set '
                'norm_cfg=dict(type="BN") '
                'in the config of the backbone, the neck and the heads.'
            )


def _export(dense: DenseNetwork, example: Tensor, any_size: bool = True) -> GraphModule:
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto, 2: auto, 3: auto} if any_size else {0: auto},)
    try:  # three times as fast, and what it cannot do is left to the other
        program = torch.export.export(dense, (example,), strict=False, dynamic_shapes=shapes)
    except Exception as error:  # many types; each is passed on with the place it came from
        try:
            program = torch.export.export(dense, (example,), strict=True, dynamic_shapes=shapes)
        except Exception:  # of the two failures the first is raised: its traceback runs through the model's own lines
            raise UnsupportedModelError(_explain(error, dense)) from error
    # Maps of size 1 add guards on the input's shape, which the graph does not need.
    return program.module(check_guards=False)


def _explain(error: Exception, dense: DenseNetwork) -> str:
    """Name the innermost module that could not be captured, and its line."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    names = {id(module): name for name, module in dense.named_modules() if name}
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get('self')
        if id(module) in names:
            found = module, frame.f_code.co_filename, line
    if found is None:
        return f'The dense network of the model ({dense.head_name}) cannot be captured as a graph. {reason}'
    module, file, line = found
    return (
        f'{names[id(module)]} ({type(module).__name__}) cannot be captured as a graph. {reason}\n'
        f'  at {file}:{line}: {linecache.getline(file, line).strip()}\n'
        'Rewrite this line with tensor operations that do not depend on values, or leave the model in float (without '
        'QATHook).'
    )


def _flatten(module: GraphModule, dense: DenseNetwork) -> CapturedNetwork:
    """Give a graph one input and a flat tuple of outputs, without operators that change their operands."""
    graph = module.graph
    spec = module._out_spec
    graph.set_codegen(CodeGen())
    inputs = [node for node in graph.nodes if node.op == 'placeholder']
    if len(inputs) != 1:
        raise UnsupportedModelError(f'The graph has {len(inputs)} inputs, expected 1: the images.')
    (output,) = (node for node in graph.nodes if node.op == 'output')
    output.args = (tuple(output.args[0]),)
    _inline_regions(module)
    _remove_assertions(graph)
    _remove_in_place(module)
    _name_silu(graph)
    _write_padding(graph)
    module.recompile()
    size = tuple(None if isinstance(s, torch.SymInt) else int(s) for s in inputs[0].meta['val'].shape)
    return CapturedNetwork(module, OutputLayout.of_spec(spec, dense.head_name), size, {})


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
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if node.op != 'call_function' or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.split('::')[1]
        changed = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if not name.endswith('_') or name.startswith('_') or changed is None or changed.op == 'get_attr':
            continue
        packet = getattr(aten, name[:-1], None)
        if packet is None or node.target._overloadname not in packet.overloads():
            continue
        node.target = getattr(packet, node.target._overloadname)
        # Who reads the changed operand later means the result.
        for user in list(changed.users):
            if user is not node and order.get(user, -1) > order[node]:
                user.replace_input_with(changed, node)
    module.graph.lint()


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


def _share_state(captured: CapturedNetwork, dense: DenseNetwork) -> None:
    """Check that each parameter and buffer of the graph is the network's own; collect what is neither."""
    own = dict(dense.named_parameters(remove_duplicate=False)) | dict(dense.named_buffers(remove_duplicate=False))
    for node in captured.module.graph.nodes:
        if node.op != 'get_attr':
            continue
        name = str(node.target)
        value = operator.attrgetter(name)(captured.module)
        if not isinstance(value, Tensor):
            raise UnsupportedModelError(
                f'The network has a branch or a loop that became a function of its own ({name}), expected plain '
                'operators.'
            )
        if name not in own:
            captured.constants[name] = value
        elif own[name] is not value and own[name].data_ptr() != value.data_ptr():
            raise UnsupportedModelError(f'{name} was copied by torch.export, expected the tensor of the model itself.')


def _capture_sizes(dense: DenseNetwork, example: Tensor) -> CapturedNetwork:
    """Capture for any size, else for multiples of a stride, else for the size of the example."""
    module = _export(dense, example)
    captured = _settle(module, dense)
    bound = [size is not None for size in captured.fixed_size[2:]]
    own = tuple(example.shape[2:])
    if not all(bound):
        sizes = [tuple(o if b else c for o, b, c in zip(own, bound, size, strict=True)) for size in CHECK_SIZES]
        faults = [_difference(captured, dense, size) for size in sizes]
        if not any(faults):
            return captured
        at_own = _difference(captured, dense, own)
        if at_own is None and faults[0] is None:
            captured.size_divisor = STRIDE
            _say_bound(dense, example, f'multiples of {STRIDE}')
            return captured
        if at_own is None:
            _say_bound(dense, example, f'{own[0]}x{own[1]} (height x width)')
            captured = _settle(_export(dense.train(), example, any_size=False), dense)
    fault = _difference(captured, dense, own)
    if fault is not None:
        raise UnsupportedModelError(
            f'{dense.head_name} ({type(getattr(dense, dense.head_name)).__name__}) computes its output {fault} in '
            'another way in evaluation than in training (as FCOS with norm_on_bbox=True does), so one graph cannot '
            'stand for both. Move that step to loss_by_feat and predict_by_feat, or switch the option off.'
        )
    return captured


def _settle(module: GraphModule, dense: DenseNetwork) -> CapturedNetwork:
    captured = _flatten(module, dense)
    _share_state(captured, dense)
    return captured


def _difference(captured: CapturedNetwork, dense: DenseNetwork, size: tuple[int, int]) -> str | None:
    """In evaluation mode, the output in which the graph differs from the network on images of a size; None if in none.

    A size that the network itself does not take says nothing.
    """
    images = torch.randn((captured.fixed_size[0] or 1, captured.fixed_size[1] or 3, *size))
    images = images.to(next(dense.parameters()).device)
    with torch.no_grad():
        try:
            expected = captured.layout.flatten(dense.eval()(images))
        except (RuntimeError, ValueError, AssertionError):
            return None
        try:
            found = evaluation_copy(captured.module)(images)
        except RuntimeError as error:
            return f'{captured.layout.names[0]} ({next(iter(str(error).splitlines()), "")})'
    for name, one, other in zip(captured.layout.names, expected, found, strict=True):
        if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max())):
            return name
    return None


def _say_bound(dense: DenseNetwork, example: Tensor, sizes: str) -> None:
    """Say to which sizes a graph is bound, and by which line of the network."""
    other = torch.randn((*example.shape[:2], *CHECK_SIZES[0]), device=example.device)
    graphs = (_export(dense.train(), images).graph for images in (example, other))
    print_log(
        f'The network is captured for images of {sizes} alone: {_first_constant(*graphs)}. Write it with the sizes '
        'themselves (size=x.shape[-2:], scale_factor=2) for others, or give the size that is meant as example_shape.',
        logger='current',
        level=logging.WARNING,
    )


def _first_constant(graph: Graph, other: Graph) -> str:
    """The first operation of a graph of which another capture has other numbers, with its line."""
    for node, twin in zip(graph.nodes, other.nodes, strict=False):
        if node.target != twin.target and node.op == 'call_function':
            return f'{_line_of(node)} takes another way at another size'
        numbers, others = (
            [leaf for leaf in pytree.tree_leaves((each.args, each.kwargs)) if isinstance(leaf, (int, float))]
            for each in (node, twin)
        )
        if numbers != others:
            return f'{_line_of(node)} computes with numbers that come from the size of the image'
    return 'something in it depends on the size of the image'


def _line_of(node: Node) -> str:
    """Operation, module and source line of a node."""
    trace = [line.strip() for line in (node.meta.get('stack_trace') or '').strip().splitlines()]
    where = f' of {module_paths(node)[-1]}' if module_paths(node) else ''
    code = f' ({trace[-1]!r}, {trace[-2].removeprefix("File ")})' if len(trace) > 1 else ''
    return f'{node.target}{where}{code}'


def evaluation_copy(module: GraphModule) -> GraphModule:
    """A graph with the same state in evaluation mode: batch norms with running statistics, no dropout."""
    graph = Graph()
    output = graph.graph_copy(module.graph, {})
    graph.output(output)
    copied = GraphModule(module, graph)
    set_mode(copied.graph, training=False, update_norms=False)
    copied.recompile()
    return copied


def set_mode(graph: Graph, training: bool, update_norms: bool) -> None:
    """Set dropout and batch norms of a captured training graph; norms that were captured frozen stay so.

    Args:
        graph (torch.fx.Graph): Changed in place.
        training (bool): Whether dropout drops.
        update_norms (bool): Whether batch norms normalize by the batch and update their statistics.
    """
    for node in list(graph.nodes):
        if node.target in BATCH_NORM and not update_norms:
            node.args = (*node.args[:5], False, *node.args[6:])
        elif node.target in (aten.dropout.default, aten.feature_dropout.default) and not training:
            node.args = (*node.args[:2], False)
        elif _counts_batches(node) and not update_norms:
            counter = node.args[0]
            graph.erase_node(node)
            if not counter.users:
                graph.erase_node(counter)


def _counts_batches(node: Node) -> bool:
    """Whether a node adds 1 to a batch norm's ``num_batches_tracked``."""
    return (
        node.target is aten.add_.Tensor
        and isinstance(node.args[0], Node)
        and node.args[0].op == 'get_attr'
        and str(node.args[0].target).endswith('num_batches_tracked')
    )
