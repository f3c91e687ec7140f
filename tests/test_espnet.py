"""ESPNet and ESPNetv2 against the authors' counts and against a second implementation of their blocks."""

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from reference_frostnet import randomize
from torch import nn
from torch.nn import functional as F

from frostnet_mm.deploy.cost import count_macs
from frostnet_mm.models import ESPNet, ESPNetHead, ESPNetv2, ESPNetv2Head
from frostnet_mm.models.layers import EESP, ESP, EESPDown, channelwise
from frostnet_mm.models.layers.eesp import branch_dilations
from frostnet_mm.registry import MODELS

PRELU = dict(type='PReLU')
LOSS = dict(type='CrossEntropyLoss', avg_non_ignore=True)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def espnet(q, classes=19, **options):
    act = dict(act_cfg=options.pop('act_cfg', PRELU))
    encoder = ESPNet(2, q, **act)
    options = dict(upsample='deconv') | options
    return encoder, ESPNetHead(encoder.out_channels, classes, num_classes=classes, loss_decode=LOSS, **act, **options)


def espnetv2(width, classes=19, act_cfg=PRELU):
    encoder = ESPNetv2(width, act_cfg=act_cfg)
    channels = encoder.out_channels
    return encoder, ESPNetv2Head(channels, channels[2], num_classes=classes, loss_decode=LOSS, act_cfg=act_cfg)


# -- golden counts, of the authors' code


@pytest.mark.parametrize(
    'q, classes, params',
    [(3, 19, 201542), (5, 19, 266310), (8, 19, 363462), (3, 20, 203189), (5, 20, 267957), (8, 20, 365109)],
)
def test_parameters_of_espnet(q, classes, params):
    assert count(*espnet(q, classes)) == params


@pytest.mark.parametrize(
    'width, encoder, params, macs',
    [
        (0.5, 62242, 99110, 554.3),
        (1.0, 206934, 340250, 1675.1),
        (1.5, 434534, 724410, 3345.8),
        (2.0, 745206, 1252058, 5654.1),
    ],
)
def test_counts_of_espnetv2(width, encoder, params, macs):
    model = espnetv2(width)
    assert (count(model[0]), count(*model)) == (encoder, params)
    network = nn.Sequential(*model).eval().to('meta')
    assert round(count_macs(network, torch.empty(1, 3, 512, 1024, device='meta')) / 1e6, 1) == macs


def test_macs_of_an_esp_block_by_hand():
    macs = count_macs(ESP(64, 64).eval().to('meta'), torch.empty(1, 64, 10, 12, device='meta'))
    width, first = 12, 16  # 64 = 16 + 4 x 12
    assert macs == 120 * (64 * width + 9 * width * (first + 4 * width))


# -- a second implementation of the blocks


def conv_module(x, module, act_cfg=None):
    out = norm(F.conv2d(x, module.conv.weight, None, 1, module.conv.padding, 1, module.conv.groups), module.bn)
    return out if act_cfg is None else prelu(out, module.activate)


def norm(x, bn):
    shape = (1, -1, 1, 1)
    out = (x - bn.running_mean.view(shape)) / torch.sqrt(bn.running_var.view(shape) + bn.eps)
    return out * bn.weight.view(shape) + bn.bias.view(shape)


def prelu(x, module):
    return torch.where(x >= 0, x, x * module.weight.view(1, -1, 1, 1))


def reference_esp(x, block, stride, residual):
    reduced = F.conv2d(x, block.reduce.weight, None, stride, 0 if stride == 1 else 1)
    d1, d2, d4, d8, d16 = (
        F.conv2d(reduced, conv.weight, None, 1, d, d) for conv, d in zip(block.branches, (1, 2, 4, 8, 16), strict=True)
    )
    out = torch.cat((d1, d2, d2 + d4, d2 + d4 + d8, d2 + d4 + d8 + d16), 1)
    return prelu(norm(x + out if residual else out, block.norm_act.norm), block.norm_act.activate)


def reference_eesp(x, block, stride, dilations):
    reduced = conv_module(x, block.reduce, PRELU)
    parts, total = [], 0
    for conv, d in zip(block.branches, dilations, strict=True):
        total = total + F.conv2d(reduced, conv.weight, None, stride, d, d, reduced.shape[1])
        parts.append(total)
    out = prelu(norm(torch.cat(parts, 1), block.norm_act.norm), block.norm_act.activate)
    return conv_module(out, block.expand)


def randomized(module):
    torch.manual_seed(0)
    randomize(module)
    for child in module.modules():
        if isinstance(child, nn.PReLU):
            nn.init.uniform_(child.weight, -0.5, 0.5)
    return module.eval().double()


@pytest.mark.parametrize(
    'channels, stride, residual', [((64, 64), 1, True), ((38, 19), 1, False), ((19, 64), 2, False)]
)
@torch.no_grad()
def test_esp_equals_a_second_implementation(channels, stride, residual):
    block = randomized(ESP(*channels, stride, act_cfg=PRELU))
    x = torch.randn(2, channels[0], 21, 34, dtype=torch.double)
    torch.testing.assert_close(block(x), reference_esp(x, block, stride, residual), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_eesp_equals_a_second_implementation():
    x = torch.randn(2, 64, 21, 34, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    block = randomized(EESP(64, 64, 9, act_cfg=PRELU))
    expected = prelu(x + reference_eesp(x, block, 1, (1, 2, 3, 4)), block.activate)
    torch.testing.assert_close(block(x), expected, rtol=1e-6, atol=1e-6)
    block = randomized(EESP(64, 32, 7, act_cfg=PRELU))  # no residual
    expected = prelu(reference_eesp(x, block, 1, (1, 1, 2, 3)), block.activate)
    torch.testing.assert_close(block(x), expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_the_downsampling_block_equals_a_second_implementation():
    torch.manual_seed(1)
    x, image = torch.randn(2, 32, 21, 34, dtype=torch.double), torch.randn(2, 3, 11, 17, dtype=torch.double)
    block = randomized(EESPDown(32, 64, 13, act_cfg=PRELU))
    pooled = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)  # the padding counts
    out = torch.cat((pooled, reference_eesp(x, block.eesp, 2, (1, 2, 3, 4))), 1)
    first, second = block.reinforce
    out = prelu(out + conv_module(conv_module(image, first, PRELU), second), block.activate)
    torch.testing.assert_close(block(x, image), out, rtol=1e-6, atol=1e-6)


def test_dilations_by_hand():
    fields = (13, 11, 9, 7, 5)
    assert [branch_dilations(f) for f in fields] == [(1, 2, 3, 4)] * 3 + [(1, 1, 2, 3), (1, 1, 1, 2)]
    assert [conv.dilation[0] for conv in ESP(64, 64).branches] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize('block, first, changed', [(EESP(64, 64, 9), 0, (0, 1, 2, 3)), (ESP(60, 60), 1, (1, 2, 3, 4))])
@torch.no_grad()
def test_a_branch_is_in_all_later_ones(block, first, changed):
    """Without the first fused branch all later parts of the concatenation change, by exactly its output."""
    block = randomized(block)
    x = torch.randn(1, 64 if isinstance(block, EESP) else 60, 20, 20, dtype=torch.double)
    seen = []
    # before the norm: the concatenation; of ESP with the input, which drops out of the difference
    block.norm_act.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(x)
    branch = block.branches[first]
    output = branch(block.reduce(x))
    branch.weight.zero_()
    block(x)
    difference = (seen[0] - seen[1]).chunk(len(block.branches), 1)
    assert output.abs().max() > 0
    for index, part in enumerate(difference):
        expected = output if index in changed else torch.zeros_like(output)
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)


# -- sizes, options


@pytest.mark.parametrize('build, strides', [(lambda: ESPNet(1, 1), (2, 4, 8)), (lambda: ESPNetv2(0.5), (2, 4, 8, 16))])
@torch.no_grad()
def test_maps_of_odd_sizes(build, strides):
    encoder = build().eval()
    maps = encoder(torch.zeros(1, 3, 101, 180))
    expected = [(1, c, -(-101 // s), -(-180 // s)) for c, s in zip(encoder.out_channels, strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize(
    'model, stride',
    [
        (lambda: espnet(1), 1),
        (lambda: espnet(1, upsample='bilinear', act_cfg=dict(type='ReLU')), 2),
        (lambda: espnetv2(0.5), 2),
    ],
)
@torch.no_grad()
def test_logits_of_odd_sizes(model, stride):
    encoder, head = (module.eval() for module in model())
    fine = (51, 90)  # of a map of stride 2
    assert head(encoder(torch.zeros(1, 3, 101, 180))).shape == (1, 19, *(2 // stride * size for size in fine))


@torch.no_grad()
def test_transposed_convolutions_lie_over_the_finer_map_pixel_by_pixel():
    _, head = espnet(1)
    coarse = torch.arange(3.0).view(1, 1, 1, 3).expand(1, 19, 2, 3)
    deconv = head._deconv(19)
    deconv.weight.copy_(torch.eye(19)[:, :, None, None].expand(-1, -1, 2, 2))
    fine = torch.zeros(1, 131, 3, 5)
    assert head._at_size_of(fine, deconv(coarse))[0, 0].tolist() == [[0.0, 0.0, 1.0, 1.0, 2.0]] * 3


def test_prelu_has_a_slope_a_channel():
    slopes = [m.num_parameters for part in (*espnet(1), *espnetv2(0.5)) for m in part.modules() if type(m) is nn.PReLU]
    assert slopes and 1 not in slopes
    assert channelwise(dict(type='PReLU', num_parameters=1), 8) == dict(type='PReLU', num_parameters=1)
    assert channelwise(dict(type='ReLU'), 8) == dict(type='ReLU')


@pytest.mark.parametrize(
    'build, words',
    [
        (lambda: ESPNet(p=0), r'p=0: expected a number of ESP blocks'),
        (lambda: ESPNetv2(0.6), r'widen_factor=0\.6 gives levels of 20 and 40 channels.*multiple of 0\.5'),
        (lambda: ESPNetv2('1'), r"widen_factor='1' is not a width"),
        (lambda: ESPNetv2(out_indices=(1, 0)), r'out_indices=\(1, 0\) must name levels 0 to 3'),
        (lambda: ESP(8, 4), r'out_channels=4: expected 5 or more'),
        (lambda: EESP(8, 24, 7), r'out_channels=24: expected multiples of 4 and 16'),
        (lambda: ESPNetHead((8, 8), 8, num_classes=5), r'in_channels=\(8, 8\).*three feature maps or more'),
        (lambda: ESPNetv2Head((8,) * 3, 16, in_index=(0, 1), num_classes=5), r'in_index=\(0, 1\): expected'),
        (lambda: ESPNetHead((8, 8, 8), 8, num_classes=5, upsample='x'), r"upsample='x': expected 'bilinear' or"),
    ],
)
def test_refusals(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_fewer_levels_are_not_built():
    encoder = ESPNetv2(0.5, out_indices=(1,))
    assert len(encoder.levels) == 1 and encoder.out_channels == (16, 32)
    assert [tuple(m.shape) for m in encoder.eval()(torch.zeros(1, 3, 32, 32))] == [(1, 32, 8, 8)]


def test_the_configs_of_the_originals_have_the_golden_counts():
    for name, params in (('espnet', 363462), ('espnetv2', 340250)):
        cfg = Config.fromfile(ROOT / f'configs/{name}_original_cityscapes.py').model
        assert count(MODELS.build(cfg.backbone), MODELS.build(cfg.decode_head)) == params
