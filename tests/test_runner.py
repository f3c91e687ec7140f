"""What build_runner adds to a config, for upstream configs too."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config

from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.hooks.interrupt_hook import InterruptHook
from frostnet_mm.engine.runner import build_runner, enable_auto_scale_lr, keep_freed_memory, settle_work_dir

UPSTREAM = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'


def test_upstream_configs_resume_in_mid_epoch_and_survive_ctrl_c(tmp_path):
    cfg = load_config(UPSTREAM)
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg)
    assert runner.cfg.train_cfg.type == 'frostnet_mm.ResumableEpochTrainLoop'
    assert sum(isinstance(hook, InterruptHook) for hook in runner.hooks) == 1
    assert not runner.model.backbone.conv1.conv.weight.is_contiguous(memory_format=torch.channels_last)
    if not torch.cuda.is_available():
        assert runner.cfg.train_dataloader.num_workers <= len(os.sched_getaffinity(0))


def test_channels_last_reaches_weights_and_activations(tmp_path):
    cfg = load_config(ROOT / 'configs/ssdlite_frostnet_coco.py')
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg)
    assert sum(isinstance(hook, InterruptHook) for hook in runner.hooks) == 1
    features = runner.model.backbone(torch.rand(1, 3, 64, 64))
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in features)


PAGE_FAULTS = """
import resource, sys, torch
from frostnet_mm.engine.runner import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == 'keep' else None)
for _ in range(10):  # the heap grows once, to 256 MB; how many tensors fill that hangs on what lies in it already
    torch.zeros(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(12_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc')
def test_freed_memory_is_kept():
    """20 tensors of 48 MB one after the other: mapped anew each time, or the same pages again."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith('MALLOC_')}

    def faults(mode):
        command = [sys.executable, '-c', PAGE_FAULTS, mode]
        answer, count = subprocess.run(
            command, env=dict(clean, PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=True
        ).stdout.split()[-2:]
        return answer, int(count)

    left = faults('leave')[1]
    answer, kept = faults('keep')
    assert answer == 'True' and kept < left / 10


def test_users_own_allocator_settings_are_left_alone(monkeypatch):
    monkeypatch.setenv('MALLOC_ARENA_MAX', '2')
    assert keep_freed_memory() is False


def test_work_dir_and_learning_rate_scaling():
    for given, own, expected in (('a', 'b', 'a'), (None, 'b', 'b'), (None, None, 'work_dirs/name')):
        cfg = Config(dict(work_dir=own))
        settle_work_dir(cfg, 'configs/name.py', given)
        assert cfg.work_dir == expected
    cfg = Config(dict(auto_scale_lr=dict(enable=False, base_batch_size=8)))
    enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable is True
    with pytest.raises(ConfigError, match='base_batch_size'):
        enable_auto_scale_lr(Config(dict()))
