"""Scores by class as metrics give and log them."""

from collections.abc import Sequence


def percent(value: float) -> float:
    """A share in percent, rounded to two decimals."""
    return round(float(value) * 100, 2)


def class_table(columns: dict[str, dict[str, float]], classes: Sequence[str]) -> str:
    """Scores by class as text; classes that never occur in the truth are marked.

    Args:
        columns (dict[str, dict[str, float]]): Scores in percent by name of the score and by class; classes that the
            truth lacks have none.
        classes (Sequence[str]): All class names.

    Returns:
        str: One line a class.
    """
    width = max(len(name) for name in classes)
    lines = [' ' * width + ''.join(f'{name:>11s}' for name in columns)]
    for name in classes:
        cells = ''.join(f'{values[name]:11.2f}' for values in columns.values() if name in values)
        lines.append(f'{name:{width}s}{cells or "  not in the truth"}')
    return '\n'.join(lines)
