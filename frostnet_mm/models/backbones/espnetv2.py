"""ESPNetv2, https://arxiv.org/abs/1811.11431."""

import math
from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import EESP, EESPDown, channelwise
from .staged import require_stages

ConfigDict = dict
BASE_CHANNELS = 32
NUM_LEVELS = 4
# Receptive field limits of the downsampling block and of the blocks after it, and the number of the latter
LEVELS = ((13, 0, 0), (11, 9, 3), (9, 7, 7))


def espnetv2_channels(widen_factor: float) -> tuple[int, ...]:
    """Channels of the four levels: 32, 64, 128 and 256 at width 1; the first level never has more than 32."""
    base = 4 * math.ceil(BASE_CHANNELS * widen_factor / 4)
    return (min(BASE_CHANNELS, base), 2 * base, 4 * base, 8 * base)


@MODELS.register_module()
class ESPNetv2(BaseModule):
    """Encoder of `ESPNetv2 <https://arxiv.org/abs/1811.11431>`_ for segmentation.

    A 3x3 stem of stride 2 and three levels of EESP blocks, each begun by a downsampling block that also reads the
    image pooled to its size.

    Args:
        widen_factor (float): Width multiplier; the authors use 0.5, 1.0, 1.5 and 2.0. Default: 1.0.
        out_indices (Sequence[int]): Levels whose outputs are returned, 0 to 3 (strides 2, 4, 8 and 16). Levels after
            the last one named are not built. Default: (0, 1, 2, 3).
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers; dict(type='PReLU') is the authors', with one slope a channel.
            Default: dict(type='ReLU').
        init_cfg (dict | list[dict], optional): Initialization config. Default: Kaiming normal for convolutions, 1 and
            0 for normalization.

    Raises:
        ValueError: An argument is outside of what is listed above.

    Examples:
        >>> import torch
        >>> from frostnet_mm import ESPNetv2
        >>> [tuple(f.shape) for f in ESPNetv2()(torch.rand(1, 3, 64, 128))]
        [(1, 32, 32, 64), (1, 64, 16, 32), (1, 128, 8, 16), (1, 256, 4, 8)]
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
    ) -> None:
        _check_arguments(widen_factor, out_indices)
        super().__init__(
            init_cfg
            or [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1)]
        )
        norm_cfg = norm_cfg or dict(type='BN')
        act_cfg = act_cfg or dict(type='ReLU')
        self.widen_factor = widen_factor
        self.out_indices = tuple(out_indices)
        last = max(self.out_indices)
        self.out_channels = channels = espnetv2_channels(widen_factor)[: last + 1]
        self.stem = ConvModule(
            3, channels[0], 3, stride=2, padding=1, norm_cfg=norm_cfg, act_cfg=channelwise(act_cfg, channels[0])
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.downs = nn.ModuleList()
        self.levels = nn.ModuleList()
        for level, (down_field, field, repeats) in enumerate(LEVELS[:last]):
            width = channels[level + 1]
            self.downs.append(EESPDown(channels[level], width, down_field, norm_cfg=norm_cfg, act_cfg=act_cfg))
            self.levels.append(
                nn.Sequential(*(EESP(width, width, field, 1, norm_cfg, act_cfg) for _ in range(repeats)))
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x (Tensor): Images, (N, 3, H, W).

        Returns:
            tuple[Tensor]: The outputs of the levels in ``out_indices``, (N, C, ceil(H / stride), ceil(W / stride)).
        """
        image = self.pool(x)
        outs = [self.stem(x)]
        for down, level in zip(self.downs, self.levels, strict=True):
            image = self.pool(image)
            outs.append(level(down(outs[-1], image)))
        return tuple(outs[index] for index in self.out_indices)


def _check_arguments(widen_factor: float, out_indices: Sequence[int]) -> None:
    if isinstance(widen_factor, bool) or not isinstance(widen_factor, (int, float)) or not 0 < widen_factor <= 8:
        raise ValueError(
            f'widen_factor={widen_factor!r} is not a width: give a number above 0 (at most 8), '
            'for example 0.5, 1.0, 1.5 or 2.0.'
        )
    first, second = espnetv2_channels(widen_factor)[:2]
    if (second - first) % 16 or second % 16:
        raise ValueError(
            f'widen_factor={widen_factor!r} gives levels of {first} and {second} channels, whose difference cannot be '
            'divided into 4 branches of 4 groups: give a multiple of 0.5, or of 0.25 above 1.'
        )
    require_stages(out_indices, NUM_LEVELS, (0, 1, 2, 3), (2, 4, 8, 16), 'levels')
