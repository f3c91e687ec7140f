"""Plain float networks. Heads for mmdet and mmseg are there where the package is: a user of one need not have both."""

from importlib.util import find_spec

from ..lazy import offer

_DETECTION = {'.dense_heads': ['SSDLiteHead', 'TDSODHead']} if find_spec('mmdet') else {}
_SEGMENTATION = (
    {'.backbones.mobilenet_v3': ['MobileNetV3'], '.decode_heads': ['ESPNetHead', 'ESPNetv2Head', 'LRASPPHead']}
    if find_spec('mmseg')
    else {}
)
__all__ = offer(
    __name__,
    {
        '.backbones': [
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
        ],
        '.checkpoints': ['CheckpointError', 'convert_release_state_dict', 'load_pretrained', 'read_checkpoint'],
        '.classifiers': ['ClsHead', 'FrostNetClassifier', 'ImageClassifier', 'LogitsHead'],
        '.dense': ['DenseNetwork', 'UnsupportedModelError'],
        '.necks': ['DFPN'],
        **_DETECTION,
        **_SEGMENTATION,
    },
)
