"""A bound on the arithmetic with symbolic sizes, which can grow with each layer until a capture takes hours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sympy
from torch.fx.experimental.sym_node import SymNode
from torch.utils._sympy.functions import Mod, PythonMod

# Networks that halve their maps have up to 200 terms a size, and 100 000 sizes; one padding to multiples of 5 has 2 500
# terms in 8 000 sizes. What pads in each layer has no end.
LARGE = 500
MOST_LARGE = 20_000  # sizes after the first of so many terms
MOST_TERMS = 3000
MOST_TERMS_OF_REMAINDERS = 100  # of one side of a map by that of another, as NAS-FPN's pools have: it is factorized


class SizeArithmeticError(Exception):
    """A size of a network has more terms than can be computed with in reasonable time."""


@contextmanager
def bounded_sizes() -> Iterator[None]:
    """Raise :class:`SizeArithmeticError` for arithmetic beyond the bounds above while the context is open.

    They count terms, not seconds: a network is captured in the same way on each machine.
    """
    create, counts, large = SymNode.__init__, {}, 0

    def count(expression: sympy.Basic) -> int:
        if expression not in counts:
            counts[expression] = 1 + sum(map(count, expression.args))
        return counts[expression]

    def checked(self: SymNode, expression: Any, *args: Any, **options: Any) -> None:
        nonlocal large
        create(self, expression, *args, **options)
        if not isinstance(expression, sympy.Basic):
            return
        terms = count(expression)
        large += bool(large) or terms > LARGE
        remainder = isinstance(expression, (Mod, PythonMod)) and not expression.args[1].is_number
        remainder = remainder and len(expression.free_symbols) == 1
        if terms > (MOST_TERMS_OF_REMAINDERS if remainder else MOST_TERMS) or large > MOST_LARGE:
            raise SizeArithmeticError(
                'written as functions of that of the image, its sizes have too many terms to compute with'
            )

    with patch.object(SymNode, '__init__', checked):
        yield
