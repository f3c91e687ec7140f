"""What OpenVINO merges into something else, from plain nodes: by NumPy, as exported, and as written for it."""

import numpy as np
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.onnx.rewrites.separation import (
    separate_concats,
    separate_constants,
    separate_grids,
    separate_reductions,
)
from frostnet_mm.device.engines.openvino import compile_model


class Network:
    """A network of plain nodes, written from its input on."""

    def __init__(self, shape):
        self.shape, self.nodes, self.constants = shape, [], {}

    def add(self, kind, *inputs, **attributes):
        """A node; arrays among what it reads are constants. Returns its name, which is that of its result too."""
        name, names = f'{kind}{len(self.nodes)}', []
        for value in inputs:
            if not isinstance(value, str):
                self.constants[f'{name}/{len(names)}'] = value
                value = f'{name}/{len(names)}'
            names.append(value)
        self.nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return name

    def rounded(self, name, scale, zero, kind=np.uint8):
        """Names of the integers that a tensor is rounded to, and of their values."""
        grid = np.float32(scale), np.array(zero, kind)
        integers = self.add('QuantizeLinear', name, *grid)
        return integers, self.add('DequantizeLinear', integers, *grid)

    def conv(self, name, inputs, outputs, rng, rectified=True):
        """A 3x3 convolution of integers, with a rectifier or without one."""
        weight = rng.integers(-127, 128, (outputs, inputs, 3, 3)).astype(np.int8)
        scale = np.full(outputs, 0.012 / np.sqrt(9 * inputs), np.float32)
        weight = self.add('DequantizeLinear', weight, scale, np.zeros(outputs, np.int8), axis=0)
        result = self.add('Conv', name, weight, kernel_shape=[3, 3], pads=[1] * 4)
        return self.add('Relu', result) if rectified else result

    def model(self, *outputs, kind=TensorProto.UINT8):
        """The network as a file that puts out tensors of integers."""
        graph = helper.make_graph(
            self.nodes,
            'network',
            [helper.make_tensor_value_info('images', TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)


def steps_off(integers, real):
    """Between integers and what should be rounded to them, but where that lies between two."""
    ends = np.iinfo(integers.dtype)
    off = np.abs(integers.astype(np.float64) - np.clip(np.rint(real), ends.min, ends.max))
    off[np.abs(real % 1 - 0.5) < 1e-3] = 0
    return off


@pytest.mark.parametrize(
    ('shape', 'axis', 'keeps', 'changes'),
    [
        ((2, 16, 8, 24), 1, 0, True),  # EncNet's sum over the places of a map
        ((2, 16, 24), -2, 0, True),
        ((16, 8, 24), 0, 1, True),
        ((2, 16, 8, 24), 2, 0, False),
        ((2, 16, 8, 24), -1, 1, False),
    ],
)
def test_factors_behind_reductions_stay_with_their_channels(shape, axis, keeps, changes):
    rng = np.random.default_rng(0)
    images = rng.normal(size=shape).astype(np.float32)
    sums = images.astype(np.float64).sum(axis, keepdims=bool(keeps))
    factors = rng.uniform(0.5, 1.5, [1, sums.shape[1], *[1] * (sums.ndim - 2)]).astype(np.float32)
    network = Network(shape)
    reduced = network.add('ReduceSum', 'images', np.array([axis]), keepdims=keeps)
    integers, _ = network.rounded(network.add('Mul', reduced, factors), 0.1, 100)
    model, found = network.model(integers), []
    for _ in range(2):
        (result,) = engine_of('openvino').run_onnx(model.SerializeToString(), images, [integers])
        found.append(steps_off(result, sums * factors / 0.1 + 100).max())
        assert separate_reductions(model) == [reduced] * (changes and len(found) == 1)
    assert found[1] == 0 and (found[0] > 5) == changes


@pytest.mark.parametrize(('ratio', 'changes'), [(1.0025, True), (0.9975, True), (1.0, False), (1.05, False)])
def test_integers_are_rounded_to_a_grid_that_is_nearly_theirs(ratio, changes):
    """As of UNet's concats: OpenVINO left out what rounds the second half."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(1, 8, 32, 32)).astype(np.float32)
    network, scales = Network(images.shape), (0.007, 0.0055, 0.0055 * ratio)
    _, image = network.rounded('images', 0.02, 128)
    parts = [network.rounded(network.conv(image, 8, 16, rng), scale, 0) for scale in scales[:2]]
    joined, _ = network.rounded(network.add('Concat', *(part for _, part in parts), axis=1), scales[2], 0)
    names = [joined, *(integers for integers, _ in parts)]
    model, found = network.model(*names), []
    for _ in range(2):
        result, *read = engine_of('openvino').run_onnx(model.SerializeToString(), images, names)
        given = [values.astype(np.float64) * np.float32(scale) for values, scale in zip(read, scales, strict=False)]
        assert all(len(np.unique(values)) > 200 for values in read)
        found.append((steps_off(result, np.concatenate(given, 1) / np.float32(scales[2])) > 0).mean())
        assert separate_grids(model) == [parts[1][1]] * (changes and len(found) == 1)
    assert found[1] == 0 and (found[0] > 0.01) == changes


@pytest.mark.parametrize(('kind', 'changes'), [(np.int8, True), (np.uint8, False)])
def test_convolutions_behind_concats_of_signed_integers(kind, changes):
    """As of FrostNet's expansions with TensorRT's numerics: a rectified map beside one that is not."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(1, 8, 16, 16)).astype(np.float32)
    network, zero = Network(images.shape), 0 if kind is np.int8 else 128
    _, image = network.rounded('images', 0.03, zero, kind)
    maps = [network.conv(image, 8, 8, rng, rectified) for rectified in (True, False)]
    parts = [network.rounded(own, 0.007 + 0.001 * i, zero * i, kind)[1] for i, own in enumerate(maps)]
    joined, values = network.rounded(network.add('Concat', *parts, axis=1), 0.0085, zero, kind)
    weight, scale = rng.integers(-127, 128, (24, 16, 1, 1)).astype(np.int8), np.float32(0.002)
    weights = network.add('DequantizeLinear', weight, np.full(24, scale), np.zeros(24, np.int8), axis=0)
    rectified = network.add('Relu', network.add('Conv', values, weights, kernel_shape=[1, 1]))
    integers, _ = network.rounded(rectified, 0.004, 0, kind)
    names, found = [joined, integers], []
    model = network.model(*names, kind=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    for _ in range(2):
        read, result = engine_of('openvino').run_onnx(model.SerializeToString(), images, names)
        real = np.einsum(
            'oc,nchw->nohw',
            weight[:, :, 0, 0] * np.float64(scale),
            (read.astype(np.float64) - zero) * np.float32(0.0085),
        )
        found.append(steps_off(result, np.maximum(real, 0) / np.float32(0.004)).max())
        assert len(separate_concats(model)) == (changes and len(found) == 1)
    assert found[1] <= 1 and (found[0] > 5) == changes


def test_a_sum_changes_no_other_zero_point(tmp_path):
    """As of PIDNet's gates: a map that has the zero point of a summed one by chance was nothing but zeros."""
    rng = np.random.default_rng(2)
    images = rng.normal(size=(1, 8, 16, 16)).astype(np.float32)
    network = Network(images.shape)
    _, image = network.rounded('images', 0.02, 128)
    maps = [network.conv(image, 8, 8, rng, rectified=False) for _ in range(3)]
    summed, other = network.rounded(maps[0], 0.02, 129), network.rounded(maps[1], 0.03, 129)
    last, _ = network.rounded(network.add('Add', other[1], network.rounded(maps[2], 0.025, 120)[1]), 0.04, 126)
    total = network.add('ReduceSum', summed[1], np.array([1]), keepdims=0)
    model = network.model(last, network.rounded(network.add('Sigmoid', total), 1 / 255, 0)[0])
    shared = [node.input[2] for node in model.graph.node if node.name in (summed[1], other[1])]
    for node in model.graph.node:  # as the exporter writes equal constants
        node.input[:] = [shared[0] if name == shared[1] else name for name in node.input]
    found = engine_of('openvino').run_onnx(model.SerializeToString(), images, [last])[0]
    assert separate_constants(model) == [summed[1]] and separate_constants(model) == []
    engine_of('openvino').write_onnx(model.SerializeToString(), tmp_path)
    written = compile_model(openvino.Core(), tmp_path / 'network.xml', {'INFERENCE_PRECISION_HINT': 'f32'})(images)[0]
    assert len(np.unique(written)) > 100 and len(np.unique(found)) == 1
    (expected,) = engine_of('onnxruntime').run_onnx(model.SerializeToString(), images, [last])
    assert np.abs(written.astype(int) - expected).max() <= 1
