"""The efficient spatial pyramid of ESPNet, https://arxiv.org/abs/1803.06815."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from .norm_act import NormAct

ConfigDict = dict
DILATIONS = (1, 2, 4, 8, 16)


class ESP(BaseModule):
    """Efficient spatial pyramid: reduce to a fifth of the channels, five dilated 3x3 convolutions, hierarchical sums.

    From the dilation of 4 on, each branch is added to the one before (hierarchical feature fusion), which removes the
    grid artifacts of dilation. With stride 1 and as many channels in as out the input is added.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output, 5 or more; the branch without dilation has the remainder of the
            division by 5 as well.
        stride (int): Stride of the reduction: 1 (1x1 convolution) or 2 (3x3). Default: 1.
        norm_cfg (dict): Config of the normalization layer. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layer. Default: dict(type='ReLU').

    Raises:
        ValueError: There are fewer channels than branches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
    ) -> None:
        super().__init__()
        width = out_channels // len(DILATIONS)
        if width == 0:
            raise ValueError(f'ESP got out_channels={out_channels}: expected {len(DILATIONS)} or more, one a branch.')
        self.with_residual = stride == 1 and in_channels == out_channels
        kernel = 1 if stride == 1 else 3
        self.reduce = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
        first = out_channels - width * (len(DILATIONS) - 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, first if dilation == 1 else width, 3, 1, dilation, dilation, bias=False)
            for dilation in DILATIONS
        )
        self.norm_act = NormAct(out_channels, norm_cfg or dict(type='BN'), act_cfg or dict(type='ReLU'))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        reduced = self.reduce(x)
        plain, *dilated = self.branches
        fused = [dilated[0](reduced)]
        for branch in dilated[1:]:
            fused.append(fused[-1] + branch(reduced))
        out = torch.cat((plain(reduced), *fused), dim=1)
        return self.norm_act(x + out if self.with_residual else out)
