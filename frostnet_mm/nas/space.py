"""The networks that a search chooses from: what each block may be, and how many blocks a stage may have."""

import hashlib
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..models.backbones.frost_blocks import block_class, build_block, check_kinds
from ..models.frostnet_arch import BlockSpec, FrostNetArch
from .errors import SearchError

Arch = str | Mapping | FrostNetArch
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


class SearchSpace:
    """The architectures that a search chooses from, built around one of them.

    Stem, stage widths and strides are those of the base, so that any neck and head of its config stay as they are.
    Blocks of expansion 1 stay as they are. Every other block has a kernel, an expansion, a reduction and a kind of its
    own; the number of blocks of one width in a stage differs.

    Args:
        base (str | dict): A FrostNet: a name, or a table.
        kernels (Sequence): Kernels. Default: (3, 5).
        expansions (Sequence): Expansions. Default: (2, 3, 4, 6).
        reductions (Sequence): Ratios of squeezes; None is a block without. Default: (None, 4, 2).
        kinds (Sequence | Mapping): Kinds of blocks. A mapping gives each kind options of its own: ``dict(frost={},
            fused=dict(kernels=(3, 5), stages=(0, 1, 2)))``, of ``kernels``, ``expansions``, ``reductions`` and
            ``stages``, the indices of the stages that have it. Without, fused blocks have the smallest kernel alone.
            Default: ('frost', 'fused').
        depths (Sequence, optional): Least and most blocks of one width in a stage, such as (1, 4). Default: from 1 to
            as many as the base has.
        widen_factor (float): Width multiplier of the base, as FrostNet's. Default: 1.

    Any option but a mapping may be a list of as many of these as there are stages, such as
    ``kernels=[(3,), (3, 5), (3, 5), (5,), (5,)]``.

    Raises:
        SearchError: An option is wrong or empty, or there is no more than one network.
        ValueError: The base is no architecture.

    Examples:
        >>> space = SearchSpace('small')
        >>> space.contains('small'), space.contains('large')
        (True, False)
    """

    def __init__(
        self,
        base: Arch = 'small',
        kernels: Sequence = (3, 5),
        expansions: Sequence = (2, 3, 4, 6),
        reductions: Sequence = (None, 4, 2),
        kinds: Sequence | Mapping = ('frost', 'fused'),
        depths: Sequence | None = None,
        widen_factor: float = 1.0,
    ) -> None:
        self.base = FrostNetArch.from_config(base).widened(widen_factor)
        check_kinds(self.base)
        stages = len(self.base.stages)
        given = dict(kernels=kernels, expansions=expansions, reductions=reductions)
        fields = {name: _by_stage(name, value, stages) for name, value in given.items()}
        kinds = _kinds_by_stage(kinds, fields, stages)
        depths = [None] * stages if depths is None else _by_stage('depths', depths, stages)
        self.stages: list[list[Run]] = []
        channels = self.base.stem
        for index, rows in enumerate(self.base.stages):
            own, runs, place = kinds[index], [], 0
            for number, group in enumerate(_runs(rows)):
                fixed = group[0].expansion == 1
                least, most = (len(group),) * 2 if fixed else _depths(index, depths[index], len(group))
                positions = []
                for row in [*group, *[group[-1]._replace(stride=1)] * most][:most]:
                    possible = [row] if fixed else _rows(row, own)
                    positions.append(_position(f's{index}.b{place}', channels, possible))
                    channels, place = row.channels, place + 1
                runs.append(Run(f's{index}.r{number}', least, tuple(positions)))
            self.stages.append(runs)
        if self.size < 2:
            raise SearchError(
                f'The space of {given} holds one network, so there is nothing to search: expected at least two values '
                'of kernels, expansions, reductions, kinds or depths. Blocks of expansion 1 stay as they are.'
            )

    @property
    def runs(self) -> Iterator[Run]:
        """All runs of all stages."""
        return (run for stage in self.stages for run in stage)

    @property
    def size(self) -> int:
        """How many networks there are."""
        return math.prod(
            sum(math.prod(len(position.rows) for position in run.positions[:depth]) for depth in run.depths)
            for run in self.runs
        )

    # -- choosing

    def sample(self, rng: random.Random) -> FrostNetArch:
        """A random network: of each block first the kind, so that those with more options are not preferred.

        Args:
            rng (random.Random): Where from.
        """

        def row(position: Position) -> BlockSpec:
            kinds = position.options.get('kind')
            rows = position.rows if kinds is None else _of_kind(position.rows, rng.choice(kinds))
            return rng.choice(rows)

        return self._build(lambda run: [row(p) for p in run.positions[: rng.choice(run.depths)]])

    @property
    def smallest(self) -> FrostNetArch:
        """The network of the fewest blocks, each with the fewest weights."""
        return self._build(lambda run: [min(p.rows, key=_weights_of(p)) for p in run.positions[: run.least]])

    @property
    def largest(self) -> FrostNetArch:
        """The network of the most blocks, each with the most weights."""
        return self._build(lambda run: [max(p.rows, key=_weights_of(p)) for p in run.positions])

    def suggest(self, trial: Any) -> FrostNetArch:
        """The network of a trial of Optuna.

        Every trial has the same parameters, those of blocks that it leaves out too: crossing two needs that.

        Args:
            trial (optuna.Trial): Has ``suggest_categorical(name, choices)`` and ``suggest_int(name, low, high)``.
        """

        def row(position: Position) -> BlockSpec:
            values = {
                field: trial.suggest_categorical(f'{position.name}.{field}', list(choices))
                for field, choices in position.options.items()
            }
            return position.row(**values)

        def choose(run: Run) -> list[BlockSpec]:
            depth = run.least
            if len(run.depths) > 1:
                depth = trial.suggest_int(f'{run.name}.depth', run.least, len(run.positions))
            return [row(position) for position in run.positions][:depth]

        return self._build(choose)

    def _build(self, choose: Any) -> FrostNetArch:
        stages = tuple(tuple(row for run in stage for row in choose(run)) for stage in self.stages)
        return FrostNetArch(self.base.stem, stages)

    # -- recognizing

    def locate(self, arch: Arch) -> list[list[tuple[int, BlockSpec]]]:
        """Which places the blocks of a network take.

        Args:
            arch (str | dict): The architecture.

        Returns:
            list[list[tuple[int, BlockSpec]]]: By stage and block the index of the place in its stage, and the row.

        Raises:
            SearchError: The network is not in the space; the message says where it leaves it.
        """
        arch = canonical(arch)
        if arch.stem != self.base.stem or len(arch.stages) != len(self.stages):
            raise SearchError(
                f'The network has a stem of {arch.stem} channels and {len(arch.stages)} stages; expected '
                f'{self.base.stem} and {len(self.stages)}, those of the space.'
            )
        return [self._locate(index, rows) for index, rows in enumerate(arch.stages)]

    def _locate(self, index: int, rows: Sequence[BlockSpec]) -> list[tuple[int, BlockSpec]]:
        groups, runs, place, found = _runs(rows), self.stages[index], 0, []
        if len(groups) != len(runs):
            raise SearchError(
                f'arch.stages[{index}] has {len(groups)} groups of blocks of one width; expected {len(runs)}.'
            )
        for group, run in zip(groups, runs, strict=True):
            if len(group) not in run.depths:
                raise SearchError(
                    f'arch.stages[{index}] has {len(group)} blocks of {group[0].channels} channels; expected '
                    f'{run.least} to {len(run.positions)}.'
                )
            for number, row in enumerate(group):
                position = run.positions[number]
                if row not in position.rows:
                    raise SearchError(
                        f'arch.stages[{index}][{len(found)}]={tuple(row)} is not in the space; expected '
                        f'{_describe(position)}.'
                    )
                found.append((place + number, row))
            place += len(run.positions)
        return found

    def contains(self, arch: Arch) -> bool:
        """Whether a network is in the space.

        Raises:
            ValueError: It is no architecture.
        """
        try:
            self.locate(arch)
        except SearchError:
            return False
        return True

    def key(self, arch: Arch) -> str:
        """A short name of a network, as :func:`key`."""
        return key(arch)


def canonical(arch: Arch) -> FrostNetArch:
    """The one table by which a network is known that several tables make.

    Args:
        arch (str | dict): An architecture. An inverted block is a Frost block without squeeze; a reduction that leaves
            out the squeeze is None; channels are those that are built.

    Raises:
        ValueError: It is no architecture.
    """
    arch = FrostNetArch.from_config(arch).widened(1.0)
    check_kinds(arch)
    channels, stages = arch.stem, []
    for rows in arch.stages:
        stage = []
        for row in rows:
            stage.append(block_class(row).canonical(channels, row))
            channels = row.channels
        stages.append(tuple(stage))
    return FrostNetArch(arch.stem, tuple(stages))


def key(arch: Arch) -> str:
    """A short name of a network: the same for all tables that make it, in every process and version.

    Args:
        arch (str | dict): An architecture.
    """
    return hashlib.sha256(json.dumps(canonical(arch).to_config()).encode()).hexdigest()[:16]


# -- from options to rows


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _by_stage(name: str, value: Any, stages: int) -> list[tuple]:
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


def _kinds_by_stage(kinds: Any, fields: dict[str, list[tuple]], stages: int) -> list[dict[str, dict[str, tuple]]]:
    """By stage and kind the values of each field."""
    found: list[dict] = [{} for _ in range(stages)]
    if not isinstance(kinds, Mapping):
        for index, names in enumerate(_by_stage('kinds', kinds, stages)):
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
            values = _by_stage(f'kinds[{kind!r}].{name}', own[name], stages) if name in own else fields[name]
            for index in wanted:
                found[index].setdefault(kind, {})[name] = values[index]
    bare = [index for index, own in enumerate(found) if not own]
    if bare:
        raise SearchError(f'space.kinds={dict(kinds)!r} leaves stage {bare[0]} without any kind: name one for it.')
    return found


def _runs(rows: Sequence[BlockSpec]) -> list[list[BlockSpec]]:
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


def _depths(stage: int, depths: tuple | None, own: int) -> tuple[int, int]:
    if depths is None:
        return 1, own
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in depths)
    if len(depths) != 2 or not whole or not 1 <= depths[0] <= depths[1]:
        raise SearchError(f'space.depths={depths!r} of stage {stage}: expected least and most blocks, such as (1, 4).')
    return depths


def _rows(row: BlockSpec, kinds: dict[str, dict[str, tuple]]) -> list[BlockSpec]:
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


def _position(name: str, in_channels: int, rows: Sequence[BlockSpec]) -> Position:
    rows = tuple(dict.fromkeys(block_class(row).canonical(in_channels, row) for row in rows))
    options = {}
    for field in ('kind', 'kernel', 'expansion', 'reduction'):
        values = tuple(dict.fromkeys(getattr(row, field) for row in rows))
        if len(values) > 1:
            options[field] = values
    return Position(name, in_channels, rows, options)


def _of_kind(rows: Sequence[BlockSpec], kind: str) -> list[BlockSpec]:
    return [row for row in rows if row.kind == kind]


def _describe(position: Position) -> str:
    fields = ('kind', 'kernel', 'expansion', 'reduction')
    values = {name: list(dict.fromkeys(getattr(row, name) for row in position.rows)) for name in fields}
    stride, channels = position.rows[0].stride, position.rows[0].channels
    shown = ', '.join(f'{name} of {found}' for name, found in values.items())
    return f'{shown}, channels {channels} and stride {stride}'


def _weights_of(position: Position) -> Any:
    return lambda row: count_weights(position.in_channels, row)


@lru_cache(maxsize=None)
def count_weights(in_channels: int, row: BlockSpec) -> int:
    """Parameters of a block."""
    with torch.device('meta'):
        return sum(parameter.numel() for parameter in build_block(in_channels, row).parameters())
