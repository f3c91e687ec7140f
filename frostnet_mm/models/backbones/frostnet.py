"""FrostNet, https://arxiv.org/abs/2006.09679."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.utils.checkpoint as cp
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS
from ..checkpoints import load_pretrained
from .staged import StagedBackbone


class BlockSpec(NamedTuple):
    """One row of a FrostNet table: kernel size, output channels at width 1, expansion, squeeze reduction, stride."""

    kernel: int
    channels: int
    expansion: int
    reduction: int
    stride: int


def _rows(*rows: tuple[int, int, int, int, int]) -> tuple[BlockSpec, ...]:
    return tuple(BlockSpec(*row) for row in rows)


# The five stages of each variant as in the authors' release, which fits the released weights. (The paper's table
# prints 5x5 kernels in the early blocks of "large" where the release has 3x3.)
ARCHS: dict[str, tuple[tuple[BlockSpec, ...], ...]] = {
    'small': (
        _rows((3, 16, 1, 1, 1), (5, 24, 3, 4, 2), (3, 24, 3, 4, 1)),
        _rows((5, 40, 3, 4, 2)),
        _rows(
            (5, 80, 3, 4, 2), (5, 80, 3, 4, 1), (3, 80, 3, 4, 1), (5, 96, 3, 2, 1), (5, 96, 3, 4, 1), (5, 96, 3, 4, 1)
        ),
        _rows((5, 192, 6, 4, 2), (5, 192, 6, 4, 1), (5, 192, 6, 4, 1)),
        _rows((5, 320, 6, 2, 1)),
    ),
    'base': (
        _rows((3, 16, 1, 1, 1), (5, 24, 6, 4, 2), (3, 24, 3, 4, 1)),
        _rows((5, 40, 3, 4, 2), (5, 40, 3, 4, 1)),
        _rows(
            (5, 80, 3, 4, 2), (3, 80, 3, 4, 1), (5, 96, 3, 2, 1), (3, 96, 3, 4, 1), (5, 96, 3, 4, 1), (5, 96, 3, 4, 1)
        ),
        _rows((5, 192, 6, 2, 2), (5, 192, 3, 2, 1), (5, 192, 3, 2, 1), (5, 192, 3, 2, 1)),
        _rows((5, 320, 6, 2, 1)),
    ),
    'large': (
        _rows((3, 16, 1, 1, 1), (3, 24, 6, 4, 2), (3, 24, 3, 4, 1)),
        _rows((5, 40, 6, 4, 2), (3, 40, 3, 4, 1)),
        _rows(
            (5, 80, 6, 4, 2),
            (5, 80, 3, 4, 1),
            (5, 80, 3, 4, 1),
            (5, 96, 6, 4, 1),
            (5, 96, 3, 4, 1),
            (3, 96, 3, 4, 1),
            (3, 96, 3, 4, 1),
        ),
        _rows((5, 192, 6, 2, 2), (5, 192, 6, 4, 1), (5, 192, 6, 4, 1), (5, 192, 3, 4, 1), (5, 192, 3, 4, 1)),
        _rows((5, 320, 6, 2, 1)),
    ),
}
NUM_STAGES = 5
STEM_CHANNELS = 32
MIN_SQUEEZE_CHANNELS = 8  # a narrower squeeze is left out: the block is then a plain inverted bottleneck

ConfigDict = dict


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


class FrostBottleneck(BaseModule):
    """Frost bottleneck: squeeze, concatenate with the input, expand, depthwise convolution, linear projection.

    ``expansion == 1`` leaves out squeeze and expansion; ``in_channels // reduction < 8`` leaves out the squeeze.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Kernel of the depthwise convolution, odd.
        expansion (int): Expansion of the channels after the concatenation.
        reduction (int): Ratio of input channels to squeezed channels.
        stride (int): Stride of the depthwise convolution.
        dilation (int): Dilation of the depthwise convolution. Default: 1.
        with_cp (bool): Trade computation for memory with gradient checkpointing. Default: False.
        norm_cfg (dict): Config of the normalization layers.
        act_cfg (dict): Config of the activation layers.
        init_cfg (dict | list[dict], optional): Initialization config.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        expansion: int,
        reduction: int,
        stride: int,
        dilation: int = 1,
        with_cp: bool = False,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or dict(type='BN')
        act_cfg = act_cfg or dict(type='ReLU')
        self.with_cp = with_cp
        self.with_residual = stride == 1 and in_channels == out_channels
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)

        hidden = in_channels
        self.squeeze: ConvModule | None = None
        self.expand: ConvModule | None = None
        if expansion != 1:
            if in_channels // reduction >= MIN_SQUEEZE_CHANNELS:
                squeezed = divisible(in_channels // reduction)
                self.squeeze = ConvModule(in_channels, squeezed, 1, **cfg)
                hidden += squeezed
            self.expand = ConvModule(hidden, hidden * expansion, 1, **cfg)
            hidden *= expansion
        self.depthwise = ConvModule(
            hidden,
            hidden,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=hidden,
            **cfg,
        )
        self.project = ConvModule(hidden, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def _forward(self, x: Tensor) -> Tensor:
        out = x
        if self.squeeze is not None:
            out = torch.cat((self.squeeze(x), x), dim=1)  # squeezed channels first, as in the released weights
        if self.expand is not None:
            out = self.expand(out)
        out = self.project(self.depthwise(out))
        return x + out if self.with_residual else out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)


@MODELS.register_module()
class FrostNet(StagedBackbone):
    """FrostNet feature extractor of `FrostNet <https://arxiv.org/abs/2006.09679>`_.

    A 3x3 stem of stride 2 and five stages of Frost bottlenecks whose outputs have strides 4, 8, 16, 32 and 32. Plain
    float code: quantization is applied to the exported network, not here.

    Args:
        arch (str): 'small', 'base' or 'large'. Default: 'small'.
        widen_factor (float): Width multiplier of all channels; the authors use 0.35, 0.5, 0.75, 1.0 and 1.25.
            Default: 1.0.
        out_indices (Sequence[int]): Stages whose outputs are returned, 0 to 4. Later stages than the last one named are
            not built. Default: (0, 1, 2, 4), strides 4, 8, 16 and 32.
        output_stride (int): Stride of the last stage: 32, 16 (stages 3 and 4 are dilated) or 8 (stages 2 to 4). A
            block that loses its stride keeps the dilation of its input, so that the dilated network sampled at every
            second (fourth) position computes exactly what the network of stride 32 does, with the same weights.
            Default: 32.
        frozen_stages (int): Stages frozen (no gradients, BN in eval mode): -1 none, 0 the stem, n the stem and the
            first n stages. Default: -1.
        norm_eval (bool): Keep all normalization layers in eval mode while training. Default: False.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN'), whose eps of 1e-5 is that of the
            released weights.
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
        with_cp (bool): Gradient checkpointing in every bottleneck. Default: False.
        init_cfg (dict | list[dict], optional): Initialization config. Default: Kaiming normal (fan out) for
            convolutions, 1 and 0 for normalization. ``dict(type='Pretrained', checkpoint=FILE)`` reads an mm
            checkpoint or a file of the authors' release alike.

    Raises:
        ValueError: An argument is outside of what is listed above.

    Examples:
        >>> import torch
        >>> from frostnet_mm import FrostNet
        >>> [tuple(f.shape) for f in FrostNet('small')(torch.rand(1, 3, 224, 224))]
        [(1, 24, 56, 56), (1, 40, 28, 28), (1, 96, 14, 14), (1, 320, 7, 7)]
    """

    def __init__(
        self,
        arch: str = 'small',
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (0, 1, 2, 4),
        output_stride: int = 32,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        with_cp: bool = False,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
    ) -> None:
        _check_arguments(arch, widen_factor, out_indices, output_stride, frozen_stages)
        super().__init__(
            init_cfg
            or [
                dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
            ]
        )
        self.arch = arch
        self.widen_factor = widen_factor
        self.out_indices = tuple(out_indices)
        self.output_stride = output_stride
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))

        channels = divisible(STEM_CHANNELS * min(1.0, widen_factor))
        self.stem = ConvModule(3, channels, 3, stride=2, padding=1, **cfg)
        self.stages = nn.ModuleList()
        self.out_channels: tuple[int, ...] = ()
        stride, dilation = 2, 1
        for specs in ARCHS[arch][: max(self.out_indices) + 1]:
            blocks = []
            for spec in specs:
                if stride * spec.stride > output_stride:
                    block_stride, block_dilation = 1, dilation
                    dilation *= spec.stride
                else:
                    block_stride, block_dilation = spec.stride, dilation
                    stride *= spec.stride
                out_channels = divisible(int(spec.channels * widen_factor))
                blocks.append(
                    FrostBottleneck(
                        channels,
                        out_channels,
                        spec.kernel,
                        spec.expansion,
                        spec.reduction,
                        block_stride,
                        block_dilation,
                        with_cp=with_cp,
                        **cfg,
                    )
                )
                channels = out_channels
            self.stages.append(nn.Sequential(*blocks))
            self.out_channels += (channels,)
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x (Tensor): Images, (N, 3, H, W).

        Returns:
            tuple[Tensor]: The outputs of the stages in ``out_indices``, (N, C, ceil(H / stride), ceil(W / stride)).
        """
        x = self.stem(x)
        outs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def init_weights(self) -> None:
        """Initialize the weights as ``init_cfg`` says; checkpoints of the authors' release are read as they are."""
        if isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained':
            load_pretrained(self, self.init_cfg['checkpoint'], prefix=self.init_cfg.get('prefix'))
            self._is_init = True
        else:
            super().init_weights()


def _check_arguments(
    arch: str, widen_factor: float, out_indices: Sequence[int], output_stride: int, frozen_stages: int
) -> None:
    if arch not in ARCHS:
        raise ValueError(f'FrostNet has no arch={arch!r}: choose one of {", ".join(map(repr, ARCHS))}.')
    if isinstance(widen_factor, bool) or not isinstance(widen_factor, (int, float)) or not 0 < widen_factor <= 8:
        raise ValueError(
            f'widen_factor={widen_factor!r} is not a width: give a number above 0 (at most 8), '
            'for example 0.35, 0.5, 0.75, 1.0 or 1.25.'
        )
    indices = tuple(out_indices) if isinstance(out_indices, Sequence) else ()
    if (
        not indices
        or any(not isinstance(i, int) or not 0 <= i < NUM_STAGES for i in indices)
        or list(indices) != sorted(set(indices))
    ):
        raise ValueError(
            f'out_indices={out_indices!r} must name stages 0 to {NUM_STAGES - 1} (strides 4, 8, 16, 32, 32) '
            'in ascending order, each once, for example (2, 4).'
        )
    if output_stride not in (32, 16, 8):
        raise ValueError(f'output_stride={output_stride!r} must be 32, 16 or 8.')
    if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= max(indices) + 1:
        raise ValueError(
            f'frozen_stages={frozen_stages!r} must lie between -1 (nothing frozen) and {max(indices) + 1} '
            f'(the stem and all stages up to the last of out_indices={indices}).'
        )
