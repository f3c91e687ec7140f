"""SSDLite head, https://arxiv.org/abs/1801.04381."""

from mmdet.models.dense_heads import SSDHead

from ...registry import MODELS


@MODELS.register_module()
class SSDLiteHead(SSDHead):
    """mmdet's SSD head with depthwise separable convolutions by default (``predict``: see ``models/upstream.py``).

    Args:
        num_classes (int): Number of classes without the background. Default: 80.
        in_channels (Sequence[int]): Channels of the feature maps, one a level.
        use_depthwise (bool): 3x3 depthwise and 1x1 convolutions in place of 3x3 ones. Default: True.
        kwargs: As for mmdet's ``SSDHead``.

    Raises:
        ValueError: The numbers of feature maps and of prior levels differ.
    """

    def __init__(
        self, num_classes: int = 80, in_channels=(96, 320, 512, 256, 256, 128), use_depthwise: bool = True, **kwargs
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, use_depthwise=use_depthwise, **kwargs)
        if len(in_channels) != self.prior_generator.num_levels:
            raise ValueError(
                f'SSDLiteHead got in_channels={tuple(in_channels)} of {len(in_channels)} levels and an '
                f'anchor_generator of {self.prior_generator.num_levels} levels: give as many strides, '
                'ratios and sizes as feature maps.'
            )
