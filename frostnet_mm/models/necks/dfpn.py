"""D-FPN, the depthwise feature pyramid of Tiny-DSOD, https://arxiv.org/abs/1807.11013."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS

ConfigDict = dict


class Downsample(BaseModule):
    """Halve a feature map: half of the channels by max pooling, half by a depthwise convolution of stride 2.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output, even.
        norm_cfg (dict): Config of the normalization layers.
        act_cfg (dict): Config of the activation layers.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: ConfigDict, act_cfg: ConfigDict) -> None:
        super().__init__()
        half = out_channels // 2
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.pooled = ConvModule(in_channels, half, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.reduce = ConvModule(in_channels, half, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.depthwise = ConvModule(half, half, 3, stride=2, padding=1, groups=half, norm_cfg=norm_cfg, act_cfg=act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / 2), ceil(W / 2)), the pooled half first."""
        return torch.cat((self.pooled(self.pool(x)), self.depthwise(self.reduce(x))), dim=1)


@MODELS.register_module()
class DFPN(BaseModule):
    """Depthwise feature pyramid network of `Tiny-DSOD <https://arxiv.org/abs/1807.11013>`_.

    The map of stride 8 is halved and joined by that of stride 16, which is halved again and again. On the way back each
    map is upsampled (bilinear) to the size of the one before, convolved depthwise, and added to it.

    Args:
        in_channels (Sequence[int]): Channels of the two inputs, of strides 8 and 16: (128, 64) for
            ``TinyDSODBackbone``, (40, 96) for stages 1 and 2 of FrostNet small. A first input of other than
            ``out_channels`` is projected to them by a 1x1 convolution, as Tiny-DSOD's own first transition does.
        out_channels (int): Channels of every output, even. Default: 128.
        num_outs (int): Number of outputs, at least 3. Default: 6.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
        init_cfg (dict | list[dict], optional): Initialization config. Default: Kaiming normal (fan out) for
            convolutions, 1 and 0 for normalization.

    Raises:
        ValueError: An argument is outside of what is listed above.

    Examples:
        >>> import torch
        >>> from frostnet_mm import DFPN
        >>> outs = DFPN((128, 64))((torch.rand(2, 128, 38, 38), torch.rand(2, 64, 19, 19)))
        >>> [tuple(o.shape[1:]) for o in outs]
        [(128, 38, 38), (128, 19, 19), (128, 10, 10), (128, 5, 5), (128, 3, 3), (128, 2, 2)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 128,
        num_outs: int = 6,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
    ) -> None:
        _check_arguments(in_channels, out_channels, num_outs)
        super().__init__(
            init_cfg
            or [
                dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
            ]
        )
        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        self.num_outs = num_outs
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))

        first, second = self.in_channels
        self.project: ConvModule | None = None
        if first != out_channels:
            self.project = ConvModule(first, out_channels, 1, **cfg)
        # of the first input, of its half joined with the second input, and of what comes of them
        widths = (out_channels, out_channels + second, *[out_channels] * (num_outs - 3))
        self.down = nn.ModuleList(Downsample(width, out_channels, **cfg) for width in widths)
        self.top_down = nn.ModuleList(  # the deepest first
            ConvModule(out_channels, out_channels, 3, padding=1, groups=out_channels, **cfg)
            for _ in range(num_outs - 1)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs (Sequence[Tensor]): (N, in_channels[0], H, W) and (N, in_channels[1], ceil(H / 2), ceil(W / 2)).

        Returns:
            tuple[Tensor]: ``num_outs`` maps, (N, out_channels, H, W) and its halves, each rounded up.
        """
        first, second = inputs
        if self.project is not None:
            first = self.project(first)
        laterals = [first, self.down[0](first)]
        x = torch.cat((laterals[1], second), dim=1)
        for down in self.down[1:]:
            x = down(x)
            laterals.append(x)
        outs = [laterals.pop()]
        for conv in self.top_down:
            lateral = laterals.pop()
            x = F.interpolate(outs[0], size=lateral.shape[-2:], mode='bilinear', align_corners=False)
            outs.insert(0, conv(x) + lateral)
        return tuple(outs)


def _check_arguments(in_channels: Sequence[int], out_channels: int, num_outs: int) -> None:
    if not isinstance(in_channels, Sequence) or len(in_channels) != 2:
        raise ValueError(
            f'DFPN got in_channels={in_channels!r}; expected those of two feature maps, of strides 8 and 16: set '
            'out_indices of the backbone accordingly.'
        )
    if not isinstance(out_channels, int) or out_channels < 2 or out_channels % 2:
        raise ValueError(f'DFPN got out_channels={out_channels!r}; expected an even number, for example 128.')
    if not isinstance(num_outs, int) or num_outs < 3:
        raise ValueError(f'DFPN got num_outs={num_outs!r}; expected at least 3 levels, 6 as in the paper.')
