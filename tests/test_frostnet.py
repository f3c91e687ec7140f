"""The backbone against the counts of the paper's release and against a second implementation."""

import copy
import itertools
import re

import pytest
import torch
from conftest import ROOT
from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.registry import DefaultScope
from reference_frostnet import ReferenceFrostNetSmall, randomize
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from frostnet_mm import FrostNet, FrostNetClassifier
from frostnet_mm.models.backbones.frost_blocks import Bottleneck
from frostnet_mm.models.checkpoints import describe_frostnet
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.models.frostnet_arch import ARCHS, BlockSpec, FrostNetArch, divisible
from frostnet_mm.registry import BLOCKS

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


# -- architectures as tables

# FrostNet small as its paper's table and the release have it: kernel, channels, expansion, reduction, stride
SMALL = dict(
    stem=32,
    stages=[
        [(3, 16, 1, 1, 1), (5, 24, 3, 4, 2), (3, 24, 3, 4, 1)],
        [(5, 40, 3, 4, 2)],
        [(5, 80, 3, 4, 2), (5, 80, 3, 4, 1), (3, 80, 3, 4, 1), (5, 96, 3, 2, 1), (5, 96, 3, 4, 1), (5, 96, 3, 4, 1)],
        [(5, 192, 6, 4, 2), (5, 192, 6, 4, 1), (5, 192, 6, 4, 1)],
        [(5, 320, 6, 2, 1)],
    ],
)
TWO = dict(stem=16, stages=[[(3, 24, 1, None, 1)], [(5, 40, 3, 2, 2), (3, 40, 2, None, 1)]])


def as_lists(table):
    return dict(table, stages=[[list(row) for row in stage] for stage in table['stages']])


def as_tuples(table):
    return dict(table, stages=tuple(tuple(tuple(row) for row in stage) for stage in table['stages']))


def as_config(table):
    return Config(dict(arch=table)).arch


@pytest.mark.parametrize('form', [copy.deepcopy, as_lists, as_tuples, as_config])
def test_a_table_of_small_is_small(form):
    table = FrostNet(arch=form(SMALL)).eval()
    assert count(table) == 3165616
    assert table.out_indices == (0, 1, 2, 4) and table.output_stride == 32
    named = randomize(FrostNet('small')).eval()
    assert named.arch == 'small' and table.arch == ARCHS['small']
    assert [(k, v.shape) for k, v in table.state_dict().items()] == [
        (k, v.shape) for k, v in named.state_dict().items()
    ]
    table.load_state_dict(named.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(table(x), named(x), strict=True):
            assert torch.equal(a, b)


def test_released_variants_are_tables():
    assert ARCHS['small'].to_config() == SMALL
    for name, arch in ARCHS.items():
        assert FrostNetArch.from_config(name) is arch and FrostNetArch.from_config(arch) is arch
        assert FrostNetArch.from_config(arch.to_config()) == arch
        assert arch.strides == (4, 8, 16, 32, 32) and arch.output_strides == (32, 16, 8)
    assert ARCHS['large'].stages[2][1] == BlockSpec(
        kernel=5, channels=80, expansion=3, reduction=4, stride=1, kind='frost'
    )
    with pytest.raises(AttributeError):
        ARCHS['small'].stem = 16


def parameters_of(arch):
    """Of convolutions and their norms, row by row from the table alone."""
    total, channels = 3 * arch.stem * 9 + 2 * arch.stem, arch.stem
    for kernel, out, expansion, reduction, _, kind in itertools.chain(*arch.stages):
        wide, squeezed = channels * expansion, 0
        if kind == 'fused':
            total += channels * wide * kernel**2 + 2 * wide
        else:
            if reduction and expansion > 1 and channels // reduction >= 8:
                squeezed = divisible(channels // reduction)
                wide = (channels + squeezed) * expansion
                total += channels * squeezed + 2 * squeezed
            total += (channels + squeezed) * wide + 2 * wide if expansion > 1 else 0
            total += wide * kernel**2 + 2 * wide
        total += wide * out + 2 * out
        channels = out
    return total


@pytest.mark.parametrize(
    'name, trunk, macs', [('engine-s', 830240, 207.1), ('engine-m', 1135856, 277.0), ('engine-l', 3004128, 355.3)]
)
def test_variants_that_were_found(name, trunk, macs):
    assert parameters_of(ARCHS['small']) == 3165616  # the golden count of above
    net = FrostNet(name)
    assert count(net) == parameters_of(ARCHS[name]) == trunk
    assert net.out_channels == (24, 40, 96, 192, 320) and net.out_indices == (0, 1, 2, 4)
    assert round(macs_of(net, 1, 3, 224, 224) / 1e6, 1) == macs
    assert describe_frostnet(net.state_dict()) == f'FrostNet(arch={name!r}, widen_factor=1.0)'


def test_two_stages_by_hand():
    """Each convolution's weights and two parameters a channel of its norm, counted on paper."""
    net = FrostNet(arch=TWO)
    stem = 3 * 16 * 9 + 2 * 16
    first = (16 * 9 + 2 * 16) + (16 * 24 + 2 * 24)  # depthwise 3x3, projection
    squeezed, wide = 16, (16 + 24) * 3  # 24 // 2 = 12, whose nearest multiple of 8 is 16
    second = (24 * squeezed + 2 * squeezed) + (40 * wide + 2 * wide) + (wide * 25 + 2 * wide) + (wide * 40 + 2 * 40)
    third = (40 * 80 + 2 * 80) + (80 * 9 + 2 * 80) + (80 * 40 + 2 * 40)  # no squeeze
    assert count(net) == stem + first + second + third == 22168
    assert net.out_channels == (24, 40) and net.out_indices == (0, 1)
    assert net.stages[1][0].squeeze is not None and net.stages[1][1].squeeze is None
    assert [tuple(f.shape) for f in net(torch.zeros(1, 3, 32, 48))] == [(1, 24, 16, 24), (1, 40, 8, 12)]
    assert net.arch.strides == (2, 4) and net.output_stride == 4
    assert describe_frostnet(net.state_dict()) == 'a FrostNet with 3 blocks and 40 channels'


def test_more_stages_than_the_released_variants():
    """A sixth stage of stride 64: the last stage at each stride by default, dilation down to 8 and up to 64."""
    table = as_lists(SMALL)
    table['stages'].append([(3, 64, 2, None, 2)])
    net = FrostNet(arch=table, widen_factor=0.35).eval()
    assert net.out_indices == (0, 1, 2, 4, 5) and net.output_stride == 64
    assert [64 // f.shape[-1] for f in net(torch.zeros(1, 3, 64, 64))] == [4, 8, 16, 32, 64]
    assert describe_frostnet(net.state_dict()) == 'a FrostNet with 15 blocks and 112 channels'
    dilated = FrostNet(arch=table, widen_factor=0.35, output_stride=16, out_indices=(5,), frozen_stages=6)
    assert [stage[-1].depthwise.conv.dilation[0] for stage in dilated.stages] == [1, 1, 1, 2, 2, 2]
    assert not any(p.requires_grad for p in dilated.parameters())
    with pytest.raises(ValueError, match='output_stride=4 must be 64, 32, 16 or 8'):
        FrostNet(arch=table, output_stride=4)
    with pytest.raises(
        ValueError, match=r'out_indices=\(6,\) must name stages 0 to 5 \(strides 4, 8, 16, 32, 32, 64\)'
    ):
        FrostNet(arch=table, out_indices=(6,))
    with pytest.raises(ValueError, match='frozen_stages=7'):
        FrostNet(arch=table, frozen_stages=7)
    with pytest.raises(ValueError, match='output_stride=32 must be 4'):
        FrostNet(arch=TWO, output_stride=32)


def test_a_stem_that_keeps_the_size():
    """For images of 32x32: the same network as one of half the stem's stride, on positions twice as dense."""
    table = as_lists(SMALL) | dict(stem_stride=1)
    net = FrostNet(arch=table, widen_factor=0.35).eval()
    assert net.arch.strides == (2, 4, 8, 16, 16) and net.output_stride == 16
    assert [f.shape[-1] for f in net(torch.zeros(1, 3, 32, 32))] == [16, 8, 4, 2]
    plain = randomize(FrostNet('small', 0.35, out_indices=(0,))).eval()
    net.load_state_dict(plain.state_dict(), strict=False)
    assert net.stem.conv.stride == (1, 1) and torch.equal(net.stem.conv.weight, plain.stem.conv.weight)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net.stem(x)[..., ::2, ::2], plain.stem(x))
    assert FrostNetArch.from_config(net.arch.to_config()) == net.arch and net.arch.widened(0.5).stem_stride == 1
    with pytest.raises(ValueError, match='arch.stem_stride=3: expected 1 or 2'):
        FrostNet(arch=table | dict(stem_stride=3))


def test_classifier_takes_a_table():
    model = FrostNetClassifier(TWO, num_classes=3)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert count(model) - count(model.backbone) == (40 * 1280 + 2 * 1280) + (1280 * 3 + 3)


def test_a_config_with_a_table_survives_being_written(tmp_path):
    cfg = Config(dict(model=dict(backbone=dict(type='frostnet_mm.FrostNet', arch=TWO))))
    cfg.dump(tmp_path / 'c.py')
    again = Config.fromfile(tmp_path / 'c.py')
    assert again.to_dict() == cfg.to_dict() and again.pretty_text == cfg.pretty_text
    assert FrostNetArch.from_config(again.model.backbone.arch).to_config() == TWO


def test_a_child_config_replaces_a_name_by_a_table(tmp_path):
    (tmp_path / 'base.py').write_text("model = dict(backbone=dict(arch='small', out_indices=(0, 1)))\n")
    (tmp_path / 'c.py').write_text(
        f"_base_ = './base.py'\nmodel = dict(backbone=dict(arch=dict(_delete_=True, **{TWO!r})))\n"
    )
    assert count(FrostNet(**Config.fromfile(tmp_path / 'c.py').model.backbone)) == 22168


def table_with(row=None, place=(1, 0), **changes):
    table = as_lists(TWO) | changes
    if row is not None:
        table['stages'][place[0]][place[1]] = row
    return table


NAMES = "'small', 'base', 'large', 'engine-s', 'engine-m', 'engine-l'"
ROW = 'kernel, channels, expansion, reduction, stride[, kind]'


@pytest.mark.parametrize(
    'arch, message',
    [
        ('medium', f"FrostNet has no arch='medium': choose one of {NAMES}, or give a table."),
        (None, f'arch=None is of type NoneType: expected one of {NAMES}, or a table '),
        (3, f'arch=3 is of type int: expected one of {NAMES}, or a table '),
        ({'small'}, "arch={'small'} is of type set: expected one of"),
        ([], 'arch=[] is of type list: expected one of'),
        ({}, 'The table arch lacks stem, stages: expected the keys stem and stages.'),
        (dict(stem=32), 'The table arch lacks stages: expected the keys stem and stages.'),
        (table_with(width=2), 'The table arch has the unknown keys width: expected the keys stem and stages.'),
        (table_with(stem=0), 'arch.stem=0: expected a whole number of at least 1.'),
        (table_with(stem=True), 'arch.stem=True: expected a whole number of at least 1.'),
        (table_with(stem='32'), "arch.stem='32': expected a whole number of at least 1."),
        (table_with(stages=[]), 'arch.stages=[]: expected a list of at least one stage.'),
        (table_with(stages='small'), "arch.stages='small': expected a list of at least one stage."),
        (
            table_with(stages=[[(3, 8, 1, 1, 1)], []]),
            f'arch.stages[1]=[]: expected a list of at least one row ({ROW}).',
        ),
        (table_with(stages=[3]), 'arch.stages[0]=3: expected a list of at least one row'),
        (table_with(stages=[(3, 8, 1, 1, 1)]), f'arch.stages[0][0]=3: expected a row ({ROW}).'),
        (table_with('35311'), f"arch.stages[1][0]='35311': expected a row ({ROW})."),
        (
            table_with((3, 8, 1)),
            f'arch.stages[1][0]=(3, 8, 1) has 3 fields: expected 5 or 6, ({ROW}); reduction, stride missing.',
        ),
        (
            table_with((3, 8, 1, 1, 1, 'mbconv'), (1, 1)),
            "arch.stages[1][1].kind='mbconv': expected one of 'frost', 'inverted', 'fused'; the class of another kind "
            'registers itself in frostnet_mm.registry.BLOCKS and is imported by custom_imports of the config.',
        ),
        (table_with((3, 8, 1, 1, 1, 2, 3)), f'has 7 fields: expected 5 or 6, ({ROW}).'),
        (table_with((3, 8, 1, 1, 1, 2)), 'arch.stages[1][0].kind=2: expected the name of a kind, such as'),
        (table_with((3, 8, 1, 1, 1, None)), 'arch.stages[1][0].kind=None: expected the name of a kind'),
        (
            table_with((3, 8, 2, 4, 1, 'fused')),
            "arch.stages[1][0].reduction=4: expected None, as blocks of kind 'fused' have no squeeze.",
        ),
        (
            table_with((3, 8, 2, 2, 1, 'inverted')),
            "arch.stages[1][0].reduction=2: expected None, as blocks of kind 'inverted' have no squeeze.",
        ),
        (table_with((4, 8, 2, None, 1, 'fused')), 'arch.stages[1][0].kernel=4: expected an odd whole number'),
        (table_with((4, 8, 1, 1, 1)), 'arch.stages[1][0].kernel=4: expected an odd whole number of at least 1.'),
        (table_with((-1, 8, 1, 1, 1)), 'arch.stages[1][0].kernel=-1: expected an odd whole number of at least 1.'),
        (table_with((3.0, 8, 1, 1, 1)), 'arch.stages[1][0].kernel=3.0: expected an odd whole number of at least 1.'),
        (table_with((True, 8, 1, 1, 1)), 'arch.stages[1][0].kernel=True: expected'),
        (table_with((3, 0, 1, 1, 1)), 'arch.stages[1][0].channels=0: expected a whole number of at least 1.'),
        (table_with((3, None, 1, 1, 1)), 'arch.stages[1][0].channels=None: expected a whole number of at least 1.'),
        (table_with((3, 8, 0, 1, 1)), 'arch.stages[1][0].expansion=0: expected a whole number of at least 1.'),
        (table_with((3, 8, 1.5, 1, 1)), 'arch.stages[1][0].expansion=1.5: expected a whole number of at least 1.'),
        (
            table_with((3, 8, 1, 0, 1)),
            'arch.stages[1][0].reduction=0: expected None (no squeeze) or a whole number of at least 1.',
        ),
        (
            table_with((3, 8, 1, '-', 1)),
            "arch.stages[1][0].reduction='-': expected None (no squeeze) or a whole number",
        ),
        (table_with((3, 8, 1, False, 1)), 'arch.stages[1][0].reduction=False: expected None (no squeeze)'),
        (table_with((3, 8, 1, 1, 3)), 'arch.stages[1][0].stride=3: expected 1 or 2.'),
        (table_with((3, 8, 1, 1, True)), 'arch.stages[1][0].stride=True: expected 1 or 2.'),
    ],
)
def test_a_wrong_arch_is_named(arch, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FrostNet(arch=arch)


# -- kinds of blocks

FUSED_660 = dict(  # picked by latency: kernel, channels, expansion, reduction, stride, kind
    stem=32,
    stages=[
        [(3, 16, 1, None, 1), (3, 24, 3, None, 2, 'fused')],
        [(3, 40, 3, None, 2, 'fused'), (3, 40, 3, None, 1, 'fused'), (3, 40, 4, None, 1, 'fused')],
        [(3, 96, 4, 2, 2), (3, 96, 3, None, 1), (3, 96, 6, None, 1)],
        [(5, 192, 6, 4, 2), (5, 192, 3, 2, 1)],
        [(5, 320, 6, 4, 1)],
    ],
)


def macs_of(network, *shape):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # torch's own counter, two per MAC
        network.eval()(torch.zeros(shape))
    return counter.get_total_flops() // 2


def test_a_fused_block_by_hand():
    """Dense 3x3 of 16 to 48 channels on 32x48 at stride 2, then 1x1 to 24; a shortcut at stride 1 alone."""
    table = dict(stem=16, stages=[[(3, 24, 3, None, 2, 'fused'), (5, 24, 2, None, 1, 'fused')]])
    net = FrostNet(arch=table)
    first, second = net.stages[0]
    assert count(first) == (16 * 48 * 9 + 2 * 48) + (48 * 24 + 2 * 24)
    assert count(second) == (24 * 48 * 25 + 2 * 48) + (48 * 24 + 2 * 24)
    stem = 3 * 16 * 9 * (32 * 48)
    macs = (16 * 48 * 9 + 48 * 24) * (16 * 24) + (24 * 48 * 25 + 48 * 24) * (16 * 24)
    assert macs_of(net, 1, 3, 64, 96) == stem + macs
    x = randomize(second).eval() and torch.randn(2, 24, 6, 5)
    with torch.no_grad():
        inner = second.expand.bn(nn.functional.conv2d(x, second.expand.conv.weight, padding=2)).relu()
        expected = x + second.project.bn(nn.functional.conv2d(inner, second.project.conv.weight))
        torch.testing.assert_close(second(x), expected)
    assert not first.with_residual and second.with_residual
    dilated = FrostNet(arch=dict(stem=16, stages=[[(3, 24, 3, None, 2)], [(3, 24, 3, None, 2)]] * 2), output_stride=8)
    assert [stage[0].depthwise.conv.dilation[0] for stage in dilated.stages] == [1, 1, 1, 2]
    fused = [[(3, 24, 3, None, 2, 'fused')], [(5, 24, 3, None, 2, 'fused')]] * 2
    dilated = FrostNet(arch=dict(stem=16, stages=fused), output_stride=8)
    assert [(s[0].expand.conv.dilation[0], s[0].expand.conv.padding[0]) for s in dilated.stages] == [
        (1, 1),
        (1, 2),
        (1, 1),
        (2, 4),
    ]


def test_an_inverted_block_is_a_frost_block_without_squeeze():
    frost, inverted = (
        FrostNet(arch=dict(stem=32, stages=[[(5, 32, 3, None, 1, kind)]])) for kind in ('frost', 'inverted')
    )
    inverted.load_state_dict(randomize(frost).state_dict())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(frost.eval()(x)[0], inverted.eval()(x)[0])


def test_fused_660_has_the_counts_that_it_was_measured_with():
    with DefaultScope.overwrite_default_scope('mmdet'):
        from mmdet.registry import MODELS

        cfg = Config.fromfile(ROOT / 'configs/ssdlite_frostnet_coco.py').model
        counts = {}
        for name, arch in dict(small='small', base='base', fused=FUSED_660).items():
            cfg.backbone.arch = arch
            dense = DenseNetwork(MODELS.build(cfg))
            # parameters as they are deployed: a norm's factors are folded into the weights
            folded = sum(p.numel() for key, p in dense.named_parameters() if not key.endswith('bn.weight'))
            counts[name] = folded, macs_of(dense, 1, 3, 320, 320)
    assert {name: round(macs / 1e6) for name, (_, macs) in counts.items()} == dict(small=660, base=757, fused=652)
    assert round(counts['fused'][0] / 1e6, 2) == 3.16


def test_a_kind_of_ones_own_is_one_registered_class():
    @BLOCKS.register_module(name='plain')
    class Plain(Bottleneck):
        def build_layers(self, in_channels, row, dilation, cfg):
            self.only = ConvModule(in_channels, row.channels, row.kernel, row.stride, row.kernel // 2, **cfg)

        def transform(self, x):
            return self.only(x)

    try:
        net = FrostNet(arch=dict(stem=16, stages=[[(3, 24, 1, None, 2, 'plain'), (3, 24, 2, 2, 1)]]))
        assert [tuple(f.shape) for f in net(torch.zeros(1, 3, 16, 16))] == [(1, 24, 4, 4)]
        assert net.arch.to_config()['stages'] == [[(3, 24, 1, None, 2, 'plain'), (3, 24, 2, 2, 1)]]
    finally:
        del BLOCKS.module_dict['plain']
    with pytest.raises(ValueError, match="kind='plain': expected one of 'frost', 'inverted', 'fused'; the class"):
        FrostNet(arch=dict(stem=16, stages=[[(3, 24, 1, None, 2, 'plain')]]))


@pytest.mark.parametrize('width', [0.35, 0.5, 1.0, 1.25])
def test_a_widened_table_is_the_network_of_that_width(width):
    wide = FrostNet('base', width)
    table = FrostNet(ARCHS['base'].widened(width))
    assert [(k, v.shape) for k, v in table.state_dict().items()] == [(k, v.shape) for k, v in wide.state_dict().items()]
