"""QAT on two processes (gloo): equal replicas, the arithmetic of one process, and a process that is killed."""

import os
import re
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, run_tool
from test_qat_training import tiny
from test_segmentation import config  # noqa: F401  (a fixture)

from frostnet_mm.apis.visualization.training_plots import read_scalars
from frostnet_mm.models import read_checkpoint

SPY = """
import os, signal
from hashlib import sha256
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from frostnet_mm.quantization.prepare import quantized_network
from frostnet_mm.registry import HOOKS

def digest(values):
    return sha256(b''.join(value.detach().contiguous().numpy().tobytes() for value in values)).hexdigest()

@HOOKS.register_module()
class RankSpy(Hook):
    priority = 'LOWEST'

    def __init__(self, kill_at=None):
        self.kill_at, self.steps = kill_at, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.images = len(data_batch['inputs'])
        if runner.iter == self.kill_at and get_rank() == 1 and not runner._resume:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model, optimizer = runner.model.module, runner.optim_wrapper.optimizer
        ranges = [value for name, value in model.state_dict().items() if name.startswith('quantization.')]
        state = optimizer.state_dict()
        moments = [v for key in sorted(state['state']) for v in state['state'][key].values() if torch.is_tensor(v)]
        boost = state.get('gradboost', {})
        seen = dict(images=self.images, simulating=quantized_network(model).simulating, ranges=digest(ranges))
        seen.update(weights=digest(model.parameters()), moments=digest(moments), boost_steps=boost.get('steps'))
        seen['generators'] = digest(boost.get('generators', {}).values())
        self.steps.append(seen)

    def after_train(self, runner):
        torch.save(self.steps, f'{runner.work_dir}/rank{get_rank()}.pth')
"""
BATCHES = {  # 23 images: 12 a process, the last batch of two images
    'train_dataloader.batch_size': 5,
    'train_dataloader.drop_last': False,
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
}


def write(cfg, folder, **spy):
    """The config, with the hook above."""
    (folder / 'rank_spy.py').write_text(SPY)
    cfg.custom_imports['imports'].append('rank_spy')
    cfg.custom_hooks.append(dict(type='frostnet_mm.RankSpy', **spy))
    cfg.dump(folder / 'config.py')
    return folder / 'config.py'


def train(path, *args):
    """Run tools/dist_train.sh on two processes."""
    port = str(20000 + (os.getpid() + time.monotonic_ns()) % 20000)
    paths = dict(PYTHONPATH=f'{ROOT}:{path.parent}', PYTHON=sys.executable, PORT=port)
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), str(path), '2', *map(str, args)]
    environment = dict(os.environ, OMP_NUM_THREADS='1', **paths)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_two_processes_share_weights_ranges_and_boosts_at_every_step(mini_coco, tmp_path):
    path = write(tiny(mini_coco, tmp_path / 'run', **BATCHES), tmp_path)
    done = train(path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    one, two = (torch.load(tmp_path / f'run/rank{rank}.pth') for rank in (0, 1))
    assert one == two and [step['simulating'] for step in one] == [False] * 3 + [True] * 3
    assert [step['images'] for step in one] == [5, 5, 2] * 2
    assert len({step['weights'] for step in one}) == 6 and len({step['ranges'] for step in one}) > 3
    records = read_scalars(tmp_path / 'run')
    assert [r['iter'] for r in records if 'loss' in r] == list(range(1, 7))
    assert len([r for r in records if 'coco/bbox_mAP' in r]) == 1
    assert (tmp_path / 'run/epoch_2.pth').is_file()


@pytest.mark.slow
def test_a_killed_process_stops_the_other_with_a_message_and_training_resumes(mini_coco, tmp_path):
    path = write(tiny(mini_coco, tmp_path / 'run', **BATCHES), tmp_path, kill_at=4)
    began = time.monotonic()
    done = train(path)
    assert done.returncode != 0 and time.monotonic() - began < 300
    messages = re.findall('error: (.*)', done.stderr)
    assert len(messages) == 1, done.stderr[-3000:]
    assert messages[0].startswith('Iteration 5: process 0 of 2 stops, as another one has ended or does not answer (')
    assert messages[0].endswith(f'are kept in {tmp_path}/run. Go on with --resume.')
    assert sorted(p.name for p in (tmp_path / 'run').glob('*.pth')) == ['epoch_1.pth']
    done = train(path, '--resume')
    assert done.returncode == 0, done.stderr[-2000:]
    assert [r['iter'] for r in read_scalars(tmp_path / 'run') if 'loss' in r] == list(range(1, 7))


@pytest.mark.slow
def test_one_and_two_processes_agree_on_a_global_batch(config, tmp_path):  # noqa: F811
    """With batch norms frozen: each process would normalize by its own half of the batch.

    Of a segmenter, whose loss is a mean over all pixels: a detector's is divided by the objects of its process.
    """
    weights = {}
    for processes, batch in ((1, 4), (2, 2)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        text = f"""
_base_ = {str(config)!r}
default_hooks = dict(
    qat=dict(type='frostnet_mm.QATHook', warmup='0 iterations', freeze_bn_at='0 iterations', freeze_observers_at=None),
    checkpoint=dict(interval=4))
train_cfg = dict(max_iters=4, val_interval=9)
train_dataloader = dict(batch_size={batch})
val_dataloader = val_cfg = val_evaluator = None
model = dict(decode_head=dict(dropout_ratio=0.0))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9))
"""
        (folder / 'config.py').write_text(text)
        arguments = (folder / 'config.py', '--work-dir', folder / 'run')
        if processes == 1:
            assert run_tool('train', *arguments) == 0
        else:
            done = train(*arguments)
            assert done.returncode == 0, done.stderr[-2000:]
        weights[processes] = read_checkpoint(folder / 'run/iter_4.pth')['state_dict']
    assert weights[1].keys() == weights[2].keys()
    every = [name for name, value in weights[1].items() if value.is_floating_point()]
    ranges = [name for name in every if name.startswith('quantization.') and name.endswith(('min_val', 'max_val'))]
    names = [name for name in every if not name.startswith('quantization.')]
    assert _relative(weights, ranges) < 0.01
    changed = [name for name in names if name.endswith('.bias')]  # they begin at 0: all of them is what training did
    assert _relative(weights, changed) < 0.02  # sums in another order round another way in the next layer
    assert _relative(weights, names) < 1e-4


def _relative(weights, names):
    """The distance of two networks by the length of the first, all tensors together."""
    one, other = (torch.cat([weights[count][name].flatten().double() for name in names]) for count in (1, 2))
    assert one.norm() > 0
    return float((one - other).norm() / one.norm())
