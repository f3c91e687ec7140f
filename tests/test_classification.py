"""Classifiers: transforms, metric, networks of the configs, and from training to a deployment."""

import json
import math
import re

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.structures import BaseDataElement
from test_image_folder import three_classes
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from frostnet_mm.apis.accuracy import Accuracy
from frostnet_mm.data.classification_transforms import PackClsInputs, RandomResizedCrop
from frostnet_mm.data.errors import DatasetError
from frostnet_mm.device import Predictor, preprocess
from frostnet_mm.engine.config import load_config
from frostnet_mm.models.backbones.shufflenet_v2 import channel_shuffle
from frostnet_mm.models.classifiers import ClsHead
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.registry import MODELS

CONFIG = ROOT / 'configs/frostnet_qat_custom_cls.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return three_classes(tmp_path_factory.mktemp('classes'))


# -- transforms


def test_random_resized_crop_draws_what_it_says():
    np.random.seed(0)
    crop = RandomResizedCrop(8, area=(0.2, 0.5), ratio=(0.5, 2.0))
    parts = [crop.draw(120, 120) for _ in range(4000)]
    areas = np.array([w * h for _, _, w, h in parts]) / 14400
    logs = np.log([w / h for _, _, w, h in parts])
    assert areas.min() > 0.195 and areas.max() < 0.505 and abs(areas.mean() - 0.35) < 0.01
    assert abs(logs).max() < math.log(2.05) and abs(logs.mean()) < 0.03
    assert all(0 <= x and x + w <= 120 and 0 <= y and y + h <= 120 for x, y, w, h in parts)
    # a strip, of which no allowed part has enough area: the largest of the nearest ratio, in the middle
    assert RandomResizedCrop(8, area=(0.9, 1.0)).draw(10, 400) == (193, 0, 13, 10)


def test_random_resized_crop_takes_what_it_draws(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    crop = RandomResizedCrop((6, 5))
    monkeypatch.setattr(crop, 'draw', lambda height, width: (3, 2, 6, 5))
    result = crop(dict(img=image))
    assert np.array_equal(result['img'], image[2:7, 3:9]) and result['img_shape'] == (5, 6)
    for area in ((0, 1), 0.5, (0.5,), (0.1, 2), ('a', 'b')):
        with pytest.raises(ValueError, match=f'area={re.escape(repr(area))}, expected two parts'):
            RandomResizedCrop(8, area=area)
    for wrong in (dict(scale=True), dict(scale=8.5), dict(scale=(8, 8, 8)), dict(scale=8, ratio=2)):
        with pytest.raises(ValueError, match='expected a side in pixels|expected two ratios'):
            RandomResizedCrop(**wrong)


def test_packing_keeps_the_pixels():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    packed = PackClsInputs()(dict(img=image, gt_label=5, img_path='a', ori_shape=(2, 4)))
    assert packed['inputs'].tolist() == image.transpose(2, 0, 1).tolist()
    assert packed['data_samples'].metainfo == dict(img_path='a', ori_shape=(2, 4))
    assert packed['data_samples'].gt_label.tolist() == [5]


# -- head and metric


def accuracy_of(scores, labels, topk=(1, 5)):
    metric = Accuracy(topk)
    metric.dataset_meta = dict(classes=[f'c{index}' for index in range(scores.shape[1])])
    metric.process({}, [dict(pred_score=s, gt_label=torch.tensor([t])) for s, t in zip(scores, labels, strict=True)])
    return metric.evaluate(len(labels))


def test_accuracy_is_that_of_topk():
    scores, labels = torch.rand(60, 9, generator=torch.Generator().manual_seed(0)), [index % 9 for index in range(60)]
    right = scores.topk(5).indices == torch.tensor(labels)[:, None]  # torch's own order
    expected = {f'accuracy/top{k}': round(float(right[:, :k].any(1).double().mean()) * 100, 2) for k in (1, 5)}
    assert accuracy_of(scores, labels) == expected
    perfect = functional.one_hot(torch.tensor(labels), 9).float()
    assert accuracy_of(perfect, labels) == {'accuracy/top1': 100.0, 'accuracy/top5': 100.0}
    constant = accuracy_of(torch.full((60, 9), 0.1), labels)  # says nothing: right for the first class alone
    assert constant['accuracy/top1'] == round(100 * labels.count(0) / 60, 2)
    assert accuracy_of(torch.full((60, 9), math.nan), labels)['accuracy/top5'] == 0.0
    assert list(accuracy_of(scores[:, :3], [0] * 60)) == ['accuracy/top1']


@pytest.mark.parametrize('label', [-1, 3, [0, 2], 1.5, math.nan, [1, 0, 0]])
def test_labels_that_are_no_class_are_refused(label):
    metric = Accuracy()
    sample = dict(pred_score=torch.tensor([0.2, 0.3, 0.5]), gt_label=torch.as_tensor(label), img_path='a.png')
    with pytest.raises(DatasetError, match=r'^gt_label=.* of a\.png: expected one index of a class, 0 to 2, '):
        metric.process({}, [sample])


def test_where_no_k_is_left_it_is_1():
    metric = Accuracy(topk=5)
    metric.dataset_meta = dict(classes='abc')
    metric.process({}, [dict(pred_score=torch.tensor([0.2, 0.3, 0.5]), gt_label=torch.tensor([2]))])
    assert metric.evaluate(1) == {'accuracy/top1': 100.0}


@pytest.mark.parametrize('value', [0, -3, 1.5, 'many'])
def test_hidden_channels_of_none(value):
    with pytest.raises(ValueError, match=f'hidden_channels={value!r}, expected a whole number of at least 1, or None'):
        ClsHead(4, hidden_channels=value)


def test_the_head_by_hand():
    torch.manual_seed(0)
    head, x = ClsHead(4, num_classes=3, label_smoothing=0.1), torch.randn(5, 4, 2, 3)
    logits = x.mean((2, 3)) @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head((x,)), logits)
    samples = [BaseDataElement(gt_label=torch.tensor([index % 3])) for index in range(5)]
    target = torch.full((5, 3), 0.1 / 3)
    target[range(5), [index % 3 for index in range(5)]] += 0.9
    loss = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(head.loss((x,), samples)['loss'], loss)
    found = head.predict((x,), samples)
    assert [int(sample.pred_label) for sample in found] == logits.argmax(1).tolist()
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in found]), logits.softmax(1))


# -- networks

HEAD = dict(type='frostnet_mm.ClsHead')
#: Parameters and millions of MACs at 224x224, of torchvision's models and of the papers.
NETWORKS = {
    'alexnet': (dict(type='frostnet_mm.AlexNet', num_classes=1000), dict(type='frostnet_mm.LogitsHead'), 61100840, 714),
    'resnet18': (dict(type='frostnet_mm.ResNet', depth=18), HEAD | dict(in_channels=512), 11689512, 1814),
    'shufflenetv2_x0.5': (
        dict(type='frostnet_mm.ShuffleNetV2', widen_factor=0.5),
        HEAD | dict(in_channels=192, hidden_channels=1024),
        1366792,
        41,
    ),
    'shufflenetv2': (
        dict(type='frostnet_mm.ShuffleNetV2'), HEAD | dict(in_channels=464, hidden_channels=1024), 2278604, 146
    ),
    'mobilenetv2': (dict(type='mmdet.MobileNetV2', out_indices=(7,)), HEAD | dict(in_channels=1280), 3504872, 300),
    'mobilenetv3': (
        dict(type='frostnet_mm.MobileNetV3', output_stride=32, out_indices=(16,), norm_cfg=dict(type='BN')),
        HEAD | dict(in_channels=960, hidden_channels=1280, hidden_after_pool=True, act_cfg=dict(type='HSwish')),
        5483032,
        219,
    ),
    'frostnet': (
        dict(type='frostnet_mm.FrostNet', out_indices=(4,)),
        HEAD | dict(in_channels=320, hidden_channels=1280),
        4858776,
        315,
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', NETWORKS)
def test_counts_are_the_published_ones(name):
    backbone, head, params, mmacs = NETWORKS[name]
    model = MODELS.build(dict(type='frostnet_mm.ImageClassifier', backbone=backbone, head=head)).eval()
    assert sum(p.numel() for p in model.parameters()) == params
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert counter.get_total_flops() / 2e6 == pytest.approx(mmacs, rel=0.015)  # the papers round


def test_vgg16_has_the_published_count():
    with torch.device('meta'):
        model = MODELS.build(dict(type='frostnet_mm.VGG', depth=16, with_bn=False, num_classes=1000))
    assert sum(p.numel() for p in model.parameters()) == 138357544


def test_channels_alternate():
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert channel_shuffle(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*_custom_cls.py')), ids=lambda path: path.stem)
def test_configs_build_and_train_a_step(path, data):
    cfg = load_config(path, dict(data_root=str(data)))
    model = MODELS.build(cfg.model)
    samples = [BaseDataElement(gt_label=torch.tensor([index])) for index in (0, 2)]
    loss = model(torch.randn(2, 3, 64, 64), samples, mode='loss')['loss']
    loss.backward()
    assert all(p.grad is not None for p in model.parameters()) and 0 < float(loss) < 10
    assert DenseNetwork(model).head_name == 'head'


# -- from training to a deployment


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """A config of a small network, and its checkpoint."""
    out = tmp_path_factory.mktemp('trained')
    config = out / 'small_cls.py'
    config.write_text(
        f"""
_base_ = {str(CONFIG)!r}
data_root, input_size, max_epochs, batch_size = {str(data)!r}, 32, 8, 8
arch = dict(_delete_=True, stem=16, stages=[[(3, 16, 2, None, 2)], [(3, 32, 3, 2, 2)], [(3, 48, 2, None, 1, 'fused')]])
model = dict(
    backbone=dict(arch=arch, out_indices=(2,)), head=dict(in_channels=48, hidden_channels=None, dropout=0.0)
)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(val_interval=8)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5)]
optim_wrapper = dict(optimizer=dict(lr=0.005))
randomness = dict(seed=0)
"""
    )
    assert run_tool('train', config, '--work-dir', out) == 0
    return config, out / 'epoch_8.pth'


def test_all_arithmetics_and_an_engine_tell_the_classes_apart(trained, tmp_path):
    config, checkpoint = trained
    arguments = ('--compare', '--engine', 'onnxruntime', '--out', tmp_path / 'm.json', '--work-dir', tmp_path)
    assert run_tool('test', config, checkpoint, *arguments) == 0
    metrics = json.loads((tmp_path / 'm.json').read_text())['metrics']
    found = {name: values['accuracy/top1'] for name, values in metrics.items()}
    assert set(found) == {'float', 'simulated', 'converted', 'onnxruntime'}
    assert min(found.values()) > 60, found  # chance is 33


@pytest.mark.parametrize('hook', ['', "default_hooks = dict(visualization=dict(type='VisualizationHook'))"])
def test_a_classifier_is_not_drawn_image_by_image(hook, trained, tmp_path, capsys):
    """Nor by mmpretrain's hook, which has other options."""
    config, checkpoint = tmp_path / 'hook.py', trained[1]
    config.write_text(f'_base_ = {str(trained[0])!r}\n{hook}\n')
    assert run_tool('test', config, checkpoint, '--show-dir', tmp_path / 'a', '--work-dir', tmp_path) == 2
    shown = capsys.readouterr().err
    assert 'of a classifier, --plots DIR draws what it gets wrong' in shown and 'Hook' not in shown


def test_a_deployment_says_what_infer_says(trained, data, tmp_path):
    config, checkpoint = trained
    out, image = tmp_path / 'deployed', str(data / 'val/disc/0.png')
    how = ('--engine', 'onnxruntime', '--out', out)
    assert run_tool('deploy', config, checkpoint, *how) == 0
    description = json.loads((out / 'deploy.json').read_text())
    assert description['task'] == 'classification' and description['decoding']['kind'] == 'classes'
    predictor = Predictor(out)
    result = predictor.predict(image)
    assert run_tool('infer', config, checkpoint, image, '--converted', '--out', tmp_path / 'seen') == 0
    (seen,) = json.loads((tmp_path / 'seen/results.json').read_text())['images'].values()
    assert [row['class'] for row in seen['classes']] == [row['class'] for row in result.to_dict()['classes']]
    assert [row['score'] for row in seen['classes']] == pytest.approx(
        [row['score'] for row in result.to_dict()['classes']], abs=0.02
    )
    assert float(result.scores.sum()) == pytest.approx(1.0)
    drawn = predictor.draw(image, result)
    assert drawn.shape == (40, 52, 3) and (drawn != cv2.imread(image)).any()


def test_the_middle_is_cut_out_as_mmcv_does():
    from mmcv.transforms import CenterCrop

    settings = dict(resize=None, pad=None, size_divisor=1, bgr_to_rgb=False, mean=[0] * 3, std=[1] * 3, baked=False)
    for size in ((40, 51), (33, 20), (16, 60)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        description = dict(
            preprocessing=settings | dict(crop=dict(width=24, height=32)), input=dict(shape=[1, 3, None, None])
        )
        found, geometry = preprocess(image, description)
        expected = CenterCrop((24, 32))(dict(img=image))['img']
        assert np.array_equal(found[0].transpose(1, 2, 0), expected) and geometry.image == expected.shape[:2]
