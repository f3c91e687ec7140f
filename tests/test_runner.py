"""What build_runner adds to a config, for upstream configs too."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SHORT, run_tool
from mmengine.config import Config
from mmengine.hooks import IterTimerHook, ParamSchedulerHook

from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.hooks import FiniteCheckpointHook, FiniteLossHook, InterruptHook
from frostnet_mm.engine.hooks.data_log_hook import describe
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


def test_runners_of_the_same_second_have_logs_and_histories_of_their_own(tmp_path, monkeypatch):
    cfg = load_config(ROOT / 'configs/ssdlite_frostnet_coco.py')
    monkeypatch.setattr('mmengine.runner.runner.time.time', lambda: 1.7e9)
    runners = []
    for name in 'ab':
        cfg.work_dir = str(tmp_path / name)
        runners.append(build_runner(copy.deepcopy(cfg)))
    first, second = runners
    second.logger.info('of the second')
    for runner, expected in ((first, False), (second, True)):
        (log,) = Path(runner.work_dir).glob('*/*.log')
        assert ('of the second' in log.read_text()) == expected
    assert first.message_hub is not second.message_hub and first.timestamp != second.timestamp


def test_hooks_that_are_none_are_left_out(tmp_path):
    options = {'default_hooks.qat': None, 'default_hooks.timer': None}
    cfg = load_config(ROOT / 'configs/ssdlite_frostnet_qat_coco.py', options)
    assert cfg.default_hooks.qat is None and cfg.custom_hooks[0].type == 'NumClassCheckHook'
    cfg.custom_hooks[0] = None
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg)
    found = [type(hook).__name__ for hook in runner.hooks]
    assert 'QATHook' not in found and 'NumClassCheckHook' not in found and 'CheckInvalidLossHook' in found
    assert not any(isinstance(hook, IterTimerHook) for hook in runner.hooks)  # mm's own, that None takes away
    assert sum(isinstance(hook, ParamSchedulerHook) for hook in runner.hooks) == 1
    assert sum(isinstance(hook, InterruptHook) for hook in runner.hooks) == 1


def test_no_hooks_at_all(tmp_path):
    cfg = load_config(ROOT / 'configs/ssdlite_frostnet_coco.py', dict(custom_hooks=None, default_hooks=None))
    cfg.work_dir = str(tmp_path)
    hooks = build_runner(cfg).hooks
    for kind in (InterruptHook, FiniteLossHook, FiniteCheckpointHook):
        assert sum(isinstance(hook, kind) for hook in hooks) == 1


def test_the_hook_of_a_qat_config_is_switched_off_on_the_command_line(mini_coco, tmp_path):
    """As configs/_base_/qat.py says: what is trained then is a float checkpoint, and test.py takes it the same way."""
    options = ('--work-dir', tmp_path, '--cfg-options', f'data_root={mini_coco}', *SHORT, 'default_hooks.qat=None')
    config = ROOT / 'configs/examples/ssdlite_frostnet_qat_minicoco.py'
    assert run_tool('train', config, *options, 'train_cfg.max_epochs=1') == 0
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert 'quantization' not in checkpoint['meta']
    assert set(checkpoint['state_dict']) == set(build_runner(load_config(tmp_path / config.name)).model.state_dict())
    out = tmp_path / 'metrics.json'
    assert run_tool('test', config, tmp_path / 'epoch_1.pth', '--out', out, *options) == 0
    assert json.loads(out.read_text())['execution'] == 'float'


def test_the_log_says_which_data_are_used(mini_coco, trained, tmp_path):
    config, checkpoint = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py', trained / 'epoch_2.pth'
    images = len(json.loads((mini_coco / 'annotations/instances_train2017.json').read_text())['images'])
    log = next(trained.glob('*/*.log')).read_text()
    train = f'{mini_coco}/annotations/instances_train2017.json, {mini_coco}/train2017/, '
    val = f'{mini_coco}/annotations/instances_val2017.json, {mini_coco}/val2017/, 8 images.'
    line = next(line for line in log.splitlines() if 'Data of train: ' in line)
    assert line.split('Data of train: ')[1].startswith(train) and images == 24
    assert 15 < int(line.split(', ')[-1].split()[0]) <= 24  # without those that have no object
    assert f'Data of val: {val}' in log and 'Data of test' not in log
    assert log.index('Data of val') < log.index('Epoch(train)')
    options = ('--work-dir', tmp_path, '--cfg-options', f'data_root={mini_coco}', *SHORT)
    assert run_tool('test', config, checkpoint, *options) == 0
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'Data of test: {val}' in log and 'Data of train' not in log


def test_data_sets_of_wrappers_and_of_segmentation():
    class Data:
        def __init__(self, number, **attributes):
            self.number = number
            vars(self).update(attributes)

        def __len__(self):
            return self.number

    coco = Data(3, ann_file='a.json', data_prefix=dict(img='images/'), data_root='r')
    seg = Data(5, ann_file='', data_prefix=dict(img_path='r/x', seg_map_path='r/y'), data_root='r')
    assert describe(coco) == 'a.json, images/, 3 images' and describe(seg) == 'r/x, r/y, 5 images'
    assert describe(Data(9, dataset=coco)) == 'Data of 9 images: a.json, images/, 3 images'
    both = 'Data of 8 images: a.json, images/, 3 images; r/x, r/y, 5 images'
    assert describe(Data(8, datasets=[coco, seg])) == both
    assert describe(Data(2, data_root='r')) == 'r, 2 images' and describe(Data(2)) == '2 images'


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
