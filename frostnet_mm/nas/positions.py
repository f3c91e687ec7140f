"""The places for blocks of a search space, and its options read: from values to rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..models.backbones.frost_blocks import block_class
from ..models.frostnet_arch import BlockSpec, FrostNetArch
from .errors import SearchError

FIELDS = ('kernels', 'expansions', 'reductions')
SMALLEST_KERNEL_ONLY = ('fused',)  # a dense 5x5 has 2.8 times the weights of a 3x3: only where it is asked for


@dataclass(frozen=True)
class Position:
    """A place for a block.

    Args:
        name (str): Such as 's2.b1', the second place of the third stage.
        in_channels (int): Channels of its input.
        rows (tuple[BlockSpec]): What it may be, each network once.
        options (dict): By field ('kind', 'kernel', 'expansion', 'reduction') the values that it has in ``rows``; empty
            where there is one row.
    """

    name: str
    in_channels: int
    rows: tuple[BlockSpec, ...]
    options: Mapping[str, tuple]

    def row(self, **values: Any) -> BlockSpec:
        """The row with these values as far as there is one; a field that its kind does not have counts for nothing.

        Args:
            values: Of the fields in ``options``.
        """
        fitting = [row for row in self.rows if row.kind == values.get('kind', row.kind)]
        for name in ('kernel', 'expansion', 'reduction'):
            fitting = [row for row in fitting if getattr(row, name) == values.get(name, getattr(row, name))] or fitting
        return fitting[0]


@dataclass(frozen=True)
class Run:
    """Blocks of one width behind each other: the first leads there, the others may be left out from the end.

    Args:
        name (str): Such as 's2.r0'.
        least (int): Smallest number of blocks.
        positions (tuple[Position]): The places of all blocks.
    """

    name: str
    least: int
    positions: tuple[Position, ...]

    @property
    def depths(self) -> range:
        """The numbers of blocks that it may have."""
        return range(self.least, len(self.positions) + 1)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def by_stage(name: str, value: Any, stages: int) -> list[tuple]:
    """An option for each stage."""
    if not _is_sequence(value) or not value:
        raise SearchError(f'space.{name}={value!r}: expected a list of at least one value.')
    if not any(map(_is_sequence, value)):
        return [tuple(value)] * stages
    if len(value) != stages or not all(_is_sequence(own) and own for own in value):
        raise SearchError(
            f'space.{name}={value!r}: expected one list of values, or {stages} of them, one for each stage.'
        )
    return [tuple(own) for own in value]


def kinds_by_stage(kinds: Any, fields: dict[str, list[tuple]], stages: int) -> list[dict[str, dict[str, tuple]]]:
    """By stage and kind the values of each field."""
    found: list[dict] = [{} for _ in range(stages)]
    if not isinstance(kinds, Mapping):
        for index, names in enumerate(by_stage('kinds', kinds, stages)):
            for kind in names:
                own = {name: values[index] for name, values in fields.items()}
                if kind in SMALLEST_KERNEL_ONLY and all(isinstance(kernel, int) for kernel in own['kernels']):
                    own['kernels'] = (min(own['kernels']),)
                found[index][kind] = own
        return found
    for kind, own in kinds.items():
        unknown = [] if isinstance(own, Mapping) else [own]
        unknown = unknown or [name for name in own if name not in (*FIELDS, 'stages')]
        if unknown:
            raise SearchError(f'space.kinds[{kind!r}] has {unknown[0]!r}: expected {", ".join((*FIELDS, "stages"))}.')
        wanted = own.get('stages', range(stages))
        if not isinstance(wanted, (Sequence, range)) or any(index not in range(stages) for index in wanted):
            raise SearchError(f'space.kinds[{kind!r}].stages={wanted!r}: expected indices from 0 to {stages - 1}.')
        for name in FIELDS:
            values = by_stage(f'kinds[{kind!r}].{name}', own[name], stages) if name in own else fields[name]
            for index in wanted:
                found[index].setdefault(kind, {})[name] = values[index]
    bare = [index for index, own in enumerate(found) if not own]
    if bare:
        raise SearchError(f'space.kinds={dict(kinds)!r} leaves stage {bare[0]} without any kind: name one for it.')
    return found


def runs_of(rows: Sequence[BlockSpec]) -> list[list[BlockSpec]]:
    """Rows of one width behind each other; one of stride 2 begins a new run, as blocks of expansion 1 do."""
    groups: list[list[BlockSpec]] = []
    for row in rows:
        last = groups[-1][-1] if groups else None
        if (
            last is None
            or row.stride != 1
            or (row.channels, row.expansion == 1) != (last.channels, last.expansion == 1)
        ):
            groups.append([])
        groups[-1].append(row)
    return groups


def read_depths(stage: int, depths: tuple | None, own: int) -> tuple[int, int]:
    """Least and most blocks of a run of a stage, whose base has its own number."""
    if depths is None:
        return 1, own
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in depths)
    if len(depths) != 2 or not whole or not 1 <= depths[0] <= depths[1]:
        raise SearchError(f'space.depths={depths!r} of stage {stage}: expected least and most blocks, such as (1, 4).')
    return depths


def rows_of(row: BlockSpec, kinds: dict[str, dict[str, tuple]]) -> list[BlockSpec]:
    """All that a block may be."""
    return [
        _checked(name, BlockSpec(kernel, row.channels, expansion, reduction, row.stride, name))
        for name, own in kinds.items()
        for kernel in own['kernels']
        for expansion in own['expansions']
        for reduction in (own['reductions'] if _squeezes(name) else (None,))
    ]


def _squeezes(kind: Any) -> bool:
    try:
        return block_class(BlockSpec(3, 8, 2, None, 1, kind), 'space').squeezes
    except ValueError as error:
        raise SearchError(str(error).replace('space.kind=', 'space.kinds: ')) from None


def _checked(kind: str, row: BlockSpec) -> BlockSpec:
    try:
        FrostNetArch.from_config(dict(stem=8, stages=[[tuple(row)]]))
    except ValueError as error:
        raise SearchError(str(error).replace('arch.stages[0][0].', f'space, of blocks of kind {kind!r}: ')) from None
    if row.expansion == 1:
        raise SearchError('space.expansions has 1, which is a block without expansion: expected values from 2.')
    return row


def make_position(name: str, in_channels: int, rows: Sequence[BlockSpec]) -> Position:
    """A place with what it may be, each network once."""
    rows = tuple(dict.fromkeys(block_class(row).canonical(in_channels, row) for row in rows))
    options = {}
    for field in ('kind', 'kernel', 'expansion', 'reduction'):
        values = tuple(dict.fromkeys(getattr(row, field) for row in rows))
        if len(values) > 1:
            options[field] = values
    return Position(name, in_channels, rows, options)


def describe(position: Position) -> str:
    """What a place may hold, for messages."""
    fields = ('kind', 'kernel', 'expansion', 'reduction')
    values = {name: list(dict.fromkeys(getattr(row, name) for row in position.rows)) for name in fields}
    stride, channels = position.rows[0].stride, position.rows[0].channels
    shown = ', '.join(f'{name} of {found}' for name, found in values.items())
    return f'{shown}, channels {channels} and stride {stride}'
