"""Every layer of a quantized ONNX network in an engine, against the same layer computed exactly.

Rounding makes two correct implementations drift apart: a value that lies between two steps falls to one side here and
to the other there, and each such step moves others behind it. So layers are compared one by one: each is computed from
the very integers that the engine put into it, by onnxruntime's unfused float operators, whose result an integer engine
must meet within one step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter, Node

RunModel = Callable[[bytes, np.ndarray, Sequence[str]], list[np.ndarray]]


@dataclass(frozen=True)
class LayerDifference:
    """How far an engine is from the exact result of one layer.

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
    """Compare an engine with exact arithmetic, layer by layer.

    Args:
        model (onnx.ModelProto): A network in QDQ form.
        images (ndarray): Its input.
        run (Callable): Runs an ONNX file (bytes) on images in the engine and returns the outputs that are named.

    Returns:
        list[LayerDifference]: In the order of the network.
    """
    from onnx import NodeProto

    quantizers = [node for node in model.graph.node if node.op_type == 'QuantizeLinear']
    names = [node.output[0] for node in quantizers]
    found = run(_with_outputs(model, names), images, names)
    values = dict(zip(names, found, strict=True))
    exact = _copy(model)
    del exact.graph.node[:]
    for node in model.graph.node:  # each quantized tensor is an input, and is computed anew under another name
        copied = NodeProto()
        copied.CopyFrom(node)
        if node.output[0] in values:
            copied.output[0] = f'{node.output[0]} exact'
        exact.graph.node.append(copied)
    exact.graph.input.extend(_value(name, values[name]) for name in names)
    del exact.graph.output[:]
    exact.graph.output.extend(_value(f'{name} exact', values[name]) for name in names)
    expected = _run_exactly(exact.SerializeToString(), {model.graph.input[0].name: images, **values}, names)
    return [_difference(name, values[name], other) for name, other in zip(names, expected, strict=True)]


def _difference(name: str, found: np.ndarray, expected: np.ndarray) -> LayerDifference:
    if found.shape != expected.shape:
        raise ValueError(f'{name} has the shape {found.shape} in the engine, expected {expected.shape}.')
    difference = np.abs(found.astype(np.int32) - expected.astype(np.int32))
    return LayerDifference(
        name, int(difference.max(initial=0)), int((difference > 0).sum()), float((difference > 0).mean())
    )


def _copy(model: Any) -> Any:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied


def _value(name: str, value: np.ndarray) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _with_outputs(model: Any, names: Sequence[str]) -> bytes:
    """The model with all quantized tensors as outputs."""
    from onnx import helper, numpy_helper

    zero_points = {value.name: value for value in model.graph.initializer}
    exposed = _copy(model)
    for node in model.graph.node:
        if node.op_type == 'QuantizeLinear':
            kind = helper.np_dtype_to_tensor_dtype(numpy_helper.to_array(zero_points[node.input[2]]).dtype)
            exposed.graph.output.append(helper.make_tensor_value_info(node.output[0], kind, None))
    return exposed.SerializeToString()


def _run_exactly(model: bytes, inputs: dict[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """Run a model without any fusion: quantized operators between dequantization and quantization, in float."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    return session.run([f'{name} exact' for name in names], inputs)


def run_onnxruntime(model: bytes, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """Run an ONNX file in onnxruntime, with all that it fuses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    return session.run(list(names), {session.get_inputs()[0].name: images})


def run_openvino(model: bytes, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """Run an ONNX file in OpenVINO, with what it fuses where every quantized tensor is to be seen."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    results = compiled(images)
    positions = {name: index for index, output in enumerate(compiled.outputs) for name in output.get_names()}
    return [np.asarray(results[positions[name]]) for name in names]


class _Collector(Interpreter):
    """Runs a converted network and keeps what its quantizers put out."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.integers: list[np.ndarray] = []

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == 'call_function' and n.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            self.integers.append(value.numpy())
        return value


@torch.no_grad()
def reference_runner(module: GraphModule) -> RunModel:
    """The converted network itself as an engine: shows whether an ONNX file is that network.

    Args:
        module (GraphModule): What was exported. The file may have channels of zeros behind its own.
    """

    def run(model: bytes, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        collector = _Collector(module)
        collector.run(torch.from_numpy(images))
        found = collector.integers
        if len(found) != len(names):
            raise ValueError(
                f'The file quantizes {len(names)} tensors, the network {len(found)}: it is another network.'
            )
        like = run_onnxruntime(model, images, names)
        zero_points = _zero_points(model)
        return [_padded(*pair, zero_points[name]) for name, *pair in zip(names, found, like, strict=True)]

    return run


def _zero_points(content: bytes) -> dict[str, np.ndarray]:
    """The zero point of each quantized tensor."""
    from onnx import load_from_string, numpy_helper

    graph = load_from_string(content).graph
    values = {value.name: value for value in graph.initializer}
    return {
        node.output[0]: numpy_helper.to_array(values[node.input[2]])
        for node in graph.node
        if node.op_type == 'QuantizeLinear'
    }


def _padded(value: np.ndarray, like: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Channels of zeros behind those of a tensor, up to the shape of another."""
    if value.ndim < 2 or value.shape[1] >= like.shape[1]:
        return value
    widths = [(0, like.shape[1] - value.shape[1] if axis == 1 else 0) for axis in range(value.ndim)]
    return np.pad(value, widths, constant_values=zero_point)


RUNNERS: dict[str, RunModel] = {'onnxruntime': run_onnxruntime, 'openvino': run_openvino}
