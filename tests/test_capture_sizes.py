"""Graphs that depend on the size of the images are bound to it."""

import re

import pytest
import torch
from tiny_segmenter import images, prepared_segmenter, segmenter
from torch import nn
from torch.nn import functional

from frostnet_mm.models.dense import UnsupportedModelError, detached
from frostnet_mm.quantization import QuantizationError, QuantizationSettings, capture, prepare_model


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1)


class IntegerSize(Parts):
    """As mmseg's Upsample computes its size."""

    def forward(self, x):
        x = self.stem(x)
        y = self.down(x)
        size = [int(side * 2.0) for side in y.shape[-2:]]
        return (self.last(functional.interpolate(y, size=size, mode='bilinear')),)


class Symbolic(Parts):
    def forward(self, x):
        x = self.stem(x)
        return (self.last(x + functional.interpolate(self.down(x), size=x.shape[-2:])),)


class PaddedIfOdd(Parts):
    """Pads odd maps: a branch that the capture of even ones does not have."""

    def forward(self, x):
        x = self.stem(x)
        if x.shape[-1] % 2:
            x = functional.pad(x, (0, 1), value=1.0)
        return (self.last(self.down(x)),)


class Pyramid(Parts):
    """Halves maps until they are small: as many times as the image needs."""

    def forward(self, x):
        x = self.stem(x)
        while x.shape[-1] > 12:
            x = functional.max_pool2d(x, 2)
        return (self.last(x),)


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(capture, 'print_log', lambda message, **_: messages.append(message))
    return messages


@pytest.mark.parametrize('kind', [IntegerSize, Pyramid])
def test_a_network_bound_to_a_size_takes_no_other(kind, said):
    model, network = prepared_segmenter(kind)
    assert network.program.fixed_size == (None, 3, 32, 48) and network.program.size_divisor == 1
    assert len(said) == 1 and 'images of 32x48 (height x width) alone: aten.' in said[0] and 'backbone' in said[0]
    network.simulate(False)
    model.eval()
    with detached(model), torch.no_grad():
        expected = model.backbone(images())[0].shape
    assert network(images())[0].shape[2:] == expected[2:]
    with pytest.raises(ValueError, match=r'captured for \(.any., 3, 32, 48\)'):
        network(torch.randn(2, 3, 64, 96))
    with pytest.raises(ValueError, match=r'\(2, 4, 32, 48\) were given, of 4 channels, and this network reads 3: give'):
        network(torch.randn(2, 4, 32, 48))


def test_a_network_of_sizes_themselves_takes_any():
    _, network = prepared_segmenter(Symbolic)
    assert network.program.fixed_size == (None, 3, None, None) and network.program.size_divisor == 1


def test_a_branch_on_odd_sizes_leaves_the_multiples_of_32(said):
    _, network = prepared_segmenter(PaddedIfOdd)
    assert network.program.size_divisor == 32 and network.program.fixed_size == (None, 3, None, None)
    assert len(said) == 1 and 'multiples of 32 alone: ' in said[0]
    with pytest.raises(ValueError, match='multiples of 32: set pad_size_divisor=32'):
        network(torch.randn(2, 3, 64, 50))


class LargeOnly(Parts):
    """Takes no image of less than 256 pixels a side, as the last strides of SSD300 do."""

    least = 256

    def forward(self, x):
        x = self.stem(x)
        y = functional.avg_pool2d(x, self.least // 2, 8)
        return (self.last(x + functional.interpolate(y, size=x.shape[-2:])),)


class LargeAndInteger(LargeOnly):
    """And one of its sizes becomes a constant."""

    def forward(self, x):
        x = self.stem(x)
        y = functional.avg_pool2d(x, self.least // 2, 8)
        return (self.last(functional.interpolate(y, size=[int(side * 2.0) for side in y.shape[-2:]])),)


@pytest.mark.parametrize(('kind', 'bound'), [(LargeOnly, (None, None)), (LargeAndInteger, (288, 320))])
def test_sizes_that_a_network_does_not_take_say_nothing(kind, bound, said):
    network = prepare_model(segmenter(kind), QuantizationSettings.of(example_shape=(2, 3, 288, 320)))
    assert network.program.fixed_size[2:] == bound and len(said) == (bound != (None, None))


def test_the_message_of_a_bound_network_names_the_options(said):
    _, network = prepared_segmenter(IntegerSize)
    with pytest.raises(
        QuantizationError, match=r'example_shape=\(2, 3, 64, 96\)\).*--example-shape 64 96 of tools/cal'
    ):
        network(torch.randn(2, 3, 64, 96))


class InTrainingAlone(Parts):
    def forward(self, x):
        if not self.training:
            raise AttributeError('no such thing in evaluation')
        return (self.last(self.stem(x)),)


def test_a_network_that_fails_in_evaluation_is_refused_with_its_own_words():
    with pytest.raises(UnsupportedModelError, match='runs in training, but not in evaluation, on images of 32x48: ba'):
        prepared_segmenter(InTrainingAlone)


class Table(Parts):
    """As BEiT's table of relative positions, for maps of 16x24 and a token of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.table = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(16 * 24 + 1, 8))

    def forward(self, x):
        x = self.stem(x)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1)
        tokens = tokens + self.table
        return (self.last(tokens[:, 1:].transpose(1, 2).reshape(x.shape)),)


class Strict(Parts):
    """Looks something up by a size: the capture that follows Python itself knows the line."""

    def forward(self, x):
        x = self.stem(x)
        return (self.last(x * {24: 2.0, 40: 3.0}[hash(x.shape[-1])]),)


class Windows(Parts):
    """Swin's windows: sizes padded to multiples of 7 again and again, and the images counted by the floats of that."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        for values in self.values:
            height, width = x.shape[1:3]
            x = functional.pad(x, (0, 0, 0, (7 - width % 7) % 7, 0, (7 - height % 7) % 7))
            rows, columns = x.shape[1:3]
            x = x.view(-1, rows // 7, 7, columns // 7, 7, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 49, 8)
            x = values(x)
            batch = int(x.shape[0] / (rows * columns / 7 / 7))
            x = x.view(batch, rows // 7, columns // 7, 7, 7, 8).permute(0, 1, 3, 2, 4, 5)
            x = x.reshape(batch, rows, columns, 8)[:, :height, :width][:, 1:, 1:]
        return (self.last(x.permute(0, 3, 1, 2)),)


@pytest.mark.parametrize(
    ('kind', 'why'),
    [
        (Table, r"at backbone \(Table\) \('tokens = tokens \+ self.table', .*: The size of tensor a"),
        pytest.param(
            Windows,
            r'at backbone \(Windows\) .*: written as functions of that of the image, its sizes',
            marks=pytest.mark.slow,  # a minute of arithmetic before the bound
        ),
    ],
)
def test_what_no_symbols_can_stand_for_is_captured_for_the_size_of_the_example(kind, why, said):
    model, network = prepared_segmenter(kind)
    assert network.program.fixed_size == (None, 3, 32, 48) and len(said) == 1
    head = r'for images of 32x48 \(height x width\) alone: for any size it cannot be captured '
    assert re.search(head + why, said[0])
    network.simulate(False)
    model.eval()
    batch = torch.randn(5, 3, 32, 48)
    with detached(model), torch.no_grad():
        expected = model(batch, mode='tensor')
    assert torch.allclose(network.eval().flat(batch)[0], expected, atol=1e-5)
    with pytest.raises(QuantizationError, match=r'QATHook\(example_shape=\(2, 3, 64, 96\)\)'):
        network(torch.randn(2, 3, 64, 96))


def test_the_line_that_binds_a_network_is_its_source(said):
    assert prepared_segmenter(Strict)[1].program.fixed_size == (None, 3, 32, 48)
    assert "aten.mul.Tensor of backbone ('return (self.last(x * {24: 2.0, 40: 3.0}[hash(x.shape[-1])]),)'," in said[0]


class Multiples(Parts):
    """Takes multiples of 32 and of 48 alone, which neither usual sizes nor those with a stride added are."""

    def forward(self, x):
        x.view(x.shape[0], 3, -1, 32, x.shape[3] // 48, 48)
        return (self.last(self.stem(x)),)


def test_a_network_of_large_multiples_is_bound_to_no_size(said):
    assert prepared_segmenter(Multiples)[1].program.fixed_size == (None, 3, None, None) and not said
