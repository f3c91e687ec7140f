from ...compat import check_operators

check_operators()  # before mm's packages are imported

from .espnet import ESPNet
from .espnetv2 import ESPNetv2
from .frostnet import FrostBottleneck, FrostNet
from .tiny_dsod import TinyDSODBackbone

__all__ = ['ESPNet', 'ESPNetv2', 'FrostBottleneck', 'FrostNet', 'TinyDSODBackbone']
