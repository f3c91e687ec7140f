"""The captured graph against the network that it stands for; conversion against the simulation."""

import copy
import sys
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from frostnet_mm.models import UnsupportedModelError
from frostnet_mm.quantization import (
    DenseQuantizer,
    QuantizationError,
    QuantizationSettings,
    QuantizedNetwork,
    RangeError,
    Scheme,
    convert,
)
from frostnet_mm.quantization.calibration import calibrate
from frostnet_mm.quantization.capture import capture, without_sync_batchnorm
from frostnet_mm.quantization.convert import fold
from frostnet_mm.quantization.fake_quantize import ActivationFakeQuantize
from frostnet_mm.quantization.hook import reduce_ranges

SHAPE = (2, 3, 40, 56)


class Block(nn.Module):
    """What detectors are made of: convolutions with and without batch norm, add, concat, pool, resize, dropout."""

    def __init__(self, eps=1e-3, momentum=0.03):
        super().__init__()
        norm = dict(eps=eps, momentum=momentum)
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, **norm)
        self.depthwise = nn.Conv2d(8, 8, 5, 1, 2, groups=8, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(8, **norm)
        self.project, self.project_bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, **norm)
        self.up, self.up_bn = nn.ConvTranspose2d(16, 8, 2, 2, bias=False), nn.BatchNorm2d(8, **norm)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = functional.relu_(self.stem_bn(self.stem(x)))
        y = functional.relu6(self.depthwise_bn(self.depthwise(x)))
        y = self.project_bn(self.project(y))
        y += x
        small = functional.max_pool2d(y, 2, ceil_mode=True)
        large = functional.interpolate(small, size=y.shape[2:], mode='bilinear', align_corners=False)
        y = functional.relu(self.up_bn(self.up(torch.cat([y, large], 1))))
        return self.out(self.dropout(y))


class Dense(nn.Module):
    """Stands in for a DenseNetwork."""

    head_name = 'head'

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.head = Block(**options)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # factors of both signs, biases, statistics that are not 0 and 1
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.running_mean)

    def forward(self, images):
        return (self.head(images),), []


def images(seed=1, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@lru_cache
def captured(numerics, options, eps):
    dense = Dense(eps=eps)
    settings = QuantizationSettings.of(numerics, **dict(options))
    quantizer = DenseQuantizer(settings.scheme, settings.averaging_constant, settings.learned_scales)
    return dense, QuantizedNetwork(dense, quantizer, (2, 3, 136, 184))


def make(numerics='onnx', options=(), eps=1e-3):
    """A network and its quantized form; captured once a kind, for that takes seconds."""
    return copy.deepcopy(captured(numerics, tuple(options), eps))


def gather_ranges(dense, network):
    dense.train()
    network.train().observe(True)
    network.simulate(True)
    for seed in range(4):
        network.flat(images(seed))
    dense.eval()
    return network.eval()


@pytest.fixture(scope='module')
def pair():
    dense, network = make()
    gather_ranges(dense, network)
    return dense, network


def test_parameters_and_statistics_are_the_networks_own(pair):
    dense, network = pair
    assert [name for name, _ in network.named_parameters()] == []
    assert set(network.state_dict()) == {
        f'{name}.{end}'
        for name in (
            'images',
            'head.stem.output',
            'head.depthwise.output',
            'head.project.output',
            'head.add',
            'head.cat',
            'head.up.output',
        )
        for end in ('min_val', 'max_val')
    }
    before = network.flat(images())[0]
    with torch.no_grad():
        dense.head.out.bias.add_(3.0)
        after = network.flat(images())[0]
        dense.head.out.bias.sub_(3.0)
    torch.testing.assert_close(after, before + 3, rtol=0, atol=1e-3)  # the bias moves in steps of the accumulator
    # moving a module replaces its buffers by others: the graph must see them
    other_dense, other = copy.deepcopy((dense, network))
    other_dense._apply(lambda tensor: tensor.clone())
    with torch.no_grad():
        other_dense.head.up_bn.running_mean.add_(5.0)
        assert (other.flat(images())[0] - before).abs().max() > 0.1


@pytest.mark.parametrize('eps', [1e-3, 1e-5])
def test_float_mode_trains_as_the_network_does(eps):
    """Outputs, gradients, running statistics and counters; torchao's own preparation resets eps and momentum."""
    dense, network = make(eps=eps)
    other = copy.deepcopy(dense).train()
    dense.train()
    network.train().simulate(False)
    torch.manual_seed(5)  # of the dropout
    found = network.flat(images())[0]
    torch.manual_seed(5)
    expected = other(images())[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.square().mean().backward()
    expected.square().mean().backward()
    for (name, one), two in zip(dense.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6, msg=name)
    for (name, one), two in zip(dense.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6, msg=name)
    assert int(dense.head.up_bn.num_batches_tracked) == 1


def test_modes():
    dense, network = make()
    gather_ranges(dense, network)
    network.simulate(False)
    x = images()
    torch.testing.assert_close(network.flat(x)[0], dense(x)[0][0], rtol=1e-4, atol=1e-5)
    assert torch.equal(network.flat(x)[0], network.flat(x)[0])  # evaluation: no dropout, no statistics

    copied_dense, copied = copy.deepcopy((dense, network))  # as an exponential moving average does
    copied_dense.train()
    copied.train()
    assert not torch.equal(copied.flat(x)[0], copied.flat(x)[0])  # dropout
    assert torch.equal(network.flat(x)[0], network.flat(x)[0])
    zeros = []
    copied_dense.head.out.weight.data.zero_()  # then the output is the bias: dropout is seen in its input only
    copied_dense.head.out.weight.data[0, 0] = 1.0
    copied.freeze_norms = True
    for _ in range(40):
        y = copied.flat(x)[0][:, 0] - copied_dense.head.out.bias[0]
        zeros.append((y == 0).float().mean().item())
    copied_dense.eval()
    copied.eval()
    kept = 1 - ((copied.flat(x)[0][:, 0] - copied_dense.head.out.bias[0]) == 0).float().mean().item()
    assert 1 - sum(zeros) / 40 == pytest.approx(0.8 * kept, abs=0.02)  # p stays 0.2

    dense.train()
    network.train()
    network.freeze_norms = True
    before = copy.deepcopy(dict(dense.named_buffers()))
    network.flat(x)[0].sum().backward()
    for name, value in dense.named_buffers():
        assert torch.equal(value, before[name]), name
    assert dense.head.stem_bn.weight.grad is not None


@pytest.mark.parametrize('shape', [(1, 3, 40, 56), (3, 3, 17, 90), (1, 3, 200, 33)])
def test_any_batch_size_height_and_width(pair, shape):
    dense, network = pair
    network.simulate(False)
    x = images(shape=shape)
    torch.testing.assert_close(network.flat(x)[0], dense(x)[0][0], rtol=1e-4, atol=1e-5)
    network.simulate(True)
    assert network.flat(x)[0].shape == dense(x)[0][0].shape


@pytest.mark.parametrize(
    ('numerics', 'options', 'eps'),
    [
        ('onnx', {}, 1e-3),
        ('onnx', {}, 1e-5),
        ('executorch', {}, 1e-3),
        ('onnx', dict(quantize_outputs=True), 1e-3),
        ('onnx', dict(float_modules=('head.depthwise',)), 1e-3),
        ('executorch', dict(learned_scales=True), 1e-3),
    ],
)
def test_converted_equals_simulated(numerics, options, eps):
    dense, network = make(numerics, options.items(), eps)
    gather_ranges(dense, network)
    if options.get('learned_scales'):
        network.start_learning()
    x = images(9)
    with torch.no_grad():
        simulated = network.flat(x)[0]
        state = copy.deepcopy(network.state_dict())
        converted = convert(network)
        found = converted.flat(x)[0]
        again = network.flat(x)[0]
    assert torch.equal(simulated, again)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    step = float(simulated.abs().max()) / 255
    assert (found - simulated).abs().max() <= 1.01 * step
    assert ((found - simulated).abs() > 1e-5).float().mean() <= 1e-3
    network.simulate(False)
    assert (network.flat(x)[0] - simulated).abs().max() > 1e-4  # quantization does something
    targets = [str(node.target) for node in converted.module.graph.nodes]
    assert not any('batch_norm' in target for target in targets)  # folded, in layers that stay float too
    weights = [value for value in converted.module.buffers() if value.dtype == torch.int8]
    assert len(weights) == 5 - bool(options.get('float_modules'))
    assert all(weight.abs().max() == 127 for weight in weights if not options.get('learned_scales'))


def test_folded_convolutions_equal_batch_norms(pair, monkeypatch):
    """Without rounding, folding is exact to float precision."""
    dense, network = pair
    for module in ('folding', 'convert'):  # by name: the package has a function convert too
        monkeypatch.setattr(sys.modules[f'frostnet_mm.quantization.{module}'], 'rounded_bias', lambda bias, *_: bias)
    network.simulate(True)
    folded = fold(network)
    x = images(3)
    with torch.no_grad():
        simulated = network.flat(x)[0]
        torch.testing.assert_close(folded(x)[0], simulated, rtol=1e-5, atol=1e-5)
    network.simulate(False)
    for module in folded.modules():
        if isinstance(module, ActivationFakeQuantize):
            module.simulating = False
        elif hasattr(module, 'simulating'):
            module.simulating = False
    # the folded weights are the rounded ones; put the rounded weights into the network too
    rounded = copy.deepcopy(dense)
    with torch.no_grad():
        for quantizer, weight in network.weight_nodes():
            quantizer.simulating = True
            name = next(name for name, value in dense.named_parameters() if value is weight)
            rounded.get_parameter(name).copy_(quantizer(weight))
        torch.testing.assert_close(folded(x)[0], rounded(x)[0][0], rtol=1e-5, atol=1e-5)
    network.simulate(True)


def test_converted_weights_by_hand(pair):
    """The integers and scales of one convolution from its weight and its batch norm."""
    dense, network = pair
    converted = convert(network)
    conv, norm = dense.head.stem, dense.head.stem_bn
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    scale = conv.weight.abs().amax((1, 2, 3)) / 127
    integers = (conv.weight / scale.view(-1, 1, 1, 1)).round() * factor.sign().view(-1, 1, 1, 1)
    names = dict(converted.module.named_buffers())
    (weight,) = (v for v in names.values() if v.dtype == torch.int8 and v.shape == conv.weight.shape)
    assert torch.equal(weight.float(), integers)
    assert any(torch.allclose(v, scale * factor.abs(), rtol=1e-5) for v in names.values() if v.shape == scale.shape)
    # the bias lies on the grid of the accumulator: scale of the images times that of the weight
    inputs = network.get_submodule('images')
    step = (inputs.max_val - inputs.min_val) / 255 * scale * factor.abs()
    bias = ((norm.bias - norm.running_mean * factor) / step).round() * step
    assert any(torch.allclose(v, bias, rtol=1e-6, atol=0) for v in names.values() if v.shape == bias.shape)


def test_presets_differ_in_type_and_in_the_scales_of_a_concat():
    counts = {}
    for numerics in ('onnx', 'executorch'):
        dense, network = make(numerics)
        converted = convert(gather_ranges(dense, network))
        concat = next(node for node in converted.module.graph.nodes if 'cat' in str(node.target))
        scales = {source.args[1] for source in concat.args[0]}
        after = next(iter(concat.users))
        types = {q.args[-1] for q in converted.module.graph.nodes if 'quantize_per_tensor' in str(q.target)}
        counts[numerics] = (len(scales | {after.args[1]}), types)
    assert counts['executorch'] == (1, {torch.int8})
    assert counts['onnx'][0] > 1 and counts['onnx'][1] == {torch.uint8}


def test_fingerprint_tells_graphs_apart():
    prints = [
        make('onnx')[1].program.fingerprint,
        make('executorch')[1].program.fingerprint,
        make('onnx', [('quantize_outputs', True)])[1].program.fingerprint,
        make('onnx', [('float_modules', ('head.depthwise',))])[1].program.fingerprint,
        make('onnx', eps=1e-5)[1].program.fingerprint,
    ]
    assert len(set(prints)) == 5
    captured.cache_clear()
    assert make('onnx')[1].program.fingerprint == prints[0]


def test_ranges_that_cannot_be_used_are_named_at_conversion():
    dense, network = make()
    network.eval()
    with pytest.raises(RangeError, match='head.stem.output has no range.*calibrate'):
        convert(network)
    gather_ranges(dense, network)
    network.get_submodule('head.add').max_val.fill_(float('nan'))
    with pytest.raises(RangeError, match='^The range of head.add is not a number') as error:
        convert(network)
    assert 'stem' not in str(error.value)


def test_options_are_checked():
    with pytest.raises(QuantizationError, match="numerics='tflite'.*'onnx' for onnxruntime, openvino"):
        QuantizationSettings.of('tflite')


def test_ranks_take_the_smallest_minimum_and_the_largest_maximum(pair, monkeypatch):
    network = copy.deepcopy(pair[1])
    names = [module.name for module in network.activations()]
    other = {name: (-float(index), float(index) / 2) for index, name in enumerate(names)}

    def all_reduce(ends, op):
        """The maximum over this rank and one that has seen ``other``."""
        assert op == 'max'
        theirs = torch.tensor([value for name in names for value in (-other[name][0], other[name][1])])
        ends.copy_(torch.maximum(ends, theirs))

    own = {m.name: (float(m.min_val), float(m.max_val)) for m in network.activations()}
    monkeypatch.setattr('frostnet_mm.quantization.hook.all_reduce', all_reduce)
    reduce_ranges(network)
    for module in network.activations():
        (low, high), (other_low, other_high) = own[module.name], other[module.name]
        assert (float(module.min_val), float(module.max_val)) == (min(low, other_low), max(high, other_high))


def test_synchronized_batch_norm_is_refused_or_replaced():
    dense = Dense()
    norm = dense.head.stem_bn = nn.SyncBatchNorm(8)
    with pytest.raises(UnsupportedModelError, match='head.stem_bn is a SyncBatchNorm.*expected BatchNorm2d'):
        capture(dense)
    without_sync_batchnorm(dense)  # on one device; the optimizer knows the parameters by identity
    assert not isinstance(dense.head.stem_bn, nn.SyncBatchNorm) and dense.head.stem_bn.weight is norm.weight


def test_an_image_size_that_the_graph_is_bound_to_is_named(pair):
    network = copy.copy(pair[1])
    network.program = SimpleNamespace(fixed_size=(None, 3, 320, None))
    with pytest.raises(ValueError, match=r"\(2, 3, 40, 56\) were given.*\('any', 3, 320, 'any'\)"):
        network.flat(images())


def test_calibration_methods_by_hand():
    """The range of the images themselves, which is known."""
    dense, network = make()
    dense.eval()
    network.eval()
    batches = [images(seed, (1, 3, 40, 56)) * (seed + 1) for seed in range(3)]
    tensor, found = network.get_submodule('images'), {}
    for method in ('minmax', 'average', 'percentile', 'histogram'):
        assert calibrate(network, batches, method, percentile=99.0) == 3
        found[method] = float(tensor.min_val), float(tensor.max_val)
    lows, highs = [float(x.min()) for x in batches], [float(x.max()) for x in batches]
    assert found['minmax'] == (min(lows), max(highs))
    assert found['average'] == (pytest.approx(sum(lows) / 3), pytest.approx(sum(highs) / 3))
    inner = [torch.quantile(x, torch.tensor([0.01, 0.99])).tolist() for x in batches]
    assert found['percentile'] == pytest.approx([sum(end) / 3 for end in zip(*inner, strict=True)])
    x = torch.cat(batches)

    def error(low, high):
        quantizer = ActivationFakeQuantize(Scheme())
        quantizer.set_range(low, high)
        return float((quantizer.eval()(x) - x).square().mean())

    assert error(*found['histogram']) <= 1.05 * min(error(*found[method]) for method in found)
    assert not network.get_submodule('images').observing and network.simulating
    with pytest.raises(QuantizationError, match='no image to calibrate with'):
        calibrate(network, [])
    with pytest.raises(QuantizationError, match="method='max' was given; expected one of 'minmax', 'average'"):
        calibrate(network, batches, 'max')


@pytest.mark.parametrize('method', ['minmax', 'average', 'percentile', 'histogram'])
@pytest.mark.parametrize(('bad', 'index'), [(float('nan'), 0), (float('inf'), 1)])
def test_an_image_that_is_not_a_number_is_named(method, bad, index):
    _, network = make()
    network.eval()
    batches = [images(seed, (1, 3, 40, 56)) for seed in range(3)]
    batches[index][0, 0, 0, 0] = bad
    names = ['a.png', 'b.png', 'c.png']
    with pytest.raises(RangeError, match=f'^{names[index]}: its values are NaN or infinite after preprocessing'):
        calibrate(network, batches, method, names=names)


def test_a_layer_that_is_not_a_number_is_named():
    dense, network = make()
    network.eval()
    with torch.no_grad():
        dense.get_parameter('head.stem.weight')[0, 0, 0, 0] = float('nan')
    with pytest.raises(RangeError, match=r'^Batch 1: the values of head\.stem\.output are NaN or infinite on it'):
        calibrate(network, [images(0, (1, 3, 40, 56))])
