"""Every preset with every granularity and some numbers of bits, simulated and on engines; the rules of TensorRT."""

import json

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, run_tool
from onnx import TensorProto, helper, numpy_helper
from segmenter_parts import EspParts, settled
from test_scheme import check_converted, prepared
from test_weight_bits import Stack
from tiny_segmenter import images

from frostnet_mm.deploy.engines import engine_names, engine_of
from frostnet_mm.deploy.flat_network import converted_network, traceable
from frostnet_mm.deploy.onnx.export import onnx_of, read_onnx
from frostnet_mm.deploy.onnx.tensorrt_rules import violations
from frostnet_mm.deploy.verification import verify
from frostnet_mm.device import DeploymentError
from frostnet_mm.device.predictor import main
from frostnet_mm.quantization import convert
from frostnet_mm.quantization.scheme import GRANULARITIES, PRESETS, Scheme


@pytest.mark.parametrize('bits', [8, pytest.param(7, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize('weights', GRANULARITIES)
@pytest.mark.parametrize('preset', PRESETS)
def test_simulated_converted_and_deployed_are_one(preset, weights, bits, monkeypatch, tmp_path):
    """Each layer on the engines that read ONNX, of the file as it is and as the engine has it rewritten: at most a step
    off in a thousandth of its elements.
    """
    scheme = Scheme.preset(preset).with_weights(bits, weights)
    network = prepared(Stack, scheme, monkeypatch)
    check_converted(network)
    model, _ = settled(Stack)
    flat = converted_network(model, convert(network))
    content = onnx_of(flat, images(7)[:1], False, None)
    readers = [engine for engine in map(engine_of, engine_names()) if engine.reads_onnx and engine.accepts(preset)]
    assert {'onnxruntime', 'openvino'} <= {engine.name for engine in readers}
    for engine in readers:
        (tmp_path / engine.name).mkdir()
        engine.write(flat, images(7)[:1], tmp_path / engine.name)
        for model in (onnx.load_from_string(content), read_onnx(tmp_path / engine.name)):
            if not engine.saturates(bits):
                layers = verify.check_layers(engine, model, traceable(flat), images(9)[:1].numpy())
                assert len(layers) >= 5 and not verify.failed_layers(layers), (engine.name, layers)


def test_a_symmetric_range_ends_where_quantizelinear_does(monkeypatch):
    """Beyond it: the reference, onnxruntime and a hand calculation clamp to -128, not to -127."""
    model, network = settled(Stack, numerics='tensorrt')
    flat = converted_network(model, convert(network))
    far = images(9)[:1] * 4
    loaded = onnx.load_from_string(onnx_of(flat, far, False, None))
    name = loaded.graph.input[0].name
    first = next(node for node in loaded.graph.node if node.op_type == 'QuantizeLinear' and node.input[0] == name)
    scale = next(numpy_helper.to_array(i) for i in loaded.graph.initializer if i.name == first.input[1])
    integers = np.clip(np.rint(far.numpy() / scale), -128, 127)
    assert integers.min() == -128 and integers.max() == 127
    quantizer = next(module for module in network.activations() if module.name == 'images')
    assert np.array_equal(quantizer(far).numpy(), (integers * scale).astype(np.float32))
    with torch.no_grad():
        (expected,) = flat(far)
    (found,) = engine_of('onnxruntime').run_onnx(loaded.SerializeToString(), far.numpy(), flat.names)
    assert np.abs(found - expected.numpy()).max() <= (expected.max() - expected.min()).item() / 255


# -- TensorRT


def network_of(numerics):
    model, network = settled(EspParts, numerics=numerics)
    return converted_network(model, convert(network))


def test_what_is_quantized_for_tensorrt_keeps_its_rules(tmp_path):
    engine, flat = engine_of('tensorrt'), network_of('tensorrt')
    assert engine.write(flat, images(7)[:1], tmp_path) == ['network.onnx']
    model = onnx.load(tmp_path / 'network.onnx')
    conversions = [node for node in model.graph.node if node.op_type in ('QuantizeLinear', 'DequantizeLinear')]
    zero_points = {i.name: i for i in model.graph.initializer}
    assert len(conversions) > 20
    for node in conversions:
        zero_point = zero_points[node.input[2]]
        assert zero_point.data_type == TensorProto.INT8 and not numpy_helper.to_array(zero_point).any()
    assert {node.domain for node in model.graph.node} == {''}
    with pytest.raises(DeploymentError, match=r'cannot be written for TensorRT: images/QuantizeLinear has the zero po'):
        engine.write(network_of('onnx'), images(7)[:1], tmp_path)


def graph_of(*nodes, **values):
    """A file with some initializers; x and y are feature maps (1, 4, 8, 8)."""
    fixed = dict(s=np.float32(0.1), z=np.int8(0), w=np.ones((4, 4, 1, 1), np.int8), f=np.ones((4, 4, 1, 1), np.float32))
    fixed |= dict(many=np.full(4, 0.1, np.float32), zeros=np.zeros(4, np.int8)) | values
    maps = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in 'xy']
    out = helper.make_tensor_value_info('out', TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in fixed.items()]
    graph = helper.make_graph(list(nodes), 'graph', maps, [out], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)])


def node(kind, inputs, output, **options):
    return helper.make_node(kind, inputs.split(), [output], name=f'{output}/{kind}', **options)


def quantized(source, name, scale='s', zero_point='z', **options):
    return [
        node('QuantizeLinear', f'{source} {scale} {zero_point}', f'{name}_q', **options),
        node('DequantizeLinear', f'{name}_q {scale} {zero_point}', name, **options),
    ]


WEIGHT = node('DequantizeLinear', 'w many zeros', 'weight', axis=0)


@pytest.mark.parametrize(
    ('nodes', 'values', 'expected'),
    [
        ([*quantized('x', 'a'), WEIGHT, node('Conv', 'a weight', 'out')], {}, []),
        ([*quantized('x', 'a'), *quantized('y', 'b'), node('Add', 'a b', 'out')], {}, []),
        (
            [*quantized('x', 'a'), node('Add', 'a y', 'out')],
            {},
            ['out/Add adds a quantized feature map to one in float'],
        ),
        ([WEIGHT, node('Conv', 'x weight', 'out')], {}, ['out/Conv has one quantized input of two']),
        ([*quantized('x', 'a'), node('Conv', 'a f', 'out')], {}, ['out/Conv has one quantized input of two']),
        (
            [
                *quantized('x', 'a'),
                node('DequantizeLinear', 'w many zeros', 'weight', axis=1),
                node('Conv', 'a weight', 'out'),
            ],
            {},
            ['out/Conv has weights (4, 4, 1, 1) with 4 scales along axis 1, not by output channel'],
        ),
        (
            [*quantized('x', 'out', zero_point='other')],
            dict(other=np.uint8(128)),
            [
                f'out{part} has the zero point uint8 with [128], not 0 in int8'
                for part in ('_q/QuantizeLinear', '/DequantizeLinear')
            ],
        ),
        (
            [*quantized('x', 'out', scale='many', zero_point='zeros', axis=1)],
            {},
            [
                f'out{part} quantizes a feature map by 4 scales, not by one'
                for part in ('_q/QuantizeLinear', '/DequantizeLinear')
            ],
        ),
        (
            [helper.make_node('QGemm', ['x'], ['out'], name='fast', domain='com.microsoft')],
            {},
            ['fast is com.microsoft.QGemm, not an operator of standard ONNX'],
        ),
        (
            [
                *quantized('x', 'a'),
                WEIGHT,
                node('DequantizeLinear', 'ib s iz', 'bias'),
                node('Conv', 'a weight bias', 'out'),
            ],
            dict(ib=np.ones(4, np.int32), iz=np.int32(0)),
            [
                'bias/DequantizeLinear has the zero point int32 with [0], not 0 in int8',
                'out/Conv has a quantized bias, not one in float',
            ],
        ),
    ],
)
def test_the_rules(nodes, values, expected):
    assert violations(graph_of(*nodes, **values)) == expected


def test_what_times_or_evaluates_refuses_it():
    from frostnet_mm.benchmark.cells import check_engines
    from frostnet_mm.benchmark.store import BenchmarkError
    from frostnet_mm.nas.errors import SearchError
    from frostnet_mm.nas.settings import SearchSettings

    with pytest.raises(
        (DeploymentError, BenchmarkError), match='tensorrt is not run by this project, so it cannot be mea'
    ):
        check_engines(['tensorrt'])
    with pytest.raises(SearchError, match="search.engine='tensorrt': expected one of onnxruntime, openvino"):
        SearchSettings.of(dict(engine='tensorrt'))


def test_a_model_is_deployed_by_the_tool(tmp_path, capsys):
    """deploy.json and both commands say what stands in; the values are those of the reference."""
    config = ROOT / 'configs/lraspp_frostnet_cityscapes.py'
    args = (config, 'random', '--engine', 'tensorrt', '--out', tmp_path / 'out', '--shape', 64, 64)
    assert run_tool('deploy', *args) == 0
    said = 'Written for tensorrt by its rules and verified on onnxruntime; it was not run on the engine itself.'
    assert said in capsys.readouterr().out
    description = json.loads((tmp_path / 'out/deploy.json').read_text())
    assert (
        description['verification']['layers']
        and description['not_run'] == said
        and description['operators'] == {}
        and description['int8_share'] > 0.9
    )
    assert main(['--folder', str(tmp_path / 'out'), '--check']) == 0
    out = capsys.readouterr().out
    assert f'onnxruntime computes on this machine what was deployed. {said}' in out and ' ms' not in out
