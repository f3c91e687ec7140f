"""Heads of classifiers: features to logits."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional

from ...errors import UserError
from ...registry import MODELS

__all__ = ['ClsHead', 'LogitsHead']


class LogitsError(UserError, ValueError):
    """A backbone puts out other logits than there are classes, or feature maps."""


@MODELS.register_module()
class LogitsHead(BaseModule):
    """The end of a network whose backbone puts out logits itself, as mmcv's ``AlexNet`` and ``VGG`` with classes do.

    Args:
        num_classes (int): Number of classes. Default: 1000.
        label_smoothing (float): Part of the target that is spread over all classes, 0 to 1. Default: 0.
        init_cfg (dict, optional): Initialization config.

    Raises:
        ValueError: An argument is out of its domain.
    """

    def __init__(self, num_classes: int = 1000, label_smoothing: float = 0.0, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f'num_classes={num_classes!r}, expected a whole number of at least 1')
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing={label_smoothing!r}, expected at least 0 and less than 1')
        self.num_classes, self.label_smoothing = num_classes, label_smoothing

    def forward(self, feats: Sequence[Tensor] | Tensor) -> Tensor:
        """Logits.

        Args:
            feats (Sequence[Tensor] | Tensor): What the backbone puts out; of several the last.

        Returns:
            Tensor: (N, num_classes).
        """
        return feats if isinstance(feats, Tensor) else feats[-1]

    def _logits(self, feats: Sequence[Tensor] | Tensor) -> Tensor:
        logits = self(feats)
        if logits.dim() != 2 or logits.shape[1] != self.num_classes:
            raise LogitsError(
                f'The network puts out {tuple(logits.shape)} for {len(logits)} images of {self.num_classes} classes: '
                f'expected ({len(logits)}, {self.num_classes}). {type(self).__name__} takes the logits of the '
                f'backbone: set model.backbone.num_classes={self.num_classes}; feature maps need frostnet_mm.ClsHead.'
            )
        return logits

    def loss(self, feats: Sequence[Tensor] | Tensor, data_samples: list[BaseDataElement]) -> dict[str, Tensor]:
        """Cross entropy.

        Args:
            feats (Sequence[Tensor] | Tensor): What the backbone puts out.
            data_samples (list[BaseDataElement]): One an image, with ``gt_label`` (1, ).

        Returns:
            dict[str, Tensor]: ``loss``, and ``accuracy``, the percentage of the batch that is right.

        Raises:
            LogitsError: The logits are not of ``num_classes``.
        """
        logits = self._logits(feats)
        target = torch.cat([sample.gt_label for sample in data_samples]).to(logits.device)
        right = (logits.detach().argmax(1) == target).float().mean() * 100
        loss = functional.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        return dict(loss=loss, accuracy=right)

    def predict(
        self, feats: Sequence[Tensor] | Tensor, data_samples: list[BaseDataElement] | None = None
    ) -> list[BaseDataElement]:
        """Classes.

        Args:
            feats (Sequence[Tensor] | Tensor): What the backbone puts out.
            data_samples (list[BaseDataElement], optional): One an image; they are completed.

        Returns:
            list[BaseDataElement]: With ``pred_score`` (num_classes, ), softmax, and ``pred_label`` (1, ).

        Raises:
            LogitsError: The logits are not of ``num_classes``.
        """
        scores = self._logits(feats).softmax(1)
        samples = data_samples or [BaseDataElement() for _ in scores]
        for sample, score in zip(samples, scores, strict=True):
            sample.pred_score, sample.pred_label = score, score.argmax(0, keepdim=True)
        return samples


@MODELS.register_module()
class ClsHead(LogitsHead):
    """A 1x1 convolution where one is asked for, global average pooling, dropout, and the classifier.

    Args:
        in_channels (int): Channels of the last feature map.
        num_classes (int): Number of classes. Default: 1000.
        hidden_channels (int, optional): Output channels of a 1x1 convolution with norm and activation before the
            pooling: 1280 in FrostNet, 1024 in ShuffleNetV2. Default: none.
        hidden_after_pool (bool): That convolution comes behind the pooling instead, without a norm, as in MobileNetV3.
            Default: False.
        dropout (float): Dropout rate before the classifier, 0 to 1. Default: 0.
        label_smoothing (float): Part of the target that is spread over all classes, 0 to 1. Default: 0.
        norm_cfg (dict): Config of the normalization layer. Default: dict(type='BN').
        act_cfg (dict): Config of the activation layer. Default: dict(type='ReLU').
        init_cfg (dict, optional): Initialization config. Default: Kaiming normal (fan out) for the convolution, normal
            of standard deviation 0.01 for the classifier.

    Raises:
        ValueError: An argument is out of its domain.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1000,
        hidden_channels: int | None = None,
        hidden_after_pool: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        default = [
            dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
            dict(type='Constant', layer='_BatchNorm', val=1),
            dict(type='Normal', layer='Linear', std=0.01),
        ]
        super().__init__(num_classes, label_smoothing, init_cfg or default)
        self.conv = None
        if hidden_channels is not None:
            if isinstance(hidden_channels, bool) or not isinstance(hidden_channels, int) or hidden_channels < 1:
                raise ValueError(f'hidden_channels={hidden_channels!r}, expected a whole number of at least 1, or None')
            norm_cfg = None if hidden_after_pool else norm_cfg or dict(type='BN')
            self.conv = ConvModule(
                in_channels, hidden_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg or dict(type='ReLU')
            )
        self.hidden_after_pool = hidden_after_pool
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden_channels or in_channels, num_classes)

    def forward(self, feats: Sequence[Tensor] | Tensor) -> Tensor:
        """Logits.

        Args:
            feats (Sequence[Tensor] | Tensor): Feature maps (N, C, H, W); of several the last.

        Returns:
            Tensor: (N, num_classes).
        """
        x = super().forward(feats)
        if self.conv is None:
            x = self.pool(x)
        else:
            x = self.conv(self.pool(x)) if self.hidden_after_pool else self.pool(self.conv(x))
        return self.fc(self.dropout(x.flatten(1)))
