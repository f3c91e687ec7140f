"""The network of all networks: its slices by hand, and against the plain networks that they are."""

import copy
import random

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.registry import DefaultScope
from reference_frostnet import randomize
from torch import nn

from frostnet_mm import FrostNet
from frostnet_mm.models.backbones.frost_blocks import Bottleneck
from frostnet_mm.nas.elastic import ElasticFrostNet, sliced
from frostnet_mm.nas.errors import SearchError
from frostnet_mm.nas.networks import elastic_backbone, plain_backbone, space_of
from frostnet_mm.nas.rounding import BatchRounding
from frostnet_mm.quantization.scheme import Scheme
from frostnet_mm.registry import BLOCKS, MODELS

BASE = dict(
    stem=16,
    stages=[
        [(3, 16, 1, None, 1), (3, 24, 3, None, 2), (3, 24, 3, None, 1)],
        [(5, 32, 3, 2, 2), (3, 32, 3, 2, 1), (3, 40, 3, 2, 1)],
        [(5, 64, 3, 4, 2)],
    ],
)
SPACE = dict(kernels=(3, 5), expansions=(2, 3), reductions=(None, 2), kinds=('frost', 'inverted', 'fused'))


def elastic(seed=0, **options):
    torch.manual_seed(seed)
    return randomize(ElasticFrostNet(BASE, **dict(space=SPACE) | options))


def networks(space, count=12):
    rng = random.Random(1)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count - 2))]


def arch_of(last, second=((5, 32, 3, 2, 2), (3, 40, 3, 2, 1)), first=(3, 24, 3, None, 2)):
    return dict(stem=16, stages=[[(3, 16, 1, None, 1), first], list(second), [last]])


def test_slices_by_hand():
    weight = torch.arange(4 * 6 * 25.0).view(4, 6, 5, 5)
    assert torch.equal(sliced(weight, (3, 4, 3, 3)), weight[:3, :4, 1:4, 1:4])
    assert torch.equal(sliced(weight, (3, 4, 5, 5), kept=3), weight[:3][:, [0, 3, 4, 5]])
    assert torch.equal(sliced(weight, (4, 3, 1, 1), kept=3), weight[:, 3:, 2:3, 2:3])
    assert torch.equal(sliced(torch.arange(5.0), (2,)), torch.tensor([0.0, 1.0]))
    assert sliced(weight, weight.shape) is weight


def test_extracted_weights_are_the_slices_that_they_should_be():
    """A Frost block of 24 channels whose largest form squeezes to 16, expands (16 + 24) x 3 and has a 5x5 kernel."""
    net = elastic()
    own = {name: value.clone() for name, value in net.stages[1][0].largest.state_dict().items()}
    assert own['frost.squeeze.conv.weight'].shape == (16, 24, 1, 1)
    assert own['frost.expand.conv.weight'].shape == (120, 40, 1, 1)
    assert own['frost.depthwise.conv.weight'].shape == (120, 1, 5, 5)
    assert own['fused.expand.conv.weight'].shape == (72, 24, 3, 3)  # weights of its own

    frost = net.extract(arch_of((3, 64, 2, None, 2), second=((3, 32, 2, 2, 2), (3, 40, 3, 2, 1))))
    assert torch.equal(frost['stages.1.0.squeeze.conv.weight'], own['frost.squeeze.conv.weight'])
    assert torch.equal(frost['stages.1.0.expand.conv.weight'], own['frost.expand.conv.weight'][:80])
    assert torch.equal(frost['stages.1.0.expand.bn.running_var'], own['frost.expand.bn.running_var'][:80])
    assert torch.equal(frost['stages.1.0.depthwise.conv.weight'], own['frost.depthwise.conv.weight'][:80, :, 1:4, 1:4])
    assert torch.equal(frost['stages.1.0.project.conv.weight'], own['frost.project.conv.weight'][:, :80])

    bare = net.extract(arch_of((3, 64, 2, None, 2), second=((5, 32, 3, None, 2), (3, 40, 3, 2, 1))))
    assert 'stages.1.0.squeeze.conv.weight' not in bare
    assert torch.equal(bare['stages.1.0.expand.conv.weight'], own['frost.expand.conv.weight'][:72, 16:])
    assert torch.equal(bare['stages.1.0.depthwise.conv.weight'], own['frost.depthwise.conv.weight'][:72])

    fused = net.extract(arch_of((3, 64, 2, None, 2), second=((3, 32, 2, None, 2, 'fused'), (3, 40, 3, 2, 1))))
    assert torch.equal(fused['stages.1.0.expand.conv.weight'], own['fused.expand.conv.weight'][:48])
    assert torch.equal(fused['stages.1.0.project.conv.weight'], own['fused.project.conv.weight'][:, :48])
    # the second place of 32 channels is left out: the block of 40 channels is its stage's second
    assert torch.equal(fused['stages.1.1.project.conv.weight'], net.stages[1][2].largest.frost.project.conv.weight)


@pytest.mark.parametrize('options', [{}, dict(output_stride=8), dict(out_indices=(0, 1)), dict(in_channels=1)])
@pytest.mark.parametrize('training', [False, True])
def test_an_extracted_network_equals_the_sliced_one_bit_for_bit(options, training):
    net = elastic(**options)
    for index, arch in enumerate(networks(net.space)):
        net.choose(arch)
        plain = FrostNet(arch, **options)
        assert plain.load_state_dict(net.extract(arch)) and plain.out_channels == net.out_channels
        net.train(training), plain.train(training)
        x = torch.randn(2, options.get('in_channels', 3), 32, 48)
        with torch.no_grad():
            for one, other in zip(net(x), plain(x), strict=True):
                assert torch.equal(one, other), index
        after = net.extract()
        assert all(torch.equal(value, after[name]) for name, value in plain.state_dict().items())  # statistics too
        assert net.chosen == net.plain().arch and net.plain().training == training


def test_gradients_are_those_of_the_plain_network_in_its_slices():
    net = elastic().train()
    for arch in networks(net.space, 5):
        net.choose(arch)
        plain, x = net.plain(), torch.randn(2, 3, 32, 32)
        net.zero_grad()
        for network in (net, plain):
            sum(out.square().mean() for out in network(x)).backward()
        assert all(parameter.grad is not None for parameter in net.parameters())  # what distributed training needs
        expected, found = dict(plain.named_parameters()), {}
        for index, places in enumerate(net.space.locate(arch)):
            for number, (place, row) in enumerate(places):
                block = net.stages[index][place]
                grads = {name: value.grad for name, value in block.largest[block.family(row)].named_parameters()}
                buffers = dict(block.largest[block.family(row)].named_buffers())
                for name, value in block.slices(row, grads | buffers).items():
                    found[f'stages.{index}.{number}.{name}'] = value
        for name, value in expected.items():
            if not name.startswith('stem'):
                torch.testing.assert_close(found[name], value.grad, msg=name)
        total = sum(parameter.grad.abs().sum() for parameter in net.parameters())
        torch.testing.assert_close(total, sum(parameter.grad.abs().sum() for parameter in plain.parameters()))


def test_plain_weights_go_in_and_come_out_and_leave_the_others_alone():
    net = elastic(1)
    arch = networks(net.space)[5]
    plain = randomize(FrostNet(arch), 7)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.insert(plain.state_dict(), arch)
    out = net.extract(arch)
    assert all(torch.equal(value, out[name]) for name, value in plain.state_dict().items())
    changed = sum(int((value != before[name]).sum()) for name, value in net.state_dict().items())
    assert 0.95 * sum(value.numel() for value in out.values()) < changed <= sum(value.numel() for value in out.values())


def test_a_pretrained_checkpoint_is_that_of_the_base(tmp_path):
    plain = randomize(FrostNet(BASE))
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'c.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'c.pth'))
    net = ElasticFrostNet(BASE, SPACE | dict(reductions=(None, 2, 4)), init_cfg=pretrained)
    net.init_weights()
    out = net.extract(BASE)
    assert all(torch.equal(value, out[name]) for name, value in plain.state_dict().items())
    with pytest.raises(SearchError, match='is not in the space'):
        ElasticFrostNet(BASE, SPACE, init_cfg=pretrained).init_weights()


def test_frozen_stages_and_frozen_norms():
    net = elastic(frozen_stages=1, norm_eval=True).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for arch in networks(net.space, 4):
        net.choose(arch)
        sum(out.mean() for out in net(torch.randn(2, 3, 32, 32))).backward()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {name.split('.')[1] for name, p in net.named_parameters() if p.grad is not None} == {'1', '2'}


def test_gradient_checkpointing_gives_the_same_gradients():
    plain, saving = elastic().train(), elastic(with_cp=True).train()
    x = torch.randn(2, 3, 32, 32)
    for net in (plain, saving):
        net.choose(networks(net.space)[4])
        sum(out.square().mean() for out in net(x)).backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_norms_that_are_synchronized_later_are_so_in_every_network():
    net = elastic()
    x, arch = torch.randn(2, 3, 32, 32), networks(net.space)[4]
    net.choose(arch)
    with torch.no_grad():
        before = net.train()(x)
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        assert all(torch.equal(one, two) for one, two in zip(before, net(x), strict=True))
    for stage, places in zip(net.stages, net.space.locate(arch), strict=True):
        for place, row in places:
            norms = [m for m in stage[place].form(row).modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            assert norms and all(type(norm) is nn.SyncBatchNorm for norm in norms)


def test_a_copy_has_its_own_weights_and_choice():
    net = elastic().eval()
    net.choose(net.space.smallest)
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.choose(net.space.largest)
        x = torch.randn(1, 3, 32, 32)
        assert other.chosen == other.space.smallest
        for one, two in zip(other(x), other.plain()(x), strict=True):
            assert torch.equal(one, two) and one.abs().sum() > 0
    other.train()
    sum(out.mean() for out in other(x)).backward()
    assert all(p.grad is not None for p in other.parameters()) and all(p.grad is None for p in net.parameters())


def test_networks_outside_of_the_space_are_refused():
    net = elastic()
    for call in (net.choose, net.extract, net.plain):
        with pytest.raises(SearchError, match=r'arch.stages\[2\]\[0\]=\(7, 64'):
            call(arch_of((7, 64, 2, None, 2)))
    with pytest.raises(SearchError, match='space.kernels='):
        ElasticFrostNet(BASE, dict(kernels=()))
    with pytest.raises(SearchError, match="space has the unknown option 'kernel': expected kernels, expansions, red"):
        ElasticFrostNet(BASE, dict(kernel=3))
    with pytest.raises(SearchError, match='space=3: expected a dict of kernels'):
        ElasticFrostNet(BASE, 3)
    with pytest.raises(ValueError, match='out_indices'):
        ElasticFrostNet(BASE, SPACE, out_indices=(7,))


def test_a_kind_of_ones_own_is_searched_too():
    @BLOCKS.register_module(name='plain')
    class Plain(Bottleneck):
        def build_layers(self, in_channels, row, dilation, cfg):
            self.first = ConvModule(in_channels, in_channels * row.expansion, row.kernel, row.stride, row.kernel // 2)
            self.second = ConvModule(in_channels * row.expansion, row.channels, 1, **cfg)

        def transform(self, x):
            return self.second(self.first(x))

    try:
        net = randomize(ElasticFrostNet(BASE, SPACE | dict(kinds=('frost', 'plain')))).eval()
        arch = arch_of((3, 64, 2, None, 2, 'plain'))
        net.choose(arch)
        x = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            for one, other in zip(net(x), net.plain()(x), strict=True):
                assert torch.equal(one, other)
        own = net.stages[2][0].largest.plain.first.conv
        assert torch.equal(net.extract()['stages.2.0.first.conv.weight'], own.weight[:80, :, 1:4, 1:4])
        assert torch.equal(net.extract()['stages.2.0.first.conv.bias'], own.bias[:80])
    finally:
        del BLOCKS.module_dict['plain']


# -- configs


def test_configs_to_the_supernet_and_back():
    backbone = dict(type='frostnet_mm.FrostNet', arch='base', widen_factor=0.5, out_indices=(2, 4), norm_eval=True)
    supernet = elastic_backbone(backbone, dict(kernels=(3, 5)))
    assert supernet == backbone | dict(type='frostnet_mm.ElasticFrostNet', space=dict(kernels=(3, 5)))
    space = space_of(supernet)
    assert space.base == space_of(backbone).base and space.contains(space.smallest)
    found = plain_backbone(supernet, space.smallest)
    assert set(found) == {'type', 'arch', 'out_indices', 'norm_eval'}
    with DefaultScope.overwrite_default_scope('mmdet'):
        net, plain = (MODELS.build(Config(dict(x=own)).x) for own in (supernet, found))
    assert type(net) is ElasticFrostNet and net.norm_eval and net.out_indices == (2, 4)
    assert type(plain) is FrostNet and plain.load_state_dict(net.extract(space.smallest))
    shorter = elastic_backbone(dict(type='frostnet_mm.FrostNet', out_indices=(1, 2)))
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert MODELS.build(shorter).space.size == space_of(shorter).size < space_of(backbone | dict(arch='small')).size
    pretrained = dict(backbone, init_cfg=dict(type='Pretrained', checkpoint='small.pth'))
    assert plain_backbone(pretrained, space.smallest) == found  # weights of the base fit no other network
    own = dict(backbone, init_cfg=[dict(type='Normal', layer='Conv2d', std=0.1)])
    assert plain_backbone(own, space.smallest) == found | dict(init_cfg=own['init_cfg'])
    with pytest.raises(SearchError, match="The backbone is 'ResNet', but the search chooses among FrostNets"):
        space_of(dict(type='ResNet'))


# -- simulated INT8


def by_hand(x, scheme):
    low, high = (float(v) for v in (x.min().clamp(max=0), x.max().clamp(min=0)))
    qmin, qmax = scheme.activation_range
    scale = (high - low) / (qmax - qmin)
    zero = round(qmin - low / scale)
    return ((x / scale).round() + zero).clamp(qmin, qmax).sub(zero) * scale


@pytest.mark.parametrize('granularity', ['channel', 'tensor'])
@pytest.mark.parametrize('preset', ['onnx', 'executorch'])
def test_a_rounded_block_by_hand(preset, granularity):
    scheme = Scheme.preset(preset).with_weights(7, granularity)
    net = elastic().eval()
    block, row = net.stages[1][1], next(r for r in net.stages[1][1].position.rows if r.reduction == 2)
    plain = block.form(row)
    tensors = block.tensors(row)
    x = by_hand(torch.randn(2, 32, 8, 8), scheme)
    x.is_rounded = True

    def layer(name, value, relu=True, **options):
        weight, gamma = tensors[f'{name}.conv.weight'], tensors[f'{name}.bn.weight']
        mean, variance = tensors[f'{name}.bn.running_mean'], tensors[f'{name}.bn.running_var']
        factor = (gamma / (variance + 1e-5).sqrt()).view(-1, 1, 1, 1)
        if granularity == 'tensor':
            rounded = (weight * factor).abs().max() / 63
            integers = (weight * factor / rounded).round() * rounded / factor
        else:
            scale = weight.abs().amax((1, 2, 3), keepdim=True) / 63
            integers = (weight / scale).round() * scale
        y = nn.functional.conv2d(value, integers, **options)
        y = (y - mean.view(1, -1, 1, 1)) * factor.view(1, -1, 1, 1) + tensors[f'{name}.bn.bias'].view(1, -1, 1, 1)
        return by_hand(y.relu() if relu else y, scheme)

    with torch.no_grad():
        y = by_hand(torch.cat((layer('squeeze', x), x), 1), scheme)
        hidden = layer('expand', y)
        hidden = layer('depthwise', hidden, padding=row.kernel // 2, groups=hidden.shape[1])
        expected = by_hand(x + layer('project', hidden, relu=False), scheme)
        found = block(x, row, BatchRounding(scheme))
    step = float(expected.unique().diff().min())
    apart = (found - expected).abs() / step
    assert plain.with_residual and float((apart > 0.1).float().mean()) < 0.01 and float(apart.max()) < 3
    assert len(found.unique()) <= 256 and len(found.unique()) > 50
    assert (block(x, row) - expected).abs().max() > step  # float is something else


def test_rounding_lets_gradients_pass_and_keeps_no_state():
    net = elastic().train()
    names = list(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    outs = {}
    for rounding in (None, BatchRounding(Scheme())):
        net.rounding = rounding
        net.zero_grad()
        outs[rounding] = net(x)
        sum(out.square().mean() for out in outs[rounding]).backward()
        grads = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
        outs[rounding] = outs[rounding], grads
    (float_, one), (rounded, other) = outs.values()
    assert list(net.state_dict()) == names
    for a, b in zip(float_, rounded, strict=True):
        assert len(b.detach().unique()) <= 256 < len(a.detach().unique())
        assert 1e-4 < float((a - b).detach().norm() / a.detach().norm()) < 0.2
    a, b = (torch.cat([grad.flatten() for grad in grads.values()]) for grads in (one, other))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.9
    net.rounding = None
    with torch.no_grad():
        assert all(len(out.unique()) > 256 for out in net.eval()(x))
