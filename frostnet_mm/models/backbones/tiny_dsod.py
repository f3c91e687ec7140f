"""Tiny-DSOD, https://arxiv.org/abs/1807.11013."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS
from .staged import StagedBackbone, require_stages

ConfigDict = dict


class StageSpec(NamedTuple):
    """One row of the table: dense blocks, channels that each adds, channels after the transition, whether it pools."""

    blocks: int
    growth: int
    channels: int
    pool: bool


STAGES = (
    StageSpec(4, 32, 128, True),
    StageSpec(6, 48, 128, True),
    StageSpec(6, 64, 256, False),
    StageSpec(6, 80, 64, False),
)
STEM_CHANNELS = (64, 128)


class DepthwiseDenseBlock(BaseModule):
    """Depthwise dense block (DDB-b of the paper): 1x1 and 3x3 depthwise convolution, concatenated with the input.

    Args:
        in_channels (int): Channels of the input.
        growth (int): Channels added to it.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
        init_cfg (dict | list[dict], optional): Initialization config.
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))
        self.pointwise = ConvModule(in_channels, growth, 1, **cfg)
        self.depthwise = ConvModule(growth, growth, 3, padding=1, groups=growth, **cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, growth + in_channels, H, W), the new channels first."""
        return torch.cat((self.depthwise(self.pointwise(x)), x), dim=1)


@MODELS.register_module()
class TinyDSODBackbone(StagedBackbone):
    """Feature extractor of `Tiny-DSOD <https://arxiv.org/abs/1807.11013>`_.

    A stem of stride 4 and four stages of depthwise dense blocks, each closed by a transition (1x1 convolution, and in
    the first two stages max pooling), so that the stages have strides 8, 16, 16 and 16. All pools round up.

    Args:
        out_indices (Sequence[int]): Stages whose outputs are returned, 0 to 3. Later stages than the last one named are
            not built. Default: (0, 3), what D-FPN takes: 128 channels of stride 8 and 64 of stride 16.
        frozen_stages (int): Stages frozen (no gradients, BN in eval mode): -1 none, 0 the stem, n the stem and the
            first n stages. Default: -1.
        norm_eval (bool): Keep all normalization layers in eval mode while training. Default: False.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
        init_cfg (dict | list[dict], optional): Initialization config. Default: Kaiming normal (fan out) for
            convolutions, 1 and 0 for normalization.

    Attributes:
        out_channels (tuple[int]): Channels of every stage that is built.

    Raises:
        ValueError: ``out_indices`` or ``frozen_stages`` is outside of what is listed above.

    Examples:
        >>> import torch
        >>> from frostnet_mm import TinyDSODBackbone
        >>> [tuple(f.shape) for f in TinyDSODBackbone()(torch.rand(1, 3, 300, 300))]
        [(1, 128, 38, 38), (1, 64, 19, 19)]
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (0, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
    ) -> None:
        _check_arguments(out_indices, frozen_stages)
        super().__init__(
            init_cfg
            or [
                dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
            ]
        )
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))

        narrow, channels = STEM_CHANNELS
        self.stem = nn.Sequential(
            ConvModule(3, narrow, 3, stride=2, padding=1, **cfg),
            ConvModule(narrow, narrow, 1, **cfg),
            ConvModule(narrow, narrow, 3, padding=1, groups=narrow, **cfg),
            ConvModule(narrow, channels, 1, **cfg),
            ConvModule(channels, channels, 3, padding=1, groups=channels, **cfg),
            _pool(),
        )
        self.stages = nn.ModuleList()
        self.out_channels: tuple[int, ...] = ()
        for spec in STAGES[: max(self.out_indices) + 1]:
            layers: list[nn.Module] = []
            for _ in range(spec.blocks):
                layers.append(DepthwiseDenseBlock(channels, spec.growth, **cfg))
                channels += spec.growth
            layers.append(ConvModule(channels, spec.channels, 1, **cfg))
            if spec.pool:
                layers.append(_pool())
            self.stages.append(nn.Sequential(*layers))
            channels = spec.channels
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


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(2, 2, ceil_mode=True)  # up, as strided convolutions with padding do


def _check_arguments(out_indices: Sequence[int], frozen_stages: int) -> None:
    indices = require_stages(out_indices, len(STAGES), (0, 3))  # D-FPN's
    if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= max(indices) + 1:
        raise ValueError(
            f'frozen_stages={frozen_stages!r} must lie between -1 (nothing frozen) and {max(indices) + 1} '
            f'(the stem and all stages up to the last of out_indices={indices}).'
        )
