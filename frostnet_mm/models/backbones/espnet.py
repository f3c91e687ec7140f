"""ESPNet, https://arxiv.org/abs/1803.06815."""

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import ESP, NormAct, channelwise

ConfigDict = dict
CHANNELS = (16, 64, 128)  # of the three levels, before the concatenations
IMAGE_CHANNELS = 3


@MODELS.register_module()
class ESPNet(BaseModule):
    """Encoder of `ESPNet <https://arxiv.org/abs/1803.06815>`_.

    A 3x3 stem of stride 2 and two levels of ESP blocks, each begun by a strided one. The pooled image joins the first
    two levels, the output of the strided block that of its level. The maps have 19, 131 and 256 channels and strides
    2, 4 and 8.

    Args:
        p (int): ESP blocks of the second level. Default: 2.
        q (int): ESP blocks of the third level; the authors use 3, 5 and 8. Default: 8.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN', eps=1e-3), the authors' eps.
        act_cfg (dict): Config of the activation layers; dict(type='PReLU') is the authors', with one slope a channel.
            Default: dict(type='ReLU').
        init_cfg (dict | list[dict], optional): Initialization config. Default: Kaiming normal for convolutions, 1 and
            0 for normalization.

    Raises:
        ValueError: ``p`` or ``q`` is not a number of blocks.

    Examples:
        >>> import torch
        >>> from frostnet_mm import ESPNet
        >>> [tuple(f.shape) for f in ESPNet()(torch.rand(1, 3, 64, 128))]
        [(1, 19, 32, 64), (1, 131, 16, 32), (1, 256, 8, 16)]
    """

    def __init__(
        self,
        p: int = 2,
        q: int = 8,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
    ) -> None:
        for name, value in (('p', p), ('q', q)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f'ESPNet got {name}={value!r}: expected a number of ESP blocks, 1 or more (p=2, q=8).')
        super().__init__(
            init_cfg
            or [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1)]
        )
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN', eps=1e-3), act_cfg=act_cfg or dict(type='ReLU'))
        stem, middle, last = CHANNELS
        self.out_channels = (stem + IMAGE_CHANNELS, 2 * middle + IMAGE_CHANNELS, 2 * last)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.stem = ConvModule(
            IMAGE_CHANNELS,
            stem,
            3,
            stride=2,
            padding=1,
            norm_cfg=cfg['norm_cfg'],
            act_cfg=channelwise(cfg['act_cfg'], stem),
        )
        self.joins = nn.ModuleList(NormAct(channels, **cfg) for channels in self.out_channels)
        self.downs = nn.ModuleList(
            ESP(in_channels, channels, stride=2, **cfg)
            for in_channels, channels in zip(self.out_channels[:2], CHANNELS[1:], strict=True)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(*(ESP(channels, channels, **cfg) for _ in range(blocks)))
            for blocks, channels in zip((p, q), CHANNELS[1:], strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Extract features.

        Args:
            x (Tensor): Images, (N, 3, H, W).

        Returns:
            tuple[Tensor]: Maps of 19, 131 and 256 channels at strides 2, 4 and 8.
        """
        half = self.pool(x)
        fine = self.joins[0](torch.cat((self.stem(x), half), dim=1))
        down = self.downs[0](fine)
        middle = self.joins[1](torch.cat((self.levels[0](down), down, self.pool(half)), dim=1))
        down = self.downs[1](middle)
        coarse = self.joins[2](torch.cat((down, self.levels[1](down)), dim=1))
        return fine, middle, coarse
