"""Training all networks at once: their order, their gradients, their rounding, and what is validated."""

import copy
import random
import re
from types import SimpleNamespace

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from test_nas_elastic import BASE, SPACE
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset

from frostnet_mm import GradBoostSGD
from frostnet_mm.nas.elastic import ElasticFrostNet
from frostnet_mm.nas.errors import SearchError
from frostnet_mm.nas.networks import extract_model
from frostnet_mm.nas.recalibrate import recalibrate
from frostnet_mm.nas.rounding import BatchRounding
from frostnet_mm.nas.supernet_hook import SupernetHook, network_at
from frostnet_mm.quantization import QATHook, QuantizationError, QuantizationSettings, Scheme, prepare_model

OUT = 64  # channels of the last stage


class Model(BaseModel):
    """A backbone and a convolution; its loss is a mean over the images."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = ElasticFrostNet(BASE, SPACE, out_indices=(2,))
        self.head = nn.Conv2d(OUT, 2, 1)

    def forward(self, inputs, target=None, mode='loss'):
        return dict(loss=mse_loss(self.head(self.backbone(inputs)[0]).mean((2, 3)), target))


class Points(Dataset):
    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(5)
        self.images = torch.randn(count, 3, 32, 32, generator=generator)
        self.targets = torch.randn(count, 2, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return dict(inputs=self.images[index], target=self.targets[index])


class Record(Hook):
    """Notes what each iteration trained."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.keys, self.rounding, self.weights = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        backbone = runner.model.backbone
        self.keys.append(backbone.space.key(backbone.chosen))
        self.rounding.append(backbone.rounding is not None)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.weights.append(runner.model.head.weight.detach().clone())


def runner_of(path, *hooks, epochs=2, optimizer=None, counts=4, model=None, **options):
    record = Record()
    runner = Runner(
        model or Model(),
        str(path),
        train_dataloader=dict(
            dataset=Points(),
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=optimizer or dict(type='SGD', lr=0.5), accumulative_counts=counts
        ),
        custom_hooks=[*hooks, record],
        default_hooks=dict(logger=None, checkpoint=dict(type='CheckpointHook', interval=1)),
        randomness=dict(seed=0),
        experiment_name=f'supernet {path}',
        **options,
    )
    return runner, record


def test_the_order_of_networks_is_a_function_of_the_iteration():
    space = Model().backbone.space
    keys = [space.key(network_at(space, 0, iteration)) for iteration in range(400)]
    assert {*keys[2::4]} == {space.key(space.smallest)} and {*keys[3::4]} == {space.key(space.largest)}
    assert len({*keys[0::4], *keys[1::4]}) > 195  # of 200
    assert keys[8:] == [space.key(network_at(space, 0, iteration)) for iteration in range(8, 400)]
    assert keys[0] != space.key(network_at(space, 1, 0))


def test_an_update_takes_the_gradients_of_four_networks(tmp_path):
    """One step of SGD against four networks, extracted as plain ones and run one by one."""
    runner, record = runner_of(tmp_path, SupernetHook(seed=3), epochs=1)
    runner.model.init_weights()  # once: the runner does not again
    model, before, points = copy.deepcopy(runner.model), copy.deepcopy(runner.model.state_dict()), Points()
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for iteration in range(4):
        model.load_state_dict(before)
        model.zero_grad()
        model.backbone.choose(network_at(model.backbone.space, 3, iteration))
        part = slice(4 * iteration, 4 * iteration + 4)
        model.train()(points.images[part], points.targets[part])['loss'].backward()
        for name, parameter in model.named_parameters():
            expected[name] += parameter.grad / 4
    after = {}
    runner.register_hook(Stop(3, after))
    runner.train()
    assert record.keys[:4] == [model.backbone.space.key(network_at(model.backbone.space, 3, i)) for i in range(4)]
    assert len({float(weight.sum()) for weight in record.weights[:3]}) == 1  # one step in four iterations
    for name, gradient in expected.items():
        torch.testing.assert_close(after[name], before[name] - 0.5 * gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert sum(float(gradient.abs().sum()) > 0 for gradient in expected.values()) > 60


class Stop(Hook):
    """Copies the weights behind an iteration."""

    def __init__(self, iteration, into):
        self.iteration, self.into = iteration, into

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.iteration:
            self.into.update({name: value.detach().clone() for name, value in runner.model.named_parameters()})


def test_a_resumed_training_goes_on_with_the_same_networks(tmp_path):
    runner, whole = runner_of(tmp_path / 'a', SupernetHook(), epochs=3)
    runner.train()
    assert len(whole.keys) == 18 and runner.model.backbone.chosen == runner.model.backbone.space.largest
    runner, rest = runner_of(
        tmp_path / 'b', SupernetHook(), epochs=3, load_from=str(tmp_path / 'a/epoch_2.pth'), resume=True
    )
    runner.train()
    assert rest.keys == whole.keys[12:]
    assert all(torch.equal(one, two) for one, two in zip(rest.weights, whole.weights[12:], strict=True))


def test_rounding_begins_after_the_warm_up(tmp_path):
    boosts = []

    class Boost(GradBoostSGD):
        def boost(self, enabled, steps=None):
            boosts.append(enabled)
            return super().boost(enabled, steps)

    hook = SupernetHook(quantize=True, warmup='1 epoch', numerics='executorch', weight_granularity='tensor')
    assert hook.rounding.scheme.activation_dtype == 'int8' and hook.rounding.scheme.weight_granularity == 'tensor'
    runner, record = runner_of(tmp_path, hook, optimizer=dict(type=Boost, lr=0.01))
    runner.train()
    assert record.rounding == boosts == [False] * 6 + [True] * 6
    assert runner.model.backbone.rounding is None
    runner, record = runner_of(tmp_path / 'float', SupernetHook(warmup=0))
    runner.train()
    assert not any(record.rounding)


@pytest.mark.parametrize(
    'hooks, options, message',
    [
        ([SupernetHook()], dict(counts=1), 'accumulative_counts=1 was given: an update takes the gradients of 4 netw'),
        ([SupernetHook()], dict(counts=6), 'Expected accumulative_counts=4, or a multiple'),
        ([SupernetHook(), QATHook()], {}, 'SupernetHook with QATHook was given'),
        ([SupernetHook()], dict(model='plain'), 'The backbone is a Conv2d; expected an ElasticFrostNet: model.backb'),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, hooks, options, message, monkeypatch):
    if options.get('model'):
        options = dict(model=Model())
        options['model'].backbone = nn.Conv2d(3, OUT, 1)
    for name in ('before_run', 'before_train'):
        monkeypatch.setattr(QATHook, name, lambda *_: None)
    runner, record = runner_of(tmp_path, *hooks, **options)
    with pytest.raises(SearchError, match=re.escape(message)):
        runner.train()
    assert not record.keys


def test_mixed_precision_and_wrong_options_are_refused():
    model = Model()
    from mmengine.optim import AmpOptimWrapper

    wrapper = object.__new__(AmpOptimWrapper)
    wrapper._accumulative_counts = 8
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, hooks=[])
    SupernetHook().before_train(runner)
    with pytest.raises(SearchError, match='with mixed precision'):
        SupernetHook(quantize=True).before_train(runner)
    for options in (dict(warmup='soon'), dict(numerics='x'), dict(weight_bits=9), dict(weight_granularity='row')):
        with pytest.raises(QuantizationError, match=f'{next(iter(options))}='):
            SupernetHook(**options)


# -- validation


class SingleStageDetector(BaseModel):
    """Stands in for mmdet's: what is asked of it at the seam."""

    __module__ = 'mmdet.models.detectors.single_stage'

    def __init__(self):
        super().__init__()
        self.backbone = ElasticFrostNet(BASE, SPACE, out_indices=(1, 2))
        self.bbox_head = Head()

    def extract_feat(self, images):
        return self.backbone(images)

    def forward(self, images):
        return self.bbox_head.forward(self.extract_feat(images))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(OUT, 4, 1), nn.BatchNorm2d(4)

    def forward(self, features):
        return self.norm(self.conv(features[-1]))


def test_validation_runs_the_largest_network_with_its_own_statistics():
    torch.manual_seed(0)
    model = SingleStageDetector().train()
    space, images, x = model.backbone.space, torch.randn(40, 3, 32, 32), torch.randn(2, 3, 32, 32)
    hook = SupernetHook()
    runner = SimpleNamespace(model=model, iter=0, optim_wrapper=None)
    for runner.iter, batch in enumerate(images.split(8)):
        hook.before_train_iter(runner, 0, dict(inputs=batch))
        model(batch)
    before = copy.deepcopy(model.state_dict())
    model.eval()
    supernet = model(x)
    hook.before_val(runner)
    found = model(x)
    expected = extract_model(model, space.largest)
    expected.extract_feat = expected.backbone.forward  # what is attached was copied too
    expected.bbox_head.__dict__.pop('forward', None)
    recalibrate(nn.Sequential(expected.backbone, expected.bbox_head), [images[8:]])  # the latest 32
    assert torch.equal(found, expected.eval()(x)) and not torch.equal(found, supernet)
    hook.after_val(runner)
    assert model.backbone.chosen != space.largest
    torch.testing.assert_close(model(x), supernet)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_backbone_is_rounded_where_a_captured_network_is():
    """Every tensor that the graph of the plain network quantizes, and no other: images, layers, concats, sums."""
    torch.manual_seed(0)
    model = SingleStageDetector().eval()
    rng, rounding = random.Random(4), BatchRounding(Scheme())
    for arch in (model.backbone.space.largest, model.backbone.space.sample(rng)):
        model.backbone.choose(arch)
        captured = prepare_model(extract_model(model), QuantizationSettings(example_shape=(2, 3, 64, 96)))
        names = [module.name for module in captured.activations()]
        model.backbone.rounding, calls = rounding, []
        handle = rounding._activations.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model.backbone(torch.randn(1, 3, 64, 96))
        handle.remove()
        assert len(calls) == sum(name == 'images' or name.startswith('backbone.') for name in names) > 15
        weights = [module for module in captured.weights() if module.name.startswith('backbone.')]
        layers = [layer for layer in model.backbone.plain().modules() if isinstance(layer, ConvModule)]
        assert len(weights) == len(layers)
