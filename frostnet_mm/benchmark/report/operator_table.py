"""The table of what operators cost."""

from collections.abc import Sequence

from ..measure.operator_costs import OperatorResult
from ..store import BUSY, counts
from .tables import NONE, millions, number, percent, thread_count

HEADINGS = (
    'operator', 'shape', 'MACs', 'float ms', 'INT8 ms', 'INT8 / float', 'float GMAC/s', 'INT8 GMAC/s', 'spread',
    'remark',
)  # fmt: skip
NOTES = (
    'Each operator: the time of a small model with it, less that of the same model without it; no conversion between '
    'float and INT8 is counted. GMAC/s: billions of multiply-accumulates a second. spread: (p90 − p10) / median of '
    'the differences. Activations u8, weights s8 per channel.',
)


def operator_lines(entries: Sequence[OperatorResult], allow_busy: bool = False) -> list[list[str]]:
    """The rows of the table, as text, under ``HEADINGS``."""
    lines = []
    for entry in entries:
        times = [number(entry.float_ms), number(entry.int8_ms), number(entry.ratio)]
        times += [number(entry.gmacs(entry.float_ms)), number(entry.gmacs(entry.int8_ms)), percent(entry.spread)]
        if entry.status == BUSY:
            times = [f'{text}*' if text != NONE else text for text in times[:5]] + times[5:]
        line = [entry.case.name, entry.case.shape, millions(entry.case.macs or None)]
        lines.append([*line, *(times if counts(entry.status, allow_busy) else [NONE] * len(times)), entry.reason])
    return lines


def operator_tables(entries: Sequence[OperatorResult], allow_busy: bool = False) -> list[tuple[str, list[list[str]]]]:
    """A heading and rows for each engine and number of threads."""
    found: dict[tuple[str, int], list[OperatorResult]] = {}
    for entry in entries:
        found.setdefault((entry.engine, entry.threads), []).append(entry)
    return [
        (f'Operators on {engine}, {thread_count(count)}', operator_lines(group, allow_busy))
        for (engine, count), group in found.items()
    ]
