"""INT8 sums that saturate on x86 CPUs without VNNI: 7 bit weights, saturation-free products, and their warnings."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from segmenter_parts import settled
from tiny_segmenter import images
from torch import nn
from torch.nn import functional

from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.onnx.rewrites.integer_matmul import integer_matmul
from frostnet_mm.deploy.verification import verify
from frostnet_mm.deploy.verification.layers import compare_layers
from frostnet_mm.device import (
    SATURATION_FREE,
    DeploymentError,
    SaturationWarning,
    cpu_saturates,
    may_saturate,
    saturation,
    saturation_free_session,
    warn_of_saturation,
)
from frostnet_mm.models import CheckpointError
from frostnet_mm.quantization import Checkpoint, QATHook, QuantizationError, QuantizationSettings, convert
from frostnet_mm.quantization.hook import hook_options

SATURATES = pytest.mark.skipif(not cpu_saturates(), reason='needs an x86 CPU without VNNI')


class Stack(nn.Module):
    """Dense, strided, depthwise and grouped convolutions, a norm behind a concat, an average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.grouped = nn.Conv2d(16, 16, 5, 1, 2, groups=16), nn.Conv2d(16, 16, 1, groups=4)
        self.norm, self.last = nn.BatchNorm2d(32), nn.Conv2d(32, 8, 1)

    def forward(self, x):
        x = functional.relu(self.stem_norm(self.stem(x)))
        y = functional.relu(self.grouped(functional.relu(self.depthwise(x))))
        return (self.last(functional.avg_pool2d(functional.relu(self.norm(torch.cat([x, y], 1))), 3, 1, 1)),)


def integer_weights(module):
    """The integers of the converted network, quantized by hand from what its operators get."""
    found = {}
    quantize = torch.ops.quantized_decomposed.quantize_per_channel.default
    for node in module.graph.nodes:
        if node.target is torch.ops.quantized_decomposed.dequantize_per_channel.default:
            source = node.args[0]
            if source.target is quantize:
                source = source.args[0]
            value = getattr(module, str(source.target))
            found[str(source.target)] = value if not value.is_floating_point() else None
    return found


@pytest.mark.parametrize('bits, largest', [(8, 127), (7, 63)])
def test_weights_of_7_bits_are_63_at_most_and_simulated_as_they_are_converted(bits, largest):
    _, network = settled(Stack, weight_bits=bits)
    converted = convert(network)
    weights = integer_weights(converted.module)
    # a norm and an average pool are depthwise convolutions of one magnitude, which engines sum in 32 bits
    trained = {name: value for name, value in weights.items() if len(value.abs().unique()) > 1}
    assert len(weights) == 8 and len(trained) == 6  # stem, depthwise, grouped, last, and two of the head
    for name, value in trained.items():
        assert value.dtype == torch.int8
        peaks = value.int().abs().flatten(1).amax(1)
        assert (peaks == largest).all(), name  # a scale a channel: each reaches the end
    x = images(9)
    expected, found = network.flat(x)[0], converted.flat(x)[0]
    step = (expected.max() - expected.min()) / 255
    assert ((found - expected).abs() > 0.5 * step).float().mean() <= 1e-3


def test_fewer_bits_round_twice_as_coarsely():
    """Both from the same float weights; the distance to float grows by 127/63 for the weights' share of it."""
    (model, eight), (_, seven) = (settled(Stack, weight_bits=bits) for bits in (8, 7))
    exact = [module for module in model.backbone.modules() if isinstance(module, nn.Conv2d)]
    errors = []
    for network in (eight, seven):
        modules = {module.name: module for module in network.weights()}
        rounded = [modules[f'backbone.{name}.weight'] for name in ('stem', 'depthwise', 'grouped', 'last')]
        errors.append(
            [
                float((q(c.weight) - c.weight).detach().square().mean().sqrt())
                for q, c in zip(rounded, exact, strict=True)
            ]
        )
    ratios = np.divide(errors[1], errors[0])
    assert len(ratios) == 4 and np.all(np.abs(ratios - 127 / 63) < 0.35), ratios


def test_settings_and_hook_take_2_to_8():
    assert QuantizationSettings().scheme.weight_bits == 8
    hook = QATHook(weight_bits=7)
    assert hook.settings.scheme.weight_bits == 7 and hook_options(hook.settings)['scheme']['weight_bits'] == 7
    assert QATHook(**hook_options(hook.settings)).settings == hook.settings
    for wrong in (1, 9, '7', None):
        with pytest.raises(QuantizationError, match='weight_bits=.* was given, expected 2 to 8'):
            QATHook(weight_bits=wrong)


def test_checkpoints_load_with_other_bits_unless_their_scales_were_trained():
    _, network = settled(Stack, weight_bits=8)
    for learned in (False, True):
        settings = QuantizationSettings.of(learned_scales=learned, example_shape=(2, 3, 32, 48))
        written = Checkpoint({}, 'last.pth')
        written.quantize(network, settings, 'QAT')
        assert written.settings.scheme.weight_bits == 8
        meta = written.meta['quantization']
        older = dict(meta, settings={key: value for key, value in meta['settings'].items() if key != 'weight_bits'})
        checkpoint = Checkpoint(dict(meta=dict(quantization=older)), 'last.pth')  # made before there was a choice
        assert [checkpoint.settings_with(bits).scheme.weight_bits for bits in (None, 8)] == [8, 8]
        wanted = QuantizationSettings.of(learned_scales=learned, weight_bits=7)
        if learned:
            with pytest.raises(CheckpointError, match=r'last.pth was made with QATHook\(weight_bits=8\) and trained'):
                checkpoint.check(network, wanted)
            with pytest.raises(CheckpointError, match='last.pth was trained with learned_scales=True and weights of 8'):
                checkpoint.settings_with(7)
        else:
            checkpoint.check(network, wanted)
            assert checkpoint.settings_with(7).scheme.weight_bits == 7


# -- what engines make of it


def saturating(largest, channels=32, kernel=3):
    """One convolution of large weights of equal sign in pairs, on images near the top of their range."""
    rng = np.random.default_rng(0)
    weight = rng.integers(largest // 2, largest + 1, (16, channels, kernel, kernel)).astype(np.int8)
    weight[::2] *= -1
    out_scale = np.float32(channels * kernel * kernel * largest / 127 / 128)
    values = dict(
        scale=np.float32(1 / 255), zero=np.uint8(0), weight=weight, out_scale=out_scale, out_zero=np.uint8(128)
    )
    values |= dict(weight_scale=np.full(16, 1 / 127, np.float32), weight_zero=np.zeros(16, np.int8))
    nodes = [
        helper.make_node('QuantizeLinear', ['images', 'scale', 'zero'], ['q']),
        helper.make_node('DequantizeLinear', ['q', 'scale', 'zero'], ['d']),
        helper.make_node('DequantizeLinear', ['weight', 'weight_scale', 'weight_zero'], ['w'], axis=0),
        helper.make_node('Conv', ['d', 'w'], ['y'], kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4),
        helper.make_node('QuantizeLinear', ['y', 'out_scale', 'out_zero'], ['r']),
        helper.make_node('DequantizeLinear', ['r', 'out_scale', 'out_zero'], ['z']),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, 12, 12])
        for name, count in (('images', channels), ('z', 16))
    ]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, 'network', ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model, rng.uniform(0.5, 1, (1, channels, 12, 12)).astype(np.float32)


@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('name, largest', [('onnxruntime', 127), ('onnxruntime', 63), ('openvino', 63)])
def test_engines_are_exact_on_every_cpu(name, largest, kernel):
    """onnxruntime with any weights, OpenVINO with weights of 7 bits; against unfused float operators."""
    model, x = saturating(largest, kernel=kernel)
    (images_, result) = compare_layers(model, x, engine_of(name).run_onnx)
    assert images_.steps == 0 and result.steps <= 1 and result.share <= 1e-3


def test_the_reference_side_of_the_comparison_does_not_saturate():
    """A product whose float result an activation reads and a quantizer rounds: wrong weights must not excuse it."""
    model, x = saturating(127, kernel=1)
    names = [node.output[0] for node in model.graph.node]
    sigmoid = helper.make_node('Sigmoid', ['y'], ['y2'])  # a Relu would belong to the convolution
    model.graph.node.insert(names.index('y') + 1, sigmoid)
    model.graph.node[names.index('r') + 1].input[0] = 'y2'
    constants = {value.name: value for value in model.graph.initializer}
    for name, value in (('out_scale', np.float32(1 / 255)), ('out_zero', np.uint8(0)), ('weight_scale', 1e-3)):
        value = np.full(16, value, np.float32) if name == 'weight_scale' else np.asarray(value)
        constants[name].CopyFrom(numpy_helper.from_array(value, name))  # small sums: the sigmoid does not saturate
    expected = compare_layers(model, x, engine_of('onnxruntime').run_onnx)[1]
    assert integer_matmul(model) and expected.steps == 0
    found = compare_layers(model, x, engine_of('onnxruntime').run_onnx)[1]
    assert (found.steps, found.count) == (0, 0)
    result = model.graph.output[0].name
    (values,) = engine_of('onnxruntime').run_onnx(model.SerializeToString(), x, [result])
    assert len(np.unique(values)) > 20  # a test of something


def fast_onnxruntime(model, images, names):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(SATURATION_FREE, '0')
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    return session.run(list(names), {'images': images})


@SATURATES
@pytest.mark.parametrize('name, run', [('onnxruntime', fast_onnxruntime), ('openvino', engine_of('openvino').run_onnx)])
def test_weights_of_8_bits_saturate_without_vnni(name, run):
    """Why all of this is there: the engines' own products are many steps off, and verification says what to do."""
    model, x = saturating(127)
    layers = compare_layers(model, x, run)
    failed = verify.failed_layers(layers)
    assert len(failed) == 1 and failed[0].steps > 5 and failed[0].share > 0.5
    with pytest.raises(DeploymentError, match='does not compute what was trained.*has no VNNI.*--weight-bits 7'):
        verify.require_agreement([], layers, engine_of(name), 8)


def test_a_deviation_for_another_reason_is_not_blamed_on_the_cpu(monkeypatch):
    wrong = [verify.LayerDifference('layer', 9, 100, 0.5)]
    for saturates, bits, blamed in ((True, 8, True), (True, 7, False), (False, 8, False), (None, 8, False)):
        monkeypatch.setattr(verify, 'cpu_saturates', lambda saturates=saturates: saturates)
        with pytest.raises(DeploymentError) as caught:
            verify.require_agreement([], wrong, engine_of('openvino'), bits)
        assert ('VNNI' in str(caught.value)) == blamed


# -- the CPU, and the predictor


@pytest.mark.parametrize(
    'text, expected',
    [
        ('processor : 0\nflags\t\t: fpu ssse3 avx2 fma\n', True),
        ('flags : fpu ssse3 avx2 avx512f avx512bw\n', True),  # Skylake
        ('flags : fpu ssse3 avx2 avx512f avx512_vnni\n', False),
        ('flags : fpu ssse3 avx2 avx_vnni\n', False),
        ('processor : 0\n', None),
    ],
)
def test_x86_cpus_are_told_apart_by_their_flags(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(saturation.platform, 'machine', lambda: 'x86_64')
    (tmp_path / 'cpuinfo').write_text(text)
    assert cpu_saturates(tmp_path / 'cpuinfo') is expected
    assert cpu_saturates(tmp_path / 'missing') is None
    monkeypatch.setattr(saturation.platform, 'machine', lambda: 'aarch64')
    assert cpu_saturates(tmp_path / 'cpuinfo') is False


def test_predictors_warn_where_sums_may_saturate(monkeypatch):
    monkeypatch.setattr(saturation, 'cpu_saturates', lambda: True)
    for engine, precision, numerics, expected in (
        ('openvino', 'int8', dict(weight_bits=8), True),
        ('openvino', 'int8', {}, True),  # deployed before there was a choice
        ('openvino', 'int8', dict(weight_bits=7), False),
        ('openvino', 'float', None, False),
        ('inductor', 'int8', dict(weight_bits=8), True),
        ('onnxruntime', 'int8', dict(weight_bits=8), False),
        ('executorch', 'int8', dict(weight_bits=8), False),
    ):
        description = dict(engine=engine, precision=precision, numerics=numerics)
        assert may_saturate(description) is expected
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            warn_of_saturation(description)
        assert [w.category for w in caught] == [SaturationWarning] * expected
    monkeypatch.setattr(saturation, 'cpu_saturates', lambda: None)
    assert not may_saturate(dict(engine='openvino', precision='int8', numerics={}))


def test_onnxruntime_takes_saturation_free_products_where_needed_unless_told_otherwise(monkeypatch):
    key = SATURATION_FREE
    for saturates in (True, None):
        monkeypatch.setattr(saturation, 'cpu_saturates', lambda saturates=saturates: saturates)
        assert saturation_free_session(onnxruntime.SessionOptions()).get_session_config_entry(key) == '1'
    own = onnxruntime.SessionOptions()
    own.add_session_config_entry(key, '0')
    assert saturation_free_session(own).get_session_config_entry(key) == '0'
    monkeypatch.setattr(saturation, 'cpu_saturates', lambda: False)  # they would be slower for nothing
    with pytest.raises(RuntimeError):
        saturation_free_session(onnxruntime.SessionOptions()).get_session_config_entry(key)
