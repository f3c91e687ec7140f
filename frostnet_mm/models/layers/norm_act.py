"""Normalization and activation that follow no convolution, and PReLU with one slope a channel."""

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor

ConfigDict = dict


def channelwise(act_cfg: ConfigDict | None, channels: int) -> ConfigDict | None:
    """An activation config for a map of so many channels: PReLU gets one slope a channel, in place of one for all.

    Args:
        act_cfg (dict, optional): Config of an activation layer.
        channels (int): Channels of the map that it is applied to.

    Returns:
        dict | None: The config; ``num_parameters`` given in it stays.
    """
    if act_cfg is None or act_cfg['type'] != 'PReLU':
        return act_cfg
    return dict(num_parameters=channels) | act_cfg


class NormAct(BaseModule):
    """Normalization and activation of a sum or a concatenation.

    Args:
        channels (int): Channels of the map.
        norm_cfg (dict): Config of the normalization layer.
        act_cfg (dict, optional): Config of the activation layer; None leaves it out.
    """

    def __init__(self, channels: int, norm_cfg: ConfigDict, act_cfg: ConfigDict | None) -> None:
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.activate = None if act_cfg is None else build_activation_layer(channelwise(act_cfg, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        x = self.norm(x)
        return x if self.activate is None else self.activate(x)
