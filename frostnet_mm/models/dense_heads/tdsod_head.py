"""The head of Tiny-DSOD, https://arxiv.org/abs/1807.11013."""

from collections.abc import Sequence

from ...registry import MODELS
from .ssdlite_head import SSDLiteHead

ConfigDict = dict

# Sizes of the paper's priors for COCO: 7, 15, 33, 51, 69, 87 and 105 % of the image.
ANCHOR_GENERATOR_300 = dict(
    type='SSDAnchorGenerator',
    scale_major=False,
    strides=[8, 16, 30, 60, 100, 150],
    ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
    min_sizes=[21, 45, 99, 153, 207, 261],
    max_sizes=[45, 99, 153, 207, 261, 315],
)
BBOX_CODER = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])


@MODELS.register_module()
class TDSODHead(SSDLiteHead):
    """SSD head for the six maps of D-FPN, with 4, 6, 6, 6, 4 and 4 priors a position.

    On every level boxes and classes are each predicted by a 3x3 depthwise convolution with normalization and activation
    and a 1x1 convolution with bias. The authors' release normalizes the maps (L2) and then applies the two the other
    way round, the depthwise convolution to the predictions; ours is SSDLite's order, which is smaller, leaves the
    normalization foldable and needs no L2 norm, an operator without an INT8 form.

    Args:
        num_classes (int): Number of classes without the background. Default: 80.
        in_channels (Sequence[int]): Channels of the feature maps, one a level. Default: six times 128.
        use_depthwise (bool): The convolutions above; False: one 3x3 convolution each. Default: True.
        anchor_generator (dict, optional): Config of the priors. Default: those for COCO at 300x300.
        bbox_coder (dict, optional): Config of the box coder. Default: variances 0.1, 0.1, 0.2 and 0.2.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
        kwargs: As for mmdet's ``SSDHead``.

    Raises:
        ValueError: The numbers of feature maps and of prior levels differ.
    """

    def __init__(
        self,
        num_classes: int = 80,
        in_channels: Sequence[int] = (128,) * 6,
        use_depthwise: bool = True,
        anchor_generator: ConfigDict | None = None,
        bbox_coder: ConfigDict | None = None,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            use_depthwise=use_depthwise,
            anchor_generator=anchor_generator or ANCHOR_GENERATOR_300,
            bbox_coder=bbox_coder or BBOX_CODER,
            norm_cfg=norm_cfg or dict(type='BN'),
            act_cfg=act_cfg or dict(type='ReLU'),
            **kwargs,
        )
