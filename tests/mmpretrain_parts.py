"""Stand-ins for parts of mmpretrain, which need not be installed: what its documentation says of each, by mmcv."""

from types import SimpleNamespace

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.model import BaseDataPreprocessor, BaseModel, stack_batch
from mmengine.registry import MODELS, TRANSFORMS
from torch import nn
from torch.nn import functional


@TRANSFORMS.register_module()
class ResizeEdge(BaseTransform):
    """One edge becomes ``scale`` long, the other follows, rounded down."""

    def __init__(self, scale, edge='short', backend='cv2', interpolation='bilinear'):
        self.scale, self.edge, self.how = scale, edge, dict(backend=backend, interpolation=interpolation)

    def transform(self, results):
        height, width = results['img'].shape[:2]
        horizontal = {'short': width < height, 'long': width > height, 'width': True, 'height': False}[self.edge]
        if horizontal:
            size = (self.scale, int(self.scale * height / width))
        else:
            size = (int(self.scale * width / height), self.scale)
        results['img'] = mmcv.imresize(results['img'], size, **self.how)
        results['img_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class EfficientNetCenterCrop(BaseTransform):
    """A square of the middle, crop_size / (crop_size + crop_padding) of the shorter side, is resized to crop_size."""

    def __init__(self, crop_size, crop_padding=32, interpolation='bicubic', backend='cv2'):
        self.size, self.padding = crop_size, crop_padding
        self.how = dict(backend=backend, interpolation=interpolation)

    def transform(self, results):
        height, width = results['img'].shape[:2]
        side = self.size / (self.size + self.padding) * min(height, width)
        top, left = (max(0, int(round((whole - side) / 2))) for whole in (height, width))
        box = np.array([left, top, left + side - 1, top + side - 1])
        results['img'] = mmcv.imresize(mmcv.imcrop(results['img'], box), (self.size, self.size), **self.how)
        results['img_shape'] = results['img'].shape[:2]
        return results


class ClsDataPreprocessor(BaseDataPreprocessor):
    """Reads the first of the samples, if there are samples."""

    def __init__(self, mean=None, std=None, pad_size_divisor=1, pad_value=0, to_rgb=False, num_classes=None):
        super().__init__()
        self.pad_size_divisor, self.pad_value, self.to_rgb = pad_size_divisor, pad_value, to_rgb
        self._enable_normalize = mean is not None
        if self._enable_normalize:
            self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), False)
            self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), False)

    def forward(self, data, training=False):
        images = [image.flip(0).float() if self.to_rgb else image.float() for image in self.cast_data(data['inputs'])]
        if self._enable_normalize:
            images = [(image - self.mean) / self.std for image in images]
        samples = data.get('data_samples')
        _ = samples[0] if samples is not None else None
        return dict(inputs=stack_batch(images, self.pad_size_divisor, self.pad_value), data_samples=samples)


@MODELS.register_module()
class GlobalAveragePooling(nn.Module):
    def forward(self, inputs):
        if not isinstance(inputs, tuple):
            raise TypeError('expected a tuple')
        return tuple(functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1) for x in inputs)


class ClsHead(nn.Module):
    """Its logits are what the backbone puts out last."""

    def forward(self, feats):
        return feats[-1]

    def loss(self, feats, data_samples):
        labels = torch.cat([torch.as_tensor([sample.label]) for sample in data_samples])
        return dict(loss=functional.cross_entropy(self(feats), labels))

    def predict(self, feats, data_samples=None):
        return self._get_predictions(self(feats), data_samples)

    def _get_predictions(self, cls_score, data_samples):
        samples = data_samples or [SimpleNamespace() for _ in cls_score]
        for sample, score in zip(samples, cls_score.softmax(1), strict=True):
            sample.pred_score, sample.pred_label = score, score.argmax(0, keepdim=True)
        return samples


class LinearClsHead(ClsHead):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, feats):
        return self.fc(feats[-1])


class ImageClassifier(BaseModel):
    __module__ = 'mmpretrain.models.classifiers.image'

    def __init__(self, backbone, neck=None, head=None, data_preprocessor=None):
        preprocessor = dict(data_preprocessor or {})
        preprocessor.setdefault('type', 'StandInClsDataPreprocessor')
        super().__init__(data_preprocessor=preprocessor)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck else None
        self.head = MODELS.build(head)

    @property
    def with_neck(self):
        return self.neck is not None

    def extract_feat(self, inputs):
        feats = self.backbone(inputs)
        return self.neck(feats) if self.with_neck else feats

    def forward(self, inputs, data_samples=None, mode='tensor'):
        feats = self.extract_feat(inputs)
        return self.head(feats) if mode == 'tensor' else getattr(self.head, mode)(feats, data_samples)

    def loss(self, inputs, data_samples):
        return self(inputs, data_samples, 'loss')

    def predict(self, inputs, data_samples=None):
        return self(inputs, data_samples, 'predict')


for _kind in (ClsDataPreprocessor, ClsHead, LinearClsHead, ImageClassifier):
    MODELS.register_module(name=f'StandIn{_kind.__name__}', module=_kind)
