"""Layers that share weights, ranges or names, and those of training alone: rounded, counted and named rightly."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from segmenter_parts import settled
from test_computed_weights import NormedByHook
from test_network_habits import Habit
from test_qat_schedule import epochs
from tiny_segmenter import images, prepared_segmenter, segmenter
from torch import nn
from torch.fx import Graph
from torch.nn import functional

from frostnet_mm.deploy.flat_network import converted_network
from frostnet_mm.deploy.onnx.export import onnx_of
from frostnet_mm.deploy.onnx.graph import OnnxGraph
from frostnet_mm.models import CheckpointError
from frostnet_mm.models.dense import detached
from frostnet_mm.quantization import (
    Checkpoint,
    DenseQuantizer,
    QATHook,
    QuantizationError,
    QuantizationSettings,
    QuantizedNetwork,
    RangeError,
    convert,
    float_operators,
)
from frostnet_mm.quantization.bit_allocation import weight_layers
from frostnet_mm.quantization.calibration import calibrate
from frostnet_mm.quantization.late_parameters import add_parameters
from frostnet_mm.quantization.program import _pass_dropped
from frostnet_mm.quantization.report import parameter_bits, weight_megabytes
from frostnet_mm.quantization.schedule import Phase


def decibels(exact, rounded):
    return float(10 * torch.log10(exact.double().pow(2).sum() / (exact - rounded).double().pow(2).sum().clamp(1e-30)))


def compared(model, network):
    """How far INT8 is from mm's own network, and the converted network from it, in dB and in steps of 255."""
    with torch.no_grad():
        found, converted = network.flat(images(9)), convert(network).flat(images(9))
        with detached(model):
            exact = model.decode_head(model.backbone(images(9)))
    step = (found[0].max() - found[0].min()) / 255
    return decibels(exact, found[0]), float((converted[0] - found[0]).abs().max() / step)


class TwoLevels(Habit):
    """One convolution for two maps, with a batch norm each, as in RTMDet's head."""

    def middle(self, x):
        small = functional.relu(self.conv_norm(self.conv(functional.max_pool2d(x, 2))))
        return functional.relu(self.norm(self.conv(x))) + functional.interpolate(small, scale_factor=2.0)


class Tied(Habit):
    """A convolution and a transposed one of the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bias = nn.Conv2d(16, 24, 2, 2), nn.Parameter(torch.randn(16))

    def middle(self, x):
        y = functional.relu(self.down(x))
        return functional.relu(functional.conv_transpose2d(y, self.down.weight, self.bias, stride=2))


class GroupedTransposed(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(16, 16, 2, 2), nn.ConvTranspose2d(16, 16, 2, 2, groups=4)

    def middle(self, x):
        return functional.relu(self.conv_norm(self.up(functional.relu(self.down(x)))))


class Tokens(Habit):
    """A batch norm of the tokens, not of the features, of a linear layer: 24 by 24 of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.token_norm = nn.Linear(24, 24), nn.BatchNorm1d(24)

    def middle(self, x):
        rows = functional.pad(x.mean(1), (0, 0, 0, 8))  # (N, 24, 24)
        rows = self.token_norm(self.linear(rows))
        return x + functional.relu(rows[:, None, :16])


class CalledCat(Habit):
    """A module with the name of an operator that its parent calls."""

    def __init__(self) -> None:
        super().__init__()
        self.cat, self.join = nn.Conv2d(16, 16, 1), nn.Conv2d(32, 16, 1)

    def middle(self, x):
        return self.join(torch.cat([x, functional.relu(self.cat(x))], 1))


class OneChannelLarge(Habit):
    """Views of a map: one part of its channels is far smaller than the other."""

    def middle(self, x):
        one, two = self.block(x).chunk(2, 1)
        return torch.cat([10 * one, two], 1)


@pytest.mark.parametrize('weights', ['channel', 'tensor'])
@pytest.mark.parametrize('kind', [TwoLevels, Tied, GroupedTransposed, Tokens, CalledCat])
def test_int8_is_near_float_and_converted_as_it_is(kind, weights):
    model, network = settled(kind, weights=weights)
    near, off = compared(model, network)
    assert near > 25 and off <= 0.01


@pytest.mark.parametrize('gamma', [1e-3, 0.0])
def test_a_dead_channel_of_one_level_leaves_the_other_alone(gamma):
    """With one scale a tensor, its step was that of the other level divided by the factor of the dead channel."""
    model, network = settled(TwoLevels, weights='tensor')
    with torch.no_grad():
        model.backbone.conv_norm.weight[3] = gamma
    assert compared(model, network)[0] > 25


def test_a_linear_layer_of_tokens_keeps_its_norm():
    _, network = settled(Tokens)
    assert [group.kind for group in float_operators(network) if 'norm' in group.kind] == ['batch_norm']


@pytest.mark.parametrize('bits', [8, 4])
def test_a_learned_scale_a_tensor_is_one_and_what_is_trained_is_what_is_stored(bits):
    """Scales of all channels were trained, and joined into the largest by conversion: 0.4 dB at 4 bits."""
    torch.manual_seed(0)
    model, network = settled(TwoLevels, weights='tensor', weight_bits=bits, learned_scales=True)
    network.start_learning()
    assert {weight.log_scale.numel() for weight in network.weights()} == {1}
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    model.train()
    network.observe(False)
    before = [weight.log_scale.item() for weight in network.weights()]
    for seed in range(20):
        optimizer.zero_grad()
        (network.flat(images(seed))[0] - 1).square().mean().backward()
        optimizer.step()
    after = [weight.log_scale.item() for weight in network.weights()]
    assert sum(one != two for one, two in zip(before, after, strict=True)) >= 4
    network.freeze_norms = True
    norms = 0
    for quantizer, weight in network.weight_nodes():
        with torch.no_grad():
            trained, found = quantizer.train()(weight), quantizer.eval()(weight)
        assert torch.allclose(trained, found, atol=1e-7)
        if quantizer.norm_factor is not None:
            factor, norms = quantizer.norm_factor(), norms + 1
            stored = quantizer.folded_scale(weight, factor)
            assert stored.min() == stored.max()
            integers = trained * factor.view(-1, 1, 1, 1) / stored.view(-1, 1, 1, 1)
            assert (integers - integers.round()).abs().max() < 1e-3
            assert integers.round().abs().max() <= 2 ** (bits - 1) - 1
    assert norms >= 2
    assert compared(model.eval(), network.eval())[1] <= 0.01


def test_a_learned_scale_of_one_has_begun():
    _, network = settled(CalledCat, learned_scales=True)
    for module in network.activations():
        module.set_range(0.0, 255.0)  # a step of 1, whose logarithm is 0
    assert network.start_learning() and not network.start_learning()
    assert all(float(module.calculate_qparams()[0]) == 1 for module in network.activations())


@pytest.mark.parametrize('method', ['average', 'percentile'])
def test_parts_of_a_tensor_do_not_shorten_its_range(method):
    """They share it: the mean of the extremes of all parts was below that of the largest."""
    _, network = settled(OneChannelLarge)
    calibrate(network, [images(seed) for seed in range(4)], method, percentile=100)
    shared = [module for module in network.activations() if module.shared]
    assert shared
    seen = {module.name: [] for module in shared}
    network.simulate(False)
    for module in shared:
        module.register_forward_hook(lambda own, args, out: seen[own.name][-1].append(float(args[0].amax())))
    for seed in range(4):
        for values in seen.values():
            values.append([])
        with torch.no_grad():
            network.flat(images(seed))
    for module in shared:
        expected = np.mean([max(values) for values in seen[module.name]])
        assert float(module.max_val) == pytest.approx(expected, rel=1e-5)


def test_a_dead_layer_has_no_range_whatever_the_method(caplog):
    model, network = settled(CalledCat)
    nn.init.zeros_(model.backbone.cat.weight)
    nn.init.constant_(model.backbone.cat.bias, -1.0)
    for method in ('minmax', 'histogram'):
        calibrate(network, [images(seed) for seed in range(2)], method)
        dead = [(float(own.min_val), float(own.max_val)) for own in network.activations() if own.dead]
        assert dead == [(0.0, 0.0)]


# -- what is counted


def test_a_computed_weight_is_counted_once_and_in_place_of_its_sources():
    """weight_norm's direction and magnitude are not stored: 16 x 16 x 9 integers of 8 bits are."""
    model, network = prepared_segmenter(NormedByHook)
    backbone, head = model.backbone, model.decode_head
    weights = 16 * 3 * 9 + 16 * 16 * 9 + 8 * 16 + head.conv_seg.weight.numel()
    weights += sum(module.weight.numel() for module in head.convs.modules() if isinstance(module, nn.Conv2d))
    every = sum(p.numel() for part in (backbone, head) for p in part.parameters())
    sources = backbone.conv.weight_g.numel() + backbone.conv.weight_v.numel()
    assert parameter_bits(network) == (8 * weights, 32 * (every - sources - (weights - 16 * 16 * 9)))
    assert weight_megabytes(network) == sum(parameter_bits(network)) / 8e6


class Auxiliary(nn.Module):
    """A network as its head alone, with an output that evaluation does not compute, as DDRNet's."""

    head_name = 'head'

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.ModuleDict(dict(stem=nn.Conv2d(3, 8, 3, 2, 1), last=nn.Conv2d(8, 5, 1), aux=nn.Conv2d(8, 64, 3)))

    def forward(self, x):
        x = functional.relu(self.head['stem'](x))
        main = self.head['last'](x)
        return ((main, self.head['aux'](x)) if self.training else (main,)), []


def test_layers_of_training_alone_get_no_bits_and_count_for_none():
    network = QuantizedNetwork(Auxiliary(), DenseQuantizer(), (2, 3, 32, 48))
    assert [layer.name for layer in weight_layers(network)] == ['head.stem', 'head.last']
    assert len(list(network.weights())) == 3
    assert parameter_bits(network) == (8 * (8 * 3 * 9 + 5 * 8), 32 * (8 + 5))


def test_one_scale_a_tensor_is_written_as_one():
    """Accelerators with no other kind refuse a list of equal scales; a norm that nothing takes up keeps its own."""
    for weights, expected in (('tensor', {0}), ('channel', {1})):
        model, network = settled(TwoLevels, weights=weights)
        content = onnx_of(converted_network(model, convert(network)), images(9)[:1], False, None)
        graph = OnnxGraph(onnx.load_from_string(content).graph)
        convolutions = [node for node in graph.graph.node if node.op_type == 'Conv']
        scales = [graph.value(graph.dequantizer(node.input[1]).input[1]) for node in convolutions]
        assert len(scales) >= 5 and {scale.ndim for scale in scales} == expected


# -- what is said


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(scheme=dict(numerics='onnx'), numerics='tensorrt'), 'scheme and numerics were both given'),
        (dict(scheme=dict(numerics='onnx'), weight_bits=4), 'scheme and weight_bits were both given'),
        (dict(scheme=dict(numerics='onnx'), float_modules=['neck']), 'scheme and float_modules were both given'),
        (dict(scheme=dict(weights='tensor')), r"scheme has weights='tensor', .* expected weight_granularity=…"),
        (dict(scheme=dict(weight_bit=4)), 'scheme has weight_bit=4, which nothing reads'),
        (dict(weight_bits=4.0), r'weight_bits=4\.0 was given, expected 2 to 8'),
        (dict(overrides={'neck': 8.0}), r"overrides\['neck'\]=8\.0 was given"),
    ],
)
def test_options_that_would_be_lost_are_refused(options, message):
    with pytest.raises(QuantizationError, match=message):
        QATHook(**options)


def test_weights_have_no_state_unless_their_scales_were_trained():
    _, network = settled(CalledCat)
    shape = dict(example_shape=(2, 3, 32, 48))
    for learned in (False, True):
        written = Checkpoint({}, 'last.pth')
        order = QuantizationSettings.of(float_modules=['a', 'b'], learned_scales=learned, **shape)
        written.quantize(network, order, 'QAT')
        written.check(network, QuantizationSettings.of(float_modules=['b', 'a'], learned_scales=learned, **shape))
        other = QuantizationSettings.of(float_modules=['a', 'b'], learned_scales=learned, weights='tensor', **shape)
        if not learned:
            written.check(network, other)
            continue
        with pytest.raises(CheckpointError, match=r"QATHook\(weights='channel'\), this config has weights='tensor'"):
            written.check(network, other)


# -- when QAT begins


def run_of(epoch, iteration, total=20):
    loop = epochs(epoch, iteration, total=total)
    loop.__dict__.update(_max_iters=10 * total)
    return loop


def hooked(loop, **options):
    """A hook on a small network in training mode, and what it takes for a Runner."""
    hook = QATHook(example_shape=(2, 3, 32, 48), **options)
    runner = SimpleNamespace(
        model=segmenter(CalledCat), train_loop=loop, iter=loop.iter, optim_wrapper=None, hooks=[], _load_from=None
    )
    runner.visualizer = SimpleNamespace(add_scalars=lambda *args, **kwargs: None)
    hook.prepare(runner)
    runner.model.train()
    return hook, runner


def step_to(hook, runner, loop):
    runner.train_loop, runner.iter = loop, loop.iter
    hook.before_train_iter(runner, 0)
    with torch.no_grad():
        hook.network.flat(images(loop.iter))
    return hook.phase


def test_a_float_run_that_is_resumed_warms_up_from_there(caplog):
    """Behind the points of all phases: ranges that nobody has seen were frozen, and a constant was trained."""
    hook, runner = hooked(run_of(19, 190, total=21), warmup='1 epoch')
    assert step_to(hook, runner, run_of(19, 190, total=21)) == Phase(False)
    assert step_to(hook, runner, run_of(19, 199, total=21)) == Phase(False)
    saved = dict(meta={}, state_dict={})
    hook.before_save_checkpoint(runner, saved)
    assert step_to(hook, runner, run_of(20, 200, total=21)) == Phase(True, True, True)
    other, second = hooked(run_of(19, 199, total=21), warmup='1 epoch')
    second._resume = True
    other.after_load_checkpoint(second, saved)
    other.network.load_state_dict(hook.network.state_dict())
    assert step_to(other, second, run_of(19, 199, total=21)) == Phase(False)
    assert step_to(other, second, run_of(20, 200, total=21)) == Phase(True, True, True)


def test_ranges_frozen_from_the_start_are_refused():
    hook, runner = hooked(run_of(0, 0), warmup=0, freeze_observers_at=0)
    with pytest.raises(RangeError, match='has no range: no image has passed through it'):
        step_to(hook, runner, run_of(0, 0))


@pytest.mark.parametrize(
    ('warmup', 'loop', 'said'),
    [
        ('1 epoch', run_of(0, 0, total=1), True),
        ('100 %', run_of(0, 0), True),
        ('200 iterations', run_of(0, 0), True),
        ('199 iterations', run_of(0, 0), False),
        (0, run_of(0, 0, total=1), False),
    ],
)
def test_a_warmup_to_the_end_is_told_of(warmup, loop, said, monkeypatch):
    lines = []
    monkeypatch.setattr('frostnet_mm.quantization.hook.print_log', lambda text, *args, **kwargs: lines.append(text))
    hook, runner = hooked(loop, warmup=warmup)
    step_to(hook, runner, loop)
    assert any('nothing is trained in INT8' in line for line in lines) == said


def test_scales_get_the_rate_of_a_group_that_has_one():
    frozen, trained = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([dict(params=[frozen], lr=0.0), dict(params=[trained])], lr=0.1)
    for group in optimizer.param_groups:
        group['initial_lr'] = group['lr']
        group['lr'] *= 0.3  # what a schedule has made of it
    scheduler = SimpleNamespace(param_name='lr', base_values=[0.0, 0.1])
    add_parameters(optimizer, [nn.Parameter(torch.zeros(1))], [scheduler])
    assert optimizer.param_groups[-1]['lr'] == pytest.approx(0.03) and scheduler.base_values[-1] == 0.1


class Dropped(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def middle(self, x):
        return self.conv(self.dropout(functional.adaptive_avg_pool2d(self.block(x), 4)))


def test_a_range_need_not_hold_what_dropout_multiplies():
    """In evaluation nothing is multiplied: the range would be twice as wide as anything in it."""
    _, network = prepared_segmenter(Dropped)
    network.train().observe(True)
    network.simulate(True)
    (shared,) = (module for module in network.activations() if 'avg_pool' in module.name)
    seen = []
    shared.register_forward_hook(lambda module, args, out: seen.append(float(args[0].detach().max())))
    shared.averaging_constant = 1.0
    for seed in range(3):
        network.flat(images(seed))
        assert float(shared.max_val) == pytest.approx(seen[-1])
    assert len(seen) == 3  # the dropped map is not rounded again
    with torch.no_grad():
        found, converted = network.eval().flat(images(9))[0], convert(network).flat(images(9))[0]
    assert float((converted - found).abs().max()) <= 0.01 * float(found.max() - found.min()) / 255


def test_a_range_behind_a_dropout_of_floats_is_observed():
    """Training rounds behind a dropout that has a range of its own, as Swin's behind the norm of its patches; it left
    that out, and with it the only observation of a range that evaluation needs.
    """
    _, network = prepared_segmenter(Dropped)
    root = nn.Module()
    root.own, root.shared = list(network.activations())[:2]
    left = {}
    for name, before in (('own', None), ('shared', 'shared'), ('own', 'shared')):
        graph = Graph()
        node = graph.placeholder('x')
        if before:
            node = graph.call_module(before, (node,))
        for p in (0.1, 0.0):  # one behind another
            node = graph.call_function(torch.ops.aten.dropout.default, (node, p, True))
        graph.output(graph.call_module(name, (node,)))
        _pass_dropped(graph, root)
        left[name, before] = [str(node.target) for node in graph.nodes if node.op == 'call_module']
    assert left == {('own', None): ['own'], ('shared', 'shared'): ['shared'], ('own', 'shared'): ['shared', 'own']}
