"""INT8 in the ImageClassifier of mmpretrain: the real one where it is installed, and a stand-in."""

import copy
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn import functional

from frostnet_mm.deploy.heads.describe import describe_model
from frostnet_mm.engine.config import ConfigError
from frostnet_mm.models import FrostNet
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.quantization import QuantizationSettings, convert, float_operators, int8_share, prepare_model

CLASSES, BATCH, SIZE = 5, 4, (64, 96)
BACKBONE = dict(widen_factor=0.35, out_indices=(3, 4))
CHANNELS = FrostNet(**BACKBONE).out_channels[-1]
KINDS = ['stand-in', 'mmpretrain']


class LinearHead(nn.Module):
    """As mmpretrain's LinearClsHead: losses and predictions come from ``self(feats)``."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(CHANNELS, CLASSES)

    def forward(self, feats):
        return self.fc(feats[-1])

    def loss(self, feats, data_samples):
        return dict(loss=functional.cross_entropy(self(feats), torch.tensor([s.label for s in data_samples])))

    def predict(self, feats, data_samples):
        return [SimpleNamespace(pred_score=score) for score in self(feats).softmax(1)]


class Pooling(nn.Module):
    def forward(self, feats):
        return tuple(functional.adaptive_avg_pool2d(feat, 1).view(feat.size(0), -1) for feat in feats)


class ImageClassifier(BaseModel):
    """As mmpretrain's."""

    __module__ = 'mmpretrain.models.classifiers.image'

    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.head = FrostNet(**BACKBONE), Pooling(), LinearHead()

    @property
    def with_neck(self):
        return self.neck is not None

    def extract_feat(self, inputs):
        return self.neck(self.backbone(inputs))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        feats = self.extract_feat(inputs)
        return self.head(feats) if mode == 'tensor' else getattr(self.head, mode)(feats, data_samples)

    def loss(self, inputs, data_samples):
        return self(inputs, data_samples, 'loss')

    def predict(self, inputs, data_samples):
        return self(inputs, data_samples, 'predict')


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
    model = ImageClassifier() if request.param == 'stand-in' else build_real()
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


def test_deployment_is_refused(case):
    message = (
        '^ImageClassifier is a model of mmpretrain, and a deployment cannot express what surrounds its network; '
        'expected frostnet_mm.ImageClassifier, whose parts and weights have the same names.$'
    )
    with pytest.raises(ConfigError, match=message):
        describe_model(case.reference, Config())
