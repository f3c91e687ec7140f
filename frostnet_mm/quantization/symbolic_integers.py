"""``int(size / 7)`` of a traced size, which stays a size in place of becoming a number."""

import builtins
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

QUOTIENT = 'frostnet_mm_quotient'  # the sizes that a float is the quotient of
_divide = torch.SymInt.__truediv__


def _remember(size: torch.SymInt, divisor: Any) -> Any:
    """``size / divisor``, which becomes the size itself again where 25 * n is divided by 25.0."""
    quotient = _divide(size, divisor)
    if isinstance(divisor, float) and divisor.is_integer() and divisor > 0:
        setattr(quotient, QUOTIENT, (size, builtins.int(divisor)))
    return quotient


class _Kind(type):
    """``int`` itself in all that types are asked, and for plain numbers."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, builtins.int)

    def __call__(cls, *arguments: Any) -> Any:
        if len(arguments) == 1 and isinstance(arguments[0], (torch.SymInt, torch.SymFloat)):
            whole = getattr(arguments[0], QUOTIENT, None)
            return torch.sym_int(arguments[0]) if whole is None else whole[0] // whole[1]
        return builtins.int(*arguments)


class _Int(metaclass=_Kind):
    """Stands in for ``int``."""


@contextmanager
def symbolic_integers(network: nn.Module) -> Iterator[None]:
    """Have ``int`` in the source files of a network's modules keep traced sizes while the context is open."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.SymInt, '__truediv__', _remember))
        for name in {type(module).__module__ for module in network.modules()}:
            if not name.startswith('torch.'):
                stack.enter_context(patch.object(sys.modules[name], 'int', _Int, create=True))
        yield
