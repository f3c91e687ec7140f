"""Plain float networks."""

from importlib.util import find_spec

from .backbones import ESPNet, ESPNetv2, FrostBottleneck, FrostNet, TinyDSODBackbone
from .checkpoints import CheckpointError, convert_release_state_dict, load_pretrained, read_checkpoint
from .classifiers import FrostNetClassifier
from .dense import DenseNetwork, UnsupportedModelError
from .necks import DFPN

__all__ = [
    'CheckpointError',
    'DFPN',
    'DenseNetwork',
    'ESPNet',
    'ESPNetv2',
    'FrostBottleneck',
    'FrostNet',
    'FrostNetClassifier',
    'TinyDSODBackbone',
    'UnsupportedModelError',
    'convert_release_state_dict',
    'load_pretrained',
    'read_checkpoint',
]

if find_spec('mmdet') is not None:  # a user of mmseg alone need not have mmdet
    from .dense_heads import SSDLiteHead, TDSODHead  # noqa: F401

    __all__ += ['SSDLiteHead', 'TDSODHead']

if find_spec('mmseg') is not None:  # nor a user of mmdet mmseg
    from .backbones.mobilenet_v3 import MobileNetV3  # noqa: F401
    from .decode_heads import ESPNetHead, ESPNetv2Head, LRASPPHead  # noqa: F401

    __all__ += ['ESPNetHead', 'ESPNetv2Head', 'LRASPPHead', 'MobileNetV3']
