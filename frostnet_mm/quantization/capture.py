"""From a dense network to a graph of ATen operators, whose parameters stay the network's own."""

import logging
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from ..models.dense import DenseNetwork, OutputLayout, UnsupportedModelError
from ..models.input_channels import input_channels
from .checkpointing import without_checkpointing
from .constants import is_random
from .deformable import sampled_deformable
from .drop_path import drop_path, traced_drop_path
from .explain import explain_bound, explain_failure, first_constant, line_of
from .graph_forms import counts_batches, normalize
from .psa_mask import gathered_psa_masks
from .quantizer import BATCH_NORM, has_statistics
from .settings import EXAMPLE_SHAPE
from .size_arithmetic import SizeArithmeticError, bounded_sizes
from .symbolic_integers import symbolic_integers

aten = torch.ops.aten
#: Sizes at which a graph is compared with its network: one that suits every stride, and an odd one.
CHECK_SIZES = ((160, 224), (151, 217))
EQUAL = ''  # no output differs
#: What is random in training alone.
DROPPING = (aten.dropout.default, aten.feature_dropout.default, drop_path)
STRIDE = 32  # of the first of them, and of the padding that mm's configs use


class BoundBatchError(UnsupportedModelError):
    """The graph holds for batches of one size alone."""


@dataclass
class CapturedNetwork:
    """A dense network as a graph.

    Args:
        module (GraphModule): One input, the images; a flat tuple of tensors as output.
        layout (OutputLayout): How the outputs of evaluation nest, and their names.
        fixed_size (tuple[int | None, ...]): The sizes of N, C, H and W that the graph is bound to; None for any.
        size_divisor (int): What H and W must be multiples of.
        constants (dict[str, Tensor]): Tensors that the network computes with, but that are neither parameter nor
        buffer.
        training_layout (OutputLayout, optional): How all outputs of the graph nest, where training has more of them
            (auxiliary heads).
        selected (tuple[int, ...], optional): Which of them evaluation puts out.
    """

    module: GraphModule
    layout: OutputLayout
    fixed_size: tuple[int | None, ...]
    constants: dict[str, Tensor]
    size_divisor: int = 1
    training_layout: OutputLayout | None = None
    selected: tuple[int, ...] | None = None

    def for_evaluation(self, values: Sequence[Any]) -> Sequence[Any]:
        """Those of something that there is for each output of the graph that belong to evaluation."""
        return values if self.selected is None else tuple(values[index] for index in self.selected)


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
        example = torch.randn((example_shape[0], input_channels(dense), *example_shape[2:]), device=device)
        with without_checkpointing() as calls, traced_drop_path(dense), sampled_deformable(), gathered_psa_masks():
            try:
                captured = _capture_sizes(dense, example)
            except BoundBatchError:
                with symbolic_integers(dense):
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
        with bounded_sizes():
            program = torch.export.export(dense, (example,), strict=False, dynamic_shapes=shapes)
    except Exception as error:  # many types; each is passed on with the place it came from
        try:
            if isinstance(error, SizeArithmeticError):
                raise
            with bounded_sizes():
                program = torch.export.export(dense, (example,), strict=True, dynamic_shapes=shapes)
        except Exception:  # of the two failures the first is raised: its traceback runs through the model's own lines
            raise UnsupportedModelError(explain_failure(error, dense)) from error
    # Maps of size 1 add guards on the input's shape, which the graph does not need.
    return program.module(check_guards=False)


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
    normalize(module)
    module.recompile()
    size = tuple(None if isinstance(s, torch.SymInt) else int(s) for s in inputs[0].meta['val'].shape)
    return CapturedNetwork(module, OutputLayout.of_spec(spec, dense.head_name), size, {})


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
    try:
        module, failure = _export(dense, example), None
    except UnsupportedModelError as error:  # a table of positions, say, fits maps of one size
        module, failure = _export(dense, example, any_size=False), error.__cause__
    captured = _settle(module, dense)
    bound = [size is not None for size in captured.fixed_size[2:]]
    own = tuple(example.shape[2:])
    if not all(bound):
        sizes = [tuple(o if b else c for o, b, c in zip(own, bound, size, strict=True)) for size in CHECK_SIZES]
        faults = [_difference(captured, dense, size) for size in sizes]
        for add, times in ((STRIDE, 1), (0, 2)):
            if all(fault is None for fault in faults):  # too small for the network, or of no stride of its own
                other = tuple(o if b else o * times + add for o, b in zip(own, bound, strict=True))
                faults = [_difference(captured, dense, other)]
        if EQUAL in faults and not any(faults):
            return captured
        at_own = _difference(captured, dense, own)
        if at_own == EQUAL and not any(faults):  # the network itself takes no other size
            _say_bound(dense, example, f'{own[0]}x{own[1]} (height x width)')
            captured.fixed_size = (*captured.fixed_size[:2], *own)
            return captured
        if at_own == EQUAL and faults[0] == EQUAL:
            captured.size_divisor = STRIDE
            _say_bound(dense, example, f'multiples of {STRIDE}')
            return captured
        if at_own == EQUAL:
            _say_bound(dense, example, f'{own[0]}x{own[1]} (height x width)')
            captured = _settle(_export(dense.train(), example, any_size=False), dense)
    fault = _difference(captured, dense, own, required=True)
    if fault:
        _refuse(captured, dense, example, fault)
    if failure is not None:
        _warn_bound(f'{own[0]}x{own[1]} (height x width)', explain_bound(failure, dense))
    return captured


def _refuse(captured: CapturedNetwork, dense: DenseNetwork, example: Tensor, fault: str) -> None:
    """Raise the reason why one graph cannot stand for training and evaluation."""
    head = f'{dense.head_name} ({type(getattr(dense, dense.head_name)).__name__})'
    random = [node for node in captured.module.graph.nodes if is_random(node) and node.target not in DROPPING]
    if random:
        if _is_random_in_evaluation(dense, example):
            why = 'in evaluation too, so what is deployed would not compute what was trained. Switch that off '
            why += '(rand_init=False of a HamburgerDecoder)'
        else:
            why = 'in training alone, so one graph cannot stand for both (dropout and DropPath are known, and off in '
            why += 'evaluation). Leave it out'
        raise UnsupportedModelError(
            f'{line_of(random[0])} draws random numbers {why}, or leave the model in float (without QATHook).'
        )
    batch = example.shape[0]
    own = tuple(example.shape[2:])
    if captured.fixed_size[0] is None and _difference(captured, dense, own, batch=batch) == EQUAL:
        others = example.new_zeros((batch + 1, *example.shape[1:]))
        any_size = None in captured.fixed_size[2:]
        graphs = (_export(dense.train(), images, any_size).graph for images in (example, others))
        where = first_constant(*graphs)
        raise BoundBatchError(
            f'{head} counts the images of a batch in Python, so that its graph holds for batches of {batch} alone: '
            f'{where.replace("the size of the image", "their number")}. Write it with tensor operations (expand, -1), '
            'or leave the model in float (without QATHook).'
        )
    raise UnsupportedModelError(
        f'{head} computes its output {fault} in another way in evaluation than in training (as FCOS with '
        'norm_on_bbox=True does), so one graph cannot stand for both. Move that step to loss_by_feat and '
        'predict_by_feat, or switch the option off.'
    )


@torch.no_grad()
def _is_random_in_evaluation(dense: DenseNetwork, images: Tensor) -> bool:
    """Whether a network puts out other values for the same images."""
    one, other = (pytree.tree_leaves(dense.eval()(images)) for _ in range(2))
    return any(not torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor))


def _settle(module: GraphModule, dense: DenseNetwork) -> CapturedNetwork:
    captured = _flatten(module, dense)
    _share_state(captured, dense)
    return captured


def _difference(
    captured: CapturedNetwork, dense: DenseNetwork, size: tuple[int, int], required: bool = False, batch: int = 1
) -> str | None:
    """In evaluation mode, the output in which the graph differs from the network on images of a size.

    ``EQUAL`` if in none; None for a size that the network itself does not take, which says nothing, unless it is
    required to.
    """
    generator = torch.Generator().manual_seed(0)  # training goes on with the random numbers that it would have had
    shape = (captured.fixed_size[0] or batch, captured.fixed_size[1] or input_channels(dense), *size)
    images = torch.randn(shape, generator=generator)
    images = images.to(next(dense.parameters()).device)
    with torch.no_grad():
        try:
            outputs = dense.eval()(images)
        except Exception as error:  # of whatever type: it is the model's own code
            if required:
                raise UnsupportedModelError(
                    f'The network runs in training, but not in evaluation, on images of {size[0]}x{size[1]}: '
                    f'{explain_failure(error, dense)}'
                ) from error
            return None
        leaves = pytree.tree_leaves(outputs)
        try:
            found = evaluation_copy(captured.module)(images)
        except Exception as error:  # of many types, by what a constant in the graph does not fit
            return f'{captured.layout.names[0]} ({next(iter(str(error).splitlines()), "")})'
    if len(leaves) != len(captured.layout.all_names):
        _select(captured, dense, outputs, found)
    for name, one, other in zip(captured.layout.names, leaves, captured.for_evaluation(found), strict=True):
        if not _close(one, other):
            return name
    return EQUAL


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def _select(captured: CapturedNetwork, dense: DenseNetwork, outputs: Any, found: Sequence[Tensor]) -> None:
    """Find what evaluation puts out among what the graph does, which is all that training needs."""
    leaves = pytree.tree_leaves(outputs)
    selected: list[int] = []
    for leaf in leaves:
        equal = [index for index, value in enumerate(found) if index not in selected and _close(leaf, value)]
        if not equal:
            raise UnsupportedModelError(
                f'{dense.head_name} ({type(getattr(dense, dense.head_name)).__name__}) puts out {len(found)} tensors '
                f'in training and {len(leaves)} in evaluation, which are not among them, so one graph cannot stand for '
                'both. Have the head put out in training what it does in evaluation, and more if it needs more.'
            )
        selected.append(equal[0])
    every = captured.layout
    names = tuple(every.all_names[index] for index in selected)
    captured.layout = replace(OutputLayout.of(outputs, dense.head_name), all_names=names)
    captured.training_layout, captured.selected = every, tuple(selected)


def _say_bound(dense: DenseNetwork, example: Tensor, sizes: str) -> None:
    """Say to which sizes a graph is bound, and by which line of the network."""
    larger = (size + STRIDE for size in example.shape[2:])
    other = torch.zeros((*example.shape[:2], *larger), device=example.device)
    try:
        why = first_constant(*(_export(dense.train(), images).graph for images in (example, other)))
    except UnsupportedModelError as error:
        why = explain_bound(error.__cause__, dense)
    _warn_bound(sizes, why)


def _warn_bound(sizes: str, why: str) -> None:
    print_log(
        f'The network is captured for images of {sizes} alone: {why}. Write it with the sizes '
        'themselves (size=x.shape[-2:], scale_factor=2) for others, or give the size that is meant: '
        'QATHook(example_shape=…), or --example-shape of tools/calibrate.py.',
        logger='current',
        level=logging.WARNING,
    )


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
    for node in reversed(list(graph.nodes)):  # a norm that is called several times counts in a chain
        if node.target in BATCH_NORM and not update_norms and has_statistics(node):
            node.args = (*node.args[:5], False, *node.args[6:])
        elif node.target in DROPPING and not training:
            node.args = (*node.args[:2], False)
        elif counts_batches(node) and not update_norms:
            counter = node.args[0]
            graph.erase_node(node)
            if counter.op == 'get_attr' and not counter.users:
                graph.erase_node(counter)
