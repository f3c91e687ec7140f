"""What the time of a network depends on: its operators by kind, their multiply-accumulates, and the tensors' bytes."""

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from math import prod

import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..models.backbones.frost_blocks import build_block, placed_rows
from ..models.frostnet_arch import BlockSpec
from .architectures import Arch, canonical

aten = torch.ops.aten
#: Millions of multiply-accumulates by kind of convolution, the number of dense and depthwise ones and of
#: concatenations, and MB in INT8 of what all operators put out and of their weights. A dense convolution has a kernel
#: above 1x1 and one group. In a space of Frost, inverted and fused blocks the number of 1x1 convolutions and of
#: additions follows from those, so that a regression could not tell their costs apart.
FEATURES = (
    'dense_mmacs',
    'pointwise_mmacs',
    'depthwise_mmacs',
    'dense',
    'depthwise',
    'concats',
    'activation_mb',
    'weight_mb',
)
_JOINS = {aten.cat.default: 'concats', aten.add.Tensor: 'adds'}
_MILLION = 1e6


class _Count(TorchDispatchMode):
    """Counts the operators that run while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator is aten.convolution.default:
            self._convolution(args[1], args[8], result)
        elif operator in _JOINS and result.dim() == 4:
            self.found[_JOINS[operator]] += 1
            self.found['activation_mb'] += result.numel() / _MILLION
        return result

    def _convolution(self, weight: torch.Tensor, groups: int, result: torch.Tensor) -> None:
        kind = 'depthwise' if groups > 1 else 'pointwise' if prod(weight.shape[2:]) == 1 else 'dense'
        self.found[kind] += 1
        self.found[f'{kind}_mmacs'] += result.numel() * prod(weight.shape[1:]) / _MILLION
        self.found['activation_mb'] += result.numel() / _MILLION
        self.found['weight_mb'] += weight.numel() / _MILLION


def _count(build, channels: int, size: tuple[int, int]) -> tuple[Counter, tuple[int, int]]:
    with torch.device('meta'), torch.no_grad(), _Count() as count:
        network: nn.Module = build().eval()
        count.found.clear()  # of what initialization did
        result = network(torch.empty(1, channels, *size))
    return count.found, tuple(result.shape[2:])


@cache
def _of_stem(in_channels: int, channels: int, stride: int, size: tuple[int, int]) -> tuple[Counter, tuple[int, int]]:
    build = partial(ConvModule, in_channels, channels, 3, stride, 1, norm_cfg=dict(type='BN'))
    return _count(build, in_channels, size)


@cache
def _of_block(channels: int, row: BlockSpec, dilation: int, size: tuple[int, int]) -> tuple[Counter, tuple[int, int]]:
    return _count(lambda: build_block(channels, row, dilation), channels, size)


def features_of(
    arch: Arch,
    shape: tuple[int, int],
    output_stride: int | None = None,
    out_indices: Sequence[int] | None = None,
    in_channels: int = 3,
) -> dict[str, float]:
    """The features of a FrostNet, without neck and head, for one image.

    Args:
        arch (str | dict): The architecture.
        shape (tuple[int, int]): Height and width of the image.
        output_stride (int, optional): As of :class:`~frostnet_mm.FrostNet`. Default: that of the table.
        out_indices (Sequence[int], optional): Likewise: stages after the last one named are not built. Default: all
            are.
        in_channels (int): Channels of the image. Default: 3.

    Returns:
        dict[str, float]: By the names in ``FEATURES``.

    Raises:
        ValueError: It is no architecture.
    """
    arch = canonical(arch)
    placed = placed_rows(arch, output_stride or arch.strides[-1])
    found, size = _of_stem(in_channels, arch.stem, arch.stem_stride, tuple(shape))
    total = Counter(found)
    for stage in placed[: None if out_indices is None else max(out_indices) + 1]:
        for channels, row, dilation in stage:
            found, size = _of_block(channels, row, dilation, size)
            total.update(found)
    return {name: float(total[name]) for name in FEATURES}


def mmacs(features: dict[str, float]) -> float:
    """Millions of multiply-accumulates in all."""
    return sum(value for name, value in features.items() if name.endswith('_mmacs'))
