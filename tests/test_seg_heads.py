"""Segmentation heads and every Cityscapes config: losses by hand, inference, capture for INT8."""

import copy
import math

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn
from torch.nn import functional as F
from upstream_models import build_config, losses_of, random_batch

from frostnet_mm.engine.config import load_config
from frostnet_mm.models import ESPNetv2Head, FrostNet, LRASPPHead, MobileNetV3
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.quantization import float_operators, prepare_model

CONFIGS = sorted(
    path.stem for path in (ROOT / 'configs').glob('*_cityscapes.py') if path.stem.startswith(('espnet', 'lraspp'))
)
FLOAT = [name for name in CONFIGS if '_qat_' not in name]
SIZE, ODD = (64, 96), (50, 90)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def small_model(name, **test_cfg):
    """The model of a config, with five classes and as narrow or shallow as its backbone allows."""
    cfg = load_config(ROOT / 'configs' / f'{name}.py').model
    backbone, head = cfg.backbone, cfg.decode_head
    if backbone.type == 'frostnet_mm.FrostNet':
        backbone.widen_factor = 0.35
        channels = FrostNet('small', 0.35).out_channels
        head.in_channels = [channels[index] for index in backbone.out_indices]
    elif backbone.type == 'frostnet_mm.ESPNet':
        backbone.p = backbone.q = 1
    for each in (head, cfg.get('auxiliary_head')):
        if each and 'class_weight' in each.loss_decode:
            each.loss_decode.class_weight = each.loss_decode.class_weight[:5]
    cfg.test_cfg.update(test_cfg)
    return build_config(cfg, 'mmseg')


# -- configs


@pytest.mark.parametrize('name', FLOAT)
def test_a_config_learns_with_all_of_its_parameters(name):
    model = small_model(name).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(4):
        numbers, total = losses_of(model, SIZE)
        optimizer.zero_grad()
        total.backward()
        losses.append(numbers['loss'])
        assert [key for key, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
        optimizer.step()
    assert math.isfinite(losses[-1]) and losses[-1] < losses[0]
    model.eval()
    data = random_batch(model, ODD, False)
    with torch.no_grad():
        assert [s.pred_sem_seg.shape for s in model.predict(data['inputs'], data['data_samples'])] == [ODD, ODD]


@pytest.mark.parametrize('name', [name for name in CONFIGS if '_qat_' in name])
def test_a_qat_config_is_its_float_config_and_a_hook(name):
    cfg, plain = load_config(ROOT / f'configs/{name}.py'), load_config(ROOT / f'configs/{name.replace("_qat", "")}.py')
    hook = cfg.default_hooks.pop('qat')
    assert (hook.type, hook.warmup, hook.freeze_bn_at) == ('frostnet_mm.QATHook', '1 epoch', '80 %')
    assert cfg.model == plain.model and cfg.default_hooks == plain.default_hooks
    assert cfg.train_dataloader == plain.train_dataloader and cfg.train_cfg == plain.train_cfg


def test_one_option_moves_the_data():
    cfg = load_config(ROOT / 'configs/espnet_cityscapes.py', {'data_root': '/elsewhere'})
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == '/elsewhere'


@pytest.mark.parametrize('kind', ['espnet', 'espnetv2', 'lraspp'])
def test_configs_of_a_head_differ_in_the_backbone_alone(kind):
    names = [
        name for name in FLOAT if name.startswith(f'{kind}_') and 'original' not in name and 'weighted' not in name
    ]
    heads = []
    for name in names:
        cfg = Config.fromfile(ROOT / f'configs/{name}.py')
        cfg.model.pop('backbone')
        head = cfg.model.decode_head
        head.pop('in_channels')
        if kind == 'espnetv2':
            head.pop('channels')  # those of the second coarsest map
        heads.append(cfg.model)
    assert len(heads) > 1 and all(head == heads[0] for head in heads)


def test_class_weights_of_the_config_are_those_of_whole_shares():
    """1 / log(1.1 + share): the shares of the 19 classes sum to one, and the road has over a third."""
    weights = Config.fromfile(ROOT / 'configs/espnet_weighted_cityscapes.py').class_weight
    shares = [math.exp(1 / weight) - 1.1 for weight in weights]
    assert len(shares) == 19 and sum(shares) == pytest.approx(1, abs=1e-3)
    assert max(shares) == shares[0] == pytest.approx(0.37, abs=0.01)


# -- losses by hand


def labelled(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=labels[None]))]


def small_head(**options):
    torch.manual_seed(0)
    return ESPNetv2Head((8, 8, 8), 16, num_classes=3, **options)


LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]]).T.view(1, 3, 2, 2)
LABELS = torch.tensor([[0, 2], [1, 255]])


def nll():
    """Of the three labelled pixels."""
    return [
        -math.log(math.exp(r[k]) / sum(map(math.exp, r)))
        for r, k in (((2, 0, -1), 0), ((0.5, 1, 0), 2), ((0, 0, 3), 1))
    ]


def test_class_weights_by_hand():
    weights = [1.0, 4.0, 0.5]
    plain = small_head(loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
    weighted = small_head(loss_decode=dict(type='CrossEntropyLoss', class_weight=weights))
    one, two, three = nll()
    found = [float(head.loss_by_feat(LOGITS, labelled(LABELS))['loss_ce']) for head in (plain, weighted)]
    assert found == pytest.approx([(one + two + three) / 3, (one + 0.5 * two + 4 * three) / 5.5], rel=1e-5)


def test_hard_pixels_by_hand():
    sampler = dict(type='OHEMPixelSampler', min_kept=2)
    head = small_head(sampler=sampler, loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
    hardest = sorted(nll())[1:]
    assert float(head.loss_by_feat(LOGITS, labelled(LABELS))['loss_ce']) == pytest.approx(sum(hardest) / 3, rel=1e-5)


# -- inference


def test_whole_and_sliding_inference():
    model = small_model('espnetv2_frostnet_cityscapes').eval()
    data = random_batch(model, ODD, False)

    def logits(**test_cfg):
        model.test_cfg = type(model.test_cfg)(test_cfg)
        with torch.no_grad():
            return model.predict(copy.deepcopy(data['inputs']), copy.deepcopy(data['data_samples']))[0].seg_logits.data

    whole = logits(mode='whole')
    assert whole.shape == (5, *ODD)
    torch.testing.assert_close(logits(mode='slide', crop_size=ODD, stride=ODD), whole)  # one window
    slid = logits(mode='slide', crop_size=(32, 48), stride=(20, 30))
    assert slid.shape == whole.shape and not torch.allclose(slid, whole)


# -- LR-ASPP


@pytest.mark.parametrize('gate, function', [('sigmoid', torch.sigmoid), ('hard_sigmoid', F.hardsigmoid)])
@pytest.mark.parametrize('size', [(1, 1), (7, 5)])
@torch.no_grad()
def test_lraspp_equals_a_second_implementation(gate, function, size):
    torch.manual_seed(0)
    head = LRASPPHead((8, 16), 12, num_classes=5, gate=gate, in_index=(0, 2), align_corners=False).eval()
    for p in head.parameters():
        nn.init.normal_(p)
    fine, coarse = torch.randn(2, 8, 2 * size[0], 2 * size[1]), torch.randn(2, 16, *size)
    conv, bn, gated = head.project.conv, head.project.bn, head.gate[1]
    x = F.batch_norm(F.conv2d(coarse, conv.weight), bn.running_mean, bn.running_var, bn.weight, bn.bias).relu()
    weight = function(coarse.mean((2, 3)) @ gated.weight[:, :, 0, 0].T + gated.bias)
    x = F.interpolate(x * weight[:, :, None, None], scale_factor=2.0, mode='bilinear')
    expected = F.conv2d(x, head.conv_seg.weight, head.conv_seg.bias) + F.conv2d(fine, head.conv_fine.weight)
    torch.testing.assert_close(head((fine, None, coarse)), expected, rtol=1e-4, atol=1e-4)


def test_lraspp_trains_on_one_image_of_one_pixel():
    head = LRASPPHead((8, 16), 12, num_classes=5).train()
    head.project.eval()  # its batch norm, as any other, needs more than one value
    head((torch.randn(1, 8, 2, 2), torch.randn(1, 16, 1, 1))).sum().backward()
    assert head.gate[1].weight.grad is not None


def test_refusals():
    with pytest.raises(ValueError, match=r"gate='x': expected 'sigmoid' or 'hard_sigmoid'"):
        LRASPPHead((8, 16), num_classes=5, gate='x')
    with pytest.raises(ValueError, match=r'in_channels=\(8, 16, 32\).*expected two of each'):
        LRASPPHead((8, 16, 32), num_classes=5)
    with pytest.raises(ValueError, match='output_stride=4 must be 32, 16 or 8'):
        MobileNetV3(output_stride=4)


# -- MobileNetV3


@pytest.mark.parametrize('arch, last', [('large', 16), ('small', 12)])
@torch.no_grad()
def test_mobilenetv3_has_mmsegs_parameters(arch, last):
    from mmseg.models.backbones import MobileNetV3 as Upstream

    upstream = Upstream(arch, out_indices=(1, last)).state_dict()
    for stride in (16, 8):
        ours = MobileNetV3(arch, stride, out_indices=(1, last)).eval()
        assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in upstream.items()}
        assert ours(torch.zeros(1, 3, 50, 90))[-1].shape[2:] == (-(-50 // stride), -(-90 // stride))


def test_the_relu_form_has_nothing_else():
    kinds = {type(m).__name__ for m in MobileNetV3(relu=True, out_indices=(3, 16)).modules()}
    assert 'ReLU' in kinds and not kinds & {'Hardswish', 'HSwish', 'HSigmoid', 'SELayer', 'Conv2dAdaptivePadding'}


# -- capture for INT8


@pytest.mark.parametrize(
    'name, in_float',
    [
        ('espnet_cityscapes', set()),
        ('espnet_original_cityscapes', {'prelu'}),
        ('espnetv2_frostnet_cityscapes', set()),
        ('lraspp_frostnet_cityscapes', {'sigmoid'}),
        ('lraspp_mobilenetv3_relu_cityscapes', {'sigmoid'}),
    ],
)
@torch.no_grad()
def test_capture_with_open_sizes(name, in_float):
    model = small_model(name).eval()
    reference = copy.deepcopy(model)
    network = prepare_model(model).eval()
    network.simulate(False)
    for size in (SIZE, ODD):
        images = random_batch(reference, size, False)['inputs']
        for one, other in zip(network.flat(images), [DenseNetwork(reference)(images)[0]], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    kinds = {group.kind for group in float_operators(network)}
    assert in_float <= kinds
