"""Plain float networks."""

from importlib.util import find_spec

from .backbones import FrostBottleneck, FrostNet
from .checkpoints import CheckpointError, convert_release_state_dict, load_pretrained, read_checkpoint
from .classifiers import FrostNetClassifier
from .dense import DenseNetwork, UnsupportedModelError

__all__ = [
    'CheckpointError',
    'DenseNetwork',
    'FrostBottleneck',
    'FrostNet',
    'FrostNetClassifier',
    'UnsupportedModelError',
    'convert_release_state_dict',
    'load_pretrained',
    'read_checkpoint',
]

if find_spec('mmdet') is not None:  # a user of mmseg alone need not have mmdet
    from .dense_heads import SSDLiteHead  # noqa: F401

    __all__ += ['SSDLiteHead']
