"""What whole families of mm are made of, each in a small network: through training, conversion and both engines."""

import numpy as np
import onnx
import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2dPack, PSAMask, deform_conv2d, modulated_deform_conv2d
from mmdet.models.backbones.resnest import SplitAttentionConv2d
from segmenter_parts import settled
from test_network_habits import Habit
from tiny_segmenter import images, prepared_segmenter, segmenter
from torch import nn
from torch.nn import functional

from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.flat_network import converted_network, traceable
from frostnet_mm.deploy.loaded_model import gather_statistics
from frostnet_mm.deploy.onnx.export import onnx_of
from frostnet_mm.deploy.verification import verify
from frostnet_mm.deploy.verification.layers import _Rounded, _without_twins
from frostnet_mm.models.dense import UnsupportedModelError, detached
from frostnet_mm.quantization import QuantizationSettings, convert, deformable, prepare_model
from frostnet_mm.quantization.psa_mask import psa_mask
from frostnet_mm.quantization.symbolic_integers import symbolic_integers


def pool(*args, **kwargs):
    """A network with an average pool."""

    class Pooled(Habit):
        def middle(self, x):
            return functional.avg_pool2d(self.block(x), *args, **kwargs)

    return Pooled


class PooledTwice(Habit):
    """As CGNet's injections: two readers have quantizers of their own for the same pool."""

    def middle(self, x):
        x = self.block(x)
        first, second = functional.avg_pool2d(x, 2), functional.avg_pool2d(x, 2)
        return torch.cat([functional.relu(first + 1.5 * first), functional.max_pool2d(second, 3, 1, 1)], 1)[:, 8:24]


class NormedTwice(Habit):
    """As PIDNet's pyramid: two norms of a map, which are equal as long as they are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))

    def middle(self, x):
        x = self.block(x)
        first, second = (functional.relu(norm(x)) for norm in self.norms)
        return first + functional.max_pool2d(second, 3, 1, 1)


class Deformable(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.conv = ModulatedDeformConv2dPack(16, 16, 3, padding=1, deform_groups=2)
        nn.init.normal_(self.conv.conv_offset.weight, 0, 0.1)

    def middle(self, x):
        return self.block(x)


class AlignedByOffsets(Habit):
    """Version 1, with offsets that another layer has computed, as in RepPoints and VFNet."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.conv = nn.Conv2d(16, 18, 3, 1, 1), DeformConv2d(16, 16, 3, padding=1)

    def middle(self, x):
        return functional.relu(self.conv_norm(self.conv(x, self.offset(x) * 0.5 + 0.25)))


class Windows(Habit):
    """Swin's windows, without their attention: the images of a batch are counted by ``int``."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Linear(16, 16)

    def middle(self, x):
        batch, channels, height, width = x.shape
        x = functional.pad(x, (0, (5 - width % 5) % 5, 0, (5 - height % 5) % 5))
        rows, columns = x.shape[2] // 5, x.shape[3] // 5
        x = x.view(batch, channels, rows, 5, columns, 5).permute(0, 2, 4, 3, 5, 1).reshape(-1, 25, channels)
        x = self.values(x)
        batch = int(x.shape[0] / (rows * columns))
        x = x.view(batch, rows, columns, 5, 5, channels).permute(0, 5, 1, 3, 2, 4)
        return self.block(x.reshape(batch, channels, rows * 5, columns * 5)[:, :, :height, :width])


class SplitAttention(Habit):
    """ResNeSt's: on other images a probability exceeds those that the ranges are of."""

    def __init__(self) -> None:
        super().__init__()
        self.split = SplitAttentionConv2d(16, 16, 3, padding=1, radix=2, reduction_factor=4)

    def middle(self, x):
        return self.split(self.block(x))


class SpatialAttention(Habit):
    """PSANet's, in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Conv2d(16, 7 * 9, 1)
        self.masks = nn.ModuleList(PSAMask(kind, (7, 9)) for kind in ('collect', 'distribute'))

    def middle(self, x):
        small = functional.avg_pool2d(x, 4)
        weights = self.attention(small)
        found = sum(small.flatten(2) @ mask(weights).softmax(1).flatten(2) for mask in self.masks)
        return self.block(x + functional.interpolate(found.reshape(small.shape), size=x.shape[2:]))


class Encoded(Habit):
    """As EncNet's code words: what a map holds of each, summed over its places and normalized by code."""

    def __init__(self) -> None:
        super().__init__()
        self.codes, self.code_norm = nn.Parameter(torch.randn(6, 16)), nn.BatchNorm1d(6)
        self.gate = nn.Linear(16, 16)

    def middle(self, x):
        x = self.block(x)
        distances = x.flatten(2).transpose(1, 2).unsqueeze(2) - self.codes  # (N, H * W, 6, 16)
        shares = functional.softmax(-distances.square().sum(3), 2)
        found = functional.relu(self.code_norm((shares.unsqueeze(3) * distances).sum(1)))
        return functional.relu(x + x * self.gate(found.mean(1)).sigmoid()[:, :, None, None])


class Pyramid(Habit):
    """As ANN's attention to pooled maps: OpenVINO crashes on a concat that is rounded again behind such a reshape."""

    def middle(self, x):
        x = self.conv(x)
        pools = functional.adaptive_avg_pool2d(x, 1), functional.avg_pool2d(x, 4), functional.avg_pool2d(x, 8)
        places = torch.cat([pool.view(*pool.shape[:2], -1) for pool in pools], 2)
        places = places.reshape(*places.shape[:2], -1).contiguous()
        shares = functional.softmax(x.flatten(2).transpose(1, 2) @ places, 2)
        return (shares @ places.transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class CountsTheBatch(Habit):
    """As TOOD repeats its anchors for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(1, 16, 1, 1))

    def middle(self, x):
        return self.block(x + torch.cat([self.row for _ in range(x.shape[0])]))


class CountsTwice(CountsTheBatch):
    """Blocks of several tensors, their number as a factor and in a shape, and dimensions of any length."""

    def middle(self, x):
        count = x.shape[0]
        rows = torch.stack([self.row[0], self.row[0].neg()] * count)
        columns = torch.cat([self.row.view(16, 1) * 0.1] * (3 * count), 1)
        x = torch.cat([x, x]).view(count * 2, -1, *x.shape[2:]) + rows
        return self.block(x[:count] + x[count:] * 0.5 + columns.mean(1).view(1, 16, 1, 1) * (count - count + 2))


KINDS = {
    'large pool that counts zeros around': pool(9, 4, 4),
    'pool with a divisor': pool(3, 2, 1, divisor_override=5),
    'large pool with a divisor': pool(9, 4, divisor_override=50),
    'pool that reaches beyond the map': pool(3, 2, 0, ceil_mode=True),
    'pooled twice': PooledTwice,
    'deformable': Deformable,
    'aligned': AlignedByOffsets,
    'windows': Windows,
    'split attention': SplitAttention,
    'spatial attention': SpatialAttention,
    'encoded': Encoded,
    'pyramid': Pyramid,
    'counts the batch': CountsTheBatch,
    'counts twice': CountsTwice,
}


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_it_is_the_network_and_engines_compute_it(kind):
    model, network = settled(kind)
    model.eval()
    network.simulate(False)
    for size in ((32, 48), (52, 72)):
        batch = torch.randn(3, 3, *size)
        with torch.no_grad(), detached(model):
            assert torch.allclose(network.flat(batch)[0], model(batch, mode='tensor'), atol=1e-4)
    network.simulate(True)
    flat = converted_network(model, convert(network))
    for name in ('onnxruntime', 'openvino'):
        content = onnx.load_from_string(engine_of(name).rewritten(onnx_of(flat, images(7)[:1], False, None)))
        layers = verify.check_layers(engine_of(name), content, traceable(flat), images(9)[:1].numpy())
        assert layers and not verify.failed_layers(layers, engine_of(name).layer_share), name


@pytest.mark.parametrize('shift', [0, 1e-7])  # which is lost when biases become integers
def test_equal_norms_of_a_map_are_computed_once(shift):
    model, network = settled(NormedTwice)
    first, second = model.backbone.norms
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        second.bias[first.bias.abs().argmin()] += shift
    ranges = [
        own for own in network.activations() if own.name in ('backbone.norms.0.output', 'backbone.norms.1.output')
    ]
    ranges[1].set_range(float(ranges[0].min_val), float(ranges[0].max_val))
    flat = converted_network(model, convert(network))
    content = onnx.load_from_string(onnx_of(flat, images(7)[:1], False, None))
    layers = verify.check_layers(engine_of('onnxruntime'), content, traceable(flat), images(9)[:1].numpy())
    assert layers and not verify.failed_layers(layers)


def test_equal_maps_of_other_grids_are_no_twins():
    """The file computes the second map of 0.2 once; maps of zeros are equal everywhere, as PIDNet's pools may be."""
    zeros, map_, other = np.zeros((1, 1), np.uint8), np.arange(4, dtype=np.uint8), np.arange(6, dtype=np.uint8)
    pairs = [(zeros, 0.1), (map_, 0.2), (zeros, 0.3), (map_, 0.2), (other, 0.2), (map_, 0.4)]
    found = [_Rounded(integers, (scale, 0)) for integers, scale in pairs]
    kept = _without_twins(found, [(0.1, 0), (0.2, 0), (0.3, 0), (0.2, 0), (0.4, 0)])
    assert len(kept) == 5 and all(map(np.array_equal, kept, (zeros, map_, zeros, other, map_)))
    # one less of 0.3 than the network has, which is no twin: it is another network
    assert len(_without_twins(found, [(0.1, 0), (0.2, 0), (0.2, 0), (0.4, 0)])) == 5


@pytest.mark.parametrize(
    ('groups', 'parts', 'stride', 'padding', 'dilation', 'kernel'),
    [(1, 1, 1, 1, 1, 3), (2, 4, 2, 1, 1, 3), (1, 2, (1, 2), (2, 1), (2, 1), 3), (8, 8, 1, 0, 1, 1)],
)
def test_deformable_convolutions_are_those_of_mmcv(groups, parts, stride, padding, dilation, kernel):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 8, 11, 13), torch.randn(8, 8 // groups, kernel, kernel), torch.randn(8)
    size = functional.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    offset, mask = torch.randn(2, parts * kernel**2 * 2, *size) * 3, torch.rand(2, parts * kernel**2, *size)
    rest = stride, padding, dilation, groups, parts
    expected = deform_conv2d(x, offset, weight, *rest)
    assert torch.allclose(deformable.deform_conv2d(x, offset, weight, *rest), expected, atol=1e-4)
    expected = modulated_deform_conv2d(x, offset, mask, weight, bias, *rest)
    assert torch.allclose(deformable.modulated_deform_conv2d(x, offset, mask, weight, bias, *rest), expected, atol=1e-4)


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('mask', [(3, 5), (9, 7), (13, 17)])
def test_masks_of_spatial_attention_are_those_of_mmcv(kind, mask):
    torch.manual_seed(0)
    masks = torch.randn(2, mask[0] * mask[1], 5, 6)
    assert torch.equal(psa_mask(masks, ('collect', 'distribute').index(kind), mask), PSAMask(kind, mask)(masks))


def test_positions_are_not_rounded():
    network = settled(AlignedByOffsets)[1]
    names = [module.name for module in network.activations()]
    assert not [name for name in names if 'offset' in name], names
    assert 'backbone.offset.weight' in [module.name for module in network.weights()]


class EachImageItsOwn(Habit):
    def middle(self, x):
        return self.block(torch.stack([image * (index + 1) for index, image in enumerate(x)]))


class SquaresTheBatch(Habit):
    def middle(self, x):
        return self.block(x * (len(range(x.shape[0])) ** 2))


class Random(Habit):
    def middle(self, x):
        return self.block(x) * torch.rand(1, 16, 1, 1)


class Noise(Habit):
    def middle(self, x):
        return self.block(x) + (0.1 * torch.randn_like(x) if self.training else 0)


class OneSize(Habit):
    """As BEiT, whose tables are made for one size of images."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 16, 16, 24))

    def middle(self, x):
        return self.block(x + self.table)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        (EachImageItsOwn, r'^decode_head \(FCNHead\) counts the images of a batch in Python, so that its graph holds'),
        (SquaresTheBatch, r'^decode_head \(FCNHead\) counts the images of a batch in Python, so that its graph holds'),
        (Random, r'^aten\.rand\.default of backbone.* draws random numbers in evaluation too, so what is deployed'),
        (Noise, r'^aten\.randn_like\.default of backbone.* draws random numbers in training alone, and 3 of'),
    ],
)
def test_what_cannot_be_deployed_is_refused_with_the_true_reason(kind, message):
    with pytest.raises(UnsupportedModelError, match=message):
        prepared_segmenter(kind)


def test_a_network_for_one_size_is_captured_with_it_and_else_names_the_option():
    message = r'^backbone \(OneSize\) cannot be captured as a graph\. .*give one of them: QATHook\(example_shape='
    with pytest.raises(UnsupportedModelError, match=message):
        prepare_model(segmenter(OneSize), QuantizationSettings.of(example_shape=(2, 3, 64, 64)))
    assert len(prepared_segmenter(OneSize)[1].flat(images())) == 1


def test_int_is_itself_but_for_traced_sizes():
    import sys

    module = sys.modules[Windows.__module__]
    with symbolic_integers(Windows()):
        kind = module.int
        assert kind('7') == 7 and kind(2.9) == 2 and kind('11', 2) == 3 and kind() == 0
        assert isinstance(3, kind) and not isinstance(3.0, kind)
    assert not hasattr(module, 'int')


def test_frozen_norms_fit_random_weights_too():
    """As those of DetectoRS, whose values grew a hundredfold a stage."""

    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    torch.manual_seed(0)
    model, batch = Frozen(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0)), 50 * torch.randn(2, 3, 8, 8) + 7
    gather_statistics(model, model, [batch])
    assert model[1].eps == 0  # as with caffe's weights
    values = model[0](batch).transpose(0, 1).flatten(1)
    assert torch.allclose(model[1].running_mean, values.mean(1)) and model[1].momentum == 0.1
    assert torch.allclose(model[1].running_var, values.var(1)) and not model[1].training
