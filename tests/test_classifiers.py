"""INT8 in the ImageClassifier of mmpretrain: the real one where it is installed, and a stand-in."""

import copy
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain_parts import ImageClassifier
from torch import nn

from frostnet_mm.deploy.deploy import branched_layers
from frostnet_mm.deploy.heads.describe import describe_model
from frostnet_mm.engine.config import ConfigError
from frostnet_mm.models import FrostNet
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.quantization import QuantizationSettings, convert, float_operators, int8_share, prepare_model

CLASSES, BATCH, SIZE = 5, 4, (64, 96)
BACKBONE = dict(widen_factor=0.35, out_indices=(3, 4))
CHANNELS = FrostNet(**BACKBONE).out_channels[-1]
KINDS = ['stand-in', 'mmpretrain']


def build_stand_in():
    return ImageClassifier(
        dict(type='frostnet_mm.FrostNet', **BACKBONE),
        dict(type='GlobalAveragePooling'),
        dict(type='StandInLinearClsHead', num_classes=CLASSES, in_channels=CHANNELS),
        dict(mean=[0.0] * 3, std=[1.0] * 3),
    )


def build_real():
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='frostnet_mm.FrostNet', **BACKBONE),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=CHANNELS),
            data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3, num_classes=CLASSES),
        )
    )


def samples(kind):
    if kind == 'stand-in':
        return [SimpleNamespace(label=index) for index in range(BATCH)]
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(index) for index in range(BATCH)]


@pytest.fixture(scope='module', params=KINDS)
def case(request):
    """A classifier with its quantized network, and the same one without."""
    spec = find_spec('mmpretrain')
    if request.param == 'mmpretrain' and (spec is None or spec.origin is None):  # no package, or a folder of that name
        pytest.skip('mmpretrain is not installed: pip install onedl-mmpretrain')
    torch.manual_seed(0)
    model = build_stand_in() if request.param == 'stand-in' else build_real()
    images = torch.randn(BATCH, 3, *SIZE)
    model.train()
    with torch.no_grad():
        for _ in range(20):  # statistics that fit, without which activations vanish from layer to layer
            model.extract_feat(images)
        nn.init.normal_(model.head.fc.weight, std=0.5)
    case = SimpleNamespace(model=model, reference=copy.deepcopy(model), images=images, samples=samples(request.param))
    case.network = prepare_model(model, QuantizationSettings(averaging_constant=0.5))
    return case


def backward(case, model):
    model.train()
    model.zero_grad()
    torch.manual_seed(0)
    loss = model.loss(case.images, case.samples)['loss']
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def scores(case, model):
    return torch.stack([sample.pred_score for sample in model.eval().predict(case.images, case.samples)])


def set_arithmetic(case, simulating):
    case.network.simulate(simulating)
    case.network.observe(False)


def test_the_network_is_captured_whole(case):
    assert case.network.program.names == ('head',)
    assert int8_share(case.network) == 1.0 and float_operators(case.network) == []
    read = {node.target for node in case.network.program.graph.nodes if node.op == 'get_attr'}
    assert {name for name, _ in DenseNetwork(case.reference).named_parameters()} <= read


def test_losses_and_predictions_in_float_are_the_models_own(case):
    set_arithmetic(case, False)
    state = copy.deepcopy(case.reference.state_dict())
    (loss, found), (expected, gradients) = (backward(case, model) for model in (case.model, case.reference))
    assert loss == pytest.approx(expected, rel=1e-4)
    assert found.keys() == gradients.keys() == {name for name, _ in case.reference.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)
    for model in (case.model, case.reference):
        model.load_state_dict(state, strict=False)
    own = scores(case, case.reference)
    assert float(own.std()) > 0.1
    torch.testing.assert_close(scores(case, case.model), own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(case.model(case.images).softmax(1), own, rtol=1e-4, atol=1e-5)  # mode='tensor'


def test_converted_equals_simulated(case):
    network = case.network
    network.freeze_norms = True
    network.simulate(False)
    network.observe(True)
    network.train()
    with torch.no_grad():
        network.flat(case.images)
    set_arithmetic(case, True)
    loss, gradients = backward(case, case.model)
    assert loss < 10 and all(torch.isfinite(gradient).all() for gradient in gradients.values())
    network.eval()
    rounded = scores(case, case.model)
    with torch.no_grad():
        (simulated,), (integers,) = network.flat(case.images), convert(network).flat(case.images)
        set_arithmetic(case, False)
        (plain,) = network.flat(case.images)
    step = float(simulated.abs().max()) / 255
    assert float((simulated - integers).abs().max()) <= step
    # INT8, not float: and predict is what the network puts out
    assert step < float((simulated - plain).abs().max()) < 0.5 * float(plain.abs().max())
    torch.testing.assert_close(rounded, simulated.softmax(1))


TEST_DATA = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=SIZE[::-1])]))


def test_what_surrounds_it_is_described(case):
    cfg = Config(dict(test_dataloader=TEST_DATA))
    model = copy.deepcopy(case.reference)
    model.dataset_meta = dict(classes=list('abcde'))
    described = describe_model(model, cfg)
    assert described['task'] == 'classification' and described['no_decoding'] is None
    assert described['decoding'] == dict(kind='classes', output='head', num_classes=CLASSES)
    assert described['preprocessing']['resize'] == dict(width=SIZE[1], height=SIZE[0], keep_ratio=False)
    model.data_preprocessor.to_rgb = True
    assert describe_model(model, cfg)['preprocessing']['bgr_to_rgb'] is True
    model.dataset_meta = dict(classes=['a', 'b'])
    with pytest.raises(ConfigError, match='^The head has 5 classes, dataset_meta names 2'):
        describe_model(model, cfg)


@pytest.mark.parametrize('method', ['predict', '_get_predictions'])
def test_a_head_that_predicts_otherwise_is_not_decoded(case, method):
    """Such as mmpretrain's heads of several labels: a softmax would be another result."""
    model = copy.deepcopy(case.reference)
    model.dataset_meta = dict(classes=list('abcde'))
    head = type(model.head)
    model.head.__class__ = type('OwnHead', (head,), {method: lambda self, *given: getattr(head, method)(self, *given)})
    described = describe_model(model, Config(dict(test_dataloader=TEST_DATA)))
    assert described['decoding'] is None and described['no_decoding'] == f'OwnHead has a {method} of its own'


def test_a_model_that_predicts_otherwise_is_not_decoded(case):
    model = copy.deepcopy(case.reference)
    model.dataset_meta = dict(classes=list('abcde'))
    model.__class__ = type('Own', (type(model),), dict(predict=lambda self, inputs, samples=None: None))
    described = describe_model(model, Config(dict(test_dataloader=TEST_DATA)))
    assert described['decoding'] is None and described['no_decoding'] == 'Own has a predict of its own'


class Block(nn.Module):
    """As mmpretrain's MobileOneBlock: several convolutions side by side until it is switched."""

    def __init__(self, blocks=0):
        super().__init__()
        self.deploy, self.inner = False, nn.Sequential(*(Block() for _ in range(blocks)))

    def switch_to_deploy(self):
        self.deploy = True


class Backbone(Block):
    """Holds such blocks, and the same flag."""


def test_branches_of_the_training_are_found():
    backbone = Backbone(2)
    assert branched_layers(nn.Sequential(backbone, nn.ReLU())) == ['Block']
    backbone.inner[0].switch_to_deploy()
    assert branched_layers(backbone) == ['Block']
    backbone.inner[1].switch_to_deploy()
    assert branched_layers(backbone) == ['Backbone']  # not switched itself
    backbone.switch_to_deploy()
    assert branched_layers(backbone) == branched_layers(build_stand_in()) == []
