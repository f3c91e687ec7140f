"""The extremely efficient spatial pyramid of ESPNetv2, https://arxiv.org/abs/1811.11431."""

import torch
from mmcv.cnn import ConvModule, build_activation_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from .norm_act import NormAct, channelwise

ConfigDict = dict
BRANCHES = 4


def branch_dilations(receptive_field: int) -> tuple[int, ...]:
    """Dilations of the 3x3 convolutions that see 3, 5, 7 and 9 pixels; those over the limit see 3. Ascending."""
    sizes = [3 + 2 * branch for branch in range(BRANCHES)]
    return tuple(sorted((size - 1) // 2 if size <= receptive_field else 1 for size in sizes))


class EESP(BaseModule):
    """Extremely efficient spatial pyramid: grouped 1x1, four dilated depthwise branches, grouped 1x1.

    Each branch is added to the next one (hierarchical feature fusion), which removes the grid artifacts of dilation.
    With stride 1 and as many channels in as out the input is added; a strided block ends without an activation, which
    is for :class:`EESPDown` to apply.

    Args:
        in_channels (int): Channels of the input, a multiple of 4.
        out_channels (int): Channels of the output, a multiple of 16: four groups in each of four branches.
        receptive_field (int): Largest side, in pixels of the input, that a branch may see.
        stride (int): Stride of the branches. Default: 1.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').

    Raises:
        ValueError: The channels cannot be divided into groups and branches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        receptive_field: int,
        stride: int = 1,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
    ) -> None:
        super().__init__()
        if in_channels % BRANCHES or out_channels % BRANCHES**2:
            raise ValueError(
                f'EESP got in_channels={in_channels} and out_channels={out_channels}: expected multiples of '
                f'{BRANCHES} and {BRANCHES**2}, for {BRANCHES} groups in each of {BRANCHES} branches.'
            )
        norm_cfg = norm_cfg or dict(type='BN')
        act_cfg = act_cfg or dict(type='ReLU')
        width = out_channels // BRANCHES
        self.with_residual = stride == 1 and in_channels == out_channels
        self.reduce = ConvModule(
            in_channels, width, 1, groups=BRANCHES, norm_cfg=norm_cfg, act_cfg=channelwise(act_cfg, width)
        )
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride, dilation, dilation, groups=width, bias=False)
            for dilation in branch_dilations(receptive_field)
        )
        self.norm_act = NormAct(out_channels, norm_cfg, act_cfg)
        self.expand = ConvModule(out_channels, out_channels, 1, groups=BRANCHES, norm_cfg=norm_cfg, act_cfg=None)
        self.activate = build_activation_layer(channelwise(act_cfg, out_channels)) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        reduced = self.reduce(x)
        fused = [self.branches[0](reduced)]
        for branch in self.branches[1:]:
            fused.append(branch(reduced) + fused[-1])
        out = self.expand(self.norm_act(torch.cat(fused, dim=1)))
        if self.with_residual:
            out = x + out
        return out if self.activate is None else self.activate(out)


class EESPDown(BaseModule):
    """Strided EESP beside average pooling, and a shortcut from the image (input reinforcement).

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output; the pooled input is ``in_channels`` of them.
        receptive_field (int): As for :class:`EESP`.
        image_channels (int): Channels of the image. Default: 3.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        receptive_field: int,
        image_channels: int = 3,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        act_cfg = act_cfg or dict(type='ReLU')
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.eesp = EESP(in_channels, out_channels - in_channels, receptive_field, 2, norm_cfg, act_cfg)
        self.reinforce = nn.Sequential(
            ConvModule(
                image_channels,
                image_channels,
                3,
                padding=1,
                norm_cfg=norm_cfg,
                act_cfg=channelwise(act_cfg, image_channels),
            ),
            ConvModule(image_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None),
        )
        self.activate = build_activation_layer(channelwise(act_cfg, out_channels))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Halve a map.

        Args:
            x (Tensor): (N, in_channels, H, W).
            image (Tensor): The image, pooled to (N, 3, ceil(H / 2), ceil(W / 2)).

        Returns:
            Tensor: (N, out_channels, ceil(H / 2), ceil(W / 2)).
        """
        out = torch.cat((self.pool(x), self.eesp(x)), dim=1)
        return self.activate(out + self.reinforce(image))


class PyramidPooling(BaseModule):
    """ESPNetv2's pyramid pooling: the map at strides 2, 4, 8 and 16, each through a depthwise 3x3, beside the map.

    Args:
        channels (int): Channels of the input and the output.
        num_levels (int): Number of halvings. Default: 4.
        align_corners (bool): Of the bilinear resizing. Default: False.
        norm_cfg (dict): Config of the normalization layer. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layer. Default: dict(type='ReLU').
    """

    def __init__(
        self,
        channels: int,
        num_levels: int = 4,
        align_corners: bool = False,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.levels = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False) for _ in range(num_levels)
        )
        self.project = ConvModule(
            (num_levels + 1) * channels,
            channels,
            1,
            norm_cfg=norm_cfg or dict(type='BN'),
            act_cfg=channelwise(act_cfg or dict(type='ReLU'), channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        outs, pooled = [x], x
        for level in self.levels:
            pooled = self.pool(pooled)
            outs.append(
                F.interpolate(level(pooled), size=x.shape[2:], mode='bilinear', align_corners=self.align_corners)
            )
        return self.project(torch.cat(outs, dim=1))
