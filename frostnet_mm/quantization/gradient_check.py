"""Whether each parameter that trains in float gets a gradient in the quantized network too."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.dense import detached
from .checkpointing import without_checkpointing
from .errors import QuantizationError


class GradientCheck:
    """Looks at the gradients of one training step, before the optimizer takes it.

    A parameter without a gradient is in order where the float model gives it none either (an unused layer, a frozen
    part). The float model is asked with the same batch, and only if there is such a parameter.

    Args:
        model (nn.Module): The model, not wrapped, with its quantized network attached.
        optimizer (torch.optim.Optimizer): Its next step is the one that is looked at.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model = model
        self._call: tuple[tuple, dict] | None = None
        self._handles = [
            model.register_forward_hook(self._remember, with_kwargs=True),
            optimizer.register_step_pre_hook(lambda *_: self._check()),
        ]

    def close(self) -> None:
        """Look no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._call = [], None

    def _remember(self, module: nn.Module, args: tuple, kwargs: dict, outputs: Any) -> None:
        if kwargs.get('mode') == 'loss':
            self._call = args, kwargs

    def _check(self) -> None:
        call = self._call
        self.close()
        if call is not None:
            check_gradients(self._model, *call)


def check_gradients(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Compare which parameters have a gradient with those that get one in float. The model is left as it is.

    Args:
        model (nn.Module): The model after a backward pass.
        args, kwargs: Of the forward pass, in the mode 'loss'.

    Raises:
        QuantizationError: A parameter has no gradient that gets one in float.
    """
    without = {name: value for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
    if not without:
        return
    lost = [name for name, gets_one in _in_float(model, without, args, kwargs).items() if gets_one]
    if lost:
        trained = sum(value.requires_grad for value in model.parameters())
        raise QuantizationError(
            f'{len(lost)} of {trained} parameters get a gradient in float, and none in the quantized network: '
            f'{", ".join(lost[:5])}{f" and {len(lost) - 5} more" if len(lost) > 5 else ""}. They would not be trained. '
            'An operation between them and the loss is captured without gradients; look for torch.no_grad, detach or a '
            'function of its own (torch.autograd.Function) in these modules, or leave them in float '
            '(QATHook(float_modules=...)) or the model (without QATHook).'
        )


def _in_float(model: nn.Module, parameters: Mapping[str, Tensor], args: tuple, kwargs: dict) -> dict[str, bool]:
    """Whether the loss of the model's own modules depends on each of some parameters."""
    with _unchanged(model), detached(model), without_checkpointing(), torch.enable_grad():
        losses = model(*args, **kwargs)
        total = sum(_total(value) for name, value in losses.items() if 'loss' in name)
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name: gradient is not None for name, gradient in zip(parameters, gradients, strict=True)}


def _total(value: Tensor | list) -> Tensor:
    return value.mean() if isinstance(value, Tensor) else sum(map(_total, value))


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Put buffers and random numbers back as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
