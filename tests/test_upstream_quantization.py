"""INT8 on unmodified detectors and segmenters of mmdet and mmseg: the same losses, gradients and integers."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from tiny_segmenter import segmenter
from torch import nn
from torch.utils import _pytree as pytree
from upstream_models import (
    CONFIGS,
    OTHER_SIZE,
    SIZE,
    build,
    losses_of,
    random_batch,
    settle_norms,
)

from frostnet_mm.models.dense import DenseNetwork, UnsupportedModelError
from frostnet_mm.quantization import QuantizationSettings, convert, float_operators, int8_share, prepare_model

# Upstream's SSDHead has no loss_cls, which its predict asks for.
WITHOUT_PREDICT = {'ssdlite'}
# All that computes in float between INT8 operators.
IN_FLOAT = {
    'ssdlite': {},
    'retinanet': {},
    'yolox': {'silu': 60},
    'rtmdet': {'silu': 70, 'hardsigmoid': 4, 'mul': 3},
    'faster_rcnn': {},
    'fcos': {'group_norm': 20, 'relu': 20, 'mul': 5, 'exp': 5},
    'fcn': {},
    'deeplabv3plus': {},
    'bisenetv2': {'sigmoid': 2},
    'frostnet_fcn': {},
}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def backward(model):
    model.train()
    model.zero_grad()
    losses, total = losses_of(model)
    total.backward()
    return losses, gradients(model)


def predictions(model):
    model.eval()
    data = random_batch(model, SIZE, False)
    with torch.no_grad():
        samples = model.predict(data['inputs'], data['data_samples'])
    if hasattr(samples[0], 'pred_sem_seg'):
        return [sample.seg_logits.data for sample in samples]
    return [torch.cat([s.pred_instances.bboxes, s.pred_instances.scores[:, None]], 1) for s in samples]


def prepared(name, settings):
    """A model with its quantized network, and what the same model computes without it."""
    model = build(name)
    reference = revert_sync_batchnorm(copy.deepcopy(model))
    settle_norms(reference)
    model.load_state_dict(reference.state_dict())
    case = SimpleNamespace(name=name, model=model, reference=reference)
    case.network = prepare_model(model, settings)
    case.images = {size: random_batch(reference, size, False)['inputs'] for size in (SIZE, OTHER_SIZE)}
    return case


@pytest.fixture(scope='module', params=CONFIGS)
def case(request):
    return prepared(request.param, QuantizationSettings())


@pytest.fixture(scope='module')
def ranged(case):
    """The case with ranges from training passes; the tests of float come before it."""
    return set_ranges(case)


def set_ranges(case):
    network = case.network
    network.simulate(False)
    network.observe(True)
    network.freeze_norms = True
    network.train()
    with torch.no_grad():
        for images in case.images.values():
            network.flat(images)
    network.freeze_norms = False
    network.simulate(True)
    return case


def test_parameters_of_the_graph_are_the_models_own(case):
    own = dict(case.model.named_parameters(remove_duplicate=False)) | dict(case.model.named_buffers())
    root = case.network.__dict__['root']
    read = {node.target for node in case.network.program.graph.nodes if node.op == 'get_attr'}
    for name in read:
        parent, _, leaf = name.rpartition('.')
        assert getattr(root.get_submodule(parent), leaf) is own[name]
    dense = {name for name, _ in DenseNetwork(case.reference).named_parameters()}
    assert dense <= read


def test_float_mode_equals_the_float_model(case):
    case.network.simulate(False)
    case.network.observe(False)
    state = copy.deepcopy(case.reference.state_dict())
    found, found_gradients = backward(case.model)
    expected, expected_gradients = backward(case.reference)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found_gradients.keys() == expected_gradients.keys()
    largest = max(float(g.abs().max()) for g in expected_gradients.values())
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)
    case.model.load_state_dict(state, strict=False)
    case.reference.load_state_dict(state)
    with torch.no_grad():
        for images in case.images.values():
            expected = pytree.tree_leaves(DenseNetwork(case.reference).eval()(images))
            for one, other in zip(case.network.eval().flat(images), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_predictions_in_float_mode_equal_those_of_the_float_model(case):
    if case.name in WITHOUT_PREDICT:
        pytest.skip('upstream cannot predict')
    case.network.simulate(False)
    for one, other in zip(predictions(case.model), predictions(case.reference), strict=True):
        assert one.shape == other.shape
        same = torch.isclose(one, other, rtol=1e-3, atol=1e-3)
        assert same.float().mean() > 0.99  # two boxes of nearly the same score may change places


def test_simulated_training_gives_every_gradient(ranged):
    expected = gradients(ranged.reference)
    losses, found = backward(ranged.model)
    assert all(value == value and abs(value) < 1e6 for value in losses.values())
    assert expected.keys() <= found.keys()
    assert all(torch.isfinite(g).all() for g in found.values())
    set_ranges(ranged)


def test_simulated_predictions_have_the_form_of_the_float_ones(ranged):
    if ranged.name in WITHOUT_PREDICT:
        pytest.skip('upstream cannot predict')
    ranged.network.simulate(True)
    for one, other in zip(predictions(ranged.model), predictions(ranged.reference), strict=True):
        assert one.shape[-1] == other.shape[-1] and one.dim() == other.dim() and torch.isfinite(one).all()


def assert_converted_equals_simulated(case):
    """At most one step, on at most 0.1 % of the elements of each output; a float output counts as 256 steps."""
    network = case.network.eval()
    network.simulate(True)
    with torch.no_grad():
        converted = convert(network)
        for images in case.images.values():
            simulated, integers = network.flat(images), converted.flat(images)
            network.simulate(False)
            floats = network.flat(images)
            network.simulate(True)
            for name, one, two, plain in zip(network.program.names, simulated, integers, floats, strict=True):
                assert not torch.equal(one, plain), name
                step, off = one.abs().max() / 255, (one - two).abs()
                assert off.max() <= step and (off > 0.01 * step).float().mean() <= 1e-3, name


def test_converted_equals_simulated(ranged):
    assert_converted_equals_simulated(ranged)


def test_what_stays_in_float_is_reported(case):
    assert {group.kind: group.count for group in float_operators(case.network)} == IN_FLOAT[case.name]
    assert int8_share(case.network) == 1.0


@pytest.mark.parametrize('name', ['retinanet', 'fcn'])
def test_executorch_with_learned_scales(name):
    case = set_ranges(prepared(name, QuantizationSettings.of('executorch', learned_scales=True)))
    case.network.start_learning()
    _, found = backward(case.model)
    scales = {key for key, _ in case.model.named_parameters() if key.endswith('_scale')}
    assert scales and scales <= found.keys()
    assert {key for key, p in case.reference.named_parameters() if p.requires_grad} <= found.keys()
    assert_converted_equals_simulated(case)


# -- refusals


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x):
        return (self.conv(x),)


class Branching(Plain):
    def forward(self, x):
        if x.mean() > 0:
            x = x * 2
        return (self.conv(x),)


def test_a_branch_on_values_is_refused_by_line_and_module():
    with pytest.raises(UnsupportedModelError) as error:
        prepare_model(segmenter(Branching))
    line = Branching.forward.__code__.co_firstlineno + 1
    assert 'backbone (Branching) cannot be captured' in str(error.value)
    assert f'{__file__}:{line}: if x.mean() > 0' in str(error.value)


class Mismatch(Plain):
    """Its second convolution, of a class that the first has too, does not fit."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(5, 8, 1)

    def forward(self, x):
        return (self.other(self.conv(x)),)


def test_a_layer_that_does_not_fit_is_named():
    message = r'^backbone\.other reads 5 channels and gets 8: its layers do not fit each other'
    with pytest.raises(UnsupportedModelError, match=message):
        prepare_model(segmenter(Mismatch))


def test_detr_is_refused(monkeypatch):
    monkeypatch.setitem(CONFIGS, 'detr', ('mmdet::detr/detr_r50_8xb2-150e_coco', {}))
    with pytest.raises(UnsupportedModelError, match='DETR has no dense network that is known here; expected'):
        prepare_model(build('detr'))
