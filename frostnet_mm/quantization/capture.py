"""From a dense network to a graph of ATen operators, whose parameters stay the network's own."""

import logging
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import torch
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from ..models.dense import DenseNetwork, OutputLayout, UnsupportedModelError
from ..models.input_channels import input_channels
from .any_batch import OtherGraphError, unbind_batch
from .captured import CapturedNetwork, evaluation_copy
from .checkpointing import without_checkpointing
from .constants import is_random
from .deformable import sampled_deformable
from .drop_path import DROPPING, traced_drop_path
from .evaluation_tail import SeparateModesError, free_sizes, merge
from .explain import (
    explain_bound,
    explain_failure,
    explain_misfit,
    first_constant,
    line_of,
    refuse_sync_batchnorm,
)
from .graph_forms import normalize
from .light_batch_norm import light_batch_norms
from .light_export import light_export, quiet_export
from .psa_mask import gathered_psa_masks
from .settings import EXAMPLE_SHAPE
from .size_arithmetic import SizeArithmeticError, bounded_sizes
from .symbolic_integers import symbolic_integers

#: Sizes at which a graph is compared with its network: one that suits every stride, and an odd one.
CHECK_SIZES = ((160, 224), (151, 217))
EQUAL = ''  # no output differs
STRIDE = 32  # of the first of them, and of the padding that mm's configs use


class BoundBatchError(UnsupportedModelError):
    """The graph holds for batches of one size alone."""


class _CountsBatchError(Exception):
    """The graph holds for batches of one size alone; the argument says whether that is so in training mode."""


class _OtherInEvaluationError(UnsupportedModelError):
    """The graph of training does not put out what evaluation does; the message is the beginning of a sentence."""


def capture(dense: DenseNetwork, example_shape: tuple[int, int, int, int] = EXAMPLE_SHAPE) -> CapturedNetwork:
    """Capture a dense network in training mode, for any batch size, height and width if it can be.

    The graph is compared with the network at several sizes. One that depends on the size of the images beyond what a
    graph can express, such as by ``int(size * 2.0)``, is captured for the example's height and width alone. Where it
    does not put out what evaluation does, it gets evaluation's last steps as well.

    Args:
        dense (DenseNetwork): The network; it is left in the mode that it was in.
        example_shape (tuple[int, int, int, int]): Shape of the images that it is captured with.

    Raises:
        UnsupportedModelError: An operation cannot be captured, or most of the network computes something else in
            evaluation than in training. The message names the operation and the module.
    """
    modes = {module: module.training for module in dense.modules()}
    device = next(dense.parameters()).device
    refuse_sync_batchnorm(dense)
    try:
        dense.train()  # mm's backbones keep their frozen norms in evaluation mode by themselves
        example = torch.randn((example_shape[0], input_channels(dense), *example_shape[2:]), device=device)
        with without_checkpointing() as calls, traced_drop_path(dense), sampled_deformable(), gathered_psa_masks():
            captured = _capture_batches(dense, example)
    except UnsupportedModelError as refusal:
        if message := explain_misfit(dense, example):
            raise UnsupportedModelError(message) from refusal
        raise
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


def _export(dense: DenseNetwork, example: Tensor, any_size: bool = True) -> GraphModule:
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto, 2: auto, 3: auto} if any_size else {0: auto},)
    try:  # four times as fast, and what it cannot do is left to the other
        with quiet_export(), bounded_sizes(), light_batch_norms(), light_export():
            program = torch.export.export(dense, (example,), strict=False, dynamic_shapes=shapes)
    except Exception as error:  # many types; each is passed on with the place it came from
        try:
            if isinstance(error, SizeArithmeticError):
                raise
            with quiet_export(), bounded_sizes():
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


def _capture_batches(dense: DenseNetwork, example: Tensor) -> CapturedNetwork:
    """Capture for batches of any size, if need be by comparison with the capture of another batch."""
    with suppress(_CountsBatchError):
        return _capture_sizes(dense, example, {})
    with symbolic_integers(dense):
        known: dict[tuple[bool, bool], CapturedNetwork] = {}
        try:
            return _capture_sizes(dense, example, known)
        except _CountsBatchError as error:
            others = torch.cat([example, example[:1]])
            with suppress(_CountsBatchError, OtherGraphError):
                return _capture_sizes(dense, example, known, others)
            _refuse_batch(dense, (example, others), error.args[0])


def _capture_sizes(
    dense: DenseNetwork,
    example: Tensor,
    known: dict[tuple[bool, bool], CapturedNetwork],
    others: Tensor | None = None,
) -> CapturedNetwork:
    """Capture the network in training mode, and in both if its outputs in evaluation are no part of that.

    Args:
        dense (DenseNetwork): The network.
        example (Tensor): Images.
        known (dict[tuple[bool, bool], CapturedNetwork]): Its graphs so far, in training or not, for any size or not.
        others (Tensor, optional): A batch of another size, which tells what counts the images of a batch.
    """
    unbound: set[tuple[bool, bool]] = set()

    def captured(training: bool, any_size: bool) -> CapturedNetwork:
        key = training, any_size
        if key not in known:
            known[key] = _settle(_export(dense.train(training), example, any_size), dense)
        if others is not None and key not in unbound:
            other = _settle(_export(dense.train(training), others, any_size), dense)
            unbind_batch(known[key], other, (len(example), len(others)))
            unbound.add(key)
        return known[key]

    def both(any_size: bool) -> CapturedNetwork:
        modes = [captured(training, any_size) for training in (True, False)]
        if any_size and len({frozenset(free_sizes(mode).values()) for mode in modes}) > 1:
            return both(any_size=False)
        return merge(*modes)

    try:
        return _fit_sizes(dense, example, True, lambda any_size: captured(True, any_size))
    except _OtherInEvaluationError as refusal:
        try:
            return _fit_sizes(dense, example, False, both)
        except _OtherInEvaluationError as error:
            raise UnsupportedModelError(
                f'{error}, and the graphs of both modes together do not compute it either. Leave the model in float '
                '(without QATHook).'
            ) from error
        except SeparateModesError as error:
            raise UnsupportedModelError(f'{refusal}, and {error}') from error


def _fit_sizes(
    dense: DenseNetwork, example: Tensor, training: bool, capture_for: Callable[[bool], CapturedNetwork]
) -> CapturedNetwork:
    """Capture for any size, else for multiples of a stride, else for the size of the example.

    Args:
        dense (DenseNetwork): The network.
        example (Tensor): Images.
        training (bool): The mode in which what binds it to a size is looked for.
        capture_for (Callable): Captures it for any size, or for that of the example.
    """
    try:
        captured, failure = capture_for(True), None
    except UnsupportedModelError as error:  # a table of positions, say, fits maps of one size
        if error.__cause__ is None:  # it was exported
            raise
        captured, failure = capture_for(False), error.__cause__
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
            _say_bound(dense, example, training, f'{own[0]}x{own[1]} (height x width)')
            captured.fixed_size = (*captured.fixed_size[:2], *own)
            return captured
        if at_own == EQUAL and faults[0] == EQUAL:
            captured.size_divisor = STRIDE
            _say_bound(dense, example, training, f'multiples of {STRIDE}')
            return captured
        if at_own == EQUAL:
            _say_bound(dense, example, training, f'{own[0]}x{own[1]} (height x width)')
            captured = capture_for(False)
    fault = _difference(captured, dense, own, required=True)
    if fault:
        _refuse(captured, dense, example, training, fault)
    if failure is not None:
        _warn_bound(f'{own[0]}x{own[1]} (height x width)', explain_bound(failure, dense))
    return captured


def _refuse(captured: CapturedNetwork, dense: DenseNetwork, example: Tensor, training: bool, fault: str) -> None:
    """Raise the reason why one graph cannot stand for training and evaluation."""
    random = [node for node in captured.module.graph.nodes if is_random(node) and node.target not in DROPPING]
    if random and _is_random_in_evaluation(dense, example):
        raise UnsupportedModelError(
            f'{line_of(random[0])} draws random numbers in evaluation too, so what is deployed would not compute what '
            'was trained. Switch that off (rand_init=False of a HamburgerDecoder), or leave the model in float '
            '(without QATHook).'
        )
    batch = example.shape[0]
    own = tuple(example.shape[2:])
    if captured.fixed_size[0] is None and _difference(captured, dense, own, batch=batch) == EQUAL:
        raise _CountsBatchError(training)
    if random:
        raise _OtherInEvaluationError(f'{line_of(random[0])} draws random numbers in training alone')
    raise _OtherInEvaluationError(
        f'{_head(dense)} computes its output {fault} in another way in evaluation than in training'
    )


def _refuse_batch(dense: DenseNetwork, batches: tuple[Tensor, Tensor], training: bool) -> NoReturn:
    try:
        graphs = [_export(dense.train(training), images).graph for images in batches]
    except UnsupportedModelError:
        graphs = [_export(dense.train(training), images, any_size=False).graph for images in batches]
    where = first_constant(*graphs)
    raise BoundBatchError(
        f'{_head(dense)} counts the images of a batch in Python, so that its graph holds for batches of '
        f'{len(batches[0])} alone: {where.replace("the size of the image", "their number")}. Write it with tensor '
        'operations (expand, -1), or leave the model in float (without QATHook).'
    )


def _head(dense: DenseNetwork) -> str:
    return f'{dense.head_name} ({type(getattr(dense, dense.head_name)).__name__})'


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
            raise _OtherInEvaluationError(
                f'{_head(dense)} puts out {len(found)} tensors in training and {len(leaves)} in evaluation, which are '
                'not among them'
            )
        selected.append(equal[0])
    every = captured.layout
    names = tuple(every.all_names[index] for index in selected)
    captured.layout = replace(OutputLayout.of(outputs, dense.head_name), all_names=names)
    captured.training_layout, captured.selected = every, tuple(selected)


def _say_bound(dense: DenseNetwork, example: Tensor, training: bool, sizes: str) -> None:
    """Say to which sizes a graph is bound, and by which line of the network."""
    larger = (size + STRIDE for size in example.shape[2:])
    other = torch.zeros((*example.shape[:2], *larger), device=example.device)
    try:
        why = first_constant(*(_export(dense.train(training), images).graph for images in (example, other)))
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
