"""Which bits each layer gets: the integer program, and the budgets that it keeps. It knows of no network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from .errors import QuantizationError

FULL_BITS = 8  # of which a size is a share
_UNITS = {'': 1.0, 'B': 8.0, 'KB': 8e3, 'MB': 8e6}  # in bits


@dataclass(frozen=True)
class Budget:
    """What weights may take.

    Args:
        kind (str): 'share' (of the quantized weights' size at 8 bits), 'megabytes' (of all parameters, those that are
            not quantized in 32 bits, as :func:`parameter_bits` counts them) or 'bits' (a weight, on average).
        value (float): How much.
        text (str): As it was given, for messages.
    """

    kind: str
    value: float
    text: str

    @classmethod
    def parse(cls, text: str) -> 'Budget':
        """Read a budget.

        Args:
            text (str): As 'size=0.6', 'size=60%', 'size=1.2MB' (or KB, B), or 'bits=5.5'.

        Raises:
            QuantizationError: It is none of these.
        """
        found = re.fullmatch(r'(size|bits)=(\d*\.?\d+)\s*(%|MB|KB|B|)', text.strip(), re.IGNORECASE)
        what, amount, unit = (found[1].lower(), float(found[2]), found[3].upper()) if found else ('', 0.0, '')
        if unit == '%':
            amount, unit = amount / 100, ''
        elif what == 'size' and unit and amount:
            return cls('megabytes', amount * _UNITS[unit] / 8e6, text)
        if unit or not (what == 'bits' and 0 < amount <= FULL_BITS or what == 'size' and 0 < amount <= 1):
            raise QuantizationError(
                f'--budget {text} was given; expected size=0.6 (a share of the weights at 8 bits, up to 1), '
                'size=1.2MB (of all parameters), or bits=5.5 (a weight, up to 8).'
            )
        return cls('bits' if what == 'bits' else 'share', amount, text)

    def weight_bits(self, count: int, others: int) -> int:
        """How many bits all quantized weights may have together.

        Args:
            count (int): How many weights there are.
            others (int): The bits of the parameters that are not quantized.
        """
        if self.kind == 'megabytes':
            return _floor(self.value * 8e6) - others
        return _floor(self.value * count * (FULL_BITS if self.kind == 'share' else 1))

    def shown(self, bits: int, count: int, others: int) -> str:
        """A number of bits, in the budget's own terms."""
        if self.kind == 'megabytes':
            return f'size={(bits + others) / 8e6:.4g}MB'
        return f'bits={bits / count:.4g}' if self.kind == 'bits' else f'size={bits / count / FULL_BITS:.4g}'


def _floor(value: float) -> int:
    """The integer below; a product of decimal fractions that is an integer stays one."""
    nearest = round(value)
    return nearest if abs(value - nearest) < 1e-6 else int(value)


def size_range(counts: Sequence[int], errors: Sequence[Mapping[int, float]]) -> tuple[int, int]:
    """The fewest and the most bits that the weights can have together; arguments as for :func:`allocate`."""
    pairs = list(zip(counts, errors, strict=True))
    return sum(count * min(row) for count, row in pairs), sum(count * max(row) for count, row in pairs)


def allocate(counts: Sequence[int], errors: Sequence[Mapping[int, float]], budget: int) -> list[int]:
    """The bits of each layer with the least sum of errors whose weights fit into a budget.

    An integer program with one binary variable a layer and choice, solved exactly (HiGHS): as HAWQ-V3 (Yao et al.
    2021, arXiv 2011.10680) and OMPQ (Ma et al. 2023, arXiv 2109.07865) do, with another measure of sensitivity.

    Args:
        counts (Sequence[int]): The weights of each layer.
        errors (Sequence[Mapping[int, float]]): Of each layer, what its error is with how many bits.
        budget (int): Bits of all weights together.

    Returns:
        list[int]: The bits of each layer.

    Raises:
        QuantizationError: Not even the fewest bits fit.
    """
    least, _ = size_range(counts, errors)
    if least > budget:
        raise QuantizationError(f'A budget of {budget} bits was given; the fewest that the weights can have: {least}.')
    options = [(layer, bits) for layer, row in enumerate(errors) for bits in _worth_it(row)]
    cost = np.array([errors[layer][bits] for layer, bits in options])
    # An error that no choice avoids becomes 1, because HiGHS stops at an absolute gap of 1e-6.
    unavoidable = sum(min(row.values()) for row in errors)
    cost = cost / unavoidable if unavoidable > 0 else cost / max(cost.max(), 1e-300)
    size = np.array([[float(counts[layer] * bits) for layer, bits in options]])
    rows = [layer for layer, _ in options]
    one_each = coo_array((np.ones(len(options)), (rows, range(len(options)))), shape=(len(errors), len(options)))
    result = milp(
        cost,
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each.tocsr(), 1, 1), LinearConstraint(size, -np.inf, budget)],
        options=dict(mip_rel_gap=1e-9, time_limit=60),
    )
    if result.x is None:
        raise RuntimeError(f'The integer program was not solved: {result.message}')
    chosen = {layer: bits for (layer, bits), taken in zip(options, result.x, strict=True) if taken > 0.5}
    found = [chosen[layer] for layer in range(len(errors))]
    if sum(count * bits for count, bits in zip(counts, found, strict=True)) > budget:
        raise RuntimeError(f'The integer program was solved beyond its budget of {budget} bits: {found}')
    return found


def _worth_it(row: Mapping[int, float]) -> list[int]:
    """The choices of a layer without those that have more bits than another and no less error."""
    kept: list[int] = []
    for bits in sorted(row):
        if not kept or row[bits] < row[kept[-1]]:
            kept.append(bits)
    return kept
