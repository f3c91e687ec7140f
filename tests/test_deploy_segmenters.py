"""What engines make of the parts of ESPNet-like segmenters and of LR-ASPP: integers, each layer as it was trained."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import EXACT_BITS
from onnx import numpy_helper
from segmenter_parts import EspParts, GateParts, PreluParts, settled
from tiny_segmenter import images
from torch import nn
from torch.nn import functional

from frostnet_mm.deploy.engines import count_operators, engine_of, onnxruntime, openvino
from frostnet_mm.deploy.flat_network import converted_network, traceable
from frostnet_mm.deploy.onnx.rewrites.float_weights import keep_float_weights
from frostnet_mm.deploy.onnx.rewrites.global_pooling import use_global_pools
from frostnet_mm.deploy.verification import verify
from frostnet_mm.deploy.verification.layers import _difference, _Grid, compare_layers
from frostnet_mm.quantization import convert, float_operators

ENGINES = {'onnxruntime': onnxruntime, 'openvino': openvino}
SETTINGS = {GateParts: dict(float_modules=('backbone.aspp',))}
# The logits leave as floats: in onnxruntime by a product of integers. Neither engine has a transposed convolution
# of integers (OpenVINO on CPUs without AMX), nor a PReLU between them.
EXPECTED = {
    (EspParts, 'onnxruntime'): {
        'QLinearConv int8': 14,
        'QLinearAdd int8': 3,
        'QLinearConcat int8': 2,
        'MatMulIntegerToFloat int8': 1,
    },
    (EspParts, 'openvino'): {'Convolution int8': 15, 'Concatenation int8': 2},
    (GateParts, 'onnxruntime'): {
        'QLinearConv int8': 5,
        'QLinearGlobalAveragePool int8': 1,
        'QLinearMul int8': 1,
        'QLinearAdd int8': 1,
        'MatMulIntegerToFloat int8': 1,
        'Conv float32': 1,
        'Resize float32': 1,
    },
    (GateParts, 'openvino'): {'Convolution int8': 6, 'Convolution float32': 1, 'Reduce int8': 1},
    (PreluParts, 'onnxruntime'): {
        'QLinearConv int8': 6,
        'QLinearAdd int8': 1,
        'QLinearConcat int8': 1,
        'MatMulIntegerToFloat int8': 1,
        'ConvTranspose float32': 2,
        'PRelu float32': 2,
    },
    (PreluParts, 'openvino'): {'Convolution int8': 7, 'Concatenation int8': 1},
}
COUNTED = (
    *('QLinearConv', 'QLinearAdd', 'QLinearMul', 'QLinearConcat', 'QLinearGlobalAveragePool', 'QLinearAveragePool'),
    *('Conv', 'FusedConv', 'ConvTranspose', 'PRelu', 'Resize', 'Add', 'Mul', 'Concat', 'ReduceMean', 'AveragePool'),
    *('Convolution', 'Concatenation', 'Pooling', 'Reduce', 'MatMulIntegerToFloat'),
)


@pytest.fixture(scope='module', params=(EspParts, GateParts, PreluParts), ids=lambda kind: kind.__name__)
def case(request, tmp_path_factory):
    """A network written for both engines: its file by engine."""
    model, network = settled(request.param, weight_bits=EXACT_BITS, **SETTINGS.get(request.param, {}))
    flat = converted_network(model, convert(network))
    files = {}
    for name in ENGINES:
        folder = tmp_path_factory.mktemp(name)
        engine_of(name).write(flat, images(7)[:1], folder)
        files[name] = folder / 'network.onnx'
    return SimpleNamespace(kind=request.param, network=network, flat=flat, files=files)


@pytest.mark.parametrize('name', ENGINES)
def test_operators(case, name):
    layers = ENGINES[name].profile_model(str(case.files[name]), [images(7)[:1].numpy()], 1)
    found = {key: count for key, count in count_operators(layers).items() if key.split()[0] in COUNTED}
    assert found == EXPECTED[case.kind, name]


@pytest.mark.parametrize('name', ENGINES)
def test_every_layer_is_computed_exactly(case, name):
    model, module = onnx.load(case.files[name]), traceable(case.flat)
    layers = verify.check_layers(engine_of(name), model, module, images(8)[:1].numpy())
    assert len(layers) == sum(node.op_type == 'QuantizeLinear' for node in model.graph.node) >= 12
    assert verify.failed_layers(layers) == []
    assert sum(layer.count for layer in layers) <= 4


def test_what_stays_in_float_is_reported(case):
    expected = {
        EspParts: {},
        GateParts: {'sigmoid': 1, 'conv2d': 1, 'relu': 1},
        PreluParts: {'prelu': 2, 'conv_transpose2d': 1},
    }
    assert {group.kind: group.count for group in float_operators(case.network)} == expected[case.kind]


def test_rewrites_for_onnxruntime(case):
    """Without them a mean is computed in float, and float weights are rounded to 8 bits."""
    plain = onnx.load(case.files['openvino'])
    weights = {value.name: numpy_helper.to_array(value) for value in plain.graph.initializer}
    image = images(8)[:1].numpy()
    failed = verify.failed_layers(compare_layers(plain, image, engine_of('onnxruntime').run_onnx))
    changed = onnx.load(case.files['openvino'])
    pools, floats = use_global_pools(changed), keep_float_weights(changed)
    assert pools == (['backbone/ReduceMean'] if case.kind is GateParts else [])
    expected = {EspParts: [], GateParts: ['backbone.aspp'], PreluParts: ['backbone.grouped_up']}[case.kind]
    assert [name.partition('/')[0] for name in floats] == expected
    assert len(failed) == len(expected) and all(layer.steps == 1 and layer.share > 0.01 for layer in failed)
    constants = {value.name: numpy_helper.to_array(value) for value in changed.graph.initializer}
    for name in floats:
        source = next(node.input[1] for node in plain.graph.node if node.name == name.removesuffix(':weight'))
        integers, scale = (constants[name.removesuffix('weight') + what] for what in ('integers', 'scale'))
        shape = [1, -1, *[1] * (integers.ndim - 2)]
        error = abs(integers * scale.reshape(shape).astype('float64') - weights[source])
        assert error.max() <= abs(weights[source]).max() * 2**-23 and source not in constants


class DropoutParts(nn.Module):
    """A dropout between a concat and a convolution, as in front of mmseg's classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 19, 3, 2, 1)
        self.dropout, self.last = nn.Dropout2d(0.1), nn.Conv2d(35, 8, 1)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        y = functional.relu(self.side(x))
        y = functional.interpolate(y, size=x.shape[2:], mode='bilinear', align_corners=False)
        return (self.last(self.dropout(torch.cat([x, y], 1))),)


class Detach(nn.Module):
    """Another operator that passes everything on."""

    def forward(self, x):
        return x.detach()


class DetachParts(DropoutParts):
    """The same with a detached tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = Detach()


@pytest.mark.parametrize('kind', [DropoutParts, DetachParts])
def test_nothing_is_quantized_twice_behind_an_identity(kind, tmp_path):
    """OpenVINO 2026.4 crashes on a concat that is: the file is looked at before it is run."""
    model, network = settled(kind, weight_bits=EXACT_BITS)
    flat = converted_network(model, convert(network))
    engine_of('openvino').write(flat, images(7)[:1], tmp_path)
    written = onnx.load(tmp_path / 'network.onnx')
    makers = {node.output[0]: node for node in written.graph.node}
    rounded = [makers[n.input[0]] for n in written.graph.node if n.op_type == 'QuantizeLinear' and n.input[0] in makers]
    assert len(rounded) == 7 - 1 and not any(node.op_type == 'DequantizeLinear' for node in rounded)  # one: the images
    layers = verify.check_layers(engine_of('openvino'), written, traceable(flat), images(8)[:1].numpy())
    assert verify.failed_layers(layers) == []


def test_ties_may_fall_to_either_side():
    """2.5 steps are 2 or 3, and 2.502 are 3; 300 steps are 255."""
    grid = _Grid('x', np.float32(0.5), np.uint8(10))
    real = np.array([1.25, 1.25, 1.251, 145.0], np.float32)
    for found, expected in (([12, 13, 13, 255], (0, 0)), ([13, 12, 12, 255], (1, 1)), ([12, 12, 14, 252], (3, 2))):
        result = _difference('x', np.array(found, np.uint8), real, grid)
        assert (result.steps, result.count) == expected
