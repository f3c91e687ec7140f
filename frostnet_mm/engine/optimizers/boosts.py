"""The modes of GradBoost: what is kept of the gradients, and how long a boost is; see :class:`GradBoostMixin`."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

STATISTICS = {'paper': 'grad_min', 'reference': 'grad_steps', 'relative': 'grad_mean'}  # only that mode's state
CLIP_BY = {'paper': 1e-3, 'reference': 1e-3, 'relative': 1.0}
LARGEST_DRAW = 17 * math.log(2)  # -ln(2^-17): half a step of 16 random bits
HALF_UNIT = 2.0**-25  # of a float32 number's last place, relative to the number, at least


def check_options(owner: str, options: dict[str, Any]) -> None:
    """Raise ValueError on an option that GradBoost cannot work with."""

    def number(name: str) -> float:  # NaN, for which no comparison holds, if it is none
        value = options[name]
        return value if isinstance(value, Real) and not isinstance(value, bool) else math.nan

    for name, accepted, expected in (
        ('mode', options['mode'] in list(STATISTICS), f'one of {list(STATISTICS)}'),
        (
            'clip_by',
            options['clip_by'] is None or number('clip_by') > 0,
            'a number above 0, such as 1e-3; float("inf") leaves the clamp out',
        ),
        ('noise_decay', 0 <= number('noise_decay') < 1, 'a number from 0 (no decay) to below 1, such as 0.01'),
        ('beta', 0 <= number('beta') < 1, 'a number from 0 to below 1, such as 0.9'),
        ('toss_coin', isinstance(options['toss_coin'], bool), 'True or False'),
        ('fade', 0 < number('fade') <= 1, 'a number above 0 and at most 1, such as 0.5'),
    ):
        if not accepted:
            raise ValueError(
                f'{owner} got {name}={options[name]!r}; expected {expected}. Mend optimizer.{name} in the config.'
            )


def last_boosted_step(mode: str, beta: float, noise_decay: float) -> float:
    """The last n at which a boost can reach half a unit in the last place of the element's largest gradient.

    |boost| <= LARGEST_DRAW * b * (1 - noise_decay)^n, and b is at most twice the largest |g| ('paper'), the largest |g|
    ('relative'), or the product of all 1 / (1 - beta^t) times it ('reference'), whose logarithm is below
    pi^2 / (6 ln(1 / beta)).
    """
    if noise_decay == 0:
        return math.inf
    log_gain = math.log(2) if mode != 'reference' or beta == 0 else math.pi**2 / (-6 * math.log(beta))
    return (math.log(LARGEST_DRAW / HALF_UNIT) + log_gain) / -math.log1p(-noise_decay)


def first_statistics(mode: str, grad: Tensor) -> dict[str, Any]:
    """What a parameter starts with at its first gradient."""
    if mode == 'paper':
        return dict(grad_max=grad.clone(), grad_min=grad.clone())
    if mode == 'relative':
        return dict(grad_mean=grad.abs())
    return dict(grad_max=torch.zeros_like(grad), grad_steps=0)


def observe(mode: str, states: list[dict[str, Any]], grads: list[Tensor], beta: float) -> None:
    """Move EMmax and EMmin, or the mean magnitude, on, in place; a weight of 1 - beta."""
    if mode == 'relative':
        torch._foreach_lerp_([state['grad_mean'] for state in states], torch._foreach_abs(grads), 1 - beta)
        return
    highs = [state['grad_max'] for state in states]
    if mode == 'paper':
        lows = [state['grad_min'] for state in states]
        torch._foreach_lerp_(highs, torch._foreach_maximum(highs, grads), 1 - beta)
        torch._foreach_lerp_(lows, torch._foreach_minimum(lows, grads), 1 - beta)
        return
    for state in states:
        state['grad_steps'] += 1
    corrections = [1 - beta ** state['grad_steps'] for state in states]
    reached = torch._foreach_maximum(highs, torch._foreach_abs(grads))
    torch._foreach_mul_(highs, beta)
    torch._foreach_add_(highs, reached, alpha=1 - beta)
    torch._foreach_div_(highs, corrections)
    torch._foreach_clamp_max_(highs, torch.finfo(highs[0].dtype).max)  # inf times a coin of 0 would be NaN


def boosts_of(mode: str, states: list[dict[str, Any]], magnitudes: list[Tensor], clip_by: float) -> list[Tensor]:
    """New tensors: magnitude * b, at most ``clip_by`` (of mode 'relative': times b)."""
    if mode == 'relative':
        means = [state['grad_mean'] for state in states]
        return torch._foreach_mul(means, torch._foreach_clamp_max(magnitudes, clip_by))
    highs = [state['grad_max'] for state in states]
    if mode == 'paper':
        boosts = torch._foreach_sub(highs, [state['grad_min'] for state in states])
        torch._foreach_mul_(boosts, magnitudes)
    else:
        boosts = torch._foreach_mul(highs, magnitudes)
    torch._foreach_clamp_max_(boosts, clip_by)
    return boosts


def shaped_like(piece: Tensor, grad: Tensor) -> Tensor:
    """View a flat tensor in the shape of a gradient, and in its memory order if that has no holes (channels_last)."""
    if not grad.is_contiguous() and torch.empty_like(grad, device='meta').stride() == grad.stride():
        return piece.as_strided(grad.shape, grad.stride(), piece.storage_offset())
    return piece.view(grad.shape)
