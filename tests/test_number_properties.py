"""Scales, zero points, rounding and saturation for ranges of any kind, against NumPy and against hand calculations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frostnet_mm.quantization.errors import RangeError
from frostnet_mm.quantization.fake_quantize import SMALLEST_SCALE, ActivationFakeQuantize, WeightFakeQuantize
from frostnet_mm.quantization.scheme import DTYPES, PRESETS, Scheme

LARGEST = 2.0**122  # of what trained ranges have; beyond, sums of two overflow
FLOATS = st.floats(-LARGEST, LARGEST, width=32)
#: Constant, negative only, positive only, denormal, huge, tiny beside huge: the ends of ranges in any order.
RANGES = st.one_of(
    st.tuples(FLOATS, FLOATS),
    st.tuples(st.floats(-10, 10, width=32), st.floats(-10, 10, width=32)),
    st.floats(-100, 100, width=32).map(lambda value: (value, value)),
    st.tuples(st.floats(-(2.0**-126), 2.0**-126, width=32), st.floats(-(2.0**-126), 2.0**-126, width=32)),
).map(sorted)
PRESET = st.sampled_from(sorted(PRESETS))
QUICK = settings(max_examples=150, deadline=None)


def quantizer_of(preset, low, high):
    quantizer = ActivationFakeQuantize(PRESETS[preset].scheme)
    quantizer.name, quantizer.observing = 'backbone.stem', False
    quantizer.set_range(low, high)
    return quantizer


def in_numpy(preset, low, high):
    """Scale and zero point of a range that is widened to contain 0, in float32."""
    scheme = PRESETS[preset].scheme
    smallest, largest = DTYPES[scheme.activation_dtype]
    low, high = np.float32(min(low, 0)), np.float32(max(high, 0))
    scale = max(-low, high) / np.float32(127) if scheme.activation_symmetric else (high - low) / np.float32(255)
    scale = max(np.float32(scale) if scale else np.float32(1 / 255), np.float32(SMALLEST_SCALE))
    if scheme.activation_symmetric:
        return scale, 0 if smallest < 0 else 128
    return scale, int(np.clip(smallest - np.rint(low / scale), smallest, largest))


@QUICK
@given(PRESET, RANGES)
@example('onnx', (0.0, 0.0))
@example('onnx', (-5.0, -1.0))
@example('onnx', (-1e-45, 1e-45))
@example('tensorrt', (-1e37, 1e-45))
def test_scale_and_zero_point(preset, ends):
    scale, zero_point = quantizer_of(preset, *ends).calculate_qparams()
    expected, zero = in_numpy(preset, *ends)
    smallest, largest = DTYPES[PRESETS[preset].scheme.activation_dtype]
    assert np.isclose(float(scale), expected, rtol=3e-7, atol=0) and 0 < float(scale) < math.inf
    assert abs(int(zero_point) - zero) <= 1 and smallest <= int(zero_point) <= largest  # a tie may fall either way


@QUICK
@given(PRESET, RANGES, st.integers(0, 2**32 - 1))
def test_rounded_values_lie_on_the_grid_and_saturate_at_its_ends(preset, ends, seed):
    quantizer = quantizer_of(preset, *ends)
    scale, zero_point = (value.item() for value in quantizer.calculate_qparams())
    smallest, largest = DTYPES[PRESETS[preset].scheme.activation_dtype]
    low, high = (np.float64(end - zero_point) * scale for end in (smallest, largest))
    span = max(abs(low), abs(high))
    x = np.random.default_rng(seed).uniform(-2, 2, 200) * span
    x = np.sort(np.concatenate([x, [0.0, low, high, *ends]])).astype(np.float32)
    found = quantizer(torch.from_numpy(x)).numpy().astype(np.float64)
    assert np.isfinite(found).all() and (np.diff(found) >= 0).all()  # as monotone as rounding is
    assert (found[x == 0] == 0).all()  # padding with zeros adds nothing
    steps = found / scale
    assert np.allclose(steps, np.rint(steps), atol=1e-3)
    assert found.min() >= low * (1 + 1e-6) - 1e-45 and found.max() <= high * (1 + 1e-6) + 1e-45
    inside = (x >= low) & (x <= high)
    assert (np.abs(found - x)[inside] <= scale * (0.5 + 1e-3)).all()
    assert np.allclose(found[x > high], high, rtol=1e-6) and np.allclose(found[x < low], low, rtol=1e-6)


@pytest.mark.parametrize(
    'low, high, message',
    [
        (math.nan, 1, 'is not a number'),
        (0, math.nan, 'is not a number'),
        (-math.inf, 1, 'is infinite'),
        (0, math.inf, 'is infinite'),
        (-3e38, 3e38, 'is infinite'),  # each end is a float32, their distance is none
        (math.inf, -math.inf, 'has no range'),
        (1, -1, 'is empty'),
    ],
)
def test_ranges_that_cannot_be_trusted_are_refused(low, high, message):
    quantizer = quantizer_of('onnx', 0, 1)
    quantizer.min_val.fill_(low)
    quantizer.max_val.fill_(high)
    with pytest.raises(RangeError, match=f'backbone.stem.* {message}|range of backbone.stem {message}'):
        quantizer.check_range()


@QUICK
@given(PRESET, RANGES)
def test_ranges_of_any_kind_that_are_finite_are_accepted(preset, ends):
    quantizer_of(preset, *ends).check_range()


@QUICK
@given(st.sampled_from([7, 8]), st.integers(-20, 20), st.lists(st.integers(-400, 400), min_size=1, max_size=30))
def test_ties_of_activations_and_weights_go_to_the_even_integer(bits, power, halves):
    """Of scales that are powers of two, so that every half is one: 0.5 to 0, 1.5 to 2, as ONNX and torch round."""
    step, most = 2.0**power, 2 ** (bits - 1) - 1
    weight = torch.tensor([[half / 2 * step for half in halves] + [most * step]])
    quantizer = WeightFakeQuantize(Scheme(weight_bits=bits))
    quantizer.fix(torch.tensor([step]))
    expected = np.clip(np.rint(np.array(halves) / 2), -most, most) * step
    assert np.array_equal(quantizer(weight)[0, :-1].detach().numpy(), expected)
    activation = quantizer_of('executorch', -128 * step, 127 * step)
    assert activation.calculate_qparams()[0].item() == step
    expected = np.clip(np.rint(np.array(halves) / 2), -128, 127) * step
    assert np.array_equal(activation(weight)[0, :-1].numpy(), expected)


@QUICK
@given(st.sampled_from([2, 4, 7, 8]), st.integers(0, 2**32 - 1), st.sampled_from([1e-38, 1e-6, 1.0, 1e6, 1e36]))
def test_weights_equal_numpy(bits, seed, size):
    rng, most = np.random.default_rng(seed), 2 ** (bits - 1) - 1
    weight = (rng.normal(0, size, (4, 3, 3, 3))).astype(np.float32)
    weight[1] = 0  # a dead channel
    scale = np.maximum(np.abs(weight).max((1, 2, 3)) / np.float32(most), np.float32(SMALLEST_SCALE))
    expected = np.clip(np.rint(weight / scale[:, None, None, None]), -most, most) * scale[:, None, None, None]
    found = WeightFakeQuantize(Scheme(weight_bits=bits))(torch.from_numpy(weight)).numpy()
    assert np.array_equal(found, expected)
    assert np.abs(np.rint(found / scale[:, None, None, None])).max() <= most


PAIRS = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=50)


@QUICK
@given(PAIRS, st.integers(0, 2**32 - 1))
def test_two_products_of_7_bits_fit_into_16_bits_whatever_they_are(activations, seed):
    """What x86 without VNNI adds: u8 by s8, two at a time, saturating (vpmaddubsw)."""
    rng, x = np.random.default_rng(seed), np.array(activations)
    for bits, fits in ((7, True), (8, False)):
        most = Scheme(weight_bits=bits).largest_weight()
        weights = rng.integers(-most, most + 1, x.shape)
        sums = (x * weights).sum(1)
        if fits:
            assert np.array_equal(np.clip(sums, -(2**15), 2**15 - 1), sums)
        assert (2 * 255 * most <= 2**15 - 1) == fits  # 32,130 and 64,770 at most
