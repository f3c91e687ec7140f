"""Who is told that ranges may lag behind: a network without norms, from scratch, rounded from the first step."""

from unittest.mock import Mock

import pytest
from tiny_segmenter import prepared_segmenter
from torch import nn

from frostnet_mm import QATHook
from frostnet_mm.quantization import hook as hook_module
from frostnet_mm.quantization import lagging_ranges
from frostnet_mm.quantization.schedule import Phase


class Plain(nn.Module):
    def __init__(self, norm=nn.Identity):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm(), nn.ReLU())

    def forward(self, x):
        return (self.layers(x),)


class BatchNormed(Plain):
    def __init__(self):
        super().__init__(lambda: nn.BatchNorm2d(8))


class GroupNormed(Plain):
    def __init__(self):
        super().__init__(lambda: nn.GroupNorm(2, 8))


class Pretrained(Plain):
    init_cfg = dict(type='Pretrained', checkpoint='net.pth')


class AmongOthers(Plain):
    init_cfg = [dict(type='Kaiming', layer='Conv2d'), dict(type='Pretrained', checkpoint='net.pth')]


@pytest.mark.parametrize(
    'backbone, options, loaded, told',
    [
        (Plain, {}, None, True),
        (Plain, dict(weights='tensor'), None, True),
        (Plain, dict(averaging_constant=0.05), None, True),
        (BatchNormed, {}, None, False),
        (GroupNormed, {}, None, False),
        (Pretrained, {}, None, False),
        (AmongOthers, {}, None, False),
        (Plain, {}, 'epoch_12.pth', False),
        (Plain, dict(averaging_constant=0.1), None, False),
        (Plain, dict(learned_scales=True), None, False),
    ],
)
def test_who_is_told(monkeypatch, backbone, options, loaded, told):
    lines = []
    monkeypatch.setattr(lagging_ranges, 'print_log', lambda text, **kwargs: lines.append(text))
    monkeypatch.setattr(hook_module, 'print_log', lambda *args, **kwargs: None)
    model, network = prepared_segmenter(backbone, **options)
    runner = Mock(_load_from=loaded, model=model, optim_wrapper=None, iter=0)
    hook = QATHook(warmup=0, **options)
    hook.network = network
    if options.get('learned_scales'):
        lagging_ranges.warn_of_lagging_ranges(runner, network, hook.settings)
    else:
        hook._enter(runner, Phase(True))
    assert bool(lines) == told
    if told:
        constant = options.get('averaging_constant', 0.01)
        assert f'take up {constant} of each batch' in lines[0] and 'QATHook(warmup="1 epoch")' in lines[0]


def test_a_warm_up_is_enough(monkeypatch):
    lines = []
    monkeypatch.setattr(lagging_ranges, 'print_log', lambda text, **kwargs: lines.append(text))
    model, network = prepared_segmenter(Plain)
    hook = QATHook()
    hook.network = network
    hook._enter(Mock(_load_from=None, model=model, optim_wrapper=None, iter=0), Phase(False))
    assert not lines
