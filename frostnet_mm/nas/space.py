"""The networks that a search chooses from: what each block may be, and how many blocks a stage may have."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..models.backbones.frost_blocks import check_kinds
from ..models.frostnet_arch import BlockSpec, FrostNetArch
from .architectures import Arch, canonical, count_weights, key
from .errors import SearchError
from .positions import Position, Run, by_stage, describe, kinds_by_stage, make_position, read_depths, rows_of, runs_of

__all__ = ['Arch', 'SearchSpace', 'canonical', 'key']


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
        built (int, optional): How many stages a backbone builds, by its ``out_indices``: later ones stay as they are.
            Default: all.

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
        built: int | None = None,
    ) -> None:
        self.base = FrostNetArch.from_config(base).widened(widen_factor)
        check_kinds(self.base)
        stages = len(self.base.stages)
        given = dict(kernels=kernels, expansions=expansions, reductions=reductions)
        fields = {name: by_stage(name, value, stages) for name, value in given.items()}
        kinds = kinds_by_stage(kinds, fields, stages)
        depths = [None] * stages if depths is None else by_stage('depths', depths, stages)
        self.stages: list[list[Run]] = []
        channels = self.base.stem
        for index, rows in enumerate(self.base.stages):
            own, runs, place = kinds[index], [], 0
            for number, group in enumerate(runs_of(rows)):
                fixed = group[0].expansion == 1 or (built is not None and index >= built)
                least, most = (len(group),) * 2 if fixed else read_depths(index, depths[index], len(group))
                positions = []
                for row in [*group, *[group[-1]._replace(stride=1)] * most][:most]:
                    possible = [row] if fixed else rows_of(row, own)
                    positions.append(make_position(f's{index}.b{place}', channels, possible))
                    channels, place = row.channels, place + 1
                runs.append(Run(f's{index}.r{number}', least, tuple(positions)))
            self.stages.append(runs)
        if self.size < 2:
            raise SearchError(
                f'The space of {given} holds one network, so there is nothing to search: expected at least two values '
                'of kernels, expansions, reductions, kinds or depths. Blocks of expansion 1 stay as they are.'
            )

    @classmethod
    def of(
        cls, base: Arch, options: Mapping | None = None, widen_factor: float = 1.0, built: int | None = None
    ) -> 'SearchSpace':
        """A space from the options of a config.

        Args:
            base (str | dict): A FrostNet.
            options (dict, optional): Of the space. Default: none, which is the defaults.
            widen_factor (float): Width multiplier of the base. Default: 1.
            built (int, optional): How many stages are built. Default: all.

        Raises:
            SearchError: There is no such option, or one is wrong.
        """
        known = ('kernels', 'expansions', 'reductions', 'kinds', 'depths')
        if not isinstance(options or {}, Mapping):
            raise SearchError(f'space={options!r}: expected a dict of {", ".join(known)}.')
        unknown = [name for name in options or {} if name not in known]
        if unknown:
            raise SearchError(f'space has the unknown option {unknown[0]!r}: expected {", ".join(known)}.')
        return cls(base, widen_factor=widen_factor, built=built, **dict(options or {}))

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
        return replace(self.base, stages=stages)

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
        groups, runs, place, found = runs_of(rows), self.stages[index], 0, []
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
                        f'{describe(position)}.'
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


def _of_kind(rows: Sequence[BlockSpec], kind: str) -> list[BlockSpec]:
    return [row for row in rows if row.kind == kind]


def _weights_of(position: Position) -> Any:
    return lambda row: count_weights(position.in_channels, row)
