"""The NumPy predictor against mm itself, on the same network: every step around it must give the same predictions."""

import copy
import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from torch.utils import _pytree as pytree
from upstream_models import CLASSES, R18, build_config, settle_norms

from frostnet_mm.apis.inference import build_pipeline, predict
from frostnet_mm.deploy.heads.describe import describe_model
from frostnet_mm.device import DeploymentError, Detections, Predictor, preprocess, read_image
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.models.dense import DenseNetwork, OutputLayout

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
PIPELINE = 'test_dataloader.dataset.pipeline'
R18_SEGMENTER = R18 | {
    'model.decode_head.in_channels': 512,
    'model.decode_head.channels': 16,
    'model.auxiliary_head.in_channels': 256,
}
# Config, and options that make it small: images of another size than the data set's, fewer layers.
MODELS = {
    'ssdlite_frostnet': (CONFIGS / 'ssdlite_frostnet_coco.py', {}),
    'ssdlite_mobilenetv2': ('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco', {}),
    'retinanet': (
        'mmdet::retinanet/retinanet_r18_fpn_1x_coco',
        {'model.bbox_head.stacked_convs': 1, 'model.test_cfg.nms_pre': 20, f'{PIPELINE}.1.scale': (333, 200)},
    ),
    'yolox': ('mmdet::yolox/yolox_tiny_8xb8-300e_coco', {'model.bbox_head.stacked_convs': 1}),
    'rtmdet': (
        'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco',
        {
            'model.bbox_head.stacked_convs': 1,
            f'{PIPELINE}.1.scale': (320, 320),
            f'{PIPELINE}.2.size': (320, 320),
        },
    ),
    'fcos': (
        'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
        R18
        | {
            'model.neck.in_channels': [64, 128, 256, 512],
            'model.bbox_head.stacked_convs': 1,
            f'{PIPELINE}.1.scale': (333, 200),
        },
    ),
    'atss': (
        'mmdet::atss/atss_r50_fpn_1x_coco',
        R18
        | {
            'model.neck.in_channels': [64, 128, 256, 512],
            'model.bbox_head.stacked_convs': 1,
            f'{PIPELINE}.1.scale': (333, 200),
        },
    ),
    'fcn': ('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024', R18_SEGMENTER | {f'{PIPELINE}.1.scale': (200, 100)}),
    'deeplabv3plus': (
        'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024',
        {
            'model.decode_head.channels': 16,
            'model.auxiliary_head.channels': 16,
            'model.decode_head.align_corners': True,
            f'{PIPELINE}.1.scale': (190, 95),
        },
    ),
}
DETECTORS = [name for name in MODELS if name not in ('fcn', 'deeplabv3plus')]
SEGMENTERS = ['fcn', 'deeplabv3plus']


def image_of(height, width, seed=0):
    """Smooth shapes under noise: neither flat nor random."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        x, y, w, h = (int(v) for v in rng.integers(10, min(height, width) // 2, 4))
        cv2.rectangle(image, (x, y), (x + w, y + h), tuple(int(v) for v in rng.integers(0, 256, 3)), -1)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


class FakeNetwork:
    """mm's own dense network where an engine would be."""

    def __init__(self, model):
        self.dense = DenseNetwork(model).eval()

    def __call__(self, images):
        with torch.no_grad():
            return [leaf.numpy() for leaf in pytree.tree_leaves(self.dense(torch.from_numpy(images)))]

    def names(self, shape):
        with torch.no_grad():
            outputs = self.dense(torch.zeros(shape))
        return OutputLayout.of(outputs, self.dense.head_name).names


def write_deployment(folder, described, names, shape=(1, 3, None, None), dtype='float32'):
    folder.mkdir(exist_ok=True)
    (folder / 'network.onnx').write_bytes(b'not read')
    description = dict(
        format=1,
        engine='onnxruntime',
        network='network.onnx',
        files={'network.onnx': hashlib.sha256(b'not read').hexdigest()},
        input=dict(name='images', shape=shape, dtype=dtype),
        outputs=[dict(name=name) for name in names],
        **described,
    )
    (folder / 'deploy.json').write_text(json.dumps(description))
    return folder


def spread_outputs(model, images):
    """Have a head put out values as a trained one does, though its weights are random: some likely, boxes of all sizes.

    The affine maps become part of the head's ``forward``, so mm and the fake network compute the same.
    """
    head = getattr(model, 'bbox_head', None) or model.decode_head
    forward = head.forward
    with torch.no_grad():
        first = DenseNetwork(model).eval()(images)[0]
    kinds = [first] if isinstance(first, torch.Tensor) else first
    flat = [torch.cat([level[0].flatten(1) for level in pytree.tree_leaves(kind)], 1) for kind in kinds]
    moments = [(v.mean(1)[:, None, None], v.std(1)[:, None, None] + 1e-6) for v in flat]  # by channel
    coder = type(getattr(head, 'bbox_coder', None)).__name__
    boxes = dict(DeltaXYWHBBoxCoder=lambda z: z, DistancePointBBoxCoder=lambda z: 12 * z.abs() + 2)

    def standard(kind, index):
        mean, std = moments[index]
        return [(level - mean) / std for level in kind]

    def spread(features):
        outputs = forward(features)
        if isinstance(outputs, torch.Tensor):
            return 3 * standard([outputs], 0)[0]
        scores = [2 * z - 3 for z in standard(outputs[0], 0)]
        if not getattr(head, 'use_sigmoid_cls', True):
            for level in scores:  # the background comes last
                level[:, CLASSES :: CLASSES + 1] += 4
        shape = boxes.get(coder, lambda z: 0.8 * z)
        others = [[1.5 * z + 1 for z in standard(kind, 2)] for kind in outputs[2:]]
        return scores, [shape(z) for z in standard(outputs[1], 1)], *others

    head.forward = spread


class Case:
    """A model of mm, its pipeline, and a deployment of it that runs the model's own network."""

    def __init__(self, name, folder, options=None):
        source, cut = MODELS[name]
        self.folder = folder
        self.cfg = load_config(source, cut | (options or {}))
        self.model = revert_sync_batchnorm(build_config(copy.deepcopy(self.cfg.model), self.cfg.default_scope))
        settle_norms(self.model)
        self.model.eval()
        if name in SEGMENTERS:
            self.model.data_preprocessor.test_cfg = dict(size_divisor=32)
        elif name == 'ssdlite_mobilenetv2':
            self.model.bbox_head.loss_cls = None  # upstream's SSDHead lacks it, and its predict asks for it
        self.model.dataset_meta = dict(classes=tuple('abcde'), palette=[(i, 2 * i, 3 * i) for i in range(CLASSES)])
        self.pipeline = build_pipeline(self.cfg)
        self.described = describe_model(self.model, self.cfg)
        self.network = FakeNetwork(self.model)
        names = self.network.names((1, 3, 320, 320))
        write_deployment(folder, self.described, names)
        self.predictor = Predictor(folder, network=self.network)
        images, _ = preprocess(image_of(375, 500), self.predictor.description)
        spread_outputs(self.model, torch.from_numpy(images))

    def write(self, height, width, seed=0):
        path = self.folder / f'{height}x{width}_{seed}.png'
        cv2.imwrite(str(path), image_of(height, width, seed))
        return path

    def expected(self, path):
        return predict(self.model, self.pipeline, [path])[0]


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Case(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def assert_same_detections(found, expected):
    """As many, and one for one the same label, score and box; equal scores may change places."""
    assert isinstance(found, Detections)
    boxes, scores, labels = (getattr(expected, key).numpy() for key in ('bboxes', 'scores', 'labels'))
    assert len(found.scores) == len(scores)
    assert found.boxes.dtype == np.float32 and found.boxes.shape == (len(scores), 4)
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, scores, atol=1e-5, rtol=0)
    free = np.ones(len(scores), bool)
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        # four units in the last place of a large box: libraries' exponentials differ by that from CPU to CPU
        near = np.abs(boxes - box) <= np.maximum(1e-3, 4 * np.spacing(np.abs(box).max()))
        fits = free & (labels == label) & (np.abs(scores - score) <= 1e-5) & near.all(1)
        assert fits.any(), (box, score, label)
        free[np.flatnonzero(fits)[0]] = False


@pytest.mark.parametrize('size', [(375, 500), (334, 211), (97, 60)])
@pytest.mark.parametrize('name', MODELS)
def test_input_is_bitwise_that_of_mm(cases, name, size):
    case = cases(name)
    path = case.write(*size)
    expected = case.model.data_preprocessor(pseudo_collate([case.pipeline(dict(img_path=str(path), img_id=0))]))
    images, geometry = preprocess(read_image(path), case.predictor.description)
    assert images.dtype == np.float32 and np.array_equal(images, expected['inputs'].numpy())
    sample = expected['data_samples'][0]
    assert geometry.original == sample.ori_shape and geometry.image == tuple(sample.img_shape)
    if 'scale_factor' in sample:
        assert geometry.scale == sample.scale_factor


def test_a_smaller_image_is_padded_to_a_fixed_network(cases):
    case = cases('retinanet')
    path = case.write(60, 97)
    free, _ = preprocess(read_image(path), case.predictor.description)
    fixed, geometry = preprocess(
        read_image(path), case.predictor.description | dict(input=dict(shape=[1, 3, 256, 352]))
    )
    assert free.shape[2:] < fixed.shape[2:] == (256, 352) == geometry.padded
    assert np.array_equal(fixed[..., : free.shape[2], : free.shape[3]], free)
    assert not fixed[..., free.shape[2] :, :].any() and not fixed[..., free.shape[3] :].any()
    with pytest.raises(DeploymentError, match=r'97x60 pixels becomes 352x224 .*fixed size 320x224.*shape'):
        preprocess(read_image(path), case.predictor.description | dict(input=dict(shape=[1, 3, 224, 320])))


@pytest.mark.parametrize('size', [(375, 500), (334, 211)])
@pytest.mark.parametrize('name', DETECTORS)
def test_detections_equal_those_of_mm(cases, name, size):
    case = cases(name)
    path = case.write(*size)
    expected = case.expected(path).pred_instances
    assert len(expected) >= 30 and len(set(expected.labels.tolist())) >= 4
    assert_same_detections(case.predictor.predict(path), expected)


@pytest.mark.parametrize('size', [(375, 500), (60, 97)])
@pytest.mark.parametrize('name', SEGMENTERS)
def test_label_maps_equal_those_of_mm(cases, name, size):
    case = cases(name)
    path = case.write(*size)
    expected = case.expected(path).pred_sem_seg.data[0].numpy()
    found = case.predictor.predict(path)
    assert found.labels.dtype == np.uint8 and found.labels.shape == size
    assert len(np.unique(expected)) >= 3
    assert (found.labels != expected).sum() <= 1  # a tie that rounding decides


def test_score_threshold_leaves_out_what_is_below(cases):
    case = cases('ssdlite_frostnet')
    path = case.write(375, 500)
    every = case.predictor.predict(path)
    some = Predictor(case.folder, score_threshold=0.5, network=case.network).predict(path)
    above = every.scores > 0.5
    assert 5 < len(some.scores) < len(every.scores) and above.sum() == len(some.scores)
    assert np.array_equal(some.scores, every.scores[above]) and np.array_equal(some.boxes, every.boxes[above])


def test_without_opencv_the_predictions_stay(cases, monkeypatch):
    case = cases('fcn')
    path = case.write(375, 500)
    images, _ = preprocess(read_image(path), case.predictor.description)
    labels = case.predictor.predict(path).labels
    monkeypatch.setitem(sys.modules, 'cv2', None)
    others, _ = preprocess(read_image(path), case.predictor.description)
    steps = np.abs(images - others) * np.reshape(case.described['preprocessing']['std'], (3, 1, 1))
    assert 0.5 < steps.max() <= 1.01  # of 255, which OpenCV's fixed-point weights cost
    assert (case.predictor.predict(path).labels != labels).mean() < 0.02


# -- descriptions


def described(name, changes=None, step=None):
    """The description of a model of 5 classes, with options of the config and another second step of the pipeline."""
    source, cut = MODELS[name]
    cfg = load_config(source, cut | (changes or {}))
    if step is not None:
        cfg.test_dataloader.dataset.pipeline[1] = step
    model = build_config(copy.deepcopy(cfg.model), cfg.default_scope)
    model.dataset_meta = dict(classes=tuple('abcde'))
    return describe_model(model, cfg)


def test_description_of_ssdlite_by_hand():
    found = described('ssdlite_frostnet')
    assert found['task'] == 'detection' and found['classes'] == list('abcde') and found['palette'] == []
    preprocessing, decoding = found['preprocessing'], found['decoding']
    assert preprocessing['resize'] == dict(width=320, height=320, keep_ratio=False)
    assert preprocessing['pad'] is None and preprocessing['size_divisor'] == 1 and preprocessing['bgr_to_rgb']
    assert preprocessing['mean'] == pytest.approx([123.675, 116.28, 103.53])
    assert [level['stride'] for level in decoding['levels']] == [[s, s] for s in (16, 32, 64, 107, 160, 320)]
    square = decoding['levels'][0]['base_anchors'][0]  # 48 pixels around the middle of 16
    assert square == pytest.approx([-16, -16, 32, 32])
    assert decoding['outputs']['boxes'] == [f'bbox_head.1.{level}' for level in range(6)]
    assert decoding['coder']['stds'] == pytest.approx([0.1, 0.1, 0.2, 0.2])
    expected = dict(scores='softmax', num_classes=5, score_threshold=0.02, iou_threshold=0.45, nms_pre=1000)
    assert {key: decoding[key] for key in expected} == expected and decoding['max_per_image'] == 200
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    'step, message',
    [
        (dict(type='RandomCrop', crop_size=(9, 9)), 'the transform RandomCrop'),
        (dict(type='mmdet.Resize', scale_factor=0.5), r'Resize with scale_factor=0\.5'),
        (dict(type='Resize', scale=(9, 9), interpolation='cubic'), "backend='cv2' and interpolation='cubic'"),
        (dict(type='Pad', size_divisor=32), 'Pad with size_divisor=32'),
        (dict(type='Pad', pad_to_square=True), 'Pad with pad_to_square=True'),
    ],
)
def test_a_pipeline_that_cannot_be_expressed_is_refused(step, message):
    with pytest.raises(ConfigError, match=message):
        described('ssdlite_frostnet', step=step)


def test_heads_that_decode_otherwise_have_no_decoding(monkeypatch, tmp_path):
    faster = ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco', {})
    monkeypatch.setitem(MODELS, 'faster_rcnn', faster)
    found = described('faster_rcnn')
    assert found['decoding'] is None and 'FasterRCNN is no single-stage detector' in found['no_decoding']
    assert found['preprocessing']['size_divisor'] == 32
    with pytest.raises(DeploymentError, match='cannot predict by itself: FasterRCNN is no single-stage'):
        Predictor(write_deployment(tmp_path / 'deployment', found, ['rpn_head.0.0']))
    soft = dict(type='soft_nms', iou_threshold=0.5)
    assert 'soft_nms' in described('ssdlite_frostnet', {'model.test_cfg.nms': soft})['no_decoding']
    monkeypatch.setitem(MODELS, 'gfl', ('mmdet::gfl/gfl_r50_fpn_1x_coco', {}))
    assert 'GFLHead has a _predict_by_feat_single of its own' in described('gfl')['no_decoding']
    assert "mode is 'slide'" in described('fcn', {'model.test_cfg': dict(mode='slide')})['no_decoding']


def test_classes_must_be_those_of_the_head():
    source, cut = MODELS['ssdlite_frostnet']
    cfg = load_config(source, cut)
    model = build_config(copy.deepcopy(cfg.model), cfg.default_scope)
    with pytest.raises(ConfigError, match='does not say which classes'):
        describe_model(model, cfg)
    model.dataset_meta = dict(classes=tuple('abc'))
    with pytest.raises(ConfigError, match='head has 5 classes, dataset_meta names 3'):
        describe_model(model, cfg)
