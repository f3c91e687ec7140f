"""Graph rewrites for onnxruntime's stems and last convolutions: the same numbers, from fewer or faster operators."""

import importlib
import platform
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT, run_tool
from onnx import TensorProto, helper, numpy_helper

from frostnet_mm.benchmark.measure.machine import describe_machine
from frostnet_mm.deploy.onnx.rewrites.integer_matmul import integer_matmul
from frostnet_mm.deploy.onnx.rewrites.saturate_softmax import saturate_softmax
from frostnet_mm.deploy.onnx.rewrites.space_to_depth import rearranged, space_to_depth
from frostnet_mm.deploy.onnx.rewrites.untie_weights import untie_weights
from frostnet_mm.device import cpu_saturates, saturation_free_session

SCALE, ZERO = 0.02, 114


def network(shape, weight, options, quantized_result=True, behind=None):
    """Images, quantized, and one convolution in QDQ form with a bias."""
    rng = np.random.default_rng(1)
    count = len(weight)
    values = dict(
        scale=np.float32(SCALE), zero=np.uint8(ZERO), weight=weight, weight_scale=rng.uniform(1e-3, 2e-3, count),
        weight_zero=np.zeros(count, np.int8), bias=rng.normal(size=count),
        out_scale=np.float32(0.1), out_zero=np.uint8(90),
    )  # fmt: skip
    values = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in values.items()}
    nodes = [
        helper.make_node('QuantizeLinear', ['images', 'scale', 'zero'], ['q']),
        helper.make_node('DequantizeLinear', ['q', 'scale', 'zero'], ['dq']),
        helper.make_node('DequantizeLinear', ['weight', 'weight_scale', 'weight_zero'], ['w'], axis=0),
        helper.make_node('Conv', ['dq', 'w', 'bias'], ['y'], name='conv', **options),
    ]
    result = 'y'
    if behind:
        nodes.append(helper.make_node(behind, [result], ['r']))
        result = 'r'
    if quantized_result:
        nodes.append(helper.make_node('QuantizeLinear', [result, 'out_scale', 'out_zero'], ['z']))
        result = 'z'
    kind = TensorProto.UINT8 if quantized_result else TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info('images', TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(result, kind, list('nohw')),
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, 'network', ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def weights(*shape):
    return np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)


def run(model, images, optimized=False):
    options = saturation_free_session(onnxruntime.SessionOptions())
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return session.run(None, {'images': images})[0]


@pytest.mark.parametrize(
    'size, kernel, stride, pads, window',
    [
        ((32, 48), 3, 2, [1, 1, 1, 1], (2, 2)),  # FrostNet, MobileNet
        ((32, 32), 3, 2, [0, 0, 1, 1], (2, 2)),  # padded behind only, as TensorFlow does
        ((32, 32), 7, 2, [3, 3, 3, 3], (4, 4)),  # ResNet
        ((32, 48), 6, 2, [2, 2, 2, 2], (3, 3)),  # YOLOv5
        ((32, 48), 4, 4, [0, 0, 0, 0], (1, 1)),  # patches
        ((33, 48), 3, 3, [1, 0, 1, 0], (2, 1)),
        ((32, 32), 5, 2, [1, 2, 2, 1], (3, 3)),
    ],
)
def test_stems_of_blocks_are_the_same_bit_by_bit(size, kernel, stride, pads, window):
    weight = weights(8, 3, kernel, kernel)
    options = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
    model = network([1, 3, *size], weight, options)
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    assert space_to_depth(changed) == ['conv']
    onnx.checker.check_model(changed, full_check=True)
    (conv,) = (node for node in changed.graph.node if node.op_type == 'Conv')
    shapes = {value.name: tuple(value.dims) for value in changed.graph.initializer}
    assert shapes['conv:blocks/weight'] == (8, 3 * stride**2, *window)
    assert helper.get_node_attr_value(conv, 'strides') == [1, 1] and 'weight' not in shapes
    images = np.random.default_rng(2).uniform(-3, 3, (1, 3, *size)).astype(np.float32)
    expected = run(model, images)
    assert expected.shape == run(changed, images).shape and len(np.unique(expected)) > 50
    for optimized in (False, True):
        # sums of float32 in another order may fall to the other side of a tie; integers have no such thing
        reference = run(model, images, optimized)
        difference = np.abs(run(changed, images, optimized).astype(int) - reference)
        assert difference.max() <= (0 if optimized else 1) and (difference > 0).mean() < 1e-3
    assert space_to_depth(changed) == []


def test_blocks_by_hand():
    """Older versions of onnxruntime have no SpaceToDepth of integers: only floats are put together."""
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(1, 2, 4, 4)
    blocks = rearranged(pixels, 2)
    assert blocks.shape == (1, 8, 2, 2) and blocks[0, :, 0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]
    model = network([1, 3, 32, 48], weights(8, 3, 3, 3), dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    space_to_depth(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    (put,) = (node for node in model.graph.node if node.op_type == 'SpaceToDepth')
    assert put.input[0] == 'images' and 'q' not in makers


@pytest.mark.parametrize(
    'shape, options, channels',
    [
        ([1, 3, 33, 32], dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 3),  # an odd height
        ([1, 3, 'height', 'width'], dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 3),
        ([1, 3, 32, 32], dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]), 3),
        ([1, 3, 32, 32], dict(kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]), 3),
        ([1, 3, 32, 32], dict(kernel_shape=[3, 3], strides=[2, 2], dilations=[2, 2], pads=[2, 2, 2, 2]), 3),
        ([1, 3, 32, 32], dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad='SAME_UPPER'), 3),
        ([1, 8, 32, 32], dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 8),  # wide enough
        ([1, 3, 32, 32], dict(kernel_shape=[1, 1], strides=[4, 4], pads=[0, 0, 0, 0]), 3),  # skips pixels
    ],
)
def test_other_convolutions_read_no_blocks(shape, options, channels):
    kernel = options['kernel_shape'][0]
    model = network(shape, weights(8, channels, kernel, kernel), options)
    before = model.SerializeToString()
    assert space_to_depth(model) == [] and model.SerializeToString() == before


@pytest.mark.parametrize('shape', [[1, 24, 9, 7], [2, 24, 'height', 'width']])
def test_float_results_are_integer_products(shape):
    model = network(shape, weights(10, 24, 1, 1), dict(kernel_shape=[1, 1]), quantized_result=False)
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    assert integer_matmul(changed) == ['conv']
    assert [node.op_type for node in changed.graph.node] == [
        'QuantizeLinear', 'Transpose', 'MatMulIntegerToFloat', 'Transpose',
    ]  # fmt: skip
    images = np.random.default_rng(2).uniform(-3, 3, (shape[0], 24, 9, 7)).astype(np.float32)
    integers = np.clip(np.rint(images / np.float32(SCALE)) + ZERO, 0, 255) - ZERO  # by hand, in float64
    values = {value.name: numpy_helper.to_array(value).astype(float) for value in model.graph.initializer}
    sums = np.einsum('nchw,oc->nohw', integers, values['weight'][:, :, 0, 0])
    expected = sums * (SCALE * values['weight_scale'])[:, None, None] + values['bias'][:, None, None]
    for optimized in (True,) if cpu_saturates() else (False, True):  # its exact products are an optimization
        found = run(changed, images, optimized)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4 * np.abs(expected).max())
    assert integer_matmul(changed) == []


@pytest.mark.parametrize(
    'options, kernel, quantized, behind',
    [
        (dict(kernel_shape=[1, 1]), 1, True, None),  # an integer result
        (dict(kernel_shape=[1, 1]), 1, True, 'Relu'),
        (dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 3, False, None),
        (dict(kernel_shape=[1, 1], strides=[2, 2]), 1, False, None),
        (dict(kernel_shape=[1, 1], pads=[1, 1, 1, 1]), 1, False, None),
    ],
)
def test_other_convolutions_are_no_products(options, kernel, quantized, behind):
    model = network([1, 8, 12, 12], weights(4, 8, kernel, kernel), options, quantized, behind)
    before = model.SerializeToString()
    assert integer_matmul(model) == [] and model.SerializeToString() == before


def test_a_float_result_that_an_activation_reads_is_a_product():
    model = network([1, 8, 12, 12], weights(4, 8, 1, 1), dict(kernel_shape=[1, 1]), False, 'Sigmoid')
    images = np.random.default_rng(2).uniform(-3, 3, (1, 8, 12, 12)).astype(np.float32)
    expected = run(model, images)
    assert integer_matmul(model) == ['conv']
    np.testing.assert_allclose(run(model, images, optimized=True), expected, atol=1e-5)
    assert expected.std() > 0.1


def test_convolutions_of_one_weight_get_one_each():
    """Heads that run on every level: exact products are made under names of the weights, once for each operator."""
    model = network([1, 8, 12, 12], weights(8, 8, 3, 3), dict(kernel_shape=[3, 3], pads=[1] * 4))
    first = next(node for node in model.graph.node if node.op_type == 'Conv')
    end = model.graph.node.pop()  # rounds the result
    nodes = [
        helper.make_node('QuantizeLinear', ['y', 'out_scale', 'out_zero'], ['q2']),
        helper.make_node('DequantizeLinear', ['q2', 'out_scale', 'out_zero'], ['d2']),
        helper.make_node('Conv', ['d2', *first.input[1:]], ['y2'], name='second', kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node('QuantizeLinear', ['y2', *end.input[1:]], ['z']),
    ]
    model.graph.node.extend(nodes)
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    assert untie_weights(changed) == ['second'] and untie_weights(changed) == []
    onnx.checker.check_model(changed, full_check=True)
    read = [node.input[0] for node in changed.graph.node if node.op_type == 'DequantizeLinear']
    assert len(set(read)) == len(read) == 4  # images, q2, and a weight each
    images = np.random.default_rng(2).uniform(-3, 3, (1, 8, 12, 12)).astype(np.float32)
    expected = run(model, images)
    assert len(np.unique(expected)) > 50 and np.array_equal(run(changed, images), expected)
    difference = np.abs(run(changed, images, optimized=True).astype(int) - expected)  # opens where sums would saturate
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2


def test_rewrites_are_timed_one_after_the_other(tmp_path, capsys):
    path = tmp_path / 'network.onnx'
    onnx.save(
        network([1, 3, 32, 32], weights(8, 3, 3, 3), dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)), path
    )
    assert run_tool('studies/benchmark_rewrites', '--network', path, '--rounds', 2) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if ' ms' in line]
    assert len(lines) == 8 and [line for line in lines if '(1 operators)' in line] == [lines[5]]
    assert lines[5].startswith('+ space_to_depth')
    model = onnx.load(path)
    space_to_depth(model)
    onnx.save(model, path)
    assert run_tool('studies/benchmark_rewrites', '--network', path) != 0  # nothing to change


@pytest.mark.skipif('avx2' not in describe_machine()['flags'], reason='needs an x86 CPU with AVX2')
def test_peak_is_measured_for_each_instruction_set(capsys, monkeypatch):
    assert run_tool('studies/benchmark_peak', '--rounds', 2, '--loops', 100_000) == 0
    rows = [line.split('|') for line in capsys.readouterr().out.splitlines() if line.startswith('| ') and 'mm' in line]
    flags = describe_machine()['flags']
    expected = ['float', *(['float'] * ('avx512f' in flags)), 'INT8, exact', 'INT8, 16 bit sums']
    assert [row[1].strip() for row in rows] == [*expected, *(['INT8'] * sum(f.endswith('_vnni') for f in flags))]
    assert all(0 < float(row[3]) <= float(row[4]) for row in rows)
    monkeypatch.setenv('CC', 'no-such-compiler')
    assert run_tool('studies/benchmark_peak') != 0


@pytest.mark.skipif(platform.machine() not in ('x86_64', 'AMD64'), reason='assembles x86 instructions')
def test_every_instruction_assembles_whether_this_processor_has_it_or_not(tmp_path, monkeypatch):
    """On AVX2 alone too, so that a machine with AVX-VNNI is not the first to compile its loop."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools/studies'))
    peak = importlib.import_module('benchmark_peak')
    assert [i.flag for i in peak.INSTRUCTIONS if i.precision == 'INT8'] == ['avx_vnni', 'avx512_vnni']
    for index, instruction in enumerate(peak.INSTRUCTIONS):
        folder = tmp_path / str(index)
        folder.mkdir()
        program = peak.compile_loop(instruction, peak.find_compiler(), folder)
        code = subprocess.run(['objdump', '-d', str(program)], capture_output=True, text=True, check=True).stdout
        last = instruction.code.split()[-2]  # its name stands before its registers
        found = [line for line in code.splitlines() if f'{last} ' in line and f'%{instruction.register}' in line]
        assert len(found) >= peak.ACCUMULATORS, code
        if instruction.flag == 'avx_vnni':  # AVX512's form, which begins with byte 62, is another instruction set
            assert all(line.split('\t')[1].startswith('c4 ') for line in found), found


def test_softmax_saturates():
    """Of a range up to 0.84 the probability 0.9 is the last integer; onnxruntime alone makes 0 of it."""
    scale, zero = np.array(0.84 / 255, np.float32), np.array(0, np.uint8)
    given = np.array([[[219, 0]]], np.uint8)  # of a scale of 0.01: exp(2.19) : 1 is 0.9 : 0.1
    nodes = [
        helper.make_node('DequantizeLinear', ['given', 'step', 'zero'], ['x']),
        helper.make_node('Softmax', ['x'], ['y'], axis=-1, name='softmax'),
        helper.make_node('Reshape', ['y', 'shape'], ['z']),
        helper.make_node('QuantizeLinear', ['z', 'scale', 'zero'], ['integers']),
    ]
    constants = dict(step=np.array(0.01, np.float32), scale=scale, zero=zero, shape=np.array([1, 2], np.int64))
    graph = helper.make_graph(
        nodes,
        'softmax',
        [helper.make_tensor_value_info('given', onnx.TensorProto.UINT8, [1, 1, 2])],
        [helper.make_tensor_value_info('integers', onnx.TensorProto.UINT8, [1, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)
    found = []
    for _ in range(2):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
        found.append(session.run(None, dict(given=given))[0][0].tolist())
        assert saturate_softmax(model) == ['softmax'] * (len(found) == 1)
    assert found[1] == [255, 31] and found[0][0] == 0
