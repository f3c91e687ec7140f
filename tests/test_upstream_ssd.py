"""mmdet's own SSDLite: trained, validated and asked for predictions, as it is, quantized, and in mmdet's own way."""

import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from frostnet_mm.engine.config import load_config, without_pretrained
from frostnet_mm.models.upstream import mend_ssd_head

SSDLITE = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
CHILD = """
_base_ = {base!r}
custom_imports = dict(imports=['frostnet_mm'])
data_root = {root!r}
classes = {classes}
size = (96, 96)
channels = (24, 1280, 512, 256, 256, 128)
model = dict(backbone=dict(widen_factor=0.25), neck=dict(in_channels=channels[:2], out_channels=channels),
             bbox_head=dict(in_channels=channels, num_classes=len(classes)))
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=size, keep_ratio=False),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]


def data(split):
    return dict(_delete_=True, type='CocoDataset', data_root=data_root,
                ann_file=f'annotations/instances_{{split}}.json', data_prefix=dict(img=f'{{split}}/'),
                metainfo=dict(classes=classes), pipeline=pipeline)


def loader(split):
    return dict(num_workers=0, persistent_workers=False, batch_size=4, dataset=data(split))


train_dataloader, val_dataloader, test_dataloader = loader('train2017'), loader('val2017'), loader('val2017')
val_evaluator = dict(ann_file=f'{{data_root}}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1, val_interval=1)
param_scheduler = []
custom_hooks = []
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1), logger=dict(interval=1){hook})
"""
HOOK = ", qat=dict(type='frostnet_mm.QATHook', warmup='0 iterations')"


@pytest.fixture
def write(mini_coco, tmp_path):
    from frostnet_mm.data import read_coco_classes

    classes = tuple(read_coco_classes(str(mini_coco / 'annotations/instances_train2017.json')))

    def write(hook=''):
        path = tmp_path / 'child.py'
        path.write_text(CHILD.format(base=SSDLITE, root=str(mini_coco), classes=classes, hook=hook))
        return path

    return write


@pytest.mark.parametrize('hook', ['', HOOK], ids=['plain', 'quantized'])
def test_upstreams_ssdlite_trains_and_validates(write, tmp_path, hook):
    config = write(hook)
    assert run_tool('train', config, '--work-dir', tmp_path / 'run') == 0
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'coco/bbox_mAP:' in log
    assert ('Validation in simulated INT8.' in log) == bool(hook)
    assert run_tool('test', config, tmp_path / 'run/iter_1.pth', '--work-dir', tmp_path / 'test') == 0


def test_as_swap_backbone_writes_it(tmp_path):
    out = tmp_path / 'swapped.py'
    assert run_tool('swap_backbone', SSDLITE, '--out', out) == 0
    assert predicts(out)


def test_upstreams_ssd300_predicts():
    assert predicts('mmdet::ssd/ssd300_coco.py')


def predicts(config):
    from mmdet.testing import demo_mm_inputs

    cfg = load_config(config)
    init_default_scope('mmdet')
    without_pretrained(cfg.model)
    model = MODELS.build(cfg.model).eval()
    size = 300 if 'ssd300' in str(config) else 320
    with torch.no_grad():
        data = model.data_preprocessor(demo_mm_inputs(1, [[3, size, size]], num_classes=80))
        results = model(**data, mode='predict')
    return results[0].pred_instances.bboxes.shape[1] == 4


ALONE = """
import sys
{before}
import frostnet_mm
{light}
from mmdet.models.dense_heads import SSDHead
priors = dict(type='mmdet.SSDAnchorGenerator', scale_major=False, input_size=300, basesize_ratio_range=(0.15, 0.9),
              strides=[8, 16, 32, 64, 100, 300], ratios=([2], [2, 3], [2, 3], [2, 3], [2], [2]))
head = SSDHead(num_classes=2, in_channels=[8] * 6, anchor_generator=priors,
               bbox_coder=dict(type='mmdet.DeltaXYWHBBoxCoder'))
assert head.loss_cls is None
assert SSDHead.__module__ == 'mmdet.models.dense_heads.ssd_head' and SSDHead.__doc__
"""


@pytest.mark.parametrize(
    'before, light', [('', "assert 'mmdet' not in sys.modules"), ('import mmdet.models', '')], ids=['after', 'before']
)
def test_the_import_alone_mends_mmdet(before, light):
    """As mmdet's own tools/train.py does with custom_imports, whichever is imported first."""
    done = subprocess.run(
        [sys.executable, '-c', ALONE.format(before=before, light=light)],
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_head_that_sets_its_loss_keeps_it():
    module = ModuleType('ssd_head')

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.loss_cls = nn.CrossEntropyLoss()

    module.SSDHead = Fixed
    mend_ssd_head(module)
    assert 'loss_cls' not in vars(Fixed)

    class Lacking(nn.Module):
        def __init__(self):
            super().__init__()

    class Child(Lacking):
        def __init__(self, loss):
            super().__init__()
            self.loss_cls = loss

    module.SSDHead = Lacking
    mend_ssd_head(module)
    loss = nn.CrossEntropyLoss()
    assert Lacking().loss_cls is None and Child(loss).loss_cls is loss and Child('text').loss_cls == 'text'
    assert list(Child(loss).children()) == [loss]
