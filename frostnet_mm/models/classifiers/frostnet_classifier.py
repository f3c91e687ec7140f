"""FrostNet with its ImageNet classification head, so that released checkpoints can be held, counted and converted."""

from collections.abc import Mapping

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS, reads_checkpoint
from ..backbones.frostnet import FrostNet
from ..checkpoints import load_pretrained
from ..frostnet_arch import FrostNetArch

HEAD_CHANNELS = 1280  # at every width


@MODELS.register_module()
class FrostNetClassifier(BaseModule):
    """FrostNet trunk, 1x1 convolution to 1280 channels, global average pooling, dropout, 1x1 classifier.

    Args:
        arch (str | dict): a name or a table, as for :class:`FrostNet`. Default: 'small'.
        widen_factor (float): Width multiplier of the trunk. Default: 1.0.
        num_classes (int): Number of classes. Default: 1000.
        dropout (float): Dropout rate before the classifier. Default: 0.2.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
        init_cfg (dict, optional): As for :class:`FrostNet`; ``dict(type='Pretrained', checkpoint=FILE)`` reads an mm
            checkpoint or a file of the authors' release.
    """

    def __init__(
        self,
        arch: str | Mapping | FrostNetArch = 'small',
        widen_factor: float = 1.0,
        num_classes: int = 1000,
        dropout: float = 0.2,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))
        last = len(FrostNetArch.from_config(arch).stages) - 1
        self.backbone = FrostNet(arch, widen_factor, out_indices=(last,), **cfg)
        self.conv_head = ConvModule(self.backbone.out_channels[-1], HEAD_CHANNELS, 1, **cfg)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(HEAD_CHANNELS, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.conv_head(self.backbone(x)[-1])
        return self.classifier(self.dropout(self.pool(x))).flatten(1)

    def init_weights(self) -> None:
        """Initialize the weights as ``init_cfg`` says; without one as FrostNet's paper does."""
        super().init_weights()
        if reads_checkpoint(self.init_cfg):
            return
        for module in (self.conv_head.conv, self.classifier):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.classifier.bias)

    def read_pretrained(self, path: str, prefix: str | None = None) -> None:
        """As :meth:`FrostNet.read_pretrained`, with the classifier."""
        load_pretrained(self, path, prefix)
