"""Why a network cannot be captured, and where: the module, the operation, the line of its source."""

import linecache
import traceback
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from ..engine.shape_errors import shape_message
from ..models.dense import DenseNetwork, UnsupportedModelError
from .quantizer import module_paths

#: Where mmcv's operators lie that are compiled.
COMPILED_OPERATORS = '/mmcv/ops/'


def explain_failure(error: Exception, dense: DenseNetwork) -> str:
    """Name the innermost module that could not be captured, and its line."""
    reason, place = _first_line(error), _place_of(error, dense)
    if place is None:
        what = f'The dense network of the model ({dense.head_name})'
        return f'{what} cannot be captured as a graph. {reason}{_hint(reason)}'
    if place.compiled:
        return (
            f"{place.module} is one of mmcv's compiled operators ({place.compiled}), which "
            'cannot be captured as a graph, and which no engine computes in INT8. Put a plain layer in its place, '
            'or leave the model in float (without QATHook).'
        )
    return (
        f'{place.module} cannot be captured as a graph. {reason}{_hint(reason)}\n'
        f'  at {place.file}:{place.line}: {place.code}\n'
        'Rewrite this line with tensor operations that do not depend on values, or leave the model in float (without '
        'QATHook).'
    )


def explain_bound(error: Exception, dense: DenseNetwork) -> str:
    """Name the line by which a network, that could be captured for one size, could not be captured for any."""
    reason, place = _first_line(error), _place_of(error, dense)
    where = f' at {place.module} ({place.code!r}, {place.file}:{place.line})' if place else ''
    return f'for any size it cannot be captured{where}: {reason.rstrip(".")}'


def explain_misfit(dense: DenseNetwork, example: Tensor) -> str | None:
    """Say of a network that does not run either, whose layers do not fit each other or the example, why that is.

    Args:
        dense (DenseNetwork): The network; it is left in evaluation mode.
        example (Tensor): Images.
    """
    try:
        with torch.no_grad():
            dense.eval()(example)
    except Exception as error:  # any other is for the capture's own refusal
        if message := shape_message(error):
            size = 'x'.join(map(str, example.shape[2:]))
            return (
                f'{message} The network was run on an image of {size} (height x width); another size is '
                'QATHook(example_shape=(2, 3, H, W)), or --example-shape H W of tools/calibrate.py.'
            )
    return None


def refuse_sync_batchnorm(dense: DenseNetwork) -> None:
    """Refuse a network with synchronized batch norms.

    Raises:
        UnsupportedModelError: Naming the first.
    """
    for name, module in dense.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise UnsupportedModelError(
                f'{name} is a SyncBatchNorm, which cannot be captured; expected BatchNorm2d: set '
                'norm_cfg=dict(type="BN") '
                'in the config of the backbone, the neck and the heads.'
            )


class _Place(NamedTuple):
    """The innermost line of a network's own that an error came through, and the operator of mmcv, if it was one."""

    module: str
    file: str
    line: int
    compiled: str | None

    @property
    def code(self) -> str:
        """The line of source."""
        return linecache.getline(self.file, self.line).strip()


def _place_of(error: Exception, dense: DenseNetwork) -> _Place | None:
    names = {id(module): name for name, module in dense.named_modules() if name}
    found = compiled = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get('self')
        if id(module) in names:
            found = f'{names[id(module)]} ({type(module).__name__})', frame.f_code.co_filename, line
        if COMPILED_OPERATORS in Path(frame.f_code.co_filename).as_posix():
            compiled = Path(frame.f_code.co_filename).stem
    return found and _Place(*found, compiled)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _hint(reason: str) -> str:
    """What mends a network that takes some sizes alone, such as multiples of 128, and not that of the example."""
    if 'must match' not in reason:
        return ''
    return (
        ' If the network takes images of certain sizes alone, give one of them: QATHook(example_shape=(2, 3, H, W)), '
        '--example-shape H W of tools/calibrate.py.'
    )


def first_constant(graph: Graph, other: Graph) -> str:
    """The first operation of a graph of which another capture has other numbers, with its line."""
    for node, twin in zip(graph.nodes, other.nodes, strict=False):
        if node.target != twin.target and node.op == 'call_function':
            return f'{line_of(node)} takes another way at another size'
        numbers, others = (
            [leaf for leaf in pytree.tree_leaves((each.args, each.kwargs)) if isinstance(leaf, (int, float))]
            for each in (node, twin)
        )
        if numbers != others:
            return f'{line_of(node)} computes with numbers that come from the size of the image'
    return 'something in it depends on the size of the image'


def line_of(node: Node) -> str:
    """Operation, module and source line of a node."""
    trace = [line.strip() for line in (node.meta.get('stack_trace') or '').strip().splitlines()]
    trace = [line for line in trace if line.strip('^~ ')]  # below a line that was executed in part
    where = f' of {module_paths(node)[-1]}' if module_paths(node) else ''
    code = f' ({trace[-1]!r}, {trace[-2].removeprefix("File ")})' if len(trace) > 1 else ''
    return f'{node.target}{where}{code}'
