"""Lite R-ASPP, https://arxiv.org/abs/1905.02244."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import MODELS

GATES = {'sigmoid': nn.Sigmoid, 'hard_sigmoid': nn.Hardsigmoid}


@MODELS.register_module()
class LRASPPHead(BaseDecodeHead):
    """Lite R-ASPP head of `MobileNetV3 <https://arxiv.org/abs/1905.02244>`_.

    The coarse map is projected, weighted channel by channel with a gate that sees all of the map, resized and
    classified; a classifier of the fine map is added. mmseg's head of this name pools for the gate in a window of 49x49
    and raises on smaller maps; here the pooling is global, so that any size works. The gate's convolution has a bias
    and no batch norm: a pooled map is one value an image, and a batch of one image has no variance.

    Args:
        in_channels (Sequence[int]): Channels of the fine and of the coarse map.
        channels (int): Channels of the projection. Default: 128.
        in_index (Sequence[int]): Indices of the fine and of the coarse map. Default: (0, 1).
        gate (str): 'sigmoid' or 'hard_sigmoid'. Default: 'sigmoid'.
        kwargs: As for mmseg's ``BaseDecodeHead``: num_classes, dropout_ratio, norm_cfg, act_cfg, align_corners,
            loss_decode, sampler and so on.

    Raises:
        ValueError: The number of maps is not two, or ``gate`` is unknown.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 128,
        *,
        in_index: Sequence[int] = (0, 1),
        gate: str = 'sigmoid',
        norm_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        if len(in_channels) != 2 or len(in_index) != 2:
            raise ValueError(
                f'LRASPPHead got in_channels={tuple(in_channels)} and in_index={tuple(in_index)}: expected two of '
                'each, of the fine and of the coarse map.'
            )
        if gate not in GATES:
            raise ValueError(f'LRASPPHead got gate={gate!r}: expected {" or ".join(map(repr, GATES))}.')
        super().__init__(
            in_channels,
            channels,
            in_index=in_index,
            input_transform='multiple_select',
            norm_cfg=norm_cfg or dict(type='BN'),
            **kwargs,
        )
        fine, coarse = in_channels
        self.project = ConvModule(coarse, channels, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(coarse, channels, 1), GATES[gate]())
        self.conv_fine = nn.Conv2d(fine, self.out_channels, 1, bias=False)  # conv_seg has the bias of the sum

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute logits.

        Args:
            inputs (Sequence[Tensor]): The backbone's (or neck's) feature maps, (N, C, H, W) each.

        Returns:
            Tensor: Logits, (N, out_channels, H, W) of the fine map.
        """
        fine, coarse = self._transform_inputs(inputs)
        out = self.project(coarse) * self.gate(coarse)
        out = F.interpolate(out, size=fine.shape[2:], mode='bilinear', align_corners=self.align_corners)
        return self.cls_seg(out) + self.conv_fine(fine)
