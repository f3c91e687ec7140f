"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382) as one operator of a graph, which evaluation leaves out."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

NAMES = ('DropPath', 'StochasticDepth')  # mmcv's, timm's and torchvision's

_library = torch.library.Library('frostnet_mm', 'DEF')
_library.define('drop_path(Tensor x, float p, bool train) -> Tensor')


class _Nothing:
    """A context that nothing reads."""


class _DropPath(torch.autograd.Function):
    """Zero whole samples with probability p, and divide the rest by 1 - p, as mmcv does."""

    @staticmethod
    def forward(ctx, x: Tensor, p: float, train: bool) -> Tensor:
        ctx.factor = 1.0
        if train and p:
            shape = (x.shape[0], *[1] * (x.dim() - 1))
            ctx.factor = torch.floor(1 - p + torch.rand(shape, dtype=x.dtype, device=x.device)) / (1 - p)
        return x * ctx.factor

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        return grad * ctx.factor, None, None


_library.impl('drop_path', lambda x, p, train: torch.empty_like(x), 'Meta')
_library.impl('drop_path', lambda x, p, train: _DropPath.forward(_Nothing(), x, p, train), 'CompositeExplicitAutograd')
_library.impl('drop_path', lambda x, p, train: _DropPath.apply(x, p, train), 'Autograd')
drop_path = torch.ops.frostnet_mm.drop_path.default
#: What is random in training alone.
DROPPING = (torch.ops.aten.dropout.default, torch.ops.aten.feature_dropout.default, drop_path)


@contextmanager
def traced_drop_path(network: nn.Module) -> Iterator[None]:
    """Have the stochastic depth of a network be captured as :data:`drop_path` while the context is open."""
    with ExitStack() as stack:
        for module in network.modules():
            p = next((getattr(module, name) for name in ('drop_prob', 'p') if hasattr(module, name)), None)
            if type(module).__name__ in NAMES and isinstance(p, (int, float)):
                stack.enter_context(patch.object(module, 'forward', _Traced(module, float(p)), create=True))
        yield


class _Traced:
    def __init__(self, module: nn.Module, p: float) -> None:
        self.module, self.p = module, p

    def __call__(self, x: Tensor) -> Tensor:
        return drop_path(x, self.p, self.module.training) if self.p and self.module.training else x
