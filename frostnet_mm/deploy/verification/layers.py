"""Every layer of a quantized ONNX network in an engine, against the same layer by a reference.

Rounding makes two correct implementations drift apart: a value that lies between two steps falls to one side here and
to the other there, and each such step moves others behind it. So layers are compared one by one: each is computed from
the very integers that the engine put into it, by onnxruntime's unfused float operators, whose result an integer engine
must meet within one step.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter, Node

from ..onnx.graph import OnnxGraph
from ..onnx.rewrites.integer_matmul import PRODUCT
from ..onnx.rewrites.space_to_depth import BLOCKS, rearranged

TIE = 1e-3  # of a step: so near to the middle of two steps either is right; a bilinear resize puts every 100th there
RunModel = Callable[[bytes, np.ndarray, Sequence[str]], list[np.ndarray]]


@dataclass(frozen=True)
class LayerDifference:
    """How far an engine is from the reference's result of one layer.

    Args:
        name (str): The quantized tensor, ``<module>/QuantizeLinear``.
        steps (int): Largest difference in quantization steps.
        count (int): Number of elements that differ.
        share (float): Their share.
    """

    name: str
    steps: int
    count: int
    share: float


def compare_layers(model: Any, images: np.ndarray, run: RunModel) -> list[LayerDifference]:
    """Compare an engine with the unfused operators, layer by layer.

    Args:
        model (onnx.ModelProto): A network in QDQ form.
        images (ndarray): Its input.
        run (Callable): Runs an ONNX file (bytes) on images in the engine and returns the outputs that are named.

    Returns:
        list[LayerDifference]: In the order of the network.
    """
    from onnx import TensorProto, helper

    grids = _grids(model)
    found = run(_with_outputs(model, list(grids)), images, list(grids))
    values = dict(zip(grids, found, strict=True))
    reference = _copy(model)
    del reference.graph.node[:]
    reference.graph.node.extend(node for node in model.graph.node if node.output[0] not in grids)
    _use_unsigned_weights(reference)
    reference.graph.input.extend(_value(name, value) for name, value in values.items())
    inputs = {model.graph.input[0].name: images, **values}
    sources = dict.fromkeys(grid.source for grid in grids.values() if grid.source not in inputs)
    del reference.graph.output[:]
    reference.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sources)
    reals = dict(inputs)
    if sources:
        reals.update(zip(sources, _run_unfused(reference.SerializeToString(), inputs, list(sources)), strict=True))
    return [_difference(name, values[name], reals[grid.source], grid) for name, grid in grids.items()]


@dataclass(frozen=True)
class _Grid:
    """The tensor that a QuantizeLinear rounds, and to what."""

    source: str
    scale: np.ndarray
    zero_point: np.ndarray


def _grids(model: Any) -> dict[str, _Grid]:
    """Each quantized tensor of a model."""
    from onnx import numpy_helper

    values = {value.name: value for value in model.graph.initializer}
    return {
        node.output[0]: _Grid(node.input[0], *(numpy_helper.to_array(values[name]) for name in node.input[1:3]))
        for node in model.graph.node
        if node.op_type == 'QuantizeLinear'
    }


def _difference(name: str, found: np.ndarray, real: np.ndarray, grid: _Grid) -> LayerDifference:
    if found.shape != real.shape:
        raise ValueError(f'{name} has the shape {found.shape} in the engine, expected {real.shape}.')
    real = real / grid.scale + grid.zero_point.astype(np.float32)
    ends = np.iinfo(grid.zero_point.dtype)
    difference = np.abs(found.astype(np.int32) - np.clip(np.rint(real), ends.min, ends.max).astype(np.int32))
    difference[np.abs(found - real) <= 0.5 + TIE] = 0
    return LayerDifference(
        name, int(difference.max(initial=0)), int((difference > 0).sum()), float((difference > 0).mean())
    )


def _copy(model: Any) -> Any:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied


def _use_unsigned_weights(model: Any) -> None:
    """Make the weights of integer products unsigned: without optimizations onnxruntime's signed ones may saturate."""
    graph = OnnxGraph(model.graph)
    for node in model.graph.node:
        if node.op_type == PRODUCT and graph.value(node.input[1]).dtype == np.int8:
            for place, name in ((1, f'{node.name}:unsigned'), (5, f'{node.name}:unsigned zero')):
                shifted = graph.value(node.input[place]).astype(np.int16) + 128
                node.input[place] = graph.add(name, shifted.astype(np.uint8))


def _value(name: str, value: np.ndarray) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _with_outputs(model: Any, names: Sequence[str]) -> bytes:
    """The model with all quantized tensors as outputs."""
    from onnx import helper

    exposed = _copy(model)
    for name, grid in _grids(model).items():
        kind = helper.np_dtype_to_tensor_dtype(grid.zero_point.dtype)
        exposed.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return exposed.SerializeToString()


def _run_unfused(model: bytes, inputs: dict[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """Run a model without any fusion: quantized operators between dequantization and quantization, in float."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    return session.run(list(names), inputs)


@dataclass(frozen=True)
class _Rounded:
    """Integers of a converted network, and what they are steps of: scale and zero point."""

    integers: np.ndarray
    grid: tuple[float, int]


class _Collector(Interpreter):
    """Runs a converted network and keeps what its quantizers put out."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.rounded: list[_Rounded] = []

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == 'call_function' and n.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            _, scale, zero_point = self.fetch_args_kwargs_from_env(n)[0][:3]
            self.rounded.append(_Rounded(value.numpy(), _key(scale, zero_point)))
        return value


def _key(scale: Any, zero_point: Any) -> tuple[float, int]:
    """A grid as ONNX stores it."""
    return float(np.float32(scale)), int(zero_point)


@torch.no_grad()
def reference_runner(module: GraphModule) -> RunModel:
    """The converted network itself as an engine: shows whether an ONNX file is that network.

    Args:
        module (GraphModule): What was exported. The file may have channels of zeros behind its own.
    """

    def run(model: bytes, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        from onnx import load_from_string

        collector = _Collector(module)
        collector.run(torch.from_numpy(images))
        origins = {name: name.partition(BLOCKS) for name in names}  # of blocks: those of the pixels
        graph = load_from_string(model)
        channels, grids = _channels(graph), _grids(graph)
        tensors = {origin: _key(grids[name].scale, grids[name].zero_point) for name, (origin, _, _) in origins.items()}
        found = _without_twins(collector.rounded, tensors.values())
        if len(found) != len(tensors):
            raise ValueError(
                f'The file quantizes {len(tensors)} tensors, the network {len(found)}: it is another network.'
            )
        values = dict(zip(tensors, found, strict=True))
        results = []
        for name, (origin, _, block) in origins.items():
            value = rearranged(values[origin], int(block)) if block else values[origin]
            results.append(_padded(value, channels.get(name, 0), grids[name].zero_point))
        return results

    return run


def _without_twins(found: Sequence[_Rounded], grids: Iterable[tuple[float, int]]) -> list[np.ndarray]:
    """The integers without those that a file computes once: what rounds the same to the same grid.

    Args:
        found (Sequence[_Rounded]): Of the network.
        grids (Iterable[tuple[float, int]]): Of the file's tensors. A value is left out only where the network has more
            of its grid: others may well be equal, such as maps of zeros.
    """
    surplus = Counter(value.grid for value in found)
    surplus.subtract(grids)
    kept: dict[tuple[float, int], list[np.ndarray]] = {}
    result = []
    for value in found:
        others = kept.setdefault(value.grid, [])
        if surplus[value.grid] > 0 and any(np.array_equal(value.integers, other) for other in others):
            surplus[value.grid] -= 1
        else:
            others.append(value.integers)
            result.append(value.integers)
    return result


def _channels(model: Any) -> dict[str, int]:
    """The channels of each tensor that has some."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.value_info, *inferred.output)}
    return {name: shape[1].dim_value for name, shape in shapes.items() if len(shape) > 1}


def _padded(value: np.ndarray, channels: int, zero_point: np.ndarray) -> np.ndarray:
    """Channels of zeros behind those of a tensor, up to their number in a file."""
    if value.ndim < 2 or value.shape[1] >= channels:
        return value
    widths = [(0, channels - value.shape[1] if axis == 1 else 0) for axis in range(value.ndim)]
    return np.pad(value, widths, constant_values=zero_point)
