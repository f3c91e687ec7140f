from ...compat import check_operators

check_operators()  # before mm's packages are imported

from .classic import VGG, AlexNet, ResNet
from .efficientnet_lite import EfficientNetLite
from .espnet import ESPNet
from .espnetv2 import ESPNetv2
from .frostnet import FrostBottleneck, FrostNet
from .shufflenet_v2 import ShuffleNetV2
from .tiny_dsod import TinyDSODBackbone

__all__ = [
    'VGG',
    'AlexNet',
    'ESPNet',
    'EfficientNetLite',
    'ESPNetv2',
    'FrostBottleneck',
    'FrostNet',
    'ResNet',
    'ShuffleNetV2',
    'TinyDSODBackbone',
]
