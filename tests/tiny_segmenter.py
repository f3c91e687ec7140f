"""A segmenter around a backbone of a test's own, small enough to count by hand."""

import torch
from mmengine.config import ConfigDict
from upstream_models import CLASSES, build_config

from frostnet_mm.quantization import QuantizationSettings, prepare_model

HEAD = dict(type='FCNHead', in_channels=8, channels=8, num_convs=1, num_classes=CLASSES, align_corners=False)
HEAD |= dict(concat_input=False, in_index=0)
PREPROCESSOR = dict(type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3)


def segmenter(backbone):
    """An EncoderDecoder with a backbone class that puts out one map of 8 channels."""
    model = dict(
        type='EncoderDecoder', data_preprocessor=PREPROCESSOR, backbone=dict(type=backbone), decode_head=dict(HEAD)
    )
    return build_config(ConfigDict(model), 'mmseg')


def prepared_segmenter(backbone, **settings):
    """The model and its quantized network, captured for images of 32x48."""
    model = segmenter(backbone)
    return model, prepare_model(model, QuantizationSettings.of(example_shape=(2, 3, 32, 48), **settings))


def images(seed=0):
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(seed))
