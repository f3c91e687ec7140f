"""Batch norms that no convolution takes up, and average pools, as depthwise convolutions of integers."""

import copy

import pytest
import torch
from segmenter_parts import EspParts, PreluParts, settled
from tiny_segmenter import images
from torch import nn
from torch.nn import functional

from frostnet_mm.quantization import Scheme, convert, float_operators, int8_share
from frostnet_mm.quantization.convert import fold
from frostnet_mm.quantization.fake_quantize import ActivationFakeQuantize, WeightFakeQuantize
from frostnet_mm.quantization.folding import norm_as_convolution, scale_with_room

NORM = 'backbone.norm'


@pytest.fixture(scope='module')
def pair():
    return settled(EspParts)


def called(module, *names):
    """The operators of a graph that have one of the names."""
    nodes = (node for node in module.graph.nodes if node.op == 'call_function')
    return [node for node in nodes if any(name in str(node.target) for name in names)]


def test_nothing_stays_in_float(pair):
    """Convolutions, of which four norms and the pool are depthwise ones, sums and concats: no MAC of float."""
    _, network = pair
    assert float_operators(network) == [] and int8_share(network) == 1.0
    names = [module.name for module in network.activations()]
    assert len(names) == len(set(names))
    # one quantizer a tensor, though the branches are read by a sum and the concat
    assert sum(name.startswith('backbone.branches') for name in names) == 3
    assert {'backbone.input.output', 'backbone.stem_norm.output', 'backbone.norm.output'} <= set(names)
    folded = fold(network)
    assert not called(folded, 'batch_norm', 'avg_pool', 'mul.Tensor')
    groups = [node.args[6] for node in called(folded, 'conv2d') if len(node.args) > 6]
    assert sorted(count for count in groups if count > 1) == [3, 3, 4, 4, 8, 16, 16, 32]


@pytest.mark.parametrize('numerics', ['onnx', 'executorch'])
def test_converted_equals_simulated(numerics):
    _, network = settled(EspParts, numerics=numerics)
    x = images(9)
    with torch.no_grad():
        simulated, converted = network.flat(x)[0], convert(network).flat(x)[0]
        network.simulate(False)
        plain = network.flat(x)[0]
    step = float(simulated.abs().max()) / 255
    assert (converted - simulated).abs().max() <= 1.01 * step
    assert ((converted - simulated).abs() > 1e-5).float().mean() <= 1e-3
    assert (plain - simulated).abs().max() > step  # rounding does something


def test_converted_norm_by_hand(pair):
    """Integers of ±127 and the scale |factor| / 127; the bias on the grid of the accumulator."""
    model, network = pair
    norm = model.get_submodule(NORM)
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    state = dict(convert(network).module.named_buffers())
    (integers,) = (v for name, v in state.items() if v.dtype == torch.int8 and v.shape == (32, 1, 1, 1))
    assert torch.equal(integers.flatten().float(), 127 * factor.sign())
    vectors = [v for v in state.values() if v.shape == (32,)]
    assert any(torch.allclose(v, factor.abs() / 127, rtol=1e-5) for v in vectors)
    inputs = network.get_submodule('backbone.cat_2')
    step = (inputs.max_val - inputs.min_val) / 255 * factor.abs() / 127
    bias = ((norm.bias - norm.running_mean * factor) / step).round() * step
    assert any(torch.allclose(v, bias, rtol=1e-6, atol=0) for v in vectors)


def test_simulated_training_computes_the_norm_itself(pair):
    """Batch statistics of the quantized input, the rectifier, rounding: by torch's own operators, with gradients."""
    model, network = copy.deepcopy(pair)
    model.train()
    network.train().observe(False)
    network.freeze_norms = False
    seen = {}
    for name in ('backbone.cat_2', 'backbone.norm.output'):
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, out))
    norm = copy.deepcopy(model.get_submodule(NORM))
    network.flat(images(4))[0].square().mean().backward()
    x = seen['backbone.cat_2'].detach()
    scale, zero_point = network.get_submodule('backbone.norm.output').calculate_qparams()
    y = functional.relu(norm.train()(x))
    expected = torch.fake_quantize_per_tensor_affine(y, float(scale), int(zero_point), 0, 255)
    assert ((seen['backbone.norm.output'] - expected).abs() > 1e-5).float().mean() < 1e-4
    own = model.get_submodule(NORM)
    torch.testing.assert_close(own.running_mean, norm.running_mean)
    torch.testing.assert_close(own.running_var, norm.running_var)
    for parameter in (own.weight, own.bias):  # of a channel that the rectifier lets through
        assert (parameter.grad != 0).float().mean() > 0.9


def test_factors_of_zero_keep_their_bias():
    """A bias of 0.5 is 0.5 in the steps of the accumulator, though the factor would make them infinitely small."""
    inputs = ActivationFakeQuantize(Scheme())
    inputs.set_range(-1.0, 1.0)
    factor, shift = torch.tensor([0.0, 0.0, 1e-30, -2.0]), torch.tensor([0.5, 0.0, -0.25, 1.0])
    weight, bias, quantizer = norm_as_convolution(factor, shift, inputs)
    scale, _ = quantizer.calculate_qparams()
    assert ((bias - shift).abs() <= 0.51 * scale * 2 / 255 + 1e-7).all()
    assert (scale > 0).all() and scale[3] == 2 / 127
    assert torch.equal((quantizer(weight).flatten() / scale).round(), torch.tensor([0.0, 0.0, 0.0, -127.0]))
    assert ((bias / (scale * 2 / 255)).abs() < 2**31).all()


def test_dead_channels_of_convolutions_keep_their_bias():
    """Weights of 0 have a scale of 1e-12, in which a bias of 1 is 10^14 steps: too many for 32 bits."""
    model, network = settled(EspParts)
    x = images(5)
    with torch.no_grad():
        model.backbone.last.weight[2] = 0
        model.backbone.last.bias[2] = 1.0
        network.get_submodule('backbone.last.output').set_range(-3.0, 3.0)
        values = []
        for run in (network.flat, convert(network).flat):
            network.get_submodule('backbone.last.output').register_forward_hook(lambda _, __, out: values.append(out))
            run(x)
    assert len(values) and (values[0][:, 2] - 1).abs().max() <= 6 / 255
    inputs = ActivationFakeQuantize(Scheme())
    inputs.set_range(0.0, 255.0)
    scales = scale_with_room(torch.tensor([1e-12, 0.1]), torch.tensor([1.0, 1.0]), inputs)
    assert scales[0] == pytest.approx(2.0**-30) and scales[1] == torch.tensor(0.1)
    assert scale_with_room(scales, None, inputs) is scales


def test_norms_in_float_modules_stay_float():
    _, network = settled(EspParts, float_modules=(NORM,))
    assert [(group.kind, group.modules) for group in float_operators(network)] == [
        ('batch_norm', (NORM,)),
        ('relu', ('backbone',)),
    ]
    folded = fold(network)
    assert len(called(folded, 'mul.Tensor')) == 1
    x = images(9)
    with torch.no_grad():
        assert torch.equal(network.flat(x)[0], convert(network).flat(x)[0])


def test_prelu_and_grouped_transposed_convolutions_are_reported():
    _, network = settled(PreluParts)
    found = {group.kind: group.modules for group in float_operators(network)}
    assert found == {
        'prelu': ('backbone.stem_slope', 'backbone.slope'),
        'conv_transpose2d': ('backbone.grouped_up',),
    }


class Pools(nn.Module):
    """Average pools of every kind."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        pool = functional.avg_pool2d
        even = pool(x, 3, 2, 1) + pool(x, 2) + pool(x, (1, 2), (2, 2)) + pool(x, 5, 2, 2, False, True, None)
        uneven = pool(x, 3, 2, 1, count_include_pad=False) + pool(x, 2, divisor_override=3) + pool(x, 2, ceil_mode=True)
        return (self.last(even + uneven + functional.avg_pool2d(x, 9, 2, 4)),)


def test_average_pools_that_are_convolutions():
    """Six of eight: not those that divide by other numbers at the edge."""
    _, network = settled(Pools)
    folded = fold(network)
    assert len(called(folded, 'avg_pool2d')) == 2
    weights = [value for value in folded.buffers() if value.dim() == 4 and value.shape[:2] == (8, 1)]
    assert sorted(tuple(weight.shape[2:]) for weight in weights) == [(1, 2), (2, 2), (2, 2), (3, 3), (5, 5), (9, 9)]
    sums = sorted(float(weight[0].sum()) for weight in weights)
    assert sums == pytest.approx([1, 1, 1, 1, 1, 4 / 3], rel=1e-5)  # a window of four that is divided by three
    for quantizer in (module for module in folded.modules() if isinstance(module, WeightFakeQuantize)):
        assert quantizer.fixed_scale is not None
    x = images(9)
    with torch.no_grad():
        simulated, converted = network.flat(x)[0], convert(network).flat(x)[0]
    step = float(simulated.abs().max()) / 255
    assert (converted - simulated).abs().max() <= 1.01 * step
    assert ((converted - simulated).abs() > 1e-5).float().mean() <= 1e-3
