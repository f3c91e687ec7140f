"""Networks that compute something else in evaluation than in training: one graph that does both."""

import copy
import logging

import numpy as np
import onnx
import pytest
import torch
from mmengine.config import ConfigDict
from segmenter_parts import settled
from test_network_habits import Habit
from tiny_segmenter import images, prepared_segmenter, segmenter
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree
from upstream_models import CLASSES, build_config, losses_of, random_batch

from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.flat_network import converted_network, traceable
from frostnet_mm.deploy.onnx.export import onnx_of
from frostnet_mm.deploy.verification import verify
from frostnet_mm.models.dense import DenseNetwork, UnsupportedModelError, attached, detached
from frostnet_mm.quantization import QuantizationSettings, convert, int8_share, prepare_model
from frostnet_mm.quantization.analysis import analyze
from frostnet_mm.quantization.calibration import calibrate

SIZE = (64, 96)
STRIDES = (8, 16, 32)


class Levels(nn.Module):
    """A map of 16 channels and stride 8, with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 8, 16, 16)
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 3, 2, 1) for pair in zip(channels, channels[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels[1:])

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        return (x,)


def fcos():
    """A small FCOS whose head multiplies boxes by the stride in evaluation alone."""
    head = dict(type='FCOSHead', num_classes=CLASSES, in_channels=16, stacked_convs=1, feat_channels=16)
    head |= dict(norm_on_bbox=True, centerness_on_reg=True, norm_cfg=dict(type='GN', num_groups=4))
    head |= dict(strides=STRIDES, regress_ranges=((-1, 32), (32, 64), (64, 1e8)))
    test_cfg = dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6), max_per_img=20)
    model = dict(
        type='FCOS',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=dict(type=Levels),
        neck=dict(type='FPN', in_channels=[16], out_channels=16, num_outs=len(STRIDES)),
        bbox_head=head,
        test_cfg=test_cfg,
    )
    return build_config(ConfigDict(model), 'mmdet')


@pytest.fixture(scope='module')
def pair():
    """A model with its quantized network, and the same model without it."""
    model = fcos()
    reference = copy.deepcopy(model)
    settings = QuantizationSettings.of(example_shape=(2, 3, *SIZE))
    network = prepare_model(model, settings)
    model.train()
    with torch.no_grad():
        for seed in range(3):
            network.flat(torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed)))
    reference.load_state_dict(model.state_dict(), strict=False)
    return model, reference, network


def in_float(network, evaluation):
    network.observe(False)
    network.simulate(False)
    network.train(not evaluation)
    return network


def test_fcos_puts_out_in_each_mode_what_mm_does(pair):
    model, reference, network = pair
    dense = DenseNetwork(reference)
    assert network.program.fixed_size == (None, 3, None, None) and network.program.size_divisor == 1
    for evaluation in (False, True):
        in_float(network, evaluation)
        for size in (SIZE, (51, 77)):
            batch = torch.randn(3, 3, *size)
            state = copy.deepcopy(reference.state_dict())
            with torch.no_grad():
                expected = dense.train(not evaluation)(batch)
                found = network(batch)
            assert pytree.tree_structure(found) == pytree.tree_structure(expected)
            for one, other in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
            reference.load_state_dict(state)
            model.load_state_dict(state, strict=False)
    boxes = network(batch)[0][1]
    in_float(network, evaluation=False).freeze_norms = True
    for stride, one, other in zip(STRIDES, boxes, network(batch)[0][1], strict=True):
        torch.testing.assert_close(one, other * stride)
    network.freeze_norms = False


def test_losses_and_gradients_of_fcos_are_those_of_float(pair):
    model, reference, network = pair
    in_float(network, evaluation=False)
    found = []
    for each in (model, reference):
        each.train()
        each.zero_grad()
        losses, total = losses_of(each, SIZE)
        total.backward()
        gradients = {name: value.grad for name, value in each.named_parameters() if value.grad is not None}
        found.append((losses, gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert found[0][1].keys() == found[1][1].keys() and len(found[0][1]) > 20
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    reference.load_state_dict(model.state_dict(), strict=False)


def boxes_of(model):
    data = random_batch(model, SIZE, False)
    with torch.no_grad():
        samples = model.eval().predict(data['inputs'], data['data_samples'])
    return torch.cat([torch.cat([s.pred_instances.bboxes, s.pred_instances.scores[:, None]], 1) for s in samples])


def test_predictions_of_fcos_are_those_of_mm_and_of_the_simulation_those_of_the_integers(pair):
    model, reference, network = pair
    in_float(network, evaluation=True)
    torch.testing.assert_close(boxes_of(model), boxes_of(reference), rtol=1e-3, atol=1e-3)
    network.simulate(True)
    simulated, converted = boxes_of(model), convert(network)
    assert not torch.allclose(simulated, boxes_of(reference), rtol=1e-3, atol=1e-3)
    with attached(model, converted):
        torch.testing.assert_close(boxes_of(model), simulated, rtol=1e-3, atol=1e-2)
    batch = random_batch(model, SIZE, False)['inputs']
    with torch.no_grad():
        for one, other in zip(network.flat(batch), converted.flat(batch), strict=True):
            off = (one - other).abs()
            assert off.max() <= one.abs().max() / 255 and (off > 0.01 * one.abs().max() / 255).float().mean() <= 1e-3
    assert int8_share(network) == 1.0


def test_an_engine_with_fcos_predicts_as_mm_does_with_the_integers(pair):
    model, _, network = pair
    network.simulate(True)
    converted = convert(network.eval())
    flat, engine = converted_network(model, converted), engine_of('onnxruntime')
    batch = random_batch(model, SIZE, False)['inputs'][:1]
    content = onnx_of(flat, batch, False, None)
    layers = verify.check_layers(engine, onnx.load_from_string(content), traceable(flat), batch.numpy())
    assert layers and not verify.failed_layers(layers, engine.layer_share)

    def run(images):
        found = [engine.run_onnx(content, image[None].numpy(), flat.names) for image in images]
        return flat.layout.nest([torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True)])

    with attached(model, converted):
        expected = boxes_of(model)
    with attached(model, run):
        found = boxes_of(model)
    assert len(found) == len(expected) > 20
    near = (found[:, None] - expected[None]).abs().amax(2) < 0.1
    assert near.any(1).float().mean() > 0.95


# -- heads of other kinds


def with_head(monkeypatch, training, evaluation, backbone=Habit, **settings):
    """A segmenter whose head puts out what two functions make of itself and its logits, and its quantized network."""
    from mmseg.models.decode_heads import FCNHead

    forward = FCNHead.forward

    def changed(head, inputs):
        return (training if head.training else evaluation)(head, forward(head, inputs))

    monkeypatch.setattr(FCNHead, 'forward', changed)
    model = segmenter(backbone)
    return model, prepare_model(model, QuantizationSettings.of(example_shape=(2, 3, 32, 48), **settings))


class Plain(Habit):
    def middle(self, x):
        return self.block(x)


def outputs_of(model, network, training, size=(52, 72)):
    """The flat outputs of the graph and of the network itself, on the same images with the same statistics."""
    batch = torch.randn(3, 3, *size)
    state = copy.deepcopy(model.state_dict())
    in_float(network, not training)
    with torch.no_grad():
        torch.manual_seed(0)  # for dropout
        found = network.flat(batch)
        model.load_state_dict(state)
        torch.manual_seed(0)
        with detached(model):
            dense = DenseNetwork(model).train(training)
            expected = pytree.tree_leaves(dense(batch))
    model.load_state_dict(state)
    return found, expected


def assert_same_outputs(model, network):
    for training in (True, False):
        found, expected = outputs_of(model, network, training)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def rectified(head, logits):
    """A convolution with the head's own weight, and a rectifier behind it, in evaluation alone."""
    return functional.relu(functional.conv2d(logits.sigmoid(), head.conv_seg.weight[:, :CLASSES]) * 2)


@pytest.mark.parametrize(
    ('training', 'evaluation', 'counts'),
    [
        (lambda head, out: out, lambda head, out: out.sigmoid(), (1, 1)),
        (lambda head, out: (out, out * 2, [out * 3]), lambda head, out: [out.softmax(1), out * 2], (3, 2)),
        (lambda head, out: out, lambda head, out: (out, out.amax(1, keepdim=True), out.argmax(1)), (1, 3)),
        (lambda head, out: out + out.shape[2] * 0.1, lambda head, out: out + out.shape[3] * 0.1, (1, 1)),
        (lambda head, out: out * torch.tensor(2.0), lambda head, out: out * torch.tensor(3.0), (1, 1)),
        (lambda head, out: out, rectified, (1, 1)),
    ],
    ids=['sigmoid', 'fewer', 'more', 'sizes', 'constants', 'rectified'],
)
def test_each_mode_has_its_own_outputs(monkeypatch, training, evaluation, counts):
    model, network = with_head(monkeypatch, training, evaluation, Plain)
    assert_same_outputs(model, network)
    model.train()
    network.simulate(True)
    network.observe(True)
    outputs, kept = network(images())
    assert kept == [] and len(pytree.tree_leaves(outputs)) == len(network.flat(images())) == counts[0]
    model.eval()
    network.observe(False)
    with torch.no_grad():
        simulated, converted = network.flat(images(1)), convert(network).flat(images(1))
        assert len(simulated) == len(converted) == len(network.program.names) == counts[1]
        for one, other in zip(simulated, converted, strict=True):
            step = one.abs().max() / 255
            assert (abs(one - other) > 0.01 * step).float().mean() <= 0.005


def test_what_one_mode_alone_computes_is_not_in_the_other(monkeypatch):
    model, network = with_head(monkeypatch, lambda head, out: out.tanh(), lambda head, out: out.exp(), Plain)
    assert calibrate(network.eval(), [images()], 'minmax') == 2

    def targets(graph):
        return {str(node.target).split('.')[1] for node in graph.nodes if str(node.target).startswith('aten')}

    assert {'tanh', 'exp'} <= targets(network.program.graph)
    deployed = targets(convert(network).module.graph)
    assert 'exp' in deployed and 'tanh' not in deployed
    assert [layer.name for layer in analyze(network, [images()]).outputs] == ['decode_head']


class Branches(Habit):
    """As TridentNet: three branches of shared weights and norms in training, behind each other; evaluation has one."""

    def __init__(self) -> None:
        super().__init__()
        self.path = nn.Dropout(0.5)

    def middle(self, x):
        rates = (1, 2, 3) if self.training else (2,)
        branches = [self.conv_norm(functional.conv2d(x, self.conv.weight, None, 1, rate, rate)) for rate in rates]
        return self.path(functional.relu(torch.cat(branches)))


class NormOfTail(Habit):
    """Its norm is called on one more map in evaluation, where it has the statistics of training."""

    def middle(self, x):
        x = self.block(x)
        return x if self.training else x + self.conv_norm(x)


class OwnParameter(Habit):
    """A parameter that evaluation alone reads, two levels deep, and a rectifier over what it adds."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Sequential(nn.BatchNorm2d(16), nn.BatchNorm2d(16))
        for norm in self.extra:
            nn.init.normal_(norm.running_mean)

    def middle(self, x):
        x = self.block(x)
        return x if self.training else functional.relu(self.extra(x))


@pytest.fixture
def deep(monkeypatch):
    """Has the stem be five convolutions, so that those behind what differs are fewer than half."""

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        for _ in range(4):
            x = x + functional.relu(functional.conv2d(x, self.conv.weight, padding=1))
        return (self.last(self.middle(x)),)

    monkeypatch.setattr(Habit, 'forward', forward)


@pytest.mark.parametrize('kind', [Branches, NormOfTail, OwnParameter])
def test_backbones_that_differ_are_trained_and_deployed(deep, kind):
    torch.manual_seed(0)
    model, network = settled(kind)
    found, expected = outputs_of(model, network, False)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    network.freeze_norms = False
    found, expected = outputs_of(model, network, True)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    network.simulate(True)
    network.eval()
    with torch.no_grad():
        simulated, converted = network.flat(images(9))[0], convert(network).flat(images(9))[0]
    step = (simulated.max() - simulated.min()) / 255
    assert len(simulated) == 2 and float((abs(simulated - converted) > 0.01 * step).float().mean()) <= 0.001
    flat = converted_network(model, convert(network))
    content = onnx_of(flat, images(7)[:1], False, None)
    layers = verify.check_layers(
        engine_of('onnxruntime'), onnx.load_from_string(content), traceable(flat), images(9)[:1].numpy()
    )
    assert layers and not verify.failed_layers(layers, engine_of('onnxruntime').layer_share)


def test_statistics_of_norms_are_those_that_the_network_itself_gathers(deep):
    model, network = prepared_segmenter(NormOfTail)
    reference = copy.deepcopy(model.backbone)
    in_float(network, evaluation=False).flat(images())
    reference.train()(images())
    for name, value in reference.named_buffers():
        torch.testing.assert_close(dict(model.backbone.named_buffers())[name], value, msg=name)


def test_scales_that_evaluation_alone_reads_follow_the_ranges_in_place_of_being_learned(deep):
    model, network = prepared_segmenter(OwnParameter, learned_scales=True)
    fixed = [module for module in network.activations() if module.log_scale is None]
    assert fixed and all(
        'backbone.extra' in module.name or 'last' in module.name or 'head' in module.name for module in fixed
    )
    network.train().observe(True)
    with torch.no_grad():
        network.flat(images())
    network.start_learning()
    network.observe(True, learned=False)
    network.simulate(True)
    before = [float(module.max_val) for module in network.activations()]
    loss = network.flat(images() * 3)[0].square().sum()
    loss.backward()
    for module, old in zip(network.activations(), before, strict=True):
        assert (float(module.max_val) != old) == (module in fixed), module.name
    assert all(p.grad is not None for name, p in network.named_parameters() if name.endswith('log_scale'))


def test_the_log_says_what_evaluation_computes_alone(monkeypatch, caplog):
    said = []
    monkeypatch.setattr(
        'frostnet_mm.quantization.evaluation_tail.print_log', lambda text, **options: said.append((text, options))
    )
    with_head(monkeypatch, lambda head, out: out, lambda head, out: out.sigmoid() * 2, Plain)
    ((text, options),) = said
    assert text.startswith('Evaluation computes 2 operators of its own (0 convolutions and matrix products), from ')
    assert 'aten.sigmoid.default' in text and options['level'] == logging.INFO


# -- sizes


def test_a_last_step_for_one_size_binds_the_network_to_it(monkeypatch):
    said = []
    monkeypatch.setattr('frostnet_mm.quantization.capture.print_log', lambda text, **options: said.append(text))

    def resized(head, out):
        return functional.interpolate(out, size=(int(out.shape[2] * 1.5), 7))

    model, network = with_head(monkeypatch, lambda head, out: out, resized, Plain)
    assert network.program.fixed_size == (None, 3, 32, 48)
    assert len(said) == 1 and 'upsample_nearest2d' in said[0] and 'at another size' not in said[0]
    found, expected = outputs_of(model, network, False, (32, 48))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)


# -- refusals


class AllElse(Habit):
    def middle(self, x):
        return self.block(x if self.training else x.neg())


class Updates(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(1))

    def middle(self, x):
        x = self.block(x)
        if not self.training:
            self.mean += x.mean()
            x = x + self.mean
        return x


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        (
            AllElse,
            r'^decode_head \(FCNHead\) computes its output decode_head in another way in evaluation than in training, '
            r'and 4 of the 5 convolutions and matrix products of evaluation are none of training \(the first is '
            r'aten\.conv2d\.default of backbone\.conv .*\), so what would be deployed is not what was trained',
        ),
        (Updates, r'^The network changes backbone\.mean in evaluation, so its outputs depend on the images before'),
    ],
)
def test_what_is_not_trained_is_refused(kind, message):
    with pytest.raises(UnsupportedModelError, match=message):
        prepared_segmenter(kind)


def test_random_numbers_in_the_tail_are_refused(monkeypatch):
    message = r'^aten\.rand_like\.default .* draws random numbers in evaluation too'
    with pytest.raises(UnsupportedModelError, match=message):
        with_head(monkeypatch, lambda head, out: out, lambda head, out: out + torch.rand_like(out), Plain)


def test_dropout_that_stays_on_is_refused(monkeypatch):
    with pytest.raises(UnsupportedModelError, match='draws random numbers in evaluation too'):
        with_head(
            monkeypatch, lambda head, out: out, lambda head, out: functional.dropout(out.sigmoid(), 0.5, True), Plain
        )
