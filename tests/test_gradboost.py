"""GradBoost against a scalar re-implementation in Python floats, its distribution against scipy's, resume and AMP."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.utils import apply_to
from scipy import stats

from frostnet_mm.engine.optimizers.boosts import last_boosted_step
from frostnet_mm.quantization import GradBoostAdam, GradBoostAdamW, GradBoostRMSprop, GradBoostSGD

# class, its base, arguments for the plain rule
CLASSES = {
    'SGD': (GradBoostSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    'RMSprop': (GradBoostRMSprop, torch.optim.RMSprop, dict(lr=0.1, alpha=0.99, weight_decay=0.01)),
    'Adam': (GradBoostAdam, torch.optim.Adam, dict(lr=0.1, betas=(0.9, 0.999), weight_decay=0.01)),
    'AdamW': (GradBoostAdamW, torch.optim.AdamW, dict(lr=0.1, betas=(0.9, 0.999), weight_decay=0.01)),
}
MODES = ('paper', 'reference')
CLIPS = {'paper': 0.02, 'reference': 0.8}  # between the boosts that the gradients below give
START = [0.4, -0.7, 0.2, -0.1]
GRADIENTS = [[0.5, -0.2, 0.0, 0.3], [-0.3, -0.4, 0.1, -0.2], [0.2, 0.6, 0.0, 0.1]]


def make_parameters(dtype=torch.float32, seed=0, device='cpu'):
    """Four parameters: of a conv, a norm, none (size 0), and one that never gets a gradient."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 2, 3, 3), (3,), (0, 5), (2,))
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(device, dtype)) for s in shapes]


def set_gradients(parameters, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters[:3]:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def on_cpu_and_cuda(function):
    cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
    return pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=cuda)])(function)


def train(optimizer, parameters, steps):
    for step in steps:
        set_gradients(parameters, step)
        optimizer.step()


def through_file(state):
    """As mmengine's Runner saves it and as ``torch.load`` reads it safely."""
    file = io.BytesIO()
    torch.save(apply_to(state, lambda x: hasattr(x, 'cpu'), lambda x: x.cpu()), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


# --- three steps by hand -------------------------------------------------------------------------------------------


def scalar_rule(name, p, g, memory, t, lr=0.1, decay=0.01):
    """One element of the base rule; ``memory`` holds its moments."""
    if name == 'AdamW':
        p = p - lr * decay * p
    else:
        g = g + decay * p
    if name == 'SGD':
        memory['m'] = g if t == 1 else 0.9 * memory['m'] + g
        return p - lr * memory['m']
    if name == 'RMSprop':
        memory['v'] = 0.99 * memory.get('v', 0.0) + 0.01 * g * g
        return p - lr * g / (math.sqrt(memory['v']) + 1e-8)
    memory['m'] = 0.9 * memory.get('m', 0.0) + 0.1 * g
    memory['v'] = 0.999 * memory.get('v', 0.0) + 0.001 * g * g
    return p - lr * (memory['m'] / (1 - 0.9**t)) / (math.sqrt(memory['v'] / (1 - 0.999**t)) + 1e-8)


def scalar_range(mode, g, memory, t):
    """EMmax - EMmin of one element after gradient t."""
    if mode == 'paper':
        high, low = (g, g) if t == 1 else (memory['high'], memory['low'])
        memory['high'] = 0.9 * high + 0.1 * max(high, g)
        memory['low'] = 0.9 * low + 0.1 * min(low, g)
    else:
        high, low = memory.get('high', 0.0), memory.get('low', 0.0)
        memory['high'] = (0.9 * high + 0.1 * max(high, abs(g))) / (1 - 0.9**t)
        memory['low'] = (0.9 * low + 0.1 * min(low, abs(g))) / (1 - 0.9**t)
        assert memory['low'] == 0
    return memory['high'] - memory['low']


@pytest.mark.parametrize('toss_coin', [True, False])
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('name', CLASSES)
def test_three_steps_by_hand(name, mode, toss_coin):
    """Step 1 gathers, steps 2 and 3 boost with n = 1 and 2; clipped and unclipped boosts, zero gradients."""
    ours, _, arguments = CLASSES[name]
    clip = CLIPS[mode]
    parameter = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = ours(
        [parameter], mode=mode, clip_by=clip, noise_decay=0.25, toss_coin=toss_coin, boost_seed=5, **arguments
    )
    generator = torch.Generator().manual_seed(5)
    expected, memories, clipped, passed = list(START), [{} for _ in START], 0, 0
    for t, gradient in enumerate(GRADIENTS, start=1):
        if t == 2:
            optimizer.boost()
        if t > 1:
            word = torch.empty(1, dtype=torch.int64)  # 4 x 16 bits
            draws = word.random_(-(2**63), None, generator=generator).view(torch.int16).tolist()
        for i, g in enumerate(gradient):
            b = scalar_range(mode, g, memories[i], t)
            boost = 0.0
            if t > 1:
                exponential = -math.log((draws[i] + 32768.5) / 65536)  # |Laplace(0, 1)|
                magnitude = max(exponential - math.log(2), 0.0) if toss_coin else exponential
                boost = magnitude * b * 0.75 ** (t - 1) * ((g > 0) - (g < 0))
            clipped, passed = clipped + (abs(boost) > clip), passed + (0 < abs(boost) < clip)
            expected[i] = scalar_rule(name, expected[i], g + min(max(boost, -clip), clip), memories[i], t)
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        assert parameter.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert passed and clipped  # the case means something


# --- the base class ------------------------------------------------------------------------------------------------

BASE_CASES = [
    ('SGD', {}),
    ('SGD', dict(momentum=0.9, dampening=0.1, weight_decay=0.1)),
    ('SGD', dict(momentum=0.9, nesterov=True, weight_decay=0.1, maximize=True)),
    ('SGD', dict(momentum=0.9, fused=True)),
    ('RMSprop', dict(momentum=0.9, centered=True, weight_decay=0.1)),
    ('RMSprop', dict(foreach=True)),
    ('Adam', dict(amsgrad=True, weight_decay=0.1)),
    ('Adam', dict(fused=True, maximize=True)),
    ('AdamW', dict(amsgrad=True, weight_decay=0.1)),
    ('AdamW', dict(foreach=True)),
]


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('name', 'arguments'), BASE_CASES)
def test_without_boost_it_is_bitwise_the_base_class(name, arguments, mode):
    ours, base, _ = CLASSES[name]
    mine, plain = make_parameters(), make_parameters()
    train(ours(mine, lr=0.1, mode=mode, **arguments), mine, range(5))
    train(base(plain, lr=0.1, **arguments), plain, range(5))
    assert_equal(mine, plain)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('name', 'arguments'), BASE_CASES)
def test_base_class_given_the_boosted_gradients_makes_the_same_step(name, arguments, mode):
    """Every flag of the base class keeps its meaning: the rule is its own, on gradients that SGD(lr=1) shows."""
    ours, base, _ = CLASSES[name]
    mine, plain = make_parameters(torch.float64), make_parameters(torch.float64)
    shown = [torch.nn.Parameter(torch.zeros_like(p)) for p in mine]
    options = dict(mode=mode, clip_by=0.1, boost_seed=3)
    optimizer, reader = ours(mine, lr=0.1, **options, **arguments), GradBoostSGD(shown, lr=1.0, **options)
    rule = base(plain, lr=0.1, **arguments)
    optimizer.boost()
    reader.boost()
    for step in range(4):
        set_gradients(mine, step)
        set_gradients(shown, step)
        with torch.no_grad():
            for parameter in shown:
                parameter.zero_()
        optimizer.step()
        reader.step()
        for parameter, seen in zip(plain[:3], shown[:3], strict=True):
            parameter.grad = -seen.detach()
        rule.step()
    assert_equal(mine, plain)
    assert mine[0].isfinite().all()


def test_boost_moves_away_from_zero_whatever_the_memory_format():
    gradient = torch.randn(4, 3, 5, 5)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameter = torch.nn.Parameter(torch.zeros(4, 3, 5, 5).to(memory_format=memory_format))
        optimizer = GradBoostSGD([parameter], lr=1.0, clip_by=math.inf)
        for factor in (1.0, -1.0):
            parameter.grad = (factor * gradient).to(memory_format=memory_format)
            optimizer.step()
        optimizer.boost()
        with torch.no_grad():
            parameter.zero_()
        parameter.grad = gradient.to(memory_format=memory_format)
        optimizer.step()
        boost = -parameter - gradient
        moved = boost.abs() > 1e-6
        assert 0.3 < moved.float().mean() < 0.7
        assert torch.equal(boost.sign()[moved], gradient.sign()[moved])
        state = optimizer.state[parameter]
        assert state['grad_max'].stride() == parameter.stride() == state['grad_min'].stride()
        torch.testing.assert_close(state['grad_max'] - state['grad_min'], 0.2 * gradient.abs())


def test_each_element_has_a_draw_of_its_own_in_memory_order():
    """Two parameters as NHWC, or one flat parameter of the same numbers: the same boosts, none of them twice."""
    numbers = torch.arange(1.0, 193.0, dtype=torch.float64)
    flat = [torch.nn.Parameter(torch.zeros(192, dtype=torch.float64))]
    images = [torch.nn.Parameter(torch.zeros(2, 4, 4, 3, dtype=torch.float64).permute(0, 3, 1, 2)) for _ in range(2)]
    flat[0].grad = numbers
    for image, part in zip(images, numbers.split(96), strict=True):
        image.grad = part.view(2, 4, 4, 3).permute(0, 3, 1, 2)
    for parameters in (flat, images):
        optimizer = GradBoostSGD(parameters, lr=1.0, mode='reference', clip_by=math.inf, toss_coin=False)
        optimizer.boost()
        optimizer.step()
    assert torch.equal(torch.cat([p.detach().permute(0, 2, 3, 1).flatten() for p in images]), flat[0].detach())
    assert len(set((-flat[0].detach() / numbers).tolist())) > 185  # 192 of 65536 values: equal ones are rare


def test_groups_keep_their_own_options_and_added_groups_join():
    first, second, third = (torch.nn.Parameter(torch.zeros(1000, dtype=torch.float64)) for _ in range(3))
    groups = [dict(params=[first], clip_by=0.01), dict(params=[second], clip_by=0.02, lr=2.0)]
    optimizer = GradBoostSGD(groups, lr=1.0, mode='reference', toss_coin=False, noise_decay=0.0)
    optimizer.add_param_group(dict(params=[third], clip_by=0.03))
    optimizer.boost()
    for parameter in (first, second, third):
        parameter.grad = torch.full((1000,), 5.0, dtype=torch.float64)
    optimizer.step()
    for parameter, lr, clip in ((first, 1, 0.01), (second, 2, 0.02), (third, 1, 0.03)):
        assert -parameter.min().item() / lr == pytest.approx(5 + clip, abs=1e-12)
    with pytest.raises(ValueError, match='clip_by=0'):
        optimizer.add_param_group(dict(params=[torch.nn.Parameter(torch.zeros(1))], clip_by=0))


# --- the noise -----------------------------------------------------------------------------------------------------


def boosts(n_steps=1, count=20000, **options):
    """Gradients and boosts of the last of ``n_steps`` steps; b is 0.2 in mode 'paper'."""
    parameter = torch.nn.Parameter(torch.zeros(count, dtype=torch.float64))
    optimizer = GradBoostSGD([parameter], lr=1.0, **options)
    signs = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0).double()
    for gradient in (signs, -signs):  # EMmax 1 and EMmin 0.9 * 1 + 0.1 * -1 = 0.8, or the same mirrored
        parameter.grad = gradient.clone()
        optimizer.step()
    optimizer.boost()
    for _ in range(n_steps):
        with torch.no_grad():
            parameter.zero_()
        parameter.grad = signs.clone()
        optimizer.step()
    return signs.numpy(), (-parameter.detach() - signs).numpy()


def test_boost_is_laplace_with_a_fair_coin_along_the_gradient():
    signs, boost = boosts(clip_by=math.inf)
    moved = np.abs(boost) > 1e-12
    assert abs(moved.sum() - 10000) < 5 * math.sqrt(20000 / 4)  # binomial, 5 standard deviations
    assert (np.sign(boost[moved]) == signs[moved]).all()
    scaled = boost[moved] / (0.2 * 0.99)
    assert stats.kstest(scaled, 'laplace').pvalue > 0.01
    assert stats.kstest(np.abs(scaled), 'expon').pvalue > 0.01
    runs = np.diff(np.flatnonzero(moved))  # distances between heads: geometric, as coins are independent
    assert runs.mean() == pytest.approx(2, abs=5 * math.sqrt(2 / len(runs)))


def test_without_coin_every_element_is_boosted():
    _, boost = boosts(clip_by=math.inf, toss_coin=False)
    assert stats.kstest(boost / (0.2 * 0.99), 'laplace').pvalue > 0.01


def test_clamp_is_exact():
    _, free = boosts(clip_by=math.inf)
    _, boost = boosts(clip_by=0.1)
    np.testing.assert_allclose(boost, np.clip(free, -0.1, 0.1), atol=1e-15)
    share = np.mean(np.abs(boost) > 0.1 - 1e-12)
    assert share == pytest.approx(0.5 * math.exp(-0.1 / 0.198), abs=5 * math.sqrt(0.25 / 20000))


@pytest.mark.parametrize('n', [1, 2, 5])
def test_decay_is_a_factor_for_each_step(n):
    _, constant = boosts(n, count=500, clip_by=math.inf, noise_decay=0.0)
    _, decayed = boosts(n, count=500, clip_by=math.inf, noise_decay=0.5)
    np.testing.assert_allclose(decayed, constant * 0.5**n, atol=1e-15)


@pytest.mark.parametrize('mode', MODES)
def test_zero_gradient_is_not_boosted(mode):
    parameter = torch.nn.Parameter(torch.ones(1000))
    optimizer = GradBoostSGD([parameter], lr=1.0, mode=mode)
    for gradient in (torch.ones(1000), -torch.ones(1000)):
        parameter.grad = gradient
        optimizer.step()
    optimizer.boost()
    parameter.grad = torch.zeros(1000)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(1000))


@pytest.mark.parametrize('mode', MODES)
def test_boost_ends_where_it_cannot_change_a_float32_number(mode):
    last = int(last_boosted_step(mode, 0.9, 0.01))
    gain = 2 if mode == 'paper' else math.prod(1 / (1 - 0.9**t) for t in range(1, 1000))
    largest = -math.log(2**-17) * gain  # times the largest gradient
    assert largest * 0.99 ** (last + 1) < 2**-25 < largest * 0.99 ** (0.9 * last)
    assert last_boosted_step(mode, 0.9, 0.0) == math.inf
    mine, plain = make_parameters(), make_parameters()
    optimizer, base = GradBoostAdamW(mine, mode=mode), torch.optim.AdamW(plain)
    optimizer.boost()
    optimizer._steps = last
    train(optimizer, mine, range(3))
    train(base, plain, range(3))
    assert_equal(mine, plain)
    assert 'grad_max' not in optimizer.state[mine[0]] and optimizer.boost_steps == last + 3


# --- the reference's dynamics --------------------------------------------------------------------------------------


def test_reference_statistics_are_bitwise_those_of_the_recurrence_and_explode():
    """The recurrence in single-tensor operations, EMmin included, over 120 steps."""
    parameter = torch.nn.Parameter(torch.zeros(50))
    optimizer = GradBoostSGD([parameter], lr=0.1, mode='reference')
    high, low, generator = torch.zeros(50), torch.zeros(50), torch.Generator().manual_seed(2)
    for t in range(1, 121):
        parameter.grad = torch.randn(50, generator=generator)
        new_low, new_high = torch.min(low, parameter.grad.abs()), torch.max(high, parameter.grad.abs())
        low.mul_(0.9).add_(new_low, alpha=1 - 0.9).div_(1 - 0.9**t)
        high.mul_(0.9).add_(new_high, alpha=1 - 0.9).div_(1 - 0.9**t)
        optimizer.step()
        assert torch.equal(optimizer.state[parameter]['grad_max'], high)
    assert not low.any() and 'grad_min' not in optimizer.state[parameter]
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = GradBoostSGD([parameter], lr=0.1, mode='reference')
    for _ in range(300):
        parameter.grad = torch.full((1,), 0.01, dtype=torch.float64)
        optimizer.step()
    assert optimizer.state[parameter]['grad_max'].item() / 0.01 == pytest.approx(7.8e4, rel=0.01)


def test_reference_gives_half_of_the_elements_the_clamp_value():
    parameter = torch.nn.Parameter(torch.zeros(20000, dtype=torch.float64))
    optimizer = GradBoostSGD([parameter], lr=1.0, mode='reference')
    gradient = torch.full((20000,), -0.01, dtype=torch.float64)
    for step in range(101):
        parameter.grad = gradient
        optimizer.boost(step == 100)
        with torch.no_grad():
            parameter.zero_()
        optimizer.step()
    boost = (-parameter.detach() - gradient).numpy()
    heads = np.abs(boost) > 1e-12
    assert abs(heads.sum() - 10000) < 5 * math.sqrt(20000 / 4)
    assert np.mean(np.abs(boost[heads] + 1e-3) < 1e-12) > 0.999  # -clip_by, the draw erased


def test_reference_statistics_stay_finite():
    """At beta = 0.99 the compounded correction is above 1e60; inf times a coin of 0 would be NaN."""
    parameter = torch.nn.Parameter(torch.zeros(100))
    optimizer = GradBoostSGD([parameter], lr=0.1, mode='reference', beta=0.99)
    for step in range(60):
        optimizer.boost(step > 50)
        parameter.grad = torch.ones(100)
        optimizer.step()
    assert parameter.isfinite().all()


# --- state ---------------------------------------------------------------------------------------------------------


@on_cpu_and_cuda
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('name', CLASSES)
def test_resume_in_mid_decay_is_bitwise(name, mode, device):
    ours, _, arguments = CLASSES[name]
    mine = make_parameters(device=device)
    optimizer = ours(mine, mode=mode, clip_by=0.5, boost_seed=11, **arguments)
    train(optimizer, mine, range(3))
    optimizer.boost()
    train(optimizer, mine, range(3, 6))
    state, resumed = through_file(optimizer.state_dict()), [torch.nn.Parameter(p.detach().clone()) for p in mine]
    train(optimizer, mine, range(6, 9))
    other = ours(resumed, lr=7.0)  # every option comes from the state
    other.load_state_dict(state)
    assert other.boosting and other.boost_steps == 3
    other.boost(True)  # a hook asks again: no effect
    assert other.boost_steps == 3
    train(other, resumed, range(6, 9))
    assert_equal(mine, resumed)
    assert_state_equal(optimizer.state_dict(), other.state_dict())


def assert_state_equal(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_state_equal(ours[key], theirs[key])
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
    else:
        assert ours == theirs


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_state_crosses_from_cpu_to_cuda_and_back_with_all_but_the_generator():
    parameters = make_parameters()
    optimizer = GradBoostSGD(parameters, clip_by=0.5)
    optimizer.boost()
    train(optimizer, parameters, range(3))
    state = through_file(optimizer.state_dict())
    moved = make_parameters(device='cuda')
    other = GradBoostSGD(moved)
    other.load_state_dict(state)
    train(other, moved, range(3, 5))
    crossed = through_file(other.state_dict())
    assert sorted(crossed['gradboost']['generators']) == ['cpu:0', 'cuda:0']
    assert torch.equal(crossed['gradboost']['generators']['cpu:0'], state['gradboost']['generators']['cpu:0'])
    optimizer.load_state_dict(crossed)
    assert optimizer.boost_steps == 5
    train(optimizer, parameters, [5])
    assert parameters[0].isfinite().all()


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_alike(duplicate):
    parameters = make_parameters()
    optimizer = GradBoostAdam(parameters, clip_by=0.5)
    optimizer.boost()
    train(optimizer, parameters, range(2))
    parameters[3].grad = None
    other = duplicate(optimizer)
    theirs = other.param_groups[0]['params']
    train(optimizer, parameters, range(2, 4))
    train(other, theirs, range(2, 4))
    assert_equal(parameters, theirs)
    other.add_param_group(dict(params=[torch.nn.Parameter(torch.zeros(1))]))
    assert other.param_groups[1]['clip_by'] == 0.5


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('name', CLASSES)
def test_state_of_the_plain_class_loads(name, mode):
    """StatAssist from a float checkpoint: moments go on, statistics start with the next gradient."""
    ours, base, arguments = CLASSES[name]
    plain, mine = make_parameters(), make_parameters()
    rule, optimizer = base(plain, **arguments), ours(mine, lr=7.0, mode=mode, clip_by=0.5)
    train(rule, plain, range(3))
    optimizer.boost()
    optimizer.load_state_dict(through_file(rule.state_dict()))
    assert optimizer.boosting and optimizer.boost_steps == 0
    group = optimizer.param_groups[0]
    assert (group['lr'], group['mode'], group['clip_by']) == (0.1, mode, 0.5)
    with torch.no_grad():
        for parameter, theirs in zip(mine, plain, strict=True):
            parameter.copy_(theirs)
    train(optimizer, mine, [3])
    train(rule, plain, [3])
    assert torch.equal(mine[0], plain[0]) == (mode == 'paper')  # b = 0 at the first gradient
    train(optimizer, mine, [4])
    train(rule, plain, [4])
    assert not torch.equal(mine[0], plain[0])


def test_switching_back_starts_n_anew():
    parameters = make_parameters()
    optimizer = GradBoostSGD(parameters)
    assert not optimizer.boosting
    optimizer.boost()
    train(optimizer, parameters, range(2))
    optimizer.boost(False)
    train(optimizer, parameters, [2])
    assert (optimizer.boosting, optimizer.boost_steps) == (False, 0)
    optimizer.boost()
    train(optimizer, parameters, [3])
    assert optimizer.boost_steps == 1


# --- around it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', CLASSES)
def test_gradients_keep_object_and_values(name):
    ours, _, arguments = CLASSES[name]
    parameters = make_parameters()
    optimizer = ours(parameters, clip_by=0.5, **arguments)
    optimizer.boost()
    for step in range(3):
        set_gradients(parameters, step)
        objects = [p.grad for p in parameters]
        values = [g.clone() for g in objects[:3]]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(parameters, objects, strict=True))
        assert_equal([p.grad for p in parameters[:3]], values)


def test_gradients_come_back_if_the_base_rule_fails(monkeypatch):
    parameters = make_parameters()
    optimizer = GradBoostSGD(parameters, clip_by=0.5)
    optimizer.boost()
    train(optimizer, parameters, range(2))
    set_gradients(parameters, 2)
    objects = [p.grad for p in parameters]

    def fail(self):
        assert self.param_groups[0]['params'][0].grad is not objects[0]
        raise RuntimeError('out of memory')

    monkeypatch.setattr(GradBoostSGD, '_base_step', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        optimizer.step()
    assert all(p.grad is g for p, g in zip(parameters, objects, strict=True))
    assert optimizer.boost_steps == 2


def test_replicas_stay_equal_and_the_global_generator_is_left_alone():
    """Two ranks: equal gradients, different global seeds."""
    ranks = [make_parameters(), make_parameters()]
    optimizers = [GradBoostAdamW(parameters, clip_by=0.5) for parameters in ranks]
    for rank, (parameters, optimizer) in enumerate(zip(ranks, optimizers, strict=True)):
        torch.manual_seed(rank)
        np.random.seed(rank)
        before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
        train(optimizer, parameters, range(2))
        optimizer.boost()
        train(optimizer, parameters, range(2, 5))
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == before_numpy).all()
    assert_equal(*ranks)
    other = make_parameters()
    optimizer = GradBoostAdamW(other, clip_by=0.5, boost_seed=1)
    train(optimizer, other, range(2))
    optimizer.boost()
    train(optimizer, other, range(2, 5))
    assert not torch.equal(other[0], ranks[0][0])


def test_closure_is_boosted_after_its_backward():
    results = []
    for with_closure in (True, False):
        parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        optimizer = GradBoostSGD([parameter], lr=0.1, clip_by=0.5)
        optimizer.boost()

        def closure(optimizer=optimizer, parameter=parameter):
            optimizer.zero_grad()
            loss = parameter.square().sum()
            loss.backward()
            return loss

        for _ in range(4):
            if with_closure:
                assert optimizer.step(closure).item() > 0
            else:
                closure()
                assert optimizer.step() is None
        results.append(parameter)
    assert_equal(*zip(results, strict=True))


@pytest.mark.parametrize('fused', [False, True])
def test_grad_scaler_unscales_first_and_skipped_steps_do_not_count(fused):
    mine, plain = (torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    optimizer = GradBoostAdam([mine], lr=0.1, clip_by=0.5, fused=fused)
    direct = GradBoostAdam([plain], lr=0.1, clip_by=0.5, fused=fused)
    optimizer.boost()
    direct.boost()
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    for step, factor in enumerate([1.0, 2.0, math.inf, -1.0, 4.0]):
        if math.isfinite(factor):
            plain.grad = factor * plain.detach()
            direct.step()
        optimizer.zero_grad()
        scaler.scale(factor * mine.square().sum() / 2).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(mine, plain), step
    assert optimizer.boost_steps == direct.boost_steps == 4


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(dtype, mode):
    parameters = make_parameters(dtype)
    start = parameters[0].detach().clone()
    optimizer = GradBoostSGD(parameters, lr=0.1, mode=mode, clip_by=0.5)
    optimizer.boost()
    train(optimizer, parameters, range(30))
    state = optimizer.state[parameters[0]]
    assert state['grad_max'].dtype == parameters[0].dtype == dtype
    assert parameters[0].isfinite().all() and not torch.equal(parameters[0], start)
    optimizer.load_state_dict(through_file(optimizer.state_dict()))
    assert torch.equal(optimizer.state[parameters[0]]['grad_max'], state['grad_max'])


def test_step_hooks_run_once_though_the_plain_class_is_in_use_too():
    torch.optim.SGD(make_parameters(), lr=0.1)  # torch wraps SGD.step at the first instance
    parameters, calls = make_parameters(), []
    optimizer = GradBoostSGD(parameters, lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: calls.append('before'))
    optimizer.register_step_post_hook(lambda *_: calls.append('after'))
    train(optimizer, parameters, range(2))
    assert calls == ['before', 'after'] * 2


@pytest.mark.parametrize('paramwise', [None, dict(norm_decay_mult=0.0, custom_keys={'0': dict(clip_by=0.5)})])
@pytest.mark.parametrize('name', CLASSES)
def test_config_builds_through_mmengine(name, paramwise):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    config = dict(
        type='OptimWrapper',
        optimizer=dict(type=f'frostnet_mm.GradBoost{name}', lr=0.1, weight_decay=0.01, mode='reference', clip_by=0.25),
        clip_grad=dict(max_norm=35),
    )
    if paramwise:
        config['paramwise_cfg'] = paramwise
    with DefaultScope.overwrite_default_scope('mmdet'):
        wrapper = build_optim_wrapper(model, config)
    optimizer = wrapper.optimizer
    assert type(optimizer) is CLASSES[name][0]
    clips = {g['clip_by'] for g in optimizer.param_groups}
    assert clips == ({0.25, 0.5} if paramwise else {0.25})
    optimizer.boost()
    wrapper.update_params(model(torch.ones(2, 3, 8, 8)).square().sum())
    wrapper.load_state_dict(through_file(wrapper.state_dict()))
    assert optimizer.boosting and optimizer.boost_steps == 1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mode='ours'), r"mode='ours'; expected one of \['paper', 'reference', 'relative'\]. Mend optimizer.mode"),
        (dict(clip_by=0), 'clip_by=0; expected a number above 0'),
        (dict(clip_by='high'), "clip_by='high'; expected a number above 0"),
        (dict(noise_decay=1.0), 'noise_decay=1.0; expected a number from 0'),
        (dict(beta=-0.1), 'beta=-0.1; expected a number from 0 to below 1'),
        (dict(beta='0.9'), "beta='0.9'; expected"),
        (dict(toss_coin=1), 'toss_coin=1; expected True or False'),
        (dict(boost_seed=-1), 'boost_seed=-1; expected an integer'),
        (dict(differentiable=True), 'differentiable=True; expected False'),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GradBoostAdamW(make_parameters(), **options)


def test_complex_parameters_and_sparse_gradients_are_refused_before_anything_changes():
    with pytest.raises(TypeError, match=r'shape \(2,\).*complex64.*expected real'):
        GradBoostSGD([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    dense, table = torch.nn.Parameter(torch.ones(2)), torch.nn.Embedding(4, 2, sparse=True)
    optimizer = GradBoostSGD([dense, table.weight], lr=0.1)
    dense.grad = torch.ones(2)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r'shape \(4, 2\); expected dense.*sparse=False'):
        optimizer.step()
    assert torch.equal(dense, torch.ones(2)) and not optimizer.state


def test_state_with_other_groups_is_refused_by_the_base_class():
    state = GradBoostSGD(make_parameters()).state_dict()
    other = GradBoostSGD([dict(params=[p]) for p in make_parameters()])
    with pytest.raises(ValueError, match='different number of parameter groups'):
        other.load_state_dict(state)


# --- mode 'relative' -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('maximize', [False, True])
@pytest.mark.parametrize('name', CLASSES)
def test_relative_mode_by_hand(name, maximize):
    """Three steps, of which two boost and fade by halves; Adam's second moment sees the gradient as it is."""
    ours, _, arguments = CLASSES[name]
    parameter = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = ours([parameter], mode='relative', clip_by=0.8, boost_seed=5, maximize=maximize, **arguments)
    generator = torch.Generator().manual_seed(5)
    expected, memories, means, clipped, passed = list(START), [{} for _ in START], {}, 0, 0
    for t, gradient in enumerate(GRADIENTS, start=1):
        if t == 2:
            optimizer.boost(steps=4)  # of which the boost takes part in fade=0.5: two, with factors 1 and 1/2
        if t > 1:
            word = torch.empty(1, dtype=torch.int64)
            draws = word.random_(-(2**63), None, generator=generator).view(torch.int16).tolist()
        for i, g in enumerate(gradient):
            means[i] = abs(g) if t == 1 else 0.9 * means[i] + 0.1 * abs(g)
            boost = 0.0
            if t > 1:
                magnitude = max(-math.log((draws[i] + 32768.5) / 65536) - math.log(2), 0.0) * (1, 0.5)[t - 2]
                clipped, passed = clipped + (magnitude > 0.8), passed + (0 < magnitude < 0.8)
                boost = min(magnitude, 0.8) * means[i] * ((g > 0) - (g < 0))
            expected[i] = relative_rule(name, expected[i], g, boost, memories[i], t, -1 if maximize else 1)
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        assert parameter.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-8)
        assert parameter.grad.tolist() == gradient
    assert passed and clipped


def relative_rule(name, p, g, boost, memory, t, sign):
    """One element of the base rule; of Adam and AdamW the boost is in the first moment alone."""
    if not name.startswith('Adam'):
        return scalar_rule(name, p, sign * (g + boost), memory, t)
    lr, decay = 0.1, 0.01
    g, boost = sign * g, sign * boost
    if name == 'AdamW':
        p = p - lr * decay * p
    else:
        g = g + decay * p
    memory['m'] = 0.9 * memory.get('m', 0.0) + 0.1 * (g + boost)
    memory['v'] = 0.999 * memory.get('v', 0.0) + 0.001 * g * g
    return p - lr * (memory['m'] / (1 - 0.9**t)) / (math.sqrt(memory['v'] / (1 - 0.999**t)) + 1e-8)


@pytest.mark.parametrize('name', CLASSES)
def test_relative_mode_is_over_after_its_share_of_the_steps_also_after_a_resume(name):
    ours, base, arguments = CLASSES[name]
    mine, plain = make_parameters(), make_parameters()
    optimizer = ours(mine, mode='relative', fade=0.5, **arguments)
    train(optimizer, mine, range(2))
    optimizer.boost(steps=10)
    train(optimizer, mine, range(2, 4))
    state = through_file(optimizer.state_dict())
    copies = make_parameters()
    for copied, own in zip(copies, mine, strict=True):
        copied.data.copy_(own.data)
    resumed = ours(copies, mode='relative', fade=0.5, **arguments)
    resumed.load_state_dict(state)
    resumed.boost(steps=6)  # a hook asks again after a resume: the length of before counts
    for each, parameters in ((optimizer, mine), (resumed, copies)):
        train(each, parameters, range(4, 7))
    assert_equal(mine, copies)
    reference = base(plain, **arguments)
    saved = through_file(optimizer.state_dict())
    saved.pop('gradboost')
    reference.load_state_dict(saved)
    for own, other in zip(mine, plain, strict=True):
        other.data.copy_(own.data)
    train(optimizer, mine, range(7, 12))  # n = 6 and on: as the plain class
    train(reference, plain, range(7, 12))
    assert_equal(mine, plain)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda p: GradBoostAdam(p, mode='relative', betas=(0.0, 0.9)), 'expected betas[0] above 0'),
        (lambda p: GradBoostAdamW(p, mode='relative', betas=(0.0, 0.9), maximize=True), 'expected betas[0] above 0'),
        (lambda p: GradBoostSGD(p, lr=0.1, mode='relative', fade=0.0), 'fade=0.0; expected a number above 0'),
    ],
)
def test_relative_mode_refuses_what_it_cannot_do(make, message):
    with pytest.raises(ValueError, match=message.replace('[', r'\[')):
        make(make_parameters())
