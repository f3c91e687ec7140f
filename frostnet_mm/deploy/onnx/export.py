"""From a network to an ONNX file: QDQ form for integers, names that say which module an operator belongs to."""

import ast
import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from ...models.dense import UnsupportedModelError
from ..flat_network import FlatNetwork, Normalization, pixels_last, traceable
from .graph import OnnxGraph

OPSET = 21  # the first with 16 bit and blocked quantization; onnxruntime >= 1.20 and OpenVINO >= 2024.4 read it
INPUT = 'images'


def exported_program(module: nn.Module, example: torch.Tensor, dynamic: bool) -> torch.export.ExportedProgram:
    """Trace a network for a shape of images, or for any.

    Args:
        module (nn.Module): One tensor in, a flat tuple of tensors out.
        example (Tensor): Images of the shape that it is for; batch first.
        dynamic (bool): Leave batch size, height and width open.

    Raises:
        UnsupportedModelError: It cannot be traced, or not for any shape; the message has torch's reason.
    """
    shapes, axes = None, (0, 1, 2) if pixels_last(example.shape) else (0, 2, 3)
    if dynamic:
        example = several(example)
        shapes = ({axis: torch.export.Dim.AUTO for axis in axes},)
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # many types; each is passed on
        raise UnsupportedModelError(
            f'The network cannot be traced for {tuple(example.shape)} images: {error}'
        ) from error
    (images,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    fixed = [axis for axis in axes if dynamic and is_concrete_int(images.meta['val'].shape[axis])]
    if fixed:  # by a number in the network, such as the columns of a dense layer
        names = {axes[0]: 'batch', axes[1]: 'height', axes[2]: 'width'}
        sizes = ', '.join(f'a {names[axis]} of {example.shape[axis]}' for axis in fixed)
        raise UnsupportedModelError(
            f'The network holds for images with {sizes} alone: it cannot be left open. Deploy it for one shape.'
        )
    return program


def several(images: torch.Tensor) -> torch.Tensor:
    """A batch of two or more: torch takes a size of 1 for a constant."""
    return images.expand(2, *images.shape[1:]).contiguous() if images.shape[0] < 2 else images


def export_onnx(module: nn.Module, names: Sequence[str], example: torch.Tensor, dynamic: bool = False) -> Any:
    """Export a network to ONNX.

    Args:
        module (nn.Module): One tensor in, a flat tuple of tensors out.
        names (Sequence[str]): Names of the outputs.
        example (Tensor): Images of the shape that it is for.
        dynamic (bool): Leave batch size, height and width open. Default: False.

    Returns:
        onnx.ModelProto: Its input is called 'images'. Nodes are called ``<module>/<operator>``.

    Raises:
        UnsupportedModelError: An operator has no ONNX form.
    """
    if dynamic:
        example = several(example)
    program = exported_program(module, example, dynamic)
    with quiet():
        try:
            exported = torch.onnx.export(
                program,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                optimize=True,
                input_names=[INPUT],
                output_names=list(names),
                verbose=False,
            )
        except Exception as error:  # torch's own types, and those of its passes
            raise UnsupportedModelError(
                f'The network cannot be written as ONNX: {_first_cause(error)} Replace the operator in the model, or '
                'deploy to an engine that does not read ONNX.'
            ) from error
    model = exported.model_proto
    _name_nodes(model.graph)
    _join_scales(model.graph)
    _separate_zero_points(model.graph)
    _forget_origin(model)
    return model


def _first_cause(error: BaseException) -> str:
    """The first line of what an exporter's error goes back to; its own is coloured advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip('.') + '.'


def onnx_of(network: FlatNetwork, example: torch.Tensor, dynamic: bool, baked: Normalization | None) -> bytes:
    """A network as ONNX; engines that read the same file share one export, which takes many seconds.

    Args:
        network (FlatNetwork): The network; it keeps the file.
        example (Tensor): Images of the shape that it is for.
        dynamic (bool): Leave batch size, height and width open.
        baked (Normalization, optional): Put the normalization in front.
    """
    key = (tuple(example.shape), example.dtype, dynamic, baked)
    if key not in network.exports:
        model = export_onnx(traceable(network, baked), network.names, example, dynamic)
        network.exports[key] = model.SerializeToString()
    return network.exports[key]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress and its remarks about torchvision, which is not used, off the terminal."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        try:
            yield
        finally:
            logger.setLevel(level)


def _scope(node: Any) -> str:
    """The module that a node was traced in, such as 'backbone.stem.conv'."""
    for entry in node.metadata_props:
        if entry.key == 'pkg.torch.onnx.name_scopes':
            scopes = ast.literal_eval(entry.value)
            return scopes[-2] if len(scopes) > 1 else ''
    return ''


def _name_nodes(graph: Any) -> None:
    """Name nodes, the tensors between them and the quantized weights after modules."""
    fixed = {value.name for value in (*graph.input, *graph.output)}
    used, renamed, makers = set(fixed), {}, {}

    def unique(name: str) -> str:
        candidate, count = name, 1
        while candidate in used:
            count += 1
            candidate = f'{name}_{count}'
        used.add(candidate)
        return candidate

    for node in graph.node:
        scope = _scope(node)
        for wrapper in ('network', 'network', 'dense'):  # flat.py's own, outermost first
            scope = scope.removeprefix(wrapper).removeprefix('.')
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear'):
            maker = makers.get(node.input[0])
            scope = maker.name.partition('/')[0] if maker is not None else node.input[0]
        node.name = unique('/'.join(filter(None, (scope, node.op_type))))
        makers.update({output: node for output in node.output})
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = node.name if index == 0 else unique(f'{node.name}:{index}')
    for node in graph.node:
        weight = makers.get(node.input[1]) if node.op_type in ('Conv', 'ConvTranspose', 'Gemm', 'MatMul') else None
        if weight is not None and weight.op_type == 'DequantizeLinear':
            module = node.name.partition('/')[0]
            for source, what in zip(weight.input, ('weight', 'weight_scale', 'weight_zero_point'), strict=False):
                if source not in makers and source not in renamed:
                    renamed[source] = unique(f'{module}.{what}')
    _rename(graph, renamed)


def _join_scales(graph: Any) -> None:
    """Write one scale a tensor as one: accelerators that know no other refuse a list of equal ones.

    A network with a scale a channel stays as it is; there, those of average pools alone are equal.
    """
    links, several = OnnxGraph(graph), []
    for node in graph.node:
        if node.op_type == 'DequantizeLinear' and all(name in links.initializers for name in node.input):
            scale = links.value(node.input[1])
            if scale.size > 1:
                several.append((node, scale.min() == scale.max()))
    equal = [node for node, is_equal in several if is_equal]
    if 2 * len(equal) <= len(several):
        return
    for node in equal:
        for place, name in enumerate(node.input[1:], 1):
            one = f'{name}_of_all'
            node.input[place] = (
                one if one in links.initializers else links.add(one, links.value(name).flat[0].reshape(()))
            )
        for attribute in [own for own in node.attribute if own.name == 'axis']:
            node.attribute.remove(attribute)
    OnnxGraph(graph).drop_unused()


def _separate_zero_points(graph: Any) -> None:
    """Give each quantized weight a zero point of its own: the exporter lets all of a size share one.

    onnxruntime makes weights unsigned where its sums would saturate (``device.saturation_free_session``), together with
    their zero points, and 1.31 cannot do so twice with the same one.
    """
    links = OnnxGraph(graph)
    for node in graph.node:
        if node.op_type == 'DequantizeLinear' and len(node.input) > 2 and node.input[0] in links.initializers:
            links.own(node, 2)


def _rename(graph: Any, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for values in (graph.initializer, graph.value_info):
        for value in values:
            value.name = renamed.get(value.name, value.name)


def _forget_origin(model: Any) -> None:
    """Remove what torch notes about each node, the paths of source files among it: half of a small model's file."""
    from ...version import __version__

    graph = model.graph
    for item in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
    for node in graph.node:
        node.doc_string = ''
    graph.name = 'dense network'
    model.producer_name, model.producer_version = 'frostnet_mm', __version__


def read_onnx(folder: str | os.PathLike) -> Any | None:
    """The network of a deployment as an ``onnx.ModelProto``; None if its engine reads another format."""
    path = Path(folder) / 'network.onnx'
    if not path.is_file():
        return None
    import onnx

    return onnx.load(path)
