"""Statistics of batch norms against those of all images together, worked out step by step."""

import sys

import pytest
import torch
from torch import nn

from frostnet_mm.nas.errors import SearchError
from frostnet_mm.nas.recalibrate import recalibrate


def network():
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(5, momentum=None)
    return nn.Sequential(nn.Conv2d(3, 4, 3), first, nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 5, 3), second)


def by_hand(net, images):
    """Mean and variance (unbiased) of what enters each norm, which normalizes by its own (biased)."""
    first = net[0](images).double()
    inner = (first - first.mean((0, 2, 3), keepdim=True)) / (
        first.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    second = net[4](inner.float().relu()).double()
    return [(each.mean((0, 2, 3)), each.var((0, 2, 3))) for each in (first, second)]


@pytest.mark.parametrize('sizes', [(8,), (3, 5), (1, 1, 6)])
def test_statistics_are_those_of_the_joined_batches(sizes):
    net, images = network().train(), torch.randn(8, 3, 9, 7) * 3 + 1
    net[1].running_mean.fill_(7)
    net[5].eval()  # as norm_eval or a frozen stage leaves it
    assert recalibrate(net, images.split(sizes)) == 8
    with torch.no_grad():
        expected = by_hand(net, images)
    for norm, (mean, variance) in zip((net[1], net[5]), expected, strict=True):
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-5)
    assert net.training and net[3].training and net[1].training and not net[5].training
    assert (net[1].momentum, net[5].momentum) == (0.1, None)
    assert not net[1]._forward_hooks and all(parameter.grad is None for parameter in net.parameters())


def test_several_passes_are_pooled(monkeypatch):
    """The first norm sees the same images however they are split; batches of other sizes count by their pixels."""
    monkeypatch.setattr(sys.modules[recalibrate.__module__], 'PASS_IMAGES', 4)
    passes = []
    net, images = network(), torch.randn(10, 3, 9, 7) + 2
    recalibrate(net, images.split(2), lambda batch: passes.append(len(batch)) or net(batch))
    assert passes == [4, 4, 2]
    first = net[0](images).detach().double()
    torch.testing.assert_close(net[1].running_mean.double(), first.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net[1].running_var.double(), first.var((0, 2, 3)), rtol=1e-5, atol=1e-5)

    small, large = torch.randn(3, 3, 6, 6), torch.randn(1, 3, 20, 20) * 4
    recalibrate(net, [small, large])
    values = torch.cat([net[0](x).detach().double().transpose(0, 1).flatten(1) for x in (small, large)], 1)
    torch.testing.assert_close(net[1].running_mean.double(), values.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net[1].running_var.double(), values.var(1), rtol=1e-5, atol=1e-5)


def test_a_norm_that_is_called_twice_counts_both():
    norm = nn.BatchNorm2d(2)
    x, y = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 5, 5) + 3
    recalibrate(norm, [x], lambda images: (norm(images), norm(y)))
    values = torch.cat([each.transpose(0, 1).flatten(1) for each in (x, y)], 1)
    torch.testing.assert_close(norm.running_mean, values.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var, values.var(1), rtol=1e-5, atol=1e-5)


def test_no_image_is_refused_and_nothing_changes():
    net = network()
    with pytest.raises(SearchError, match='There was no image'):
        recalibrate(net, [])
    assert float(net[1].running_var.sum()) == 4 and net[1].momentum == 0.1
