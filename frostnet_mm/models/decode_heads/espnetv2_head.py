"""Decoder of ESPNetv2, https://arxiv.org/abs/1811.11431."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import MODELS
from ..layers import EESP, NormAct, PyramidPooling, channelwise

RECEPTIVE_FIELD = 7  # limit of the EESP


@MODELS.register_module()
class ESPNetv2Head(BaseDecodeHead):
    """Decoder of `ESPNetv2 <https://arxiv.org/abs/1811.11431>`_ over feature maps of any backbone, fine to coarse.

    The two coarsest maps are fused by an EESP and a pyramid pooling; every finer one is concatenated with what came
    from below, at as many channels as there are classes. The logits have the size of the finest map; mmseg resizes them
    to the labels. In the original the four maps have strides 2, 4, 8 and 16; of FrostNet take 4, 8, 16 and 32.

    Args:
        in_channels (Sequence[int]): Channels of the feature maps, fine to coarse; three or more.
        channels (int): Channels where the two coarsest maps are fused, a multiple of 16; in the original those of the
            second coarsest map.
        in_index (Sequence[int]): Indices of the feature maps, fine to coarse. Default: all of them in their order.
        fine_channels (int, optional): Channels of what is carried to the finer maps. Default: the number of classes.
        kwargs: As for mmseg's ``BaseDecodeHead``: num_classes, dropout_ratio, norm_cfg, act_cfg (dict(type='PReLU')
            has one slope a channel), align_corners, loss_decode, sampler and so on. The classifier has no bias.

    Raises:
        ValueError: There are fewer than three maps, ``in_index`` does not fit them, or the channels cannot be divided.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        in_index: Sequence[int] | None = None,
        fine_channels: int | None = None,
        norm_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        in_index = tuple(range(len(in_channels))) if in_index is None else tuple(in_index)
        if len(in_channels) < 3 or len(in_index) != len(in_channels):
            raise ValueError(
                f'ESPNetv2Head got in_channels={tuple(in_channels)} and in_index={in_index}: expected the channels and '
                'the index of three feature maps or more, fine to coarse.'
            )
        super().__init__(
            in_channels,
            channels,
            in_index=in_index,
            input_transform='multiple_select',
            norm_cfg=norm_cfg or dict(type='BN'),
            **kwargs,
        )
        *finer, fine, coarse = in_channels
        width = fine_channels or self.out_channels
        cfg = dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.project_coarse = self._conv(coarse, channels)
        self.fuse = nn.Sequential(
            EESP(fine + channels, channels, RECEPTIVE_FIELD, **cfg),
            PyramidPooling(channels, align_corners=self.align_corners, **cfg),
        )
        self.project = nn.Conv2d(channels, width, 1, bias=False)
        self.norm_act = NormAct(width, **cfg)
        self.levels = nn.ModuleList(self._conv(level + width, width) for level in reversed(finer[1:]))
        self.conv_seg = nn.Conv2d(finer[0] + width, self.out_channels, 1, bias=False)

    def _conv(self, in_channels: int, out_channels: int) -> ConvModule:
        return ConvModule(
            in_channels, out_channels, 1, norm_cfg=self.norm_cfg, act_cfg=channelwise(self.act_cfg, out_channels)
        )

    def _beside(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """A map and the coarser one at its size, concatenated."""
        coarse = F.interpolate(coarse, size=fine.shape[2:], mode='bilinear', align_corners=self.align_corners)
        return torch.cat((fine, coarse), dim=1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute logits.

        Args:
            inputs (Sequence[Tensor]): The backbone's (or neck's) feature maps, (N, C, H, W) each.

        Returns:
            Tensor: Logits, (N, out_channels, H, W) of the finest map.
        """
        finest, *finer, fine, coarse = self._transform_inputs(inputs)
        out = self.fuse(self._beside(fine, self.project_coarse(coarse)))
        out = self.norm_act(self.project(out if self.dropout is None else self.dropout(out)))
        for level, x in zip(self.levels, reversed(finer), strict=True):
            out = level(self._beside(x, out))
        return self.cls_seg(self._beside(finest, out))
