"""FrostNet's architectures as data: tables of blocks, checked and frozen. The named variants are such tables."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

Rows = list[tuple]
KEYS = ('stem', 'stages')
OPTIONAL_KEYS = ('stem_stride',)
FIELDS = 'kernel, channels, expansion, reduction, stride[, kind]'  # of a row
STEM_STRIDE = 2
DEFAULT_KIND = 'frost'


class BlockSpec(NamedTuple):
    """One row of a table: a block.

    Args:
        kernel (int): Kernel of the depthwise convolution, or of the dense one of a fused block, odd.
        channels (int): Output channels at width 1.
        expansion (int): Expansion of the channels, of a Frost bottleneck after the concatenation, where 1 leaves out
            squeeze and expansion.
        reduction (int, optional): Ratio of input channels to squeezed channels; None leaves out the squeeze.
        stride (int): Stride, 1 or 2.
        kind (str): 'frost' (squeeze, concatenation, expansion, depthwise convolution, projection), 'inverted' (the same
            without squeeze and concatenation), 'fused' (dense convolution that expands, projection), or a kind of
            another package that is registered in ``BLOCKS``. Default: 'frost'.
    """

    kernel: int
    channels: int
    expansion: int
    reduction: int | None
    stride: int
    kind: str = DEFAULT_KIND


@dataclass(frozen=True)
class FrostNetArch:
    """An architecture: the stem's channels and the blocks of each stage. Made by :meth:`from_config`, which checks it.

    Args:
        stem (int): Output channels of the 3x3 stem, at width 1.
        stages (tuple[tuple[BlockSpec]]): The blocks of each stage.
        stem_stride (int): Stride of the stem, 2, or 1 for small images. Default: 2.
    """

    stem: int
    stages: tuple[tuple[BlockSpec, ...], ...]
    stem_stride: int = STEM_STRIDE

    @classmethod
    def from_config(cls, arch: 'str | Mapping | FrostNetArch') -> 'FrostNetArch':
        """Look up a name, or read a table.

        Args:
            arch (str | Mapping | FrostNetArch): A name of ``ARCHS``, such as 'small' or 'engine-m', or a table
                ``dict(stem=32, stages=[[(kernel, channels, expansion, reduction, stride[, kind]), ...], ...])`` of
                lists or tuples, with ``stem_stride=1`` where the stem keeps the size. Whether a kind is known shows
                when the network is built.

        Raises:
            ValueError: There is no such name, or the table is wrong; the message names stage, row and field.
        """
        if isinstance(arch, cls):
            return arch
        if isinstance(arch, str):
            if arch not in ARCHS:
                raise ValueError(f'FrostNet has no arch={arch!r}: choose one of {_names()}, or give a table.')
            return ARCHS[arch]
        if not isinstance(arch, Mapping):
            raise ValueError(
                f'arch={arch!r} is of type {type(arch).__name__}: expected one of {_names()}, or a table '
                f'dict(stem=32, stages=[[({FIELDS}), ...], ...]).'
            )
        return cls._from_table(arch)

    @classmethod
    def _from_table(cls, table: Mapping) -> 'FrostNetArch':
        missing = [key for key in KEYS if key not in table]
        unknown = [key for key in table if key not in (*KEYS, *OPTIONAL_KEYS)]
        if missing or unknown:
            wrong = [f'lacks {", ".join(missing)}'] * bool(missing)
            wrong += [f'has the unknown keys {", ".join(map(str, unknown))}'] * bool(unknown)
            raise ValueError(f'The table arch {" and ".join(wrong)}: expected the keys {" and ".join(KEYS)}.')
        stages = table['stages']
        if not _is_sequence(stages) or not stages:
            raise ValueError(f'arch.stages={stages!r}: expected a list of at least one stage.')
        return cls(
            _whole('arch.stem', table['stem'], 1),
            tuple(_stage(f'arch.stages[{index}]', stage) for index, stage in enumerate(stages)),
            _stride('arch.stem_stride', table.get('stem_stride', STEM_STRIDE)),
        )

    def to_config(self) -> dict:
        """The table as a config holds it: plain numbers, tuples, lists and a dict; 'frost' goes without saying."""
        more = {} if self.stem_stride == STEM_STRIDE else dict(stem_stride=self.stem_stride)
        return dict(
            stem=self.stem,
            **more,
            stages=[[tuple(row[:-1] if row.kind == DEFAULT_KIND else row) for row in stage] for stage in self.stages],
        )

    def widened(self, factor: float) -> 'FrostNetArch':
        """The architecture with the channels that a width multiplier gives; at width 1 it is the same network.

        Args:
            factor (float): Width multiplier. The stem grows no wider than at width 1.
        """
        return replace(
            self,
            stem=divisible(self.stem * min(1.0, factor)),
            stages=tuple(
                tuple(row._replace(channels=divisible(int(row.channels * factor))) for row in stage)
                for stage in self.stages
            ),
        )

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each stage's output, such as (4, 8, 16, 32, 32)."""
        stride, strides = self.stem_stride, []
        for stage in self.stages:
            for row in stage:
                stride *= row.stride
            strides.append(stride)
        return tuple(strides)

    @property
    def default_out_indices(self) -> tuple[int, ...]:
        """The last stage at each stride: (0, 1, 2, 4) for the strides (4, 8, 16, 32, 32)."""
        strides = self.strides
        return tuple(i for i, stride in enumerate(strides) if i + 1 == len(strides) or stride != strides[i + 1])

    @property
    def output_strides(self) -> tuple[int, ...]:
        """What the last stage's stride may be made by dilation: its own, and the halves of that down to 8."""
        stride = self.strides[-1]
        strides = [stride]
        while stride > 8:
            stride //= 2
            strides.append(stride)
        return tuple(strides)


def _names() -> str:
    return ', '.join(map(repr, ARCHS))


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _stage(place: str, stage: Any) -> tuple[BlockSpec, ...]:
    if not _is_sequence(stage) or not stage:
        raise ValueError(f'{place}={stage!r}: expected a list of at least one row ({FIELDS}).')
    return tuple(_row(f'{place}[{index}]', row) for index, row in enumerate(stage))


def _row(place: str, row: Any) -> BlockSpec:
    if not _is_sequence(row):
        raise ValueError(f'{place}={row!r}: expected a row ({FIELDS}).')
    most = len(BlockSpec._fields)
    if not most - 1 <= len(row) <= most:
        lacking = BlockSpec._fields[len(row) : -1]
        missing = f'; {", ".join(lacking)} missing' if lacking else ''
        raise ValueError(f'{place}={row!r} has {len(row)} fields: expected {most - 1} or {most}, ({FIELDS}){missing}.')
    kernel, channels, expansion, reduction, stride, kind = (*row, DEFAULT_KIND)[:most]
    kernel = _whole(f'{place}.kernel', kernel, 1, 'an odd whole number')
    if kernel % 2 == 0:
        raise ValueError(f'{place}.kernel={kernel!r}: expected an odd whole number of at least 1.')
    channels = _whole(f'{place}.channels', channels, 1)
    expansion = _whole(f'{place}.expansion', expansion, 1)
    if reduction is not None:
        reduction = _whole(f'{place}.reduction', reduction, 1, 'None (no squeeze) or a whole number')
    _stride(f'{place}.stride', stride)
    if not isinstance(kind, str):
        raise ValueError(f"{place}.kind={kind!r}: expected the name of a kind, such as 'frost' or 'fused'.")
    return BlockSpec(kernel, channels, expansion, reduction, stride, kind)


def _stride(place: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in (1, 2):
        raise ValueError(f'{place}={value!r}: expected 1 or 2.')
    return value


def _whole(place: str, value: Any, least: int, what: str = 'a whole number') -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{place}={value!r}: expected {what} of at least {least}.')
    return value


def divisible(value: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``value``: at least ``divisor``, and never more than 10 % below ``value``.

    Args:
        value (float): Number of channels wanted.
        divisor (int): What the result is a multiple of. Default: 8.

    Returns:
        int: Number of channels.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


# The variants of the authors' release, which fit the released weights. (The paper's table prints 5x5 kernels in the
# early blocks of "large" where the release has 3x3.)
SMALL: list[Rows] = [
    [(3, 16, 1, 1, 1), (5, 24, 3, 4, 2), (3, 24, 3, 4, 1)],
    [(5, 40, 3, 4, 2)],
    [(5, 80, 3, 4, 2), (5, 80, 3, 4, 1), (3, 80, 3, 4, 1), (5, 96, 3, 2, 1), (5, 96, 3, 4, 1), (5, 96, 3, 4, 1)],
    [(5, 192, 6, 4, 2), (5, 192, 6, 4, 1), (5, 192, 6, 4, 1)],
    [(5, 320, 6, 2, 1)],
]
BASE: list[Rows] = [
    [(3, 16, 1, 1, 1), (5, 24, 6, 4, 2), (3, 24, 3, 4, 1)],
    [(5, 40, 3, 4, 2), (5, 40, 3, 4, 1)],
    [(5, 80, 3, 4, 2), (3, 80, 3, 4, 1), (5, 96, 3, 2, 1), (3, 96, 3, 4, 1), (5, 96, 3, 4, 1), (5, 96, 3, 4, 1)],
    [(5, 192, 6, 2, 2), (5, 192, 3, 2, 1), (5, 192, 3, 2, 1), (5, 192, 3, 2, 1)],
    [(5, 320, 6, 2, 1)],
]
LARGE: list[Rows] = [
    [(3, 16, 1, 1, 1), (3, 24, 6, 4, 2), (3, 24, 3, 4, 1)],
    [(5, 40, 6, 4, 2), (3, 40, 3, 4, 1)],
    [
        (5, 80, 6, 4, 2),
        (5, 80, 3, 4, 1),
        (5, 80, 3, 4, 1),
        (5, 96, 6, 4, 1),
        (5, 96, 3, 4, 1),
        (3, 96, 3, 4, 1),
        (3, 96, 3, 4, 1),
    ],
    [(5, 192, 6, 2, 2), (5, 192, 6, 4, 1), (5, 192, 6, 4, 1), (5, 192, 3, 4, 1), (5, 192, 3, 4, 1)],
    [(5, 320, 6, 2, 1)],
]
# Found by tools/search.py for INT8 on x86 CPUs with VNNI; docs/search.md ("Networks that were found") says how, with
# what data, and what was measured.
ENGINE_S: list[Rows] = [
    [(3, 16, 1, None, 1), (5, 24, 3, None, 2), (3, 24, 2, None, 1, 'fused')],
    [(3, 40, 3, None, 2, 'fused'), (3, 40, 2, None, 1, 'fused')],
    [(3, 96, 4, 4, 2), (3, 96, 3, None, 1, 'fused')],
    [(5, 192, 2, None, 2)],
    [(5, 320, 2, 2, 1)],
]
ENGINE_M: list[Rows] = [
    [(3, 16, 1, None, 1), (5, 24, 3, None, 2), (3, 24, 4, None, 1, 'fused')],
    [(3, 40, 4, None, 2, 'fused'), (3, 40, 2, None, 1, 'fused')],
    [(3, 96, 4, 4, 2), (3, 96, 4, None, 1, 'fused')],
    [(3, 192, 3, None, 2)],
    [(3, 320, 3, 2, 1)],
]
ENGINE_L: list[Rows] = [
    [(3, 16, 1, None, 1), (3, 24, 4, None, 2, 'fused')],
    [(3, 40, 2, None, 2, 'fused'), (3, 40, 4, None, 1), (5, 40, 6, None, 1), (3, 40, 3, None, 1, 'fused')],
    [(3, 96, 3, None, 2, 'fused'), (3, 96, 2, None, 1, 'fused'), (3, 96, 3, 2, 1), (5, 96, 6, 4, 1)],
    [(3, 192, 2, 4, 2), (5, 192, 3, 4, 1)],
    [(3, 320, 4, 2, 1), (3, 320, 4, 4, 1)],
]
ENGINES = {'engine-s': ENGINE_S, 'engine-m': ENGINE_M, 'engine-l': ENGINE_L}
VARIANTS = dict(small=SMALL, base=BASE, large=LARGE) | ENGINES
STEM_CHANNELS = 32
NUM_STAGES = 5  # of each released variant
ARCHS: dict[str, FrostNetArch] = {
    name: FrostNetArch.from_config(dict(stem=STEM_CHANNELS, stages=stages)) for name, stages in VARIANTS.items()
}
