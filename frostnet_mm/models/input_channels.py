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
        int: Those of its first convolution; where that reads pixels put together (Focus), those of the images that
        reach it.
    """
    backbone = getattr(model, 'backbone', model)
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels == 3:
        return 3
    handle = first.register_forward_hook(_reached)
    modes = {module: module.training for module in backbone.modules()}
    try:
        backbone.eval()
        for channels in (3, first.in_channels, 1, 4):
            with suppress(RuntimeError, ValueError, AssertionError):
                _run(backbone, torch.zeros((1, channels, 64, 64), device=first.weight.device))
                return channels
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return 3


def _run(backbone: nn.Module, images: torch.Tensor) -> None:
    """Run a backbone up to its first convolution; what comes behind may fit no such image."""
    with suppress(_ReachedError):
        backbone(images)


def _reached(*_: object) -> None:
    raise _ReachedError
