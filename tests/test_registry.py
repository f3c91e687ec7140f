"""What a config's `type` names: by name, with scope, as a class, as an object."""

import os
import runpy
import subprocess
import sys
from importlib import import_module

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


# By mm's root registry: what of ours is built by name, and with what.
REGISTERED = {
    'MODELS': [('FrostNet', {}), ('DFPN', None), ('SSDLiteHead', None)],
    'HOOKS': [('QATHook', {}), ('InterruptHook', {}), ('FiniteLossHook', {}), ('FiniteCheckpointHook', {})],
    'DATASETS': [('CheckedCocoDataset', None)],
    'TRANSFORMS': [('LoadImageFromFile', {}), ('LoadImage', {}), ('MinIoURandomCrop', {})],
    'LOOPS': [('ResumableEpochTrainLoop', None)],
    'METRICS': [('IoUMetric', {})],
    'OPTIMIZERS': [('GradBoostSGD', None), ('GradBoostAdamW', None)],
}
LOOKUP = """
import sys
from importlib import import_module
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
scope, registry, name, options = sys.argv[1:]
import_modules_from_strings(['frostnet_mm'], allow_failed_imports=False)  # as custom_imports of a config does
assert 'torch' not in sys.modules
if scope != 'mmengine':
    init_default_scope(scope)
found = getattr(import_module(f'{scope}.registry'), registry)
cls = found.get(f'frostnet_mm.{name}')
assert cls is not None and cls.__module__.startswith('frostnet_mm.'), cls
if options != 'None':
    assert type(found.build(dict(eval(options), type=f'frostnet_mm.{name}'))) is cls
"""


SCOPES = ('mmengine', 'mmdet', 'mmseg')
#: Every registry in a scope, and models in each.
PLACES = {*zip(REGISTERED, SCOPES * len(REGISTERED), strict=False), *(('MODELS', scope) for scope in SCOPES)}


@pytest.mark.parametrize(('registry', 'scope'), sorted(PLACES))
def test_names_are_found_in_a_fresh_process_after_the_package_alone(registry, scope):
    name, options = REGISTERED[registry][0]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, '-c', LOOKUP, scope, registry, name, str(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ('registry', 'name', 'options'), [(key, *case) for key, cases in REGISTERED.items() for case in cases]
)
def test_names_are_found_in_this_process(registry, name, options):
    found = getattr(import_module('mmengine.registry'), registry)
    cls = found.get(f'frostnet_mm.{name}')
    assert cls.__name__ in (name, 'LoadImage')
    if options is not None:
        assert type(found.build(dict(options, type=f'frostnet_mm.{name}'))) is cls
