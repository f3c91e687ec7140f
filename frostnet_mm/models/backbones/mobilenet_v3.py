"""MobileNetV3, https://arxiv.org/abs/1905.02244, in forms that suit export and INT8."""

from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmseg.models.backbones import MobileNetV3 as _MobileNetV3
from torch import nn

from ...registry import MODELS

#: The layers that mmseg's class strips of their stride, by the stride that they would have.
DILATED = {'small': {16: 4, 32: 9}, 'large': {16: 7, 32: 13}}


@MODELS.register_module()
class MobileNetV3(_MobileNetV3):
    """mmseg's MobileNetV3 with fixed padding, a choice of output stride, and a form that stays in INT8.

    mmseg's class always has output stride 8, and works out the padding of convolutions of stride 2 from the size of
    their input at run time, as TensorFlow does: with open sizes a graph of its own before each of them. Here they pad
    by half their kernel. The names and shapes of the parameters are mmseg's; its checkpoints load, but were trained
    with the other padding.

    Args:
        arch (str): 'small' or 'large'. Default: 'large'.
        output_stride (int): 32, 16 or 8. Default: 16, as in the paper's segmenters; its classifiers have 32.
        relu (bool): ReLU in place of h-swish, and no squeeze-and-excitation, whose gates are no INT8 operators.
            Default: False.
        kwargs: As for mmseg's ``MobileNetV3``: out_indices, norm_cfg, init_cfg and so on.

    Raises:
        ValueError: ``output_stride`` is not 32, 16 or 8.
    """

    def __init__(self, arch: str = 'large', output_stride: int = 16, relu: bool = False, **kwargs) -> None:
        if output_stride not in (32, 16, 8):
            raise ValueError(f'output_stride={output_stride!r} must be 32, 16 or 8.')
        self._options = (output_stride, relu)
        super().__init__(arch=arch, **kwargs)

    def _make_layer(self) -> list[str]:
        names = super()._make_layer()
        output_stride, relu = self._options
        for index, name in enumerate(names):
            layer = getattr(self, name)
            _lower_dilation(layer, output_stride // 8)
            if index in [own for stride, own in DILATED[self.arch].items() if stride <= output_stride]:
                layer.depthwise_conv.conv.stride = (2, 2)
            if relu:
                _to_relu(layer)
            _fix_padding(layer)
        return names

    def train(self, mode: bool = True) -> 'MobileNetV3':
        """Set training mode and return the module, which mmseg's class forgets."""
        super().train(mode)
        return self


def _lower_dilation(layer: nn.Module, factor: int) -> None:
    for conv in layer.modules():
        if isinstance(conv, nn.Conv2d) and conv.dilation[0] > 1:
            conv.dilation = tuple(max(1, d // factor) for d in conv.dilation)


def _to_relu(layer: nn.Module) -> None:
    if getattr(layer, 'with_se', False):
        layer.with_se = False
        del layer.se
    for parent in list(layer.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Hardswish):
                setattr(parent, name, nn.ReLU(inplace=True))


def _fix_padding(layer: nn.Module) -> None:
    for parent in list(layer.modules()):
        for name, conv in parent.named_children():
            if not isinstance(conv, nn.Conv2d):
                continue
            if conv.kernel_size == (1, 1):
                conv.dilation = (1, 1)  # mmseg's last layer has one, without effect
            padding = tuple(k // 2 * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
            if isinstance(conv, Conv2dAdaptivePadding):
                plain = nn.Conv2d(
                    conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, padding, conv.dilation,
                    conv.groups, conv.bias is not None,
                )  # fmt: skip
                plain.load_state_dict(conv.state_dict())
                setattr(parent, name, plain)
            else:
                conv.padding = padding
