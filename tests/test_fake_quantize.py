"""Rounding, gradients and ranges against torch's own operators and hand calculations."""

import math

import pytest
import torch
from torch.nn import functional

from frostnet_mm.quantization.errors import RangeError
from frostnet_mm.quantization.fake_quantize import ActivationFakeQuantize, WeightFakeQuantize
from frostnet_mm.quantization.scheme import Scheme

SCHEMES = {torch.uint8: Scheme.preset('onnx'), torch.int8: Scheme.preset('executorch')}
TYPES = [(torch.uint8, 0, 255), (torch.int8, -128, 127)]


def with_range(dtype, low, high, **options):
    quantizer = ActivationFakeQuantize(SCHEMES[dtype], **options)
    quantizer.name = 'backbone.stem'
    quantizer.set_range(low, high)
    quantizer.observing = False
    return quantizer


@pytest.mark.parametrize(('dtype', 'qmin', 'qmax'), TYPES)
@pytest.mark.parametrize(
    ('rectify', 'reference', 'low'),
    [(None, lambda x: x, -2.3), ((0, math.inf), functional.relu, 0.0), ((0, 6.0), functional.relu6, 0.0)],
)
def test_activation_equals_torchs_operator_bit_for_bit(dtype, qmin, qmax, rectify, reference, low):
    quantizer = with_range(dtype, low, 5.1)
    if rectify:
        quantizer.rectify(*rectify)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100_000, generator=generator) * 3
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    scale, zero_point = quantizer.calculate_qparams()
    found = quantizer(one)
    expected = torch.fake_quantize_per_tensor_affine(reference(two), float(scale), int(zero_point), qmin, qmax)
    assert torch.equal(found, expected)
    assert len(found.unique()) > 200  # of 256 levels
    gradient = torch.randn(x.shape, generator=generator)
    found.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(one.grad, two.grad)
    assert 0 < (one.grad == 0).float().mean() < 0.9  # some lie out of range, and some do not


def test_scale_and_zero_point_by_hand():
    scale, zero_point = with_range(torch.uint8, -1.0, 4.1).calculate_qparams()
    assert (float(scale), int(zero_point)) == (pytest.approx(0.02), 50)
    scale, zero_point = with_range(torch.int8, -1.0, 4.1).calculate_qparams()
    assert (float(scale), int(zero_point)) == (pytest.approx(0.02), -78)
    scale, zero_point = with_range(torch.uint8, 1.0, 5.1).calculate_qparams()  # 0 must be representable: padding
    assert (float(scale), int(zero_point)) == (pytest.approx(0.02), 0)


@pytest.mark.parametrize('axis', [0, 1])
def test_weight_equals_torchs_operator_bit_for_bit(axis):
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    quantizer = WeightFakeQuantize(Scheme(), ch_axis=axis)
    dims = [d for d in range(4) if d != axis]
    scale = weight.detach().abs().amax(dims) / 127
    found = quantizer(weight)
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight.detach(), scale, zeros, axis, -127, 127)
    # torch multiplies by 1 / scale, ours divides: the nearest step of what conversion divides by too
    assert ((found - expected).abs() / scale.view([-1 if d == axis else 1 for d in range(4)])).max() <= 1.0001
    assert (found != expected).float().mean() < 0.01
    found.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_a_factor_a_channel_drops_out_of_the_rounding():
    """What lets a batch norm be folded after training: round(w * s) / s = round(w), for factors of both signs."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(8, 4, 3, 3, generator=generator)
    factor = torch.tensor([1e-3, 0.5, 1.0, 3.0, 100.0, -0.25, -1.0, -7.0]).view(-1, 1, 1, 1)
    quantizer = WeightFakeQuantize(Scheme())
    torch.testing.assert_close(quantizer(weight * factor) / factor, quantizer(weight), rtol=1e-6, atol=0)


def test_range_is_the_moving_average_of_the_batches():
    quantizer = ActivationFakeQuantize(Scheme(), averaging_constant=0.1)
    quantizer.simulating = False
    for low, high in ((-1.0, 2.0), (-3.0, 1.0), (0.5, 5.0)):
        quantizer(torch.tensor([low, high, (low + high) / 2]))
    low = 0.9 * (0.9 * -1.0 + 0.1 * -3.0) + 0.1 * 0.0  # the third batch has no negative value
    high = 0.9 * (0.9 * 2.0 + 0.1 * 1.0) + 0.1 * 5.0
    assert (float(quantizer.min_val), float(quantizer.max_val)) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(('high', 'expected'), [(math.inf, 8.0), (6.0, 6.0)])
def test_range_behind_a_rectifier_is_that_of_its_result(high, expected):
    quantizer = ActivationFakeQuantize(Scheme())
    quantizer.rectify(0, high)
    quantizer(torch.tensor([-5.0, 1.0, 8.0]))
    assert (float(quantizer.min_val), float(quantizer.max_val)) == (0.0, expected)


def test_range_stays_in_evaluation_and_once_frozen():
    quantizer = with_range(torch.uint8, -1, 1)
    quantizer.observing = True
    quantizer.eval()(torch.tensor([100.0]))
    assert float(quantizer.max_val) == 1
    quantizer.observing = False
    quantizer.train()(torch.tensor([100.0]))
    assert float(quantizer.max_val) == 1
    quantizer.observing = True
    quantizer(torch.tensor([100.0]))
    assert float(quantizer.max_val) == pytest.approx(1 + 0.01 * 99)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ([], 'no image has passed'),
        ([[1.0, math.nan]], 'not a number'),
        ([[1.0, 2.0], [math.nan, 1.0], [1.0, 2.0]], 'not a number'),
        ([[-1.0, math.inf]], 'infinite'),
    ],
)
def test_a_range_that_cannot_be_used_names_its_layer(values, message):
    quantizer = ActivationFakeQuantize(Scheme())
    quantizer.name = 'neck.extra_layers.0.output'
    quantizer.simulating = False
    for batch in values:
        quantizer(torch.tensor(batch))
    with pytest.raises(RangeError, match=f'neck.extra_layers.0.output.*{message}|{message}.*'):
        quantizer.check_range()


def test_nothing_but_zeros_is_a_range_that_holds_0_to_1():
    quantizer = ActivationFakeQuantize(Scheme())
    quantizer(torch.zeros(2))
    quantizer.check_range()
    assert quantizer.dead and float(quantizer.calculate_qparams()[0]) == pytest.approx(1 / 255)
    assert torch.equal(quantizer.eval()(torch.tensor([0.0, 1.0, 2.0])), torch.tensor([0.0, 1.0, 1.0]))


@pytest.mark.parametrize(('dtype', 'qmin', 'qmax'), TYPES)
def test_learned_scale_has_lsqs_gradient(dtype, qmin, qmax):
    """Values and gradient of the input against torch's operator, that of the scale against Esser et al. 2020."""
    quantizer = with_range(dtype, -2.0, 3.1, learned_scales=True)
    assert torch.equal(quantizer(torch.ones(2)), with_range(dtype, -2.0, 3.1)(torch.ones(2)))  # not yet
    quantizer.start_learning()
    with torch.no_grad():
        quantizer.log_scale.add_(math.log(0.7))  # so that values saturate
    generator = torch.Generator().manual_seed(3)
    x, gradient = torch.randn(5000, generator=generator) * 2, torch.randn(5000, generator=generator)
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    scale = quantizer.log_scale.detach().exp().requires_grad_()
    zero_point = quantizer.calculate_qparams()[1].float().requires_grad_()
    factor = 1 / math.sqrt(x.numel() * qmax)
    found = quantizer(one)
    expected = torch._fake_quantize_learnable_per_tensor_affine(two, scale, zero_point, qmin, qmax, factor)
    torch.testing.assert_close(found, expected)
    found.backward(gradient)
    expected.backward(gradient)
    # between the last step and half a step beyond it, the paper's range has ended and torch's has not
    assert (~torch.isclose(one.grad, two.grad)).float().mean() < 0.005
    lowest, highest = qmin - float(zero_point), qmax - float(zero_point)
    v = x / scale.detach()
    slope = torch.where(v <= lowest, lowest, torch.where(v >= highest, highest, v.round() - v))  # equation 3
    expected = (gradient * slope).sum().reshape(1) * factor * scale.detach()  # d/d(log s) = s d/ds
    torch.testing.assert_close(quantizer.log_scale.grad, expected)


def test_learned_scales_of_weights_start_from_the_largest_and_learn():
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(4))
    quantizer, plain = WeightFakeQuantize(Scheme(), learned_scales=True), WeightFakeQuantize(Scheme())
    quantizer.make_learnable(weight)
    assert torch.equal(quantizer(weight), plain(weight))
    quantizer.start_learning(weight)
    torch.testing.assert_close(quantizer.scale(weight), weight.abs().amax((1, 2, 3)) / 127)
    torch.testing.assert_close(quantizer(weight), plain(weight))
    optimizer = torch.optim.Adam([quantizer.log_scale], lr=0.02)
    with torch.no_grad():
        quantizer.log_scale.add_(math.log(8))  # far too coarse: learning must bring the error down
    errors = []
    for _ in range(400):
        optimizer.zero_grad()
        error = (quantizer(weight) - weight).square().sum()
        errors.append(float(error.detach()))
        error.backward()
        optimizer.step()
    assert min(errors[-20:]) < 0.5 * errors[0]
