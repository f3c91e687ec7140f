from .espnet import ESPNet
from .espnetv2 import ESPNetv2
from .frostnet import FrostBottleneck, FrostNet
from .tiny_dsod import TinyDSODBackbone

__all__ = ['ESPNet', 'ESPNetv2', 'FrostBottleneck', 'FrostNet', 'TinyDSODBackbone']
