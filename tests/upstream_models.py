"""Models of the installed mmdet and mmseg for the tests of quantization, with random data and without downloads."""

import numpy as np
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from frostnet_mm.engine.config import load_config

CLASSES = 5
SIZE, OTHER_SIZE = (128, 160), (160, 96)
R18 = {'model.backbone.depth': 18}
R18_FPN = R18 | {'model.neck.in_channels': [64, 128, 256, 512]}
SEGMENTER = dict(
    default_scope='mmseg',
    model=dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3),
        backbone=dict(type='frostnet_mm.FrostNet', widen_factor=0.35, out_indices=(1, 4), output_stride=8),
        decode_head=dict(
            type='FCNHead',
            in_channels=112,
            in_index=1,
            channels=16,
            num_convs=1,
            concat_input=False,
            num_classes=CLASSES,
            norm_cfg=dict(type='BN'),
            align_corners=False,
        ),
        test_cfg=dict(mode='whole'),
    ),
)
# Fewer layers where the config allows it, none of another kind.
CONFIGS = {
    'ssdlite': ('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco', {}),
    'retinanet': ('mmdet::retinanet/retinanet_r18_fpn_1x_coco', {'model.bbox_head.stacked_convs': 2}),
    'yolox': (
        'mmdet::yolox/yolox_tiny_8xb8-300e_coco',
        {'model.backbone.deepen_factor': 0.1, 'model.bbox_head.stacked_convs': 1},
    ),
    'rtmdet': ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco', {'model.bbox_head.stacked_convs': 1}),
    'faster_rcnn': (
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
        R18_FPN
        | {
            'model.roi_head.bbox_head.fc_out_channels': 64,
            'model.train_cfg.rpn_proposal.max_per_img': 50,
            'model.train_cfg.rcnn.sampler.num': 50,
            'model.test_cfg.rpn.max_per_img': 50,
        },
    ),
    'fcos': (
        'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
        R18_FPN | {'model.bbox_head.stacked_convs': 2},
    ),
    'fcn': (
        'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024',
        R18
        | {
            'model.decode_head.in_channels': 512,
            'model.decode_head.channels': 64,
            'model.auxiliary_head.in_channels': 256,
        },
    ),
    'deeplabv3plus': (
        'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024',
        {'model.decode_head.channels': 64, 'model.auxiliary_head.channels': 16},
    ),
    'bisenetv2': ('mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024', {}),
    'frostnet_fcn': (SEGMENTER, {}),
}


def build(name, options=None):
    """A model of CONFIGS with random weights; SyncBN is left as the config has it."""
    source, cut = CONFIGS[name]
    if isinstance(source, dict):
        cfg = ConfigDict(source)
    else:
        cfg = load_config(source, cut | (options or {}))
    return build_config(cfg.model, cfg.default_scope)


def build_config(model, scope):
    init_default_scope(scope)
    _adapt(model)
    preprocessor = model.data_preprocessor
    for key in ('batch_augments', 'size', 'test_cfg'):  # they need a Runner, or crop to the size of the data set
        preprocessor.pop(key, None)
    if scope == 'mmseg':
        preprocessor.size_divisor = 32
    torch.manual_seed(0)
    return MODELS.build(model)


def _adapt(node):
    """No downloads, few classes."""
    if isinstance(node, dict):
        if 'pretrained' in node:
            node['pretrained'] = None
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
            node['init_cfg'] = None
        if 'num_classes' in node:
            node['num_classes'] = CLASSES
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list, tuple)):
            _adapt(value)


def random_batch(model, size, training):
    """Two preprocessed images with annotations of the model's kind."""
    if type(model).__module__.startswith('mmdet'):
        data = demo_mm_inputs(2, [[3, *size]] * 2, num_items=[3, 3], num_classes=CLASSES)
    else:
        rng = torch.Generator().manual_seed(0)
        data = dict(inputs=[], data_samples=[])
        for _ in range(2):
            data['inputs'].append(torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8))
            labels = PixelData(data=torch.randint(0, CLASSES, (1, *size), generator=rng))
            meta = dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4)
            data['data_samples'].append(SegDataSample(gt_sem_seg=labels, metainfo=meta))
    return model.data_preprocessor(data, training)


def losses_of(model, size=SIZE):
    """The losses of a random batch by the model's own ``loss``, one number each; and their sum."""
    data = random_batch(model, size, True)
    torch.manual_seed(0)  # for dropout and the sampling of boxes
    np.random.seed(0)
    losses = model.loss(data['inputs'], data['data_samples'])
    total, numbers = model.parse_losses(losses)
    return {key: float(value.detach()) for key, value in numbers.items()}, total


def settle_norms(model):
    """Give batch norms the statistics of a random batch, without which activations vanish from layer to layer."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(module.momentum, module.training) for module in norms]
    for module in norms:
        module.momentum = 1.0
        module.train()
    with torch.no_grad():
        features = model.extract_feat(random_batch(model, SIZE, True)['inputs'])
        for head in ('bbox_head', 'rpn_head', 'decode_head'):
            if hasattr(model, head):
                getattr(model, head).forward(features)
    for module, (momentum, training) in zip(norms, before, strict=True):
        module.momentum = momentum
        module.train(training)
