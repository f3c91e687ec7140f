"""A loss that is NaN or infinite stops training at that iteration; nothing that is not finite is saved."""

import os
import re
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.runner import Runner
from test_golden import CONFIG, GOLDEN
from torch import nn

from frostnet_mm.engine.non_finite import find_non_finite, infinite_entries, non_finite_entries

TRAIN = (
    f'data_root={GOLDEN / "coco"}',
    'train_dataloader.dataset.ann_file=annotations/instances_val2017.json',
    'train_dataloader.dataset.data_prefix.img=val2017/',
    'train_dataloader.batch_size=4',  # three iterations an epoch
    'val_dataloader=None',
    'val_cfg=None',
    'val_evaluator=None',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=1',
)
FLOAT = ('default_hooks.qat=None', 'param_scheduler=[]')
BY_ITERATION = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9, val_interval=100)
param_scheduler = []
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
"""


def train(folder, *options, flags=(), config=CONFIG):
    epochs = () if config != CONFIG and 'IterBased' in config.read_text() else ('train_cfg.max_epochs=3',)
    return run_tool('train', config, '--work-dir', folder, *flags, '--cfg-options', *TRAIN, *epochs, *options)


def write_config(folder, text):
    (folder / 'config.py').write_text(f'_base_ = {str(CONFIG)!r}\n{text}')
    return folder / 'config.py'


def message_of(capsys):
    return capsys.readouterr().err.rpartition('error: ')[2]


def saved(folder):
    """Names of the checkpoints, all of which are finite."""
    found = sorted(path.name for path in folder.glob('*.pth'))
    for name in found:
        content = torch.load(folder / name, weights_only=False)
        for key in ('state_dict', 'ema_state_dict'):
            floats = {k: v for k, v in content.get(key, {}).items() if v.is_floating_point()}
            assert all(torch.isfinite(value).all() for value in floats.values()), name
    return found


def poison_with(monkeypatch, iteration, change, whole=False):
    """Have every training change its model and batch, or its Runner, before an iteration (counted from 1)."""
    call = Runner.call_hook

    def call_hook(runner, name, **kwargs):
        if name == 'before_train_iter' and runner.iter + 1 == iteration:
            with torch.no_grad():
                change(runner) if whole else change(runner.model, kwargs['data_batch'])
        return call(runner, name, **kwargs)

    monkeypatch.setattr(Runner, 'call_hook', call_hook)


@pytest.fixture
def poison(monkeypatch):
    return partial(poison_with, monkeypatch)


def break_weight(model, batch):
    next(iter(model.backbone.parameters()))[0, 0, 0, 0] = float('nan')


def image_names(text):
    return [path.rpartition('/')[2] for path in re.search('Images of the batch: (.*)\\.\n', text)[1].split(', ')]


@pytest.mark.parametrize('options', [(), ('optim_wrapper.accumulative_counts=2',)])
def test_a_broken_weight_is_named(options, poison, tmp_path, capsys):
    poison(5, break_weight)
    assert train(tmp_path, *FLOAT, *options) == 2
    text = message_of(capsys)
    assert text.startswith('Iteration 5 (epoch 2), float: the loss is not finite: loss_cls = nan, loss_bbox = nan. ')
    assert 'First in the order of the network, the parameter backbone.stem.conv.weight is not finite.' in text
    names = image_names(text)
    assert len(set(names)) == 4 and all((GOLDEN / 'coco/val2017' / name).is_file() for name in names)
    assert f'kept in {tmp_path}.' in text and text.rstrip().endswith('go on from the last of them with --resume.')
    assert saved(tmp_path) == ['epoch_1.pth']


def test_a_loop_of_iterations(poison, tmp_path, capsys):
    poison(5, break_weight)
    config = write_config(tmp_path, BY_ITERATION)
    assert train(tmp_path / 'work', *FLOAT, config=config) == 2
    assert message_of(capsys).startswith('Iteration 5, float: the loss is not finite: loss_cls = nan')
    assert saved(tmp_path / 'work') == ['iter_4.pth']


def test_a_huge_learning_rate(tmp_path, capsys):
    assert train(tmp_path, *FLOAT, 'optim_wrapper.optimizer.lr=1e30') == 2
    text = message_of(capsys)
    assert re.match(r'Iteration 2 \(epoch 1\), float: the loss is not finite: loss_cls = ', text)
    assert 'First in the order of the network, the output of backbone.' in text
    assert 'lower the learning rate (optim_wrapper.optimizer.lr, now 1e+30)' in text
    assert saved(tmp_path) == []


def test_a_pixel_that_is_not_a_number(poison, tmp_path, capsys):
    def break_pixel(model, batch):
        batch['inputs'][1] = batch['inputs'][1].float()
        batch['inputs'][1][0, 3, 4] = float('nan')

    poison(4, break_pixel)
    assert train(tmp_path, *FLOAT) == 2
    text = message_of(capsys)
    assert text.startswith('Iteration 4 (epoch 2), float: ')
    assert 'the images that go into the network is not finite' in text and 'mean and std' in text
    assert saved(tmp_path) == ['epoch_1.pth']


@pytest.mark.parametrize(
    ('warmup', 'phase'), [('1 epoch', 'QAT, ranges frozen'), ('2 epochs', 'float warm-up')], ids=['qat', 'float']
)
def test_with_quantization_the_first_quantizer_is_named(warmup, phase, poison, tmp_path, capsys):
    """The graph reads the weights itself: the first to see a weight is its quantizer."""
    poison(5, break_weight)
    options = (f'default_hooks.qat.warmup={warmup}', 'default_hooks.qat.freeze_observers_at=1 epoch')
    assert train(tmp_path, *options) == 2
    text = message_of(capsys)
    assert text.startswith(f'Iteration 5 (epoch 2), {phase}: the loss is not finite: loss_cls = nan')
    assert 'the values of backbone.stem.conv.weight is not finite' in text
    assert saved(tmp_path) == ['epoch_1.pth']


def fourth_range(model):
    return [module for module in model.modules() if hasattr(module, 'min_val')][3]


def test_a_range_that_overflowed_before_the_loss_is_named(poison, tmp_path, capsys):
    poison(5, lambda model, batch: fourth_range(model).max_val.fill_(float('inf')))
    assert train(tmp_path, 'default_hooks.qat.warmup=1 epoch', 'default_hooks.qat.freeze_observers_at=1 epoch') == 2
    text = message_of(capsys)
    assert 'Iteration 5 (epoch 2), QAT, ranges frozen: the loss is not finite' in text
    assert 'the activation range of backbone.stages.0.1.expand.conv.output is not finite' in text
    assert saved(tmp_path) == ['epoch_1.pth']


def test_a_range_that_no_loss_shows_is_not_saved(poison, tmp_path, capsys):
    poison(5, lambda model, batch: fourth_range(model).max_val.fill_(float('inf')))
    assert train(tmp_path, 'default_hooks.qat.warmup=2 epochs') == 2
    text = message_of(capsys)
    assert text.startswith('After iteration 6, 1 of ')
    assert 'NaN or infinite: quantization.backbone.stages.0.1.expand.conv.output.max_val. They are not saved' in text
    assert saved(tmp_path) == ['epoch_1.pth']


# --- weights that the loss does not show


def break_gradient(model, batch):
    weight = next(iter(model.backbone.parameters()))
    handle = weight.register_hook(lambda gradient: (handle.remove(), gradient / 0)[1])


@pytest.mark.parametrize('by_epoch', [True, False])
def test_weights_that_a_gradient_broke_are_not_saved_and_the_old_ones_are_kept(by_epoch, poison, tmp_path, capsys):
    """In the last iteration before a checkpoint; CheckpointHook removes the oldest before it writes a new one."""
    poison(6, break_gradient)
    config = CONFIG if by_epoch else write_config(tmp_path, BY_ITERATION)
    assert train(tmp_path / 'work', *FLOAT, config=config) == 2
    text = message_of(capsys)
    assert text.startswith('After iteration 6, 1 of ') and 'infinite: backbone.stem.conv.weight. They are' in text
    assert saved(tmp_path / 'work') == ['epoch_1.pth' if by_epoch else 'iter_5.pth']
    assert (tmp_path / 'work/last_checkpoint').read_text() == str(tmp_path / 'work' / saved(tmp_path / 'work')[0])


def test_training_resumes_from_the_last_good_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poison_with(patch, 5, break_weight)
        assert train(tmp_path, *FLOAT) == 2
    assert train(tmp_path, *FLOAT, flags=('--resume',)) == 0
    assert saved(tmp_path) == ['epoch_3.pth']


def test_ctrl_c_saves_nothing_that_is_not_finite(poison, tmp_path, capsys):
    def interrupt(model, batch):
        break_gradient(model, batch)
        os.kill(os.getpid(), signal.SIGINT)

    poison(5, interrupt)
    assert train(tmp_path, *FLOAT) == 2
    assert 'entries of the weights are NaN or infinite: backbone.stem.conv.weight' in message_of(capsys)
    assert saved(tmp_path) == ['epoch_1.pth']


def test_a_variance_of_one_value_is_explained(poison, tmp_path, capsys):
    """As a batch norm has it that sees one value per channel: a last batch of one image, at one position."""

    def one_value(model, batch):
        variance = dict(model.named_buffers())['backbone.stem.bn.running_var']
        variance.copy_(torch.randn(variance.numel(), 1).var(dim=1))

    poison(5, one_value)
    assert train(tmp_path, *FLOAT) == 2
    text = message_of(capsys)
    assert 'backbone.stem.bn.running_var. They are not saved' in text and 'drop_last=True' in text
    assert 'learning rate' not in text


EMA = "custom_hooks = [dict(type='EMAHook', momentum=0.5)]\n"


def test_averages_of_weights_are_looked_at(poison, tmp_path, capsys):
    """Sound weights, of which only the average is broken."""
    from mmengine.hooks import EMAHook

    def break_average(runner):
        hook = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
        next(hook.ema_model.module.parameters())[0] = float('inf')

    poison(6, break_average, whole=True)
    assert train(tmp_path / 'work', *FLOAT, config=write_config(tmp_path, EMA)) == 2
    assert 'infinite: module.backbone.stem.conv.weight. They are not saved' in message_of(capsys)
    assert saved(tmp_path / 'work') == ['epoch_1.pth']


def test_best_checkpoints(poison, tmp_path, capsys):
    """Validation is not begun with broken weights; the best so far stays."""
    options = ('default_hooks.checkpoint.save_best=coco/bbox_mAP', 'train_cfg.val_interval=1')
    with_val = [option for option in TRAIN if not option.startswith('val')]
    poison(6, break_gradient)
    arguments = ('--work-dir', tmp_path, '--cfg-options', *with_val, *FLOAT, *options, 'train_cfg.max_epochs=3')
    assert run_tool('train', CONFIG, *arguments) == 2
    assert message_of(capsys).startswith('After iteration 6, ')
    assert saved(tmp_path) == ['best_coco_bbox_mAP_epoch_1.pth', 'epoch_1.pth']


@pytest.mark.parametrize('box', [[10, 10, 10, 30], [20, 10, 15, 30], [float('nan'), 1, 5, 5], [0, 0, float('inf'), 9]])
def test_degenerate_boxes_never_reach_an_assigner(box, poison, tmp_path):
    def add(model, batch):
        batch['data_samples'][0].gt_instances.bboxes.tensor[0] = torch.tensor(box, dtype=torch.float32)

    poison(1, add)
    assert train(tmp_path, *FLOAT) == 0
    assert '1 boxes without extent were left out' in next(tmp_path.glob('*/*.log')).read_text()


# --- parts


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Sequential(nn.Linear(2, 2), nn.Identity())
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode='loss'):
        if not bool(torch.isfinite(self.scale)):
            raise ValueError('no scale')
        return dict(loss=self.second(self.first(inputs)).sum())


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('first.bias', 'nan', 'the parameter first.bias'),
        ('second.0.weight', 'inf', 'the parameter second.0.weight'),
        ('first.weight', '3e38', 'the output of first'),
        ('scale', '1', None),
    ],
)
def test_what_is_found_first(name, value, expected):
    model = Branches()
    model.load_state_dict({**model.state_dict(), name: torch.full_like(model.state_dict()[name], float(value))})
    assert find_non_finite(model, (), dict(inputs=torch.full((1, 2), 8.0))) == expected
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_batch_that_cannot_be_run_again_hides_nothing():
    model = Branches()
    images = torch.tensor([[float('inf'), 1]])
    assert find_non_finite(model, (images,), {}) == 'the images that go into the network'
    model.forward = lambda inputs: 1 / 0
    found = find_non_finite(model, (torch.ones(1, 2),), {})
    assert found == 'unknown, as the batch run again ends in ZeroDivisionError: division by zero'


def test_entries_that_are_not_finite():
    nan, inf = float('nan'), float('inf')
    state = dict(a=torch.ones(2), b=torch.tensor([1, nan]), c=torch.tensor([inf]), d=torch.tensor([-inf, 1]), n=3)
    assert non_finite_entries(state) == ['b', 'c', 'd']
    known = infinite_entries(state)
    assert known.keys() == {'c', 'd'}
    assert non_finite_entries(state, known) == ['b']
    state.update(c=torch.tensor([-inf]), d=torch.tensor([5.0, 2]))
    assert non_finite_entries(state, known) == ['b', 'c']
    assert non_finite_entries(dict(n=torch.tensor([1]))) == []


# --- distributed


def test_all_processes_stop(tmp_path):
    """The batch of one of two processes holds the pixel; both end, and each says so."""
    script = tmp_path / 'train.py'
    script.write_text(DISTRIBUTED.format(root=str(ROOT)))
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=29531', str(script)]
    command += [str(CONFIG), '--launcher', 'pytorch', '--work-dir', str(tmp_path / 'work'), '--cfg-options']
    command += [*TRAIN, *FLOAT, 'train_cfg.max_epochs=3']
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    messages = re.findall(r'error: (Iteration .*)', done.stderr)
    assert len(messages) == 2, done.stderr[-3000:]
    assert sum('the loss is not finite: loss_cls = nan' in text for text in messages) == 1
    assert sum('the loss of another process is not finite; here: loss_cls = ' in text for text in messages) == 1
    assert all(text.startswith('Iteration 2 (epoch 2), float: ') for text in messages)
    assert saved(tmp_path / 'work') == ['epoch_1.pth']


DISTRIBUTED = """
import faulthandler, os, sys, runpy
faulthandler.dump_traceback_later(90, exit=True)
from mmengine.runner import Runner
call = Runner.call_hook
def call_hook(runner, name, **kwargs):
    if name == 'before_train_iter' and runner.iter == 1 and os.environ['RANK'] == '1':
        batch = kwargs['data_batch']
        batch['inputs'][0] = batch['inputs'][0].float()
        batch['inputs'][0][0, 0, 0] = float('nan')
    return call(runner, name, **kwargs)
Runner.call_hook = call_hook
sys.path.insert(0, '{root}/tools')
runpy.run_path('{root}/tools/train.py', run_name='__main__')
"""
