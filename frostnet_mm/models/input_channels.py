"""How many channels the images of a model have."""

from contextlib import suppress

import torch
from torch import nn


class _ReachedError(Exception):
    """The first convolution has read what it was given."""


@torch.no_grad()
def input_channels(model: nn.Module) -> int:
    """The channels of the images that a model's backbone reads.

    Args:
        model (nn.Module): A model, its dense network or its backbone; it is left in the mode that it was in.

    Returns:
        int: Those of its first convolution; where that reads pixels put together (Focus), those that the backbone runs
        with, or that reach it.
    """
    backbone = getattr(model, 'backbone', model)
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels == 3:
        return 3
    modes = {module: module.training for module in backbone.modules()}
    try:
        backbone.eval()
        return _fitting(backbone, first) or _reaching(backbone, first) or 3
    finally:
        for module, mode in modes.items():
            module.training = mode


def _fitting(backbone: nn.Module, first: nn.Conv2d) -> int | None:
    """The channels of images that a backbone runs with, or that get as far as they have to."""
    for channels in (3, first.in_channels, 1, 4):
        with suppress(RuntimeError, ValueError, AssertionError):
            with suppress(_ReachedError):
                backbone(torch.zeros((1, channels, 64, 64), device=first.weight.device))
            return channels
    return None


def _reaching(backbone: nn.Module, first: nn.Conv2d) -> int | None:
    """The channels of images that its first convolution reads, where dense layers behind fit no image of 64x64."""

    def reached(*_: object) -> None:
        raise _ReachedError

    handle = first.register_forward_hook(reached)
    try:
        return _fitting(backbone, first)
    finally:
        handle.remove()
