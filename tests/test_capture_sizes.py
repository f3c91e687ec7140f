"""Graphs that depend on the size of the images are bound to it."""

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
