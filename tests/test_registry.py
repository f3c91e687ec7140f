"""What a config's `type` names: by name, with scope, as a class, as an object."""

import runpy

import pytest
import torch
from conftest import ROOT
from mmdet.engine.hooks import DetVisualizationHook
from mmengine.config import Config, ConfigDict
from mmengine.model import PretrainedInit
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from mmseg.evaluation import IoUMetric as UpstreamMetric

from frostnet_mm.apis.iou_metric import IoUMetric
from frostnet_mm.engine.config import load_config, without_pretrained
from frostnet_mm.engine.hooks.interrupt_hook import InterruptHook
from frostnet_mm.engine.runner import build_runner, enable_amp
from frostnet_mm.registry import is_type, type_name


class DerivedHook(InterruptHook):
    """A user's own form of a hook."""


@pytest.mark.parametrize('kind', ['InterruptHook', 'frostnet_mm.InterruptHook', InterruptHook])
@pytest.mark.parametrize('wrap', [lambda kind: kind, lambda kind: dict(type=kind), lambda kind: ConfigDict(type=kind)])
def test_a_name_with_and_without_scope_and_a_class_give_the_same(kind, wrap):
    assert type_name(wrap(kind)) == 'InterruptHook'
    assert is_type(wrap(kind), 'frostnet_mm.InterruptHook')
    assert not is_type(wrap(kind), 'frostnet_mm.QATHook')


def test_objects_and_configs_without_type():
    assert type_name(InterruptHook()) == 'InterruptHook'
    assert is_type(InterruptHook(), 'frostnet_mm.InterruptHook')
    assert type_name({}) == type_name(dict(type=None)) == ''
    assert not is_type({}, 'frostnet_mm.InterruptHook')


def test_derived_classes_count_and_other_scopes_do_not():
    assert type_name(dict(type=DerivedHook)) == 'DerivedHook'
    assert is_type(dict(type=DerivedHook), 'frostnet_mm.InterruptHook')
    for kind in (UpstreamMetric, 'mmseg.IoUMetric'):
        assert type_name(kind) == 'IoUMetric'
        assert not is_type(kind, 'frostnet_mm.IoUMetric')
    assert is_type(IoUMetric, 'frostnet_mm.IoUMetric') and is_type(IoUMetric, 'mmseg.IoUMetric')  # derived from it


@pytest.mark.parametrize('hook', [InterruptHook, DerivedHook, 'frostnet_mm.InterruptHook'])
def test_the_runner_gets_one_interrupt_hook_and_a_resumable_loop(hook, tmp_path):
    cfg = load_config(ROOT / 'configs/ssdlite_frostnet_coco.py')
    cfg.work_dir = str(tmp_path)
    cfg.custom_hooks = [dict(type=hook)]
    cfg.train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
    runner = build_runner(cfg)
    assert sum(isinstance(each, InterruptHook) for each in runner.hooks) == 1
    assert runner.cfg.train_cfg.type == 'frostnet_mm.ResumableEpochTrainLoop'


@pytest.mark.parametrize('kind', ['OptimWrapper', OptimWrapper, 'AmpOptimWrapper', AmpOptimWrapper])
def test_mixed_precision_knows_wrappers_by_class(kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(optim_wrapper=dict(type=kind)))
    enable_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == dict(type='AmpOptimWrapper', loss_scale='dynamic')


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
def test_initializations_from_checkpoints_are_found_by_class(kind):
    model = dict(backbone=dict(init_cfg=dict(type=kind, checkpoint='absent.pth')))
    without_pretrained(model)
    assert model == dict(backbone=dict(init_cfg=None))


@pytest.mark.parametrize('kind', ['DetVisualizationHook', 'mmdet.DetVisualizationHook', DetVisualizationHook])
def test_drawing_knows_hooks_by_class(kind, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    draw_into = runpy.run_path(str(ROOT / 'tools/test.py'))['draw_into']
    cfg = Config(dict(default_hooks=dict(visualization=dict(type=kind))))
    draw_into(cfg, '/drawn')
    assert cfg.default_hooks.visualization.to_dict() == dict(type=kind, draw=True, test_out_dir='/drawn')
