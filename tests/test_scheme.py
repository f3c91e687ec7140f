"""The arithmetic as data: what presets are, that all that rounds takes it from a scheme, what a new one touches."""

import ast
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from conftest import ROOT
from segmenter_parts import EspParts, GateParts, settled
from test_weight_bits import Stack
from tiny_segmenter import images, segmenter

from frostnet_mm.quantization import (
    QATHook,
    QuantizationError,
    QuantizationSettings,
    QuantizedNetwork,
    Scheme,
    convert,
    prepare_model,
    scheme,
)
from frostnet_mm.quantization.scheme import PRESETS, Preset

QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default


def test_presets_are_rows_of_one_table():
    assert {name: (row.scheme.activation_dtype, row.scheme.shared_concat) for name, row in PRESETS.items()} == {
        'onnx': ('uint8', False),
        'executorch': ('int8', True),
    }
    assert all(row.scheme.name == name for name, row in PRESETS.items())
    with pytest.raises(FrozenInstanceError):
        Scheme.preset('onnx').weight_bits = 7
    assert Scheme.preset('onnx').with_weights(bits=7).weight_bits == 7 and Scheme.preset('onnx').weight_bits == 8


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(activation_dtype='float16'), "activation_dtype='float16' was given; expected one of 'uint8', 'int8'"),
        (dict(weight_granularity='group'), "weight_granularity='group' was given; expected one of 'channel', 'tensor'"),
        (dict(weight_bits=9), 'weight_bits=9 was given, expected 8, or 7'),
        (dict(weight_bits=True), 'weight_bits=True was given'),
        (dict(overrides={'neck': 9}), r"overrides\['neck'\]=9 was given, expected 8"),
    ],
)
def test_values_are_checked(options, message):
    with pytest.raises(QuantizationError, match=message):
        Scheme(**options)


def test_the_longest_name_decides():
    one = Scheme(overrides={'backbone': 'float', 'backbone.stem': 7, 'neck': dict(bits=7)})
    assert one.precision_of(['backbone', 'backbone.stem', 'backbone.stem.conv']) == 7
    assert one.stays_float(['backbone', 'backbone.stage']) and not one.stays_float(['backbones'])
    assert (one.precision_of(['neck.conv']), one.precision_of(['head'])) == (7, 8)
    assert one.float_modules == ['backbone'] and hash(one) == hash(replace(one))


@pytest.mark.parametrize(
    'one',
    [
        Scheme(),
        Scheme.preset('executorch').with_weights(bits=7).with_float(['neck', 'head.conv']),
        Scheme(activation_dtype='int8', activation_symmetric=True, weight_granularity='tensor', quantize_outputs=True),
        Scheme(overrides={'neck': 'float', 'head': 7}),
    ],
)
def test_stored_and_read_again_it_is_the_same(one):
    content = one.to_dict()
    assert Scheme.from_dict(content) == one
    assert QATHook(scheme=content).settings.scheme == one
    assert {'numerics', 'quantize_outputs', 'float_modules', 'weight_bits'} <= set(content)
    settings = QuantizationSettings(one, True, 0.1, (2, 3, 64, 96))
    assert QuantizationSettings.from_dict(settings.to_dict()) == settings


def test_presets_write_what_earlier_versions_read():
    """Their QuantizationSettings took these arguments, and refused others."""
    known = {'numerics', 'quantize_outputs', 'float_modules', 'weight_bits'}
    known |= {'learned', 'averaging_constant', 'example_shape'}
    for name in PRESETS:
        assert set(QuantizationSettings.of(name, float_modules=['neck'], weight_bits=7).to_dict()) == known


def test_graphs_of_earlier_versions_are_known():
    """The text was that of a dataclass, repr(numerics), followed by quantize_outputs."""
    engines = "engines=('onnxruntime', 'openvino', 'tensorrt')"
    text = f"Numerics(name='onnx', activation_dtype=torch.uint8, shared_concat=False, {engines}) True"
    assert Scheme(quantize_outputs=True).with_weights(bits=7).identity == text
    other = Scheme(activation_dtype='int8').identity
    assert other != Scheme().identity and other != Scheme.preset('executorch').identity


# -- a new preset, width, granularity or override: the table and the two fake quantizers


def check_converted(network):
    """Integers compute what the simulation does: one step, in at most a thousandth of the values."""
    x = images(9)
    with torch.no_grad():
        expected, found = network.flat(x)[0], convert(network).flat(x)[0]
    step = (expected.max() - expected.min()) / 255
    assert ((found - expected).abs() > 0.5 * step).float().mean() <= 1e-3


def prepared(backbone, one, monkeypatch):
    """As ``settled``, with any scheme."""
    settings = QuantizationSettings(one, example_shape=(2, 3, 32, 48))
    monkeypatch.setattr('tiny_segmenter.QuantizationSettings.of', lambda **_: settings)
    return settled(backbone)[1]


def test_a_preset_is_a_row(monkeypatch):
    """Signed and symmetric: every zero point is 0. Nothing but the table knows of it."""
    row = Scheme('acme', activation_dtype='int8', activation_symmetric=True)
    monkeypatch.setitem(PRESETS, 'acme', Preset(row, 'an engine to come'))
    hook = QATHook(numerics='acme', example_shape=(2, 3, 32, 48))
    assert hook.settings.scheme == row and 'acme' not in (ROOT / 'frostnet_mm/quantization/scheme.py').read_text()
    network = prepared(EspParts, row, monkeypatch)
    module = convert(network).module
    quantized = [node for node in module.graph.nodes if node.target is QUANTIZE]
    assert len(quantized) > 10 and {node.args[2:] for node in quantized} == {(0, -127, 127, torch.int8)}
    check_converted(network)
    assert prepare_model(segmenter(EspParts), QuantizationSettings(example_shape=(2, 3, 32, 48))).scheme == Scheme()


@pytest.mark.parametrize('bits', [2, 4, 5])
def test_other_bits_are_the_table(bits, monkeypatch):
    monkeypatch.setattr(scheme, 'WEIGHT_BITS', (8, 7, bits))
    network = prepared(EspParts, QATHook(weight_bits=bits).settings.scheme, monkeypatch)
    assert {module.quant_max for module in network.weights()} == {2 ** (bits - 1) - 1}
    check_converted(network)
    found = weights(convert(network).module)
    assert len(found) > 6 and all(value.abs().max() == 2 ** (bits - 1) - 1 for value, _ in found)


def test_one_scale_a_tensor_is_the_scheme(monkeypatch):
    """The weights with their norms folded in: one scale for all channels, though simulated before the norm."""
    channel = weights(convert(settled(Stack)[1]).module)
    network = prepared(Stack, QATHook(weights='tensor').settings.scheme, monkeypatch)
    check_converted(network)
    tensor = weights(convert(network).module)
    assert len(channel) == len(tensor) == 6  # stem, depthwise, grouped, last, and two of the head
    assert [len(scale.unique()) for _, scale in channel] == [16, 16, 16, 8, 8, 5]
    assert [len(scale.unique()) for _, scale in tensor] == [1] * 6
    for (_, one), (integers, other) in zip(channel, tensor, strict=True):
        assert torch.isclose(one.max(), other.max(), rtol=1e-6)  # the channel with the largest weight decides
        assert integers.abs().max() == 127 and integers.abs().amax((1, 2, 3)).min() < 127


def test_an_override_is_the_scheme(monkeypatch):
    network = prepared(GateParts, Scheme(overrides={'backbone.deep': 7, 'backbone.aspp': 'float'}), monkeypatch)
    found = {module.name.removeprefix('backbone.'): module.quant_max for module in network.weights()}
    assert found['deep.weight'] == 63 and found['stem.weight'] == found['gate.weight'] == 127
    assert 'aspp.weight' not in found
    check_converted(network)


def weights(module):
    """The integers and scales of a converted network's weights, without norms and pools, which have one magnitude."""
    dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
    nodes = [node for node in module.graph.nodes if node.target is dequantize]
    found = [[getattr(module, str(argument.target)) for argument in node.args[:2]] for node in nodes]
    return [(value, scale) for value, scale in found if len(value.abs().unique()) > 1]


# -- one home


def test_all_that_rounds_takes_its_scheme():
    """No quantizer is made without one, and no other module knows the largest integers."""
    calls, numbers = [], []
    for path in sorted((ROOT / 'frostnet_mm').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') in (
                'WeightFakeQuantize',
                'ActivationFakeQuantize',
            ):
                calls.append((path.name, len(node.args) + len(node.keywords)))
            if isinstance(node, ast.Constant) and node.value in (127, 63) and 'quantization' in path.parts:
                numbers.append((path.name, node.lineno))
    assert calls and all(count > 0 for _, count in calls)
    assert {name for name, _ in numbers} == {'scheme.py'}, numbers


def test_a_scheme_needs_neither_torch_nor_torchao():
    code = (
        'import importlib.util, sys, types\n'
        'for name in ("frostnet_mm", "frostnet_mm.quantization", "frostnet_mm.device"):\n'
        '    package = sys.modules[name] = types.ModuleType(name)\n'
        f'    package.__path__ = [{str(ROOT)!r} + "/" + name.replace(".", "/")]\n'
        'from frostnet_mm.quantization.scheme import Scheme\n'
        'heavy = [name for name in ("torch", "torchao", "mmengine") if name in sys.modules]\n'
        'print(Scheme.preset("executorch").activation_range, heavy)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == '(-128, 127) []\n'


def test_a_network_says_its_scheme():
    assert isinstance(settled(GateParts)[1], QuantizedNetwork) and settled(GateParts)[1].scheme == Scheme()
