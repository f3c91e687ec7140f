"""TensorFlow's RMSprop against its formula in Python floats."""

import copy
import math

import pytest
import torch
from conftest import ROOT
from mmengine.optim import build_optim_wrapper
from torch import nn

from frostnet_mm.engine.config import load_config
from frostnet_mm.engine.optimizers.rmsprop_tf import RMSpropTF


@pytest.mark.parametrize('options', [{}, dict(momentum=0.0), dict(weight_decay=0.1, alpha=0.95), dict(maximize=True)])
def test_the_formula_by_hand(options):
    torch.manual_seed(0)
    own = dict(lr=0.1, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=0.0, maximize=False) | options
    parameter = nn.Parameter(torch.randn(4, dtype=torch.float64))
    optimizer = RMSpropTF([parameter], **own)
    values, squares, buffers = parameter.tolist(), [1.0] * 4, [0.0] * 4
    for step in range(6):
        optimizer.param_groups[0]['lr'] = rate = 0.1 if step < 3 else 0.01  # a lower one counts from then on
        parameter.grad = torch.randn(4, dtype=torch.float64)
        for i, g in enumerate(parameter.grad.tolist()):
            g = (-g if own['maximize'] else g) + own['weight_decay'] * values[i]
            squares[i] = own['alpha'] * squares[i] + (1 - own['alpha']) * g * g
            buffers[i] = own['momentum'] * buffers[i] + rate * g / math.sqrt(squares[i] + own['eps'])
            values[i] -= buffers[i]
        optimizer.step()
        assert parameter.tolist() == pytest.approx(values, rel=1e-12)


def test_a_run_goes_on_where_it_was():
    torch.manual_seed(0)
    first = nn.Linear(3, 2)
    second, gradients = copy.deepcopy(first), [torch.randn(2, 3) for _ in range(4)]
    optimizer, resumed = RMSpropTF(first.parameters()), RMSpropTF(second.parameters())
    for step, gradient in enumerate(gradients):
        if step == 2:
            second.load_state_dict(first.state_dict())
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for model, own in ((first, optimizer), (second, resumed))[: 1 + (step >= 2)]:
            model.weight.grad = gradient.clone()
            own.step()
    assert torch.equal(first.weight, second.weight)


def test_numbers_out_of_their_range():
    for options, message in ((dict(lr=-1), 'lr=-1, expected at least 0'), (dict(alpha=1), 'alpha=1, .* below 1')):
        with pytest.raises(ValueError, match=message):
            RMSpropTF([nn.Parameter(torch.zeros(1))], **options)


def test_the_recipe_of_imagenet():
    cfg = load_config(ROOT / 'configs/frostnet_imagenet.py', classes=tuple(f'c{index}' for index in range(1000)))
    optimizer = build_optim_wrapper(nn.Linear(2, 2), cfg.optim_wrapper).optimizer
    assert type(optimizer) is RMSpropTF and optimizer.defaults['lr'] == 0.048 and optimizer.defaults['eps'] == 0.001
    decay = cfg.param_scheduler[1].gamma ** 2.4
    assert decay == pytest.approx(0.97) and cfg.train_cfg.max_epochs == 450
    assert cfg.model.head.num_classes == 1000 and cfg.custom_hooks[1].momentum == pytest.approx(1 - 0.9999)
