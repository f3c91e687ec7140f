"""What the names of weights say of a network: under which prefix a file has it, and how many layers lie in a row."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

COUNTER = 'num_batches_tracked'  # of a batch norm; fits any network


def prefix_of(own: Iterable[str], names: Iterable[str]) -> str:
    """Under which prefix a file has a module's weights.

    Args:
        own (Iterable[str]): Names of the module's weights.
        names (Iterable[str]): Names of the file's.

    Returns:
        str: '' if one of the names fits as it is, if none does under any prefix, or if two prefixes fit as well as each
        other (a student's and a teacher's backbone); else such as 'backbone.'.
    """
    own, names = set(own), list(names)
    if not own.isdisjoint(names):
        return ''
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split('.')
        ends = (length for length in range(1, len(parts)) if '.'.join(parts[length:]) in own)
        found.update('.'.join(parts[:length]) + '.' for length in ends)
    (best, most), (_, second) = (*found.most_common(2), ('', 0), ('', 0))[:2]
    return best if most > second else ''


def other_depth(own: Sequence[str], names: Collection[str], fitting: Collection[str]) -> str:
    """Where a file has another number of layers in a row than a network, which makes it the file of another network.

    Layers that are left out, or come on top, at the end are none: a backbone without its last stages, or one that goes
    on behind the file's. But where layers fit again behind a row of another length, the network is deeper or shallower
    than the file's (ResNet-34 and ResNet-18), as it is where the layers of a row have other numbers (VGG13 and VGG16).

    Args:
        own (Sequence[str]): Names of the network's weights in the order of its layers.
        names (Collection[str]): Those of the file's.
        fitting (Collection[str]): Those that fit in name and shape.

    Returns:
        str: Such as 'layer1 has 2 layers in the file and 3 in the network'; '' where there is no such row.
    """
    held, rows = _rows(names), _rows(own)
    ends = {row: place for place, name in enumerate(own) for row in _rows([name])}
    last = max((place for place, name in enumerate(own) if name in fitting and not name.endswith(COUNTER)), default=-1)
    for row, numbers in rows.items():
        theirs = held.get(row, numbers)
        common = theirs & numbers
        if theirs == numbers or not common:
            continue
        nested = common in (theirs, numbers)
        if not nested or min(theirs ^ numbers) < max(common) or last > ends[row]:
            others = f'{len(theirs)} layers in the file and {len(numbers)} in the network'
            name = row or 'its sequence'
            return f'{name} has {others}' if len(theirs) != len(numbers) else f'the layers of {name} have other numbers'
    return ''


def _rows(names: Iterable[str]) -> dict[str, set[int]]:
    """Numbers of layers by what holds them: {'layer1': {0, 1}} of 'layer1.0.conv.weight', 'layer1.1.conv.weight'."""
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        parts = name.split('.')
        for place, part in enumerate(parts):
            if part.isdecimal():
                rows['.'.join(parts[:place])].add(int(part))
    return rows
