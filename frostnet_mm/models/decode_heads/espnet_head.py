"""Decoder of ESPNet, https://arxiv.org/abs/1803.06815."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import MODELS
from ..layers import ESP, NormAct, channelwise

UPSAMPLE = ('bilinear', 'deconv')


@MODELS.register_module()
class ESPNetHead(BaseDecodeHead):
    """Decoder of `ESPNet <https://arxiv.org/abs/1803.06815>`_ over feature maps of any backbone, fine to coarse.

    From the coarsest map up, each next one is projected, concatenated and fused by an ESP block; the finest is joined
    by a 3x3 convolution. In the original the three maps have strides 2, 4 and 8; of FrostNet take 4, 8, 16 and 32.

    Args:
        in_channels (Sequence[int]): Channels of the feature maps, fine to coarse; three or more.
        channels (int): Channels of the decoder, 5 or more; in the original the number of classes.
        in_index (Sequence[int]): Indices of the feature maps, fine to coarse. Default: all of them in their order.
        upsample (str): 'bilinear': 1x1 convolutions and resizing; the logits have the size of the finest map, and mmseg
            resizes them to the labels. 'deconv': the original's transposed convolutions, the last of which is the
            classifier and doubles the finest map once more; each map must then have half the size of the finer one
            (rounded up). Default: 'bilinear'.
        dropout_ratio (float): Dropout before the classifier. Default: 0, as in the original.
        kwargs: As for mmseg's ``BaseDecodeHead``: num_classes, norm_cfg, act_cfg (dict(type='PReLU') has one slope a
            channel), align_corners, loss_decode, sampler and so on. The classifier has no bias.

    Raises:
        ValueError: There are fewer than three maps, ``in_index`` does not fit them, or ``upsample`` is unknown.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        in_index: Sequence[int] | None = None,
        upsample: str = 'bilinear',
        dropout_ratio: float = 0.0,
        norm_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        in_index = tuple(range(len(in_channels))) if in_index is None else tuple(in_index)
        if len(in_channels) < 3 or len(in_index) != len(in_channels):
            raise ValueError(
                f'ESPNetHead got in_channels={tuple(in_channels)} and in_index={in_index}: expected the channels and '
                'the index of three feature maps or more, fine to coarse.'
            )
        if upsample not in UPSAMPLE:
            raise ValueError(f'ESPNetHead got upsample={upsample!r}: expected {" or ".join(map(repr, UPSAMPLE))}.')
        super().__init__(
            in_channels,
            channels,
            in_index=in_index,
            input_transform='multiple_select',
            dropout_ratio=dropout_ratio,
            norm_cfg=norm_cfg or dict(type='BN', eps=1e-3),
            **kwargs,
        )
        self.upsample = upsample
        finest, *middle, coarse = in_channels
        cfg = dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        project = ConvModule(coarse, channels, 1, norm_cfg=self.norm_cfg, act_cfg=None)
        self.project_coarse = nn.Sequential(project, self._deconv(channels)) if upsample == 'deconv' else project
        self.projects = nn.ModuleList(nn.Conv2d(width, channels, 1, bias=False) for width in reversed(middle))
        self.fuses = nn.ModuleList(
            nn.Sequential(NormAct(2 * channels, **cfg), ESP(2 * channels, channels, **cfg)) for _ in middle
        )
        self.ups = nn.ModuleList(
            nn.Sequential(self._deconv(channels), NormAct(channels, **cfg))
            if upsample == 'deconv'
            else self._conv(channels, 1)
            for _ in middle
        )
        self.join = self._conv(finest + channels, 3)
        self.conv_seg = (
            self._deconv(self.out_channels)
            if upsample == 'deconv'
            else nn.Conv2d(channels, self.out_channels, 1, bias=False)
        )

    def _deconv(self, out_channels: int) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(self.channels, out_channels, 2, stride=2, bias=False)

    def _conv(self, in_channels: int, kernel: int) -> ConvModule:
        act_cfg = channelwise(self.act_cfg, self.channels)
        return ConvModule(
            in_channels, self.channels, kernel, padding=kernel // 2, norm_cfg=self.norm_cfg, act_cfg=act_cfg
        )

    def _at_size_of(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """The coarser map at the size of the finer one."""
        if self.upsample == 'deconv':  # twice ceil(H / 2) rows
            return coarse[:, :, : fine.shape[2], : fine.shape[3]]
        return F.interpolate(coarse, size=fine.shape[2:], mode='bilinear', align_corners=self.align_corners)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute logits.

        Args:
            inputs (Sequence[Tensor]): The backbone's (or neck's) feature maps, (N, C, H, W) each.

        Returns:
            Tensor: Logits, (N, out_channels, H, W) of the finest map, of twice that size with ``upsample='deconv'``.
        """
        finest, *middle, coarse = self._transform_inputs(inputs)
        out = self.project_coarse(coarse)
        for project, fuse, up, x in zip(self.projects, self.fuses, self.ups, reversed(middle), strict=True):
            out = up(fuse(torch.cat((project(x), self._at_size_of(x, out)), dim=1)))
        return self.cls_seg(self.join(torch.cat((self._at_size_of(finest, out), finest), dim=1)))
