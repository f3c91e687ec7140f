"""What stays in float, and the share of INT8, on a network counted by hand; and regions and scales of its graph."""

import pytest
import torch
from tiny_segmenter import images, prepared_segmenter, segmenter
from torch import nn

from frostnet_mm.models.dense import DenseNetwork, UnsupportedModelError, detached
from frostnet_mm.quantization import FloatOperators, convert, float_operators, int8_share
from frostnet_mm.quantization.report import describe_report, weight_megabytes


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.act = nn.SiLU()
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.up_norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.norm(self.depthwise(self.act(self.first(x)))).relu()
        return (self.up_norm(self.up(x)).relu(),)


# Of one image of 32x48: 3 -> 8 channels at 16x24, 8 at 16x24, 8 -> 8 to 32x48, then in the head 8 -> 8 and 8 -> 5.
FIRST = 16 * 24 * 8 * 3 * 9
DEPTHWISE = 16 * 24 * 8 * 9
UP = 16 * 24 * 8 * 8 * 4
HEAD = 32 * 48 * 8 * 8 * 9 + 32 * 48 * 5 * 8


def test_report_of_a_network_counted_by_hand():
    _, network = prepared_segmenter(Mixed)
    assert float_operators(network) == [
        FloatOperators('silu', 1, ('backbone.act',)),
        FloatOperators('group_norm', 1, ('backbone.norm',)),
        FloatOperators('relu', 1, ('backbone',)),
    ]
    assert int8_share(network) == 1.0
    # images; first, SiLU, depthwise, ReLU, up with norm and ReLU; the head's first with ReLU, which the dropout shares
    assert describe_report(network) == (
        '5 weights and 7 activations are quantized: 100.0 % of the MACs in INT8; in float: 1 silu (backbone.act), '
        '1 group_norm (backbone.norm), 1 relu (backbone). Parameters: 0.00 MB packed.'
    )


def test_what_the_parameters_take_packed():
    weights = 8 * 3 * 9 + 8 * 9 + 8 * 8 * 4 + 8 * 8 * 9 + 8 * 5
    for bits, stem in ((8, 8), (4, 4), (4, 'float')):
        model, network = prepared_segmenter(
            Mixed, weight_bits=bits, float_modules=['backbone.first'] * (stem == 'float')
        )
        count = sum(p.numel() for part in (model.backbone, model.decode_head) for p in part.parameters())
        first = 8 * 3 * 9
        expected = (weights - first) * bits + first * (32 if stem == 'float' else bits) + (count - weights) * 32
        assert weight_megabytes(network) == expected / 8e6


def test_report_of_a_network_with_a_layer_in_float():
    _, network = prepared_segmenter(Mixed, float_modules=['backbone.depthwise'])
    kinds = {group.kind: group.modules for group in float_operators(network)}
    assert kinds == {
        'silu': ('backbone.act',),
        'conv2d': ('backbone.depthwise',),
        'group_norm': ('backbone.norm',),
        'relu': ('backbone',),
    }
    total = FIRST + DEPTHWISE + UP + HEAD
    assert total == 1_155_072
    assert int8_share(network) == pytest.approx((total - DEPTHWISE) / total, rel=1e-12)
    assert '97.6 % of the MACs in INT8' in describe_report(network)


class Regions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x):
        with torch.autocast('cuda', enabled=False):
            x = self.pool(self.first(x)).float()
        with torch.no_grad():
            offset = x.mean((2, 3), keepdim=True)
        return (self.second(x) + offset,)


def test_regions_become_part_of_the_graph_and_keep_their_gradients():
    model, network = prepared_segmenter(Regions)
    operators = [str(node.target) for node in network.program.graph.nodes if node.op == 'call_function']
    assert operators.count('aten.max_pool2d.default') == 1 and not any('wrap' in name for name in operators)
    assert int8_share(network) == 1.0
    network.simulate(False)
    grads = []
    for run in (network, DenseNetwork(segmenter(Regions))):
        torch.manual_seed(0)
        (run.train()(images())[0] ** 2).sum().backward()
        owner = model if run is network else run
        grads.append(owner.backbone.first.weight.grad)
    torch.testing.assert_close(*grads)


class ReducedPrecision(Regions):
    def forward(self, x):
        with torch.autocast('cpu', torch.bfloat16):
            x = self.first(x)
        return (x.float(),)


def test_reduced_precision_is_refused():
    with pytest.raises(UnsupportedModelError, match='backbone computes in reduced precision'):
        prepared_segmenter(ReducedPrecision)


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.first(x)
        return (self.second(x.relu()) + x,)


def test_a_rectifier_does_not_change_what_others_read():
    model, network = prepared_segmenter(TwoReaders)
    network.simulate(False)
    network.train().observe(False)
    torch.manual_seed(0)
    found = network(images())[0]
    torch.manual_seed(0)
    expected = DenseNetwork(model).train()
    with detached(model):
        torch.testing.assert_close(found, expected(images())[0])


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.large.weight.copy_(100 * self.small.weight)

    def forward(self, x):
        return (torch.cat([self.small(x), self.large(x)], 1),)


def test_a_shared_scale_covers_the_largest_of_its_tensors():
    """A moving average over one tensor after another would cut the large one off."""
    model, network = prepared_segmenter(Concat, numerics='executorch', averaging_constant=0.5)
    network.train().observe(True)
    network.simulate(False)
    x = images()
    for _ in range(3):
        network(x)
    with torch.no_grad():
        largest = float(model.backbone(x)[0].max())
    (shared,) = [module for module in network.activations() if module.name == 'backbone.small.output']
    assert shared.shared and float(shared.max_val) == pytest.approx(largest, rel=1e-5)
    network(2 * x)  # half way to the new range, once
    with torch.no_grad():
        twice = float(model.backbone(2 * x)[0].max())
    assert float(shared.max_val) == pytest.approx((largest + twice) / 2, rel=1e-5)


class FloatConcat(Concat):
    def forward(self, x):
        small, large = nn.functional.silu(self.small(x)), nn.functional.silu(self.large(x))
        return (torch.cat([small, large, small], 1)[:, :8],)


def test_a_concat_of_what_was_computed_in_float_moves_bytes_only():
    _, network = prepared_segmenter(FloatConcat, numerics='executorch')
    (concat,) = [node for node in network.program.graph.nodes if node.target is torch.ops.aten.cat.default]
    (user,) = concat.users
    assert {str(source.target) for source in concat.args[0]} == {str(user.target)}
    assert {group.kind: group.count for group in float_operators(network)} == {'silu': 2}


class LoneNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return (self.norm(torch.cat([self.first(x), self.second(x)], 1)).relu(),)


@pytest.mark.parametrize('in_float', [(), ('backbone.norm',)], ids=['integers', 'a product and a sum'])
def test_a_norm_without_a_convolution_is_converted(in_float):
    model, network = prepared_segmenter(LoneNorm, float_modules=in_float)
    kinds = {group.kind for group in float_operators(network)}
    assert ('batch_norm' in kinds) == bool(in_float) and kinds <= {'batch_norm', 'relu'}
    network.train()
    with torch.no_grad():
        nn.init.uniform_(model.backbone.norm.weight, -2, 2)
        nn.init.uniform_(model.backbone.norm.bias)
        for seed in range(3):
            network(images(seed))
        converted = convert(network.eval())
        simulated, integers = network(images())[0], converted(images())[0]
    step = float(simulated.abs().max()) / 255
    assert float((simulated - integers).abs().max()) <= step
    assert not any('norm' in str(node.target) for node in converted.module.graph.nodes if node.op == 'call_function')
