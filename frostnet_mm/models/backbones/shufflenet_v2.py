"""ShuffleNetV2, https://arxiv.org/abs/1807.11164."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS
from .staged import StagedBackbone, require_stages

__all__ = ['ShuffleNetV2']

#: Output channels of the three stages by width, of Table 5.
CHANNELS = {0.5: (48, 96, 192), 1.0: (116, 232, 464), 1.5: (176, 352, 704), 2.0: (244, 488, 976)}
BLOCKS, STEM_CHANNELS = (4, 8, 4), 24


def channel_shuffle(x: Tensor) -> Tensor:
    """Have the channels of two halves alternate.

    Args:
        x (Tensor): (N, C, H, W), C even.

    Returns:
        Tensor: Of the same shape: channel 0, C / 2, 1, C / 2 + 1 and so on.
    """
    batch, channels, height, width = x.shape
    return x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class ShuffleUnit(BaseModule):
    """A unit of ShuffleNetV2 (Figure 3 c and d).

    At stride 1 half of the channels pass, the others go through 1x1, depthwise 3x3 and 1x1 convolutions; at stride 2
    both branches see all channels. The branches are concatenated, and their channels shuffled.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output; at stride 1 those of the input.
        stride (int): 1 or 2.
        norm_cfg (dict): Config of the normalization layers.
        act_cfg (dict): Config of the activation layers.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        half, cfg = out_channels // 2, dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.stride = stride
        depthwise = dict(stride=stride, padding=1, norm_cfg=norm_cfg, act_cfg=None)
        self.branch1 = None
        if stride == 2:
            self.branch1 = nn.Sequential(
                ConvModule(in_channels, in_channels, 3, groups=in_channels, **depthwise),
                ConvModule(in_channels, half, 1, **cfg),
            )
        self.branch2 = nn.Sequential(
            ConvModule(in_channels if stride == 2 else half, half, 1, **cfg),
            ConvModule(half, half, 3, groups=half, **depthwise),
            ConvModule(half, half, 1, **cfg),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.branch1 is None:
            passed, changed = x.chunk(2, dim=1)
            return channel_shuffle(torch.cat((passed, self.branch2(changed)), dim=1))
        return channel_shuffle(torch.cat((self.branch1(x), self.branch2(x)), dim=1))


@MODELS.register_module()
class ShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 (`Ma et al. 2018 <https://arxiv.org/abs/1807.11164>`_), without its last 1x1 convolution.

    That has 1024 channels (2048 at width 2), and is a head's: ``frostnet_mm.ClsHead(hidden_channels=1024)``.

    Args:
        widen_factor (float): 0.5, 1.0, 1.5 or 2.0. Default: 1.0.
        out_indices (Sequence[int]): Stages whose outputs are returned, of strides 8, 16 and 32. Default: (2, ).
        frozen_stages (int): Stages frozen: -1 none, 0 the stem, n the stem and the first n stages. Default: -1.
        norm_eval (bool): Keep all normalization layers in eval mode while training. Default: False.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
        init_cfg (dict | list[dict], optional): Initialization config. Default: Kaiming normal (fan out).
        in_channels (int): Channels of the images. Default: 3.

    Raises:
        ValueError: An argument is outside of what is listed above.
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (2,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
        in_channels: int = 3,
    ) -> None:
        if widen_factor not in CHANNELS:
            raise ValueError(f'widen_factor={widen_factor!r}, expected one of {", ".join(map(str, CHANNELS))}.')
        require_stages(out_indices, 3, (1, 2), (8, 16, 32))
        if not -1 <= frozen_stages <= len(BLOCKS):
            raise ValueError(f'frozen_stages={frozen_stages!r}, expected -1 to {len(BLOCKS)}.')
        default = [
            dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
            dict(type='Constant', layer='_BatchNorm', val=1),
        ]
        super().__init__(init_cfg or default)
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))
        self.stem = nn.Sequential(
            ConvModule(in_channels, STEM_CHANNELS, 3, stride=2, padding=1, **cfg), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.stages, channels = nn.ModuleList(), STEM_CHANNELS
        for index in range(max(self.out_indices) + 1):
            out = CHANNELS[widen_factor][index]
            units = [
                ShuffleUnit(out if unit else channels, out, 1 if unit else 2, **cfg) for unit in range(BLOCKS[index])
            ]
            self.stages.append(nn.Sequential(*units))
            channels = out
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x (Tensor): Images, (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: The outputs of the stages in ``out_indices``, (N, C, ceil(H / stride), ceil(W / stride)).
        """
        x, outs = self.stem(x), []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)
