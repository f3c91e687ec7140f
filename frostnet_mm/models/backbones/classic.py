"""The networks of FrostNet's classification study that mmcv has: AlexNet, VGG, ResNet.

They are mmcv's with batch norms that learn; mmcv keeps them in evaluation mode, for weights that were trained before.
"""

from mmcv import cnn
from torch import nn

from ...registry import MODELS

__all__ = ['VGG', 'AlexNet', 'ResNet']


@MODELS.register_module()
class AlexNet(cnn.AlexNet):
    """AlexNet, "One weird trick" (`Krizhevsky 2014 <https://arxiv.org/abs/1404.5997>`_), as mmcv has it.

    Args:
        num_classes (int): Classes of the three fully connected layers, for images of 224x224; -1 leaves them out.
            Default: -1.
    """


@MODELS.register_module()
class VGG(cnn.VGG):
    """VGG (`Simonyan and Zisserman 2014 <https://arxiv.org/abs/1409.1556>`_), as mmcv has it.

    Args:
        depth (int): 11, 13, 16 or 19.
        with_bn (bool): Batch norms behind the convolutions. Default: True.
        num_classes (int): Classes of the three fully connected layers, for images of 224x224; -1 leaves them out.
            Default: -1.
        bn_eval (bool): Keep batch norms in evaluation mode. Default: False.
        kwargs: Of mmcv's class: ``out_indices``, ``frozen_stages`` and so on.
    """

    def __init__(
        self, depth: int = 16, with_bn: bool = True, num_classes: int = -1, bn_eval: bool = False, **kwargs
    ) -> None:
        super().__init__(depth, with_bn, num_classes, bn_eval=bn_eval, **kwargs)

    def train(self, mode: bool = True) -> 'VGG':
        """Set training mode and return the module, which mmcv's class forgets."""
        super().train(mode)
        return self


@MODELS.register_module()
class ResNet(cnn.ResNet):
    """ResNet (`He et al. 2015 <https://arxiv.org/abs/1512.03385>`_), as mmcv has it.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        bn_eval (bool): Keep batch norms in evaluation mode. Default: False.
        kwargs: Of mmcv's class: ``out_indices``, ``frozen_stages`` and so on.
    """

    def __init__(self, depth: int = 50, bn_eval: bool = False, **kwargs) -> None:
        super().__init__(depth, bn_eval=bn_eval, **kwargs)

    def train(self, mode: bool = True) -> 'nn.Module':
        """Set training mode and return the module, which mmcv's class forgets."""
        super().train(mode)
        return self
