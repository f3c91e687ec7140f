"""Deployments on images of other sizes than the network's, against mm's own pipeline: padded, letterboxed, odd."""

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.dataset import pseudo_collate

from frostnet_mm.apis.inference import build_pipeline, plain_result
from frostnet_mm.deploy.deploy import DeployOptions, deploy_model
from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.heads.describe import describe_model
from frostnet_mm.deploy.heads.onnx_decoding import with_decoding
from frostnet_mm.deploy.loaded_model import load_for_deployment
from frostnet_mm.deploy.verification import deployment
from frostnet_mm.deploy.verification.predictions import require_equal
from frostnet_mm.device import ClassScores, DeploymentError, ImageSizeError, Predictor
from frostnet_mm.device.engines.base import DeviceEngine
from frostnet_mm.device.image_files import as_grey
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.models.input_channels import input_channels

CONFIG = ROOT / 'configs/ssdlite_frostnet_coco.py'
SIZE = (128, 160)
SIZES = ((128, 160), (61, 99), (37, 160), (90, 111))
OPTIONS = {
    'model.bbox_head.num_classes': 3,
    'model.test_cfg.score_thr': 0.3,
    'model.test_cfg.nms_pre': 40,
    'test_dataloader.dataset.pipeline.1.keep_ratio': True,
}
CHECKED = dict(
    bake={'model.data_preprocessor.pad_value': -3.0},
    bake_pixels={  # 210 in each channel, so that nothing is rounded
        'model.data_preprocessor.pad_value': 1.5,
        'model.data_preprocessor.mean': [120.0] * 3,
        'model.data_preprocessor.std': [60.0] * 3,
    },
    decode={'model.test_cfg.min_bbox_size': 12},
    decode_agnostic={'model.test_cfg.nms.class_agnostic': True},
)


def picture(path, height, width):
    generator = np.random.default_rng(height * width)
    image = cv2.resize(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8), (width, height))
    cv2.imwrite(str(path), image)
    return path


def expected(source, path):
    """mm's test pipeline and predict, in a batch with an image that fills the network's input."""
    data = build_pipeline(source.cfg)(dict(img_path=str(path), img_id=0))
    full = dict(inputs=torch.zeros((3, *SIZE), dtype=torch.uint8), data_samples=data['data_samples'].clone())
    with torch.no_grad():
        return plain_result(source.model.test_step(pseudo_collate([data, full]))[0], 'abc', 0)


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] if name == 'decode_agnostic' else []) for name in CHECKED]
)
def test_boxes_are_those_of_mm_on_images_of_any_size(name, tmp_path):
    source = load_for_deployment(CONFIG, None, 'float', OPTIONS | CHECKED[name], size=SIZE)
    images = [str(picture(tmp_path / f'{h}x{w}.png', h, w)) for h, w in SIZES]
    options = DeployOptions(
        precision='float', shape=SIZE, images=images[:2], bake='bake' in name, decode='decode' in name
    )
    description = deploy_model(source, engine_of('onnxruntime'), tmp_path / 'out', options)
    assert description['verification']['predicted_share'] > 0.95
    assert description['input']['dtype'] == dict(bake_pixels='uint8').get(name, 'float32')
    predictor, count = Predictor(tmp_path / 'out'), 0
    for path in images:
        found, wanted = predictor.predict(path), expected(source, path)
        near = np.abs(found.boxes[:, None] - wanted.boxes[None]).max(2) < 0.3
        near &= found.labels[:, None] == wanted.labels[None]
        near &= np.abs(found.scores[:, None] - wanted.scores[None]) < 5e-3
        assert near.any(1).mean() > 0.95 and near.any(0).mean() > 0.95
        count += len(wanted.boxes)
        height, width = cv2.imread(path).shape[:2]
        assert found.boxes.min() >= 0 and (found.boxes <= np.array([width, height] * 2) + 1e-3).all()
    assert count > 30


def test_decoding_that_suppresses_otherwise_is_refused(tmp_path, monkeypatch):
    source = load_for_deployment(CONFIG, None, 'float', OPTIONS, size=SIZE)
    monkeypatch.setattr(
        deployment,
        'with_decoding',
        lambda content, own, size: with_decoding(content, own | dict(iou_threshold=0.9), size),
    )
    options = DeployOptions(precision='float', shape=SIZE, decode=True)
    with pytest.raises(DeploymentError, match=r'onnxruntime, decoding, gives \d+\.\d% of the boxes of NumPy'):
        deploy_model(source, engine_of('onnxruntime'), tmp_path / 'out', options)
    assert not (tmp_path / 'out').exists()


def test_batches_take_single_images(tmp_path):
    source = load_for_deployment(CONFIG, None, 'float', OPTIONS, size=SIZE)
    images = [str(picture(tmp_path / f'{h}x{w}.png', h, w)) for h, w in SIZES]
    options = DeployOptions(precision='float', shape=SIZE, images=images[:1], batch=3)
    description = deploy_model(source, engine_of('onnxruntime'), tmp_path / 'out', options)
    assert description['input']['shape'][0] == 3
    predictor = Predictor(tmp_path / 'out')
    together = predictor.predict_all(images)
    assert len(together) == 4 and len(together[0].boxes)
    for path, found in zip(images, together, strict=True):
        np.testing.assert_allclose(predictor.predict(path).boxes, found.boxes, atol=1e-3)


def test_unknown_keys_are_refused():
    source = load_for_deployment(CONFIG, None, 'float', OPTIONS, size=SIZE)
    source.model.test_cfg.rescore = 2
    description = describe_model(source.model, source.cfg)
    assert description['decoding'] is None
    expected = 'test_cfg.rescore=2 of SSDLiteHead is unknown outside mm, expected only score_thr'
    assert description['no_decoding'].startswith(expected)


@pytest.mark.parametrize('channels', [1, 4])
def test_images_of_other_channels(channels, tmp_path):
    options = OPTIONS | {
        'model.backbone.in_channels': channels,
        'model.data_preprocessor.mean': [110.0],
        'model.data_preprocessor.std': [60.0],
        'model.data_preprocessor.bgr_to_rgb': False,
        'test_dataloader.dataset.pipeline.0.color_type': 'grayscale',
    }
    source = load_for_deployment(CONFIG, None, 'float', options, size=SIZE)
    assert input_channels(DenseNetwork(source.model)) == channels
    path = picture(tmp_path / 'colour.png', *SIZES[1])
    how = DeployOptions(precision='float', shape=SIZE, images=[str(path)])
    description = deploy_model(source, engine_of('onnxruntime'), tmp_path / 'out', how)
    assert description['input']['shape'] == [1, channels, *SIZE]
    predictor = Predictor(tmp_path / 'out')
    if channels == 1:
        assert description['verification']['predicted_share'] > 0.95
        grey = as_grey(cv2.imread(str(path)))
        assert np.array_equal(grey, cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2GRAY))
        found, same = predictor.predict(path), predictor.predict(grey)
        assert len(found.boxes) and np.array_equal(found.boxes, same.boxes)
    else:
        assert len(predictor.predict(np.random.default_rng(0).integers(0, 256, (60, 90, 4), np.uint8)).scores)
        with pytest.raises(Exception, match='images of 4 channels'):
            predictor.predict(path)


def test_engines_that_are_too_old_are_refused(monkeypatch):
    class Old(DeviceEngine):
        name = module = package = 'numpy'
        minimum = '99.1'

        def open(self, path, description, threads=None): ...

    with pytest.raises(DeploymentError, match=r'needs numpy 99\.1 or newer, 2\.\S* is installed: pip install -U'):
        Old().check_version()
    Old().check_version('1.20')
    assert engine_of('onnxruntime').device.minimum == '1.23.2'


def test_what_is_not_compared_does_not_count_as_equal(capsys):
    """No image fits the network; and of two that do, one of three scores differs."""

    def refuses(pixels):
        raise ImageSizeError('too large')

    def predicts(*scores):
        return lambda pixels: ClassScores(np.array(scores, np.float32), ('a', 'b', 'c'))

    images = [np.zeros((4, 4, 3), np.uint8)] * 2
    assert require_equal(refuses, refuses, images, 0.9, 'ours', 'theirs') is None
    assert capsys.readouterr().out.startswith('ours was not compared with theirs: no image fits')

    def fails(pixels):
        raise DeploymentError('Output 2 holds NaN')

    with pytest.raises(DeploymentError, match='holds NaN'):  # of FCOS with random weights: nothing was compared
        require_equal(fails, refuses, images, 0.9, 'ours', 'theirs')
    one, other = predicts(0.2, 0.3, 0.5), predicts(0.2, 0.31, 0.5)
    assert require_equal(one, one, images, 0.9, 'ours', 'theirs') == 1
    assert require_equal(one, other, images, 0.6, 'ours', 'theirs') == pytest.approx(2 / 3)
    with pytest.raises(DeploymentError, match='^ours gives 66.7% of the scores of theirs for the same network'):
        require_equal(one, other, images, 0.9, 'ours', 'theirs')
