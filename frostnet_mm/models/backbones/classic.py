"""The networks of FrostNet's classification study that mmcv has: AlexNet, VGG, ResNet.

They are mmcv's with batch norms that learn; mmcv keeps them in evaluation mode, for weights that were trained before.
"""

from mmcv import cnn
from mmengine.model.weight_init import initialize
from torch import Tensor, nn

from ...registry import MODELS
from .staged import require_stages

__all__ = ['VGG', 'AlexNet', 'ResNet']


class _Initialized:
    """Takes ``init_cfg``, as mm's backbones do; mmcv's classes are older than that."""

    init_cfg: dict | list | None = None

    def init_weights(self, pretrained: str | None = None) -> None:
        """Begin as mmcv's class does, and then as ``init_cfg`` says.

        Args:
            pretrained (str, optional): A checkpoint, of mmcv's class. Default: None.

        Raises:
            CheckpointError: The checkpoint of ``init_cfg`` is of another network.
        """
        super().init_weights(pretrained)
        if self.init_cfg:
            initialize(self, self.init_cfg)


@MODELS.register_module()
class AlexNet(_Initialized, cnn.AlexNet):
    """AlexNet, "One weird trick" (`Krizhevsky 2014 <https://arxiv.org/abs/1404.5997>`_), as mmcv has it.

    Args:
        num_classes (int): Classes of the three fully connected layers, for images of 224x224; -1 leaves them out.
            Default: -1.
        init_cfg (dict | list, optional): How weights begin. Default: as torch's layers do.
    """

    def __init__(self, num_classes: int = -1, init_cfg: dict | list | None = None) -> None:
        super().__init__(num_classes)
        self.init_cfg = init_cfg

    def forward(self, x: Tensor) -> Tensor:
        """As mmcv's class, also for channels_last, which ``view`` cannot flatten.

        Args:
            x (Tensor): Images (N, 3, H, W).

        Returns:
            Tensor: Logits (N, num_classes), or feature maps (N, 256, H', W').
        """
        x = self.features(x)
        return self.classifier(x.flatten(1)) if self.num_classes > 0 else x


@MODELS.register_module()
class VGG(_Initialized, cnn.VGG):
    """VGG (`Simonyan and Zisserman 2014 <https://arxiv.org/abs/1409.1556>`_), as mmcv has it.

    Args:
        depth (int): 11, 13, 16 or 19.
        with_bn (bool): Batch norms behind the convolutions. Default: True.
        num_classes (int): Classes of the three fully connected layers, for images of 224x224; -1 leaves them out.
            Default: -1.
        bn_eval (bool): Keep batch norms in evaluation mode. Default: False.
        init_cfg (dict | list, optional): How weights begin, after mmcv's class. Default: as there.
        kwargs: Of mmcv's class: ``out_indices``, ``frozen_stages`` and so on.
    """

    def __init__(
        self,
        depth: int = 16,
        with_bn: bool = True,
        num_classes: int = -1,
        bn_eval: bool = False,
        init_cfg: dict | list | None = None,
        **kwargs,
    ) -> None:
        if 'out_indices' in kwargs:
            require_stages(kwargs['out_indices'], kwargs.get('num_stages', 5), (3, 4))
        super().__init__(depth, with_bn, num_classes, bn_eval=bn_eval, **kwargs)
        self.init_cfg = init_cfg

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """As mmcv's class, also for channels_last, which ``view`` cannot flatten.

        Args:
            x (Tensor): Images (N, 3, H, W).

        Returns:
            Tensor | tuple[Tensor, ...]: Feature maps of ``out_indices``, and behind them the logits (N, num_classes).
        """
        layers, outs = getattr(self, self.module_name), []
        for index in range(len(self.stage_blocks)):
            for place in range(*self.range_sub_modules[index]):
                x = layers[place](x)
            if index in self.out_indices:
                outs.append(x)
        if self.num_classes > 0:
            outs.append(self.classifier(x.flatten(1)))
        return outs[0] if len(outs) == 1 else tuple(outs)

    def train(self, mode: bool = True) -> 'VGG':
        """Set training mode and return the module, which mmcv's class forgets."""
        super().train(mode)
        return self


@MODELS.register_module()
class ResNet(_Initialized, cnn.ResNet):
    """ResNet (`He et al. 2015 <https://arxiv.org/abs/1512.03385>`_), as mmcv has it.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        bn_eval (bool): Keep batch norms in evaluation mode. Default: False.
        init_cfg (dict | list, optional): How weights begin, after mmcv's class. Default: as there.
        kwargs: Of mmcv's class: ``out_indices``, ``frozen_stages`` and so on.
    """

    def __init__(self, depth: int = 50, bn_eval: bool = False, init_cfg: dict | list | None = None, **kwargs) -> None:
        if 'out_indices' in kwargs:
            require_stages(kwargs['out_indices'], kwargs.get('num_stages', 4), (2, 3))
        super().__init__(depth, bn_eval=bn_eval, **kwargs)
        self.init_cfg = init_cfg

    def train(self, mode: bool = True) -> 'nn.Module':
        """Set training mode and return the module, which mmcv's class forgets."""
        super().train(mode)
        return self
