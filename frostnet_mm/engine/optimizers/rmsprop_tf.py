"""RMSprop as TensorFlow computes it, which the recipes of EfficientNet and FrostNet are written for."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...registry import OPTIMIZERS

__all__ = ['RMSpropTF']


@OPTIMIZERS.register_module()
class RMSpropTF(Optimizer):
    """RMSprop with TensorFlow's order of operations.

    It differs from torch's in three places: the mean square begins at 1, so that the first steps are small; ``eps`` is
    added below the root; and the learning rate is part of what momentum sums up, so that a lower rate does not slow
    what is under way::

        s <- alpha s + (1 - alpha) g^2,   s = 1 at first
        b <- momentum b + lr g / sqrt(s + eps)
        p <- p - b

    With it ``lr=0.048, alpha=0.9, eps=0.001, momentum=0.9`` is what FrostNet's authors trained with (timm's
    ``RMSpropTF``).

    Args:
        params (Iterable): Parameters or groups of them.
        lr (float): Learning rate. Default: 0.01.
        alpha (float): Decay of the mean square, 0 to 1. Default: 0.9.
        eps (float): Added below the root. Default: 0.001.
        weight_decay (float): L2 penalty. Default: 0.
        momentum (float): Momentum, 0 to 1. Default: 0.9.
        maximize (bool): Ascend. Default: False.

    Raises:
        ValueError: A number is out of its range. RuntimeError: A gradient is sparse.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.01,
        alpha: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        maximize: bool = False,
    ) -> None:
        for name, value, top in (('lr', lr, None), ('eps', eps, None), ('weight_decay', weight_decay, None),
                                 ('alpha', alpha, 1), ('momentum', momentum, 1)):  # fmt: skip
            if not value >= 0 or (top is not None and value >= top):
                raise ValueError(
                    f'{name}={value!r}, expected at least 0' + ('' if top is None else f' and below {top}')
                )
        defaults = dict(
            lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, maximize=maximize
        )  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take a step.

        Args:
            closure (Callable, optional): Computes the loss anew.

        Returns:
            Tensor, optional: What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict) -> None:
        gradient = -parameter.grad if group['maximize'] else parameter.grad
        if gradient.is_sparse:
            raise RuntimeError('RMSpropTF takes no sparse gradients.')
        if group['weight_decay']:
            gradient = gradient.add(parameter, alpha=group['weight_decay'])
        state = self.state[parameter]
        if not state:
            state['square_avg'] = torch.ones_like(parameter)
            state['momentum_buffer'] = torch.zeros_like(parameter)
        square, buffer = state['square_avg'], state['momentum_buffer']
        square.lerp_(gradient.square(), 1 - group['alpha'])
        buffer.mul_(group['momentum']).addcdiv_(gradient, square.add(group['eps']).sqrt_(), value=group['lr'])
        parameter.sub_(buffer)
