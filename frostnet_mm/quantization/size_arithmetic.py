"""A bound on the arithmetic with symbolic sizes, which can grow with each layer until a capture takes hours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sympy
from torch.fx.experimental.sym_node import SymNode

#: Terms of a size. Networks that halve their maps have up to 200; what pads to multiples of something has more a layer.
MOST_TERMS = 500


class SizeArithmeticError(Exception):
    """A size of a network has more terms than can be computed with in reasonable time."""


@contextmanager
def bounded_sizes(most: int = MOST_TERMS) -> Iterator[None]:
    """Raise :class:`SizeArithmeticError` for a size of more terms while the context is open."""
    create, counts = SymNode.__init__, {}

    def count(expression: sympy.Basic) -> int:
        if expression not in counts:
            counts[expression] = 1 + sum(map(count, expression.args))
        return counts[expression]

    def checked(self: SymNode, expression: Any, *args: Any, **options: Any) -> None:
        create(self, expression, *args, **options)
        if isinstance(expression, sympy.Basic) and count(expression) > most:
            raise SizeArithmeticError(f'written as a function of that of the image, a size has more than {most} terms')

    with patch.object(SymNode, '__init__', checked):
        yield
