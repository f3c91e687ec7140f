"""What networks are written like: one habit each, through capture, training, conversion and engines."""

from contextlib import nullcontext

import onnx
import pytest
import torch
from mmcv.cnn.bricks import DropPath
from mmcv.ops import CARAFEPack
from segmenter_parts import settled
from tiny_segmenter import images, prepared_segmenter, segmenter
from torch import nn
from torch.fx import Graph
from torch.nn import functional

from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.flat_network import converted_network, float_network, traceable
from frostnet_mm.deploy.onnx.export import onnx_of
from frostnet_mm.deploy.verification import verify
from frostnet_mm.models.dense import UnsupportedModelError, detached
from frostnet_mm.quantization import convert, graph_forms, int8_share


class Habit(nn.Module):
    """A stem, what the habit does, and a last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv, self.conv_norm = nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return (self.last(self.middle(functional.relu(self.norm(self.stem(x))))),)

    def block(self, x):
        return functional.relu(self.conv_norm(self.conv(x)))


class PartAssigned(Habit):
    def middle(self, x):
        y = self.block(x).clone()
        y[:, :4] = torch.sigmoid(y[:, 4:8])
        y[:, 8:12] *= 2
        return y


class CalledThrice(Habit):
    def middle(self, x):
        return self.block(self.block(self.block(x)))


class SamePadding(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(16, 16, 3, padding='same', dilation=2)
        self.even = nn.Conv2d(16, 16, 4, padding='same')

    def middle(self, x):
        return functional.relu(self.even(functional.relu(self.same(x))))


class GroupedTransposed(Habit):
    groups = 4

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=self.groups, bias=False)

    def middle(self, x):
        return x + functional.relu(self.conv_norm(self.up(functional.relu(self.down(x)))))


class DepthwiseTransposed(GroupedTransposed):
    groups = 16


class NoStatistics(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.conv_norm = nn.BatchNorm2d(16, track_running_stats=False)

    def middle(self, x):
        return self.block(x)


class Focus(Habit):
    """YOLOX's stem: patches of every second row and column, which begin with the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, 16, 3, 1, 1, bias=False)

    def forward(self, x):
        rows = [x[..., start::2, :] for start in (0, 0, 1, 1)]
        patches = [row[..., start::2] for row, start in zip(rows, (0, 1, 0, 1), strict=True)]
        return super().forward(torch.cat(patches, 1))

    def middle(self, x):
        return self.block(x)


class ToFloat(Habit):
    def middle(self, x):
        return self.block(x * (x > 0.1).to(torch.float32)) + (x > 0.2).float()


class WeightOfImage(Habit):
    """CondConv: the weight is mixed by what is in the images."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 16)

    def middle(self, x):
        gate = self.gate(x.mean((0, 2, 3))).sigmoid()
        return functional.relu(functional.conv2d(x, self.conv.weight * gate[:, None, None, None], padding=1))


class ZeroResidual(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.dead = nn.Conv2d(16, 16, 1)
        nn.init.zeros_(self.dead.weight), nn.init.zeros_(self.dead.bias)

    def middle(self, x):
        return x + self.dead(self.block(x))


class Stochastic(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.path = DropPath(0.5)

    def middle(self, x):
        return x + self.path(self.block(x))


HABITS = (
    PartAssigned,
    CalledThrice,
    SamePadding,
    GroupedTransposed,
    DepthwiseTransposed,
    NoStatistics,
    Focus,
    ToFloat,
    WeightOfImage,
    ZeroResidual,
    Stochastic,
)


def with_gradient(model, run):
    """Names of the parameters to which what ``run`` returns has a gradient."""
    model.zero_grad()
    sum(value.square().sum() for value in run()).backward()
    return {name for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize('kind', HABITS)
def test_the_graph_is_the_network_and_trains_as_it_does(kind):
    model, network = prepared_segmenter(kind)
    model.train()
    torch.manual_seed(0)
    network.simulate(False)
    found = with_gradient(model, lambda: network.flat(images()))
    with detached(model):
        assert found == with_gradient(model, lambda: [model(images(), mode='tensor')])
    model.eval()
    for size in ((32, 48), (52, 72)):
        batch = torch.randn(2, 3, *size)
        with torch.no_grad():
            graph = network.flat(batch)[0]
            with detached(model):
                expected = model(batch, mode='tensor')
        assert torch.allclose(graph, expected, atol=1e-4)


@pytest.mark.parametrize('kind', HABITS)
def test_it_is_converted_and_runs_on_engines(kind):
    model, network = settled(kind)
    with torch.no_grad():
        simulated, converted = network.flat(images(9))[0], convert(network).flat(images(9))[0]
    step = (simulated.max() - simulated.min()) / 255
    assert float((abs(simulated - converted) > 0.01 * step).float().mean()) <= 0.001
    if kind is WeightOfImage:
        return  # a weight of its own a batch
    assert int8_share(network) > 0.85
    flat = converted_network(model, convert(network))
    content = onnx_of(flat, images(7)[:1], False, None)
    for name in ('onnxruntime', 'openvino'):
        layers = verify.check_layers(
            engine_of(name), onnx.load_from_string(content), traceable(flat), images(9)[:1].numpy()
        )
        assert layers and not verify.failed_layers(layers, engine_of(name).layer_share), name


def test_stochastic_depth_drops_whole_samples_in_training_alone():
    model, network = prepared_segmenter(Stochastic)
    network.simulate(False)
    batch = torch.randn(64, 3, 32, 48)
    graph = network.program.copy_graph()
    (add,) = (node for node in graph.nodes if node.target is torch.ops.aten.add.Tensor)
    (dropped,) = (node for node in graph.nodes if 'drop_path' in str(node.target))
    assert dropped in add.all_input_nodes or any(dropped in node.all_input_nodes for node in add.all_input_nodes)
    values = dropped.target(torch.ones(64, 2, 3, 3), 0.5, True)
    flat = values.flatten(1)
    assert bool((flat == flat[:, :1]).all()) and set(flat[:, 0].tolist()) == {0.0, 2.0}
    assert torch.equal(dropped.target(torch.ones(4, 2), 0.5, False), torch.ones(4, 2))
    with torch.no_grad():
        model.train()
        first, second = network.flat(batch)[0], network.flat(batch)[0]
        assert not torch.allclose(first, second)
        model.eval()
        assert torch.equal(network.flat(batch)[0], network.flat(batch)[0])


class Spectral(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(self.conv)

    def middle(self, x):
        return self.block(x)


class Reassembled(Habit):
    def __init__(self) -> None:
        super().__init__()
        self.up = CARAFEPack(16, 2)

    def middle(self, x):
        return self.block(self.up(x))


class NoisyInTraining(Habit):
    def middle(self, x):
        return self.block(x) + (torch.ones_like(x) if self.training else 0)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        (
            Reassembled,
            r"backbone\.up \(CARAFEPack\) is one of mmcv's compiled operators \(carafe\).*no engine computes in INT8",
        ),
        (Spectral, r'backbone\.conv\.parametrizations.* as spectral_norm does'),
        (
            NoisyInTraining,
            'another way in evaluation than in training, and 3 of the 5 convolutions and matrix products',
        ),
    ],
)
def test_what_no_graph_can_stand_for_is_refused_with_the_reason(kind, message):
    with pytest.raises(UnsupportedModelError, match=message):
        prepared_segmenter(kind)


def with_head(monkeypatch, training, evaluation):
    """A segmenter whose head puts out what two functions make of its logits, and its quantized network."""
    from mmseg.models.decode_heads import FCNHead

    from frostnet_mm.quantization import QuantizationSettings, prepare_model

    forward = FCNHead.forward

    def changed(head, inputs):
        return (training if head.training else evaluation)(forward(head, inputs))

    monkeypatch.setattr(FCNHead, 'forward', changed)
    model = segmenter(CalledThrice)
    return model, prepare_model(model, QuantizationSettings.of(example_shape=(2, 3, 32, 48)))


def test_evaluation_takes_its_outputs_out_of_those_of_training(monkeypatch):
    """As the heads of DDRNet and PIDNet, which have auxiliary outputs in training."""
    model, network = with_head(monkeypatch, lambda out: (out * 2, (out, out.sigmoid())), lambda out: out)
    assert network.program.names == ('decode_head.1.0',)
    model.train()
    network.simulate(False)
    outputs, kept = network(images())
    assert len(outputs) == 2 and len(outputs[1]) == 2 and kept == [] and len(network.flat(images())) == 3
    assert torch.equal(outputs[0], outputs[1][0] * 2)
    network.simulate(True)
    network.observe(False)
    model.eval()
    with torch.no_grad():
        (simulated,), nested = network.flat(images()), network(images())[0]
        converted = convert(network)
        assert torch.equal(nested, simulated) and torch.equal(converted(images())[0], converted.flat(images())[0])
        step = (simulated.max() - simulated.min()) / 255
        assert float((abs(simulated - converted.flat(images())[0]) > 0.01 * step).float().mean()) <= 0.001
        network.simulate(False)
        with detached(model):
            assert torch.allclose(network(images())[0], model.decode_head.forward(model.backbone(images())), atol=1e-4)
    assert not [node for node in converted.module.graph.nodes if 'sigmoid' in str(node.target)]


def test_ranges_of_what_training_alone_puts_out_are_calibrated_too(monkeypatch):
    from frostnet_mm.quantization.calibration import calibrate

    model, network = with_head(monkeypatch, lambda out: (out, out.relu() + out.sigmoid()), lambda out: out)
    model.eval()
    assert calibrate(network, [images()], 'minmax') == 2
    assert len(network.flat(images())) == 1


@pytest.mark.parametrize(('operator', 'refused'), [('div.out', True), ('to.dtype_layout', False)])
def test_only_operators_that_write_into_a_tensor_given_are_refused(operator, refused):
    packet, overload = operator.split('.')
    graph = Graph()
    x = graph.placeholder('x')
    graph.output(graph.call_function(getattr(getattr(torch.ops.aten, packet), overload), (x, x)))
    with pytest.raises(UnsupportedModelError) if refused else nullcontext():
        graph_forms._refuse_out(graph)


class ManyStrides(Habit):
    """Halves maps without padding, as SSD300 does: small images vanish."""

    def middle(self, x):
        for _ in range(5):
            x = functional.max_pool2d(self.block(x), 2)
        return functional.relu(functional.conv2d(x, self.conv.weight))


def test_a_network_that_takes_no_small_images_is_deployed_in_float():
    flat = float_network(segmenter(ManyStrides).eval())
    assert flat.names == ('decode_head',)
    with torch.no_grad():
        assert flat(torch.zeros(1, 3, 320, 384))[0].shape == (1, 5, 3, 4)
