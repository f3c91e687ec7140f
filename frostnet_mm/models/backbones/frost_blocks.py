"""The blocks of FrostNets by kind: each a class registered in ``BLOCKS``."""

import torch
import torch.utils.checkpoint as cp
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor

from ...registry import BLOCKS
from ..frostnet_arch import BlockSpec, FrostNetArch, divisible

MIN_SQUEEZE_CHANNELS = 8  # a narrower squeeze is left out: the block is then a plain inverted bottleneck

ConfigDict = dict


class Bottleneck(BaseModule):
    """What all kinds of blocks share: the shortcut, gradient checkpointing, and what a search asks of a kind.

    A kind of one's own derives from this class, registers itself with ``@BLOCKS.register_module(name='its kind')``, and
    takes the arguments of :class:`FrostBottleneck`. Its layers are mmcv's ``ConvModule``, made in :meth:`build_layers`
    and run in :meth:`transform`.

    Attributes:
        squeezes (bool): Whether a ``reduction`` means something to the kind. Default: False.
        family (str): Kinds of one family share their weights in a search's network: layers of the same name do the same
            work in all of them. Default: '', a family of its own.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Kernel, odd.
        expansion (int): Expansion of the channels.
        reduction (int, optional): Ratio of input channels to squeezed channels.
        stride (int): Stride.
        dilation (int): Dilation of the convolution that has the kernel. Default: 1.
        with_cp (bool): Trade computation for memory with gradient checkpointing. Default: False.
        norm_cfg (dict): Config of the normalization layers.
        act_cfg (dict): Config of the activation layers.
        init_cfg (dict | list[dict], optional): Initialization config.
    """

    squeezes = False
    family = ''

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        expansion: int,
        reduction: int | None,
        stride: int,
        dilation: int = 1,
        with_cp: bool = False,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.with_cp = with_cp
        self.with_residual = stride == 1 and in_channels == out_channels
        row = BlockSpec(kernel_size, out_channels, expansion, reduction, stride)
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))
        self.build_layers(in_channels, row, dilation, cfg)

    def build_layers(self, in_channels: int, row: BlockSpec, dilation: int, cfg: ConfigDict) -> None:
        """Make the layers.

        Args:
            in_channels (int): Channels of the input.
            row (BlockSpec): What the block is.
            dilation (int): Of the convolution that has the kernel.
            cfg (dict): ``norm_cfg`` and ``act_cfg``, for ``ConvModule``.
        """
        raise NotImplementedError

    def transform(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)), without the shortcut."""
        raise NotImplementedError

    @classmethod
    def canonical(cls, in_channels: int, row: BlockSpec) -> BlockSpec:
        """The row by which a block is known that several rows make, such as one whose squeeze is left out."""
        return row

    @classmethod
    def input_columns(cls, layer: str, in_channels: int) -> int:
        """How many of the last input channels of a layer are the block's input itself, whatever comes before them.

        Args:
            layer (str): Name of the layer.
            in_channels (int): Channels of the block's input.
        """
        return 0

    def _forward(self, x: Tensor) -> Tensor:
        out = self.transform(x)
        return x + out if self.with_residual else out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)


@BLOCKS.register_module(name='frost')
class FrostBottleneck(Bottleneck):
    """Frost bottleneck: squeeze, concatenate with the input, expand, depthwise convolution, linear projection.

    ``expansion == 1`` leaves out squeeze and expansion; ``reduction=None`` and ``in_channels // reduction < 8`` leave
    out the squeeze. The arguments are those of :class:`Bottleneck`.
    """

    squeezes = True
    family = 'frost'

    @staticmethod
    def squeezed_channels(in_channels: int, row: BlockSpec) -> int:
        """Channels of the squeeze, 0 where it is left out."""
        if row.expansion == 1 or row.reduction is None or in_channels // row.reduction < MIN_SQUEEZE_CHANNELS:
            return 0
        return divisible(in_channels // row.reduction)

    def build_layers(self, in_channels: int, row: BlockSpec, dilation: int, cfg: ConfigDict) -> None:
        """Make the layers; see the base class."""
        hidden = in_channels
        self.squeeze: ConvModule | None = None
        self.expand: ConvModule | None = None
        if row.expansion != 1:
            squeezed = self.squeezed_channels(in_channels, row)
            if squeezed:
                self.squeeze = ConvModule(in_channels, squeezed, 1, **cfg)
                hidden += squeezed
            self.expand = ConvModule(hidden, hidden * row.expansion, 1, **cfg)
            hidden *= row.expansion
        self.depthwise = ConvModule(
            hidden,
            hidden,
            row.kernel,
            stride=row.stride,
            padding=row.kernel // 2 * dilation,
            dilation=dilation,
            groups=hidden,
            **cfg,
        )
        self.project = ConvModule(hidden, row.channels, 1, norm_cfg=cfg['norm_cfg'], act_cfg=None)

    def transform(self, x: Tensor) -> Tensor:
        """Squeeze, concatenate, expand, convolve, project."""
        out = x
        if self.squeeze is not None:
            out = torch.cat((self.squeeze(x), x), dim=1)  # squeezed channels first, as in the released weights
        if self.expand is not None:
            out = self.expand(out)
        return self.project(self.depthwise(out))

    @classmethod
    def canonical(cls, in_channels: int, row: BlockSpec) -> BlockSpec:
        """Without the reduction that leaves out the squeeze."""
        return row if cls.squeezed_channels(in_channels, row) else row._replace(reduction=None)

    @classmethod
    def input_columns(cls, layer: str, in_channels: int) -> int:
        """All channels of the input are read by the expansion, behind those of the squeeze."""
        return in_channels if layer == 'expand' else 0


@BLOCKS.register_module(name='inverted')
class InvertedBottleneck(FrostBottleneck):
    """Inverted bottleneck of MobileNetV2: a Frost bottleneck without squeeze and concatenation."""

    squeezes = False

    @classmethod
    def canonical(cls, in_channels: int, row: BlockSpec) -> BlockSpec:
        """The Frost bottleneck without squeeze, which it is."""
        return row._replace(kind='frost', reduction=None) if row.kind == 'inverted' else row


@BLOCKS.register_module(name='fused')
class FusedBottleneck(Bottleneck):
    """Fused inverted bottleneck (EfficientNetV2, arXiv 2104.00298): dense convolution that expands, linear projection.

    One dense convolution takes the place of expansion and depthwise convolution. Engines do several times as many INT8
    operations a second in it as in a depthwise one.
    """

    family = 'fused'

    def build_layers(self, in_channels: int, row: BlockSpec, dilation: int, cfg: ConfigDict) -> None:
        """Make the layers; see the base class."""
        hidden = in_channels * row.expansion
        padding = row.kernel // 2 * dilation
        self.expand = ConvModule(
            in_channels, hidden, row.kernel, stride=row.stride, padding=padding, dilation=dilation, **cfg
        )
        self.project = ConvModule(hidden, row.channels, 1, norm_cfg=cfg['norm_cfg'], act_cfg=None)

    def transform(self, x: Tensor) -> Tensor:
        """Expand and project."""
        return self.project(self.expand(x))


def block_class(row: BlockSpec, place: str = 'kind') -> type[Bottleneck]:
    """The class of a block.

    Args:
        row (BlockSpec): The block.
        place (str): Where it stands, for the message.

    Raises:
        ValueError: There is no such kind, or it has no squeeze but a reduction.
    """
    BLOCKS.import_from_location()
    kinds = BLOCKS.module_dict
    if row.kind not in kinds:
        raise ValueError(
            f'{place}.kind={row.kind!r}: expected one of {", ".join(map(repr, kinds))}; the class of another kind '
            'registers itself in frostnet_mm.registry.BLOCKS and is imported by custom_imports of the config.'
        )
    kind = kinds[row.kind]
    if row.reduction is not None and not kind.squeezes:
        raise ValueError(
            f'{place}.reduction={row.reduction!r}: expected None, as blocks of kind {row.kind!r} have no squeeze.'
        )
    return kind


def check_kinds(arch: FrostNetArch) -> None:
    """Check the kinds of all blocks of an architecture, as :func:`block_class` does."""
    for index, stage in enumerate(arch.stages):
        for number, row in enumerate(stage):
            block_class(row, f'arch.stages[{index}][{number}]')


def build_block(in_channels: int, row: BlockSpec, dilation: int = 1, **options) -> Bottleneck:
    """The block of a row.

    Args:
        in_channels (int): Channels of its input.
        row (BlockSpec): What it is, with its own number of output channels.
        dilation (int): Dilation. Default: 1.
        options: ``with_cp``, ``norm_cfg``, ``act_cfg`` and ``init_cfg``.
    """
    kernel, channels, expansion, reduction, stride, _ = row
    return block_class(row)(in_channels, channels, kernel, expansion, reduction, stride, dilation, **options)


def placed_rows(arch: FrostNetArch, output_stride: int) -> list[list[tuple[int, BlockSpec, int]]]:
    """What each block of an architecture is built with, whose channels are final.

    Args:
        arch (FrostNetArch): The architecture.
        output_stride (int): Largest stride; blocks beyond it are dilated in its place.

    Returns:
        list[list[tuple[int, BlockSpec, int]]]: By stage and block the input channels, the row with the stride that
        remains, and the dilation.
    """
    channels, stride, dilation, stages = arch.stem, arch.stem_stride, 1, []
    for stage in arch.stages:
        placed = []
        for row in stage:
            if stride * row.stride > output_stride:
                placed.append((channels, row._replace(stride=1), dilation))
                dilation *= row.stride
            else:
                placed.append((channels, row, dilation))
                stride *= row.stride
            channels = row.channels
        stages.append(placed)
    return stages
