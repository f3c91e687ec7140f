"""The backbone against the counts of the paper's release and against a second implementation."""

import pytest
import torch
from mmengine.registry import DefaultScope
from reference_frostnet import ReferenceFrostNetSmall, randomize
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from frostnet_mm import FrostNet, FrostNetClassifier
from frostnet_mm.models.backbones.frostnet import divisible

# arch, width, parameters with classifier, parameters of the trunk, MACs at 224x224 in millions, channels of the stages
GOLDEN = [
    ('small', 0.35, 1838400, 411480, 56.1, (8, 16, 32, 64, 112)),
    ('small', 0.5, 2351896, 863536, 100.6, (16, 24, 48, 96, 160)),
    ('small', 0.75, 3477424, 1886664, 211.6, (24, 32, 72, 144, 240)),
    ('small', 1.0, 4858776, 3165616, 315.3, (24, 40, 96, 192, 320)),
    ('small', 1.25, 6749376, 4953816, 504.5, (32, 48, 120, 240, 400)),
    ('base', 0.35, 1851048, 424128, 64.0, (8, 16, 32, 64, 112)),
    ('base', 0.5, 2380256, 891896, 112.7, (16, 24, 48, 96, 160)),
    ('base', 0.75, 3530400, 1939640, 244.5, (24, 32, 72, 144, 240)),
    ('base', 1.0, 5001712, 3308552, 362.9, (24, 40, 96, 192, 320)),
    ('base', 1.25, 6938936, 5143376, 582.4, (32, 48, 120, 240, 400)),
    ('large', 0.35, 1959048, 532128, 71.3, (8, 16, 32, 64, 112)),
    ('large', 0.5, 2603056, 1114696, 131.7, (16, 24, 48, 96, 160)),
    ('large', 0.75, 4038328, 2447568, 286.5, (24, 32, 72, 144, 240)),
    ('large', 1.0, 5807056, 4113896, 430.8, (24, 40, 96, 192, 320)),
    ('large', 1.25, 8221080, 6425520, 692.6, (32, 48, 120, 240, 400)),
]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize('arch, width, params, trunk, macs, channels', GOLDEN)
def test_golden_counts(arch, width, params, trunk, macs, channels):
    model = FrostNetClassifier(arch, width).eval()
    assert count(model) == params
    assert count(model.backbone) == trunk
    assert model.backbone.out_channels == channels
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # torch's own counter, two per MAC
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert round(counter.get_total_flops() / 2e6, 1) == macs


def test_divisible_by_hand():
    assert [divisible(v) for v in (1, 8, 11, 12, 16.8, 19, 20, 33.6, 60)] == [8, 8, 16, 16, 16, 24, 24, 32, 64]


@pytest.mark.parametrize(
    'output_stride, strides', [(32, (4, 8, 16, 32, 32)), (16, (4, 8, 16, 16, 16)), (8, (4, 8, 8, 8, 8))]
)
def test_output_strides(output_stride, strides):
    net = FrostNet('small', 0.35, out_indices=(0, 1, 2, 3, 4), output_stride=output_stride).eval()
    with torch.no_grad():
        outs = net(torch.zeros(1, 3, 96, 128))
    assert [tuple(o.shape) for o in outs] == [
        (1, c, 96 // s, 128 // s) for c, s in zip(net.out_channels, strides, strict=True)
    ]


@pytest.mark.parametrize(
    'output_stride, dilations', [(32, [1, 1, 1, 1, 1]), (16, [1, 1, 1, 2, 2]), (8, [1, 1, 2, 4, 4])]
)
def test_dilation_of_the_last_block_of_each_stage(output_stride, dilations):
    net = FrostNet('base', output_stride=output_stride, out_indices=(4,))
    assert [stage[-1].depthwise.conv.dilation[0] for stage in net.stages] == dilations
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            assert module.padding[0] == module.kernel_size[0] // 2 * module.dilation[0]


@pytest.mark.parametrize('output_stride, step', [(16, 2), (8, 4)])
def test_dilated_network_computes_the_strided_one_at_every_nth_position(output_stride, step):
    torch.manual_seed(0)
    strided = randomize(FrostNet('small', 0.35, out_indices=(3, 4))).eval()
    dilated = FrostNet('small', 0.35, out_indices=(3, 4), output_stride=output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        for a, b in zip(strided(x), dilated(x), strict=True):
            torch.testing.assert_close(b[:, :, ::step, ::step], a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('frozen', [-1, 0, 2, 5])
def test_frozen_stages(frozen):
    net = FrostNet('small', 0.35, frozen_stages=frozen).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad] or [torch.zeros(1)], lr=0.1)
    outs = net(torch.randn(2, 3, 64, 64))
    if any(o.requires_grad for o in outs):
        sum(o.sum() for o in outs if o.requires_grad).backward()
        optimizer.step()
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    frozen_keys = {
        k
        for k in before
        if (frozen >= 0 and k.startswith('stem.')) or any(k.startswith(f'stages.{i}.') for i in range(frozen))
    }
    assert not changed & frozen_keys
    trained = [k for k in before if k.endswith('conv.weight') and k not in frozen_keys]
    assert set(trained) <= changed


def test_norm_eval_keeps_statistics():
    net = FrostNet('small', 0.35, norm_eval=True).train()
    net(torch.randn(2, 3, 64, 64))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(not m.training and m.num_batches_tracked == 0 and m.running_mean.abs().sum() == 0 for m in norms)
    assert net.stages[0].training


def test_gradient_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    plain, saving = FrostNet('base', 0.35).train(), FrostNet('base', 0.35, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    calls = []
    block = saving.stages[2][0]
    forward = block._forward
    block._forward = lambda t: (calls.append(1), forward(t))[1]
    for net in (plain, saving):
        sum(o.square().mean() for o in net(x)).backward()
    assert len(calls) == 2  # once forward, once again in the backward pass
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_later_stages_than_asked_for_are_not_built():
    net = FrostNet('small', out_indices=(1, 2))
    assert len(net.stages) == 3
    assert all(p.requires_grad for p in net.parameters())
    sum(o.sum() for o in net(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in net.parameters())  # what DDP demands


@pytest.mark.parametrize('package', ['mmdet', 'mmseg', 'mmengine'])
def test_registered_for_every_package(package):
    registry = __import__(f'{package}.registry', fromlist=['MODELS']).MODELS
    with DefaultScope.overwrite_default_scope(package):
        net = registry.build(dict(type='frostnet_mm.FrostNet', arch='small', widen_factor=0.35, out_indices=(2,)))
    assert type(net) is FrostNet


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(arch='medium'), ["'medium'", "'small'", "'base'", "'large'"]),
        (dict(widen_factor=0), ['widen_factor=0', '0.35']),
        (dict(widen_factor='1.0'), ["widen_factor='1.0'"]),
        (dict(out_indices=(5,)), ['out_indices=(5,)', '0 to 4']),
        (dict(out_indices=(2, 1)), ['ascending']),
        (dict(out_indices=()), ['out_indices=()']),
        (dict(output_stride=4), ['output_stride=4', '32, 16 or 8']),
        (dict(frozen_stages=6), ['frozen_stages=6', '-1']),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError) as error:
        FrostNet(**kwargs)
    for word in words:
        assert word in str(error.value)


def test_same_numbers_as_the_reference_network():
    torch.manual_seed(0)
    reference = randomize(ReferenceFrostNetSmall()).eval()
    assert count(reference) == 4858776
    from frostnet_mm import convert_release_state_dict

    model = FrostNetClassifier('small').eval()
    model.load_state_dict(convert_release_state_dict(reference.state_dict()))
    backbone = FrostNet('small', out_indices=(0, 1, 2, 3, 4)).eval()
    backbone.load_state_dict(model.backbone.state_dict())
    x = torch.randn(2, 3, 96, 80)
    with torch.no_grad():
        for ours, theirs in zip(backbone(x), reference.features(x), strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(model(x), reference(x))
