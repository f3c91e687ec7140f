"""Backbones that put out logits themselves, AlexNet and VGG, and the head that takes them."""

import pytest
import torch
from conftest import ROOT
from mmcv import cnn
from mmengine.structures import BaseDataElement

from frostnet_mm.engine.config import load_config
from frostnet_mm.errors import UserError
from frostnet_mm.models.backbones import VGG, AlexNet
from frostnet_mm.registry import MODELS

VGG11 = dict(depth=11, with_bn=True)


@pytest.mark.parametrize(
    'own, plain, options',
    [
        (AlexNet, cnn.AlexNet, {}),
        (VGG, cnn.VGG, VGG11),
        (VGG, cnn.VGG, VGG11 | dict(with_bn=False, out_indices=(1, 4))),
        (VGG, cnn.VGG, VGG11 | dict(num_classes=-1, out_indices=(3,))),
    ],
)
@torch.no_grad()
def test_outputs_are_those_of_mmcv_in_any_layout(own, plain, options):
    torch.manual_seed(0)
    own, plain = (kind(**dict(num_classes=3) | options) for kind in (own, plain))
    plain.load_state_dict(own.state_dict())
    for model in (own, plain):
        model.eval()  # mmcv's VGG returns None
    x = torch.randn(2, 3, 224, 224)
    own.to(memory_format=torch.channels_last)
    outputs = own(x.contiguous(memory_format=torch.channels_last)), plain(x)
    found, expected = ((each,) if torch.is_tensor(each) else each for each in outputs)
    for each, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(each, wanted, rtol=1e-4, atol=1e-5)


def test_the_backbones_logits_are_of_the_classes_of_the_data(tmp_path):
    config = tmp_path / 'alexnet.py'
    config.write_text(
        f"""
_base_ = {str(ROOT / 'configs/frostnet_custom_cls.py')!r}
model = dict(
    backbone=dict(_delete_=True, type='frostnet_mm.AlexNet', num_classes=10),
    head=dict(_delete_=True, type='frostnet_mm.LogitsHead', num_classes=10),
)
"""
    )
    cfg = load_config(config, classes=('a', 'b', 'c'))
    assert cfg.model.backbone.num_classes == cfg.model.head.num_classes == 3
    # elsewhere it is what a backbone was trained with before, and the head reads its features
    cfg = load_config(config, {'model.head.type': 'frostnet_mm.ClsHead'}, classes=('a', 'b', 'c'))
    assert cfg.model.backbone.num_classes == 10 and cfg.model.head.num_classes == 3


@pytest.mark.parametrize('shape', [(2, 10), (2, 256, 6, 6)])
def test_logits_of_other_classes_are_one_error(shape):
    head = MODELS.build(dict(type='frostnet_mm.LogitsHead', num_classes=3))
    samples = [BaseDataElement(gt_label=torch.tensor([index])) for index in (0, 2)]
    for call in (head.loss, head.predict):
        with pytest.raises(UserError, match=r'expected \(2, 3\).* set model.backbone.num_classes=3'):
            call((torch.zeros(shape),), samples)


@pytest.mark.parametrize('name', ['FrostNet', 'ShuffleNetV2', 'TinyDSODBackbone', 'ESPNetv2', 'VGG', 'ResNet'])
@pytest.mark.parametrize('given', [2, 'ab', (), (9,), (2, 1), (1, 1), (True,), (1.0,), (-1,)])
def test_stages_that_are_none_are_named(name, given):
    """In one sentence everywhere, also where mmcv's class gave fewer maps than were asked for, or Python's words."""
    depth = dict(VGG=dict(depth=11), ResNet=dict(depth=18)).get(name, {})
    with pytest.raises(ValueError, match=r'out_indices=.* must name (stages|levels) 0 to \d.* in ascending order'):
        MODELS.build(dict(type=f'frostnet_mm.{name}', out_indices=given, **depth))
