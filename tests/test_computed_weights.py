"""Weights that a network computes from its parameters: trained as such, a constant once it is converted."""

from dataclasses import replace

import onnx
import pytest
import torch
from mmcv.cnn.bricks.conv_ws import ConvAWS2d, ConvWS2d
from segmenter_parts import settled
from test_network_habits import Habit
from tiny_segmenter import images, prepared_segmenter, segmenter
from torch import nn
from torch.nn import functional

from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.flat_network import converted_network, traceable
from frostnet_mm.deploy.onnx.export import onnx_of
from frostnet_mm.deploy.verification import verify
from frostnet_mm.models.dense import UnsupportedModelError
from frostnet_mm.quantization import QuantizationSettings, convert, int8_share, prepare_model
from frostnet_mm.quantization.report import float_operators


class Block(Habit):
    def middle(self, x):
        return self.block(x)


class Standardized(Block):
    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvWS2d(16, 16, 3, 1, 1)


class AdaptivelyStandardized(Block):
    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvAWS2d(16, 16, 3, padding=1)


class NormedByHook(Block):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.weight_norm(self.conv)


class NormedWithoutBatchNorm(NormedByHook):
    def middle(self, x):
        return functional.relu(self.conv(x))


class NormedByParametrization(Block):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(self.conv)


class NormedTransposed(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(16, 16, 2, 2)
        self.up = nn.utils.weight_norm(nn.ConvTranspose2d(16, 16, 2, 2), dim=1)

    def middle(self, x):
        return functional.relu(self.conv_norm(self.up(functional.relu(self.down(x)))))


class NormalizedByBatchNorm(Habit):
    """As timm standardizes weights."""

    def middle(self, x):
        weight = functional.batch_norm(self.conv.weight.reshape(1, 16, -1), None, None, training=True)
        return functional.relu(self.conv_norm(functional.conv2d(x, weight.reshape(16, 16, 3, 3), padding=1)))


class SumOfKernels(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(16, 16, 1)

    def middle(self, x):
        weight = self.conv.weight + functional.pad(self.point.weight, (1, 1, 1, 1))
        return functional.relu(
            self.conv_norm(functional.conv2d(x, weight, self.conv.bias + self.point.bias, padding=1))
        )


class UsedTwice(Habit):
    def middle(self, x):
        weight = self.conv.weight.tanh()
        x = functional.relu(self.conv_norm(functional.conv2d(x, weight, padding=1)))
        return functional.relu(functional.conv2d(x, weight, padding=1))


class FactorOfOneAndMore(Habit):
    def middle(self, x):
        norm = self.conv_norm
        statistics = norm.running_mean, norm.running_var
        x = functional.batch_norm(self.conv(x), *statistics, 1 + norm.weight, norm.bias, self.training, 0.1)
        return functional.relu(x)


COMPUTED = (
    Standardized,
    AdaptivelyStandardized,
    NormedByHook,
    NormedWithoutBatchNorm,
    NormedByParametrization,
    NormedTransposed,
    NormalizedByBatchNorm,
    SumOfKernels,
    UsedTwice,
    FactorOfOneAndMore,
)


def off_by_a_hundredth(network):
    """The share of values that differ between the simulation and what is converted, by more than 0.01 of a step."""
    network.eval()
    with torch.no_grad():
        simulated, converted = network.flat(images(9))[0], convert(network).flat(images(9))[0]
    step = (simulated.max() - simulated.min()) / 255
    return float((abs(simulated - converted) > 0.01 * step).float().mean())


@pytest.mark.parametrize('kind', COMPUTED)
def test_it_is_a_weight_like_any_other_when_converted(kind):
    model, network = settled(kind)
    assert off_by_a_hundredth(network) <= 0.001
    assert int8_share(network) == 1 and float_operators(network) == []


@pytest.mark.parametrize('kind', [Standardized, NormedTransposed])
def test_engines_store_it_in_integers(kind):
    model, network = settled(kind)
    flat = converted_network(model, convert(network))
    content = onnx.load_from_string(onnx_of(flat, images(7)[:1], False, None))
    convolutions = [node for node in content.graph.node if node.op_type in ('Conv', 'ConvTranspose')]
    stored = {tensor.name: tensor.data_type for tensor in content.graph.initializer}
    read = {node.output[0]: node.input[0] for node in content.graph.node if node.op_type == 'DequantizeLinear'}
    assert all(stored[read[conv.input[1]]] == onnx.TensorProto.INT8 for conv in convolutions)
    layers = verify.check_layers(engine_of('onnxruntime'), content, traceable(flat), images(9)[:1].numpy())
    assert layers and not verify.failed_layers(layers)


@pytest.mark.parametrize('kind', [NormedByHook, UsedTwice, FactorOfOneAndMore])
@pytest.mark.parametrize(('granularity', 'learned'), [('tensor', False), ('tensor', True)])
def test_scales_a_tensor_and_learned_ones(kind, granularity, learned):
    torch.manual_seed(0)
    settings = QuantizationSettings.of(example_shape=(2, 3, 32, 48), learned_scales=learned)
    scheme = settings.scheme.with_weights(granularity=granularity)
    model = segmenter(kind)
    network = prepare_model(model, replace(settings, scheme=scheme))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
    model.train()
    network.simulate(False)
    network.flat(images(0))
    network.simulate(True)
    if learned:
        network.observe(False)
        network.start_learning()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for seed in range(2):
        optimizer.zero_grad()
        network.flat(images(seed))[0].square().mean().backward()
        optimizer.step()
    assert off_by_a_hundredth(network) <= 0.001


class BiasOfImage(Habit):
    """A bias computed from what is in the images."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 16)

    def middle(self, x):
        bias = self.gate(x.mean((0, 2, 3)))
        return functional.relu(self.conv_norm(functional.conv2d(x, self.conv.weight, bias, padding=1)))


class ExpertOfImage(Habit):
    """CondConv as it is written for batches: a weight of its own for each image, one group an image."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(16, 3), nn.Parameter(torch.randn(3, 16, 16, 3, 3) * 0.1)

    def middle(self, x):
        n, c, h, w = x.shape
        weight = self.gate(x.mean((2, 3))).sigmoid() @ self.experts.flatten(1)
        x = functional.conv2d(x.reshape(1, n * c, h, w), weight.view(-1, c, 3, 3), padding=1, groups=n)
        return functional.relu(self.conv_norm(x.view(n, c, h, w)))


@pytest.mark.parametrize('kind', [BiasOfImage, ExpertOfImage])
def test_what_depends_on_the_image_stays_in_float(kind):
    _, network = settled(kind)
    assert off_by_a_hundredth(network) <= 0.001
    assert 'conv2d' in [group.kind for group in float_operators(network)]


@pytest.mark.parametrize('norm', [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_a_weight_that_every_step_changes_is_refused_before_training(norm):
    class Spectral(Block):
        def __init__(self) -> None:
            super().__init__()
            self.conv = norm(self.conv)

    with pytest.raises(UnsupportedModelError, match=r'backbone\.conv.* as spectral_norm does'):
        prepared_segmenter(Spectral)
