"""QATHook in mm's own Runner, and the tools on what it trains."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, SHORT, run_tool
from mmengine.config import Config
from mmengine.hooks import EMAHook
from onnx import numpy_helper
from test_segmentation import config  # noqa: F401  (a fixture)

from frostnet_mm.apis.model import load_model
from frostnet_mm.apis.visualization.training_plots import read_scalars
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.runner import build_runner
from frostnet_mm.models import read_checkpoint
from frostnet_mm.quantization import QuantizationError
from frostnet_mm.quantization.prepare import quantized_network

FLOAT = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'
QUANTIZED = ROOT / 'configs/examples/ssdlite_frostnet_qat_minicoco.py'
NO_AUGMENTATION = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(96, 96), keep_ratio=False),
    dict(type='PackDetInputs'),
]
# 23 images with objects: 3 iterations of 6 images an epoch, 12 in all
PHASE_OPTIONS = {
    'default_hooks.qat.warmup': '1 epoch',
    'default_hooks.qat.freeze_bn_at': '8 iterations',
    'default_hooks.qat.freeze_observers_at': '75 %',
}


def tiny(mini_coco, work_dir, **options):
    """The demo's config on little data, without random augmentation: one seed gives one result."""
    cfg = load_config(QUANTIZED, dict(data_root=str(mini_coco)))
    short = {key: eval(value) if value[0].isdigit() or value in ('True', 'False') else value for key, value in pairs()}
    short.pop('model.backbone.widen_factor')
    cfg.merge_from_dict(short | PHASE_OPTIONS | {'train_cfg.max_epochs': 4, 'train_cfg.val_interval': 4} | options)
    cfg.train_dataloader.dataset.pipeline = NO_AUGMENTATION
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name + str(len(options))
    return cfg


def pairs():
    return (option.split('=', 1) for option in SHORT)


class Spy:
    """Notes what each training iteration ran with."""

    def __init__(self, runner):
        self.seen = []
        network = quantized_network(runner.model)

        def note(module, images):
            modules = list(network.activations())
            if network.training:
                observing = {m.observing for m in modules}
                simulating = {m.simulating for m in (*modules, *network.weights())}
                boosting = runner.optim_wrapper.optimizer.boosting
                self.seen.append((simulating, observing, {network.freeze_norms}, {boosting}))

        network.register_forward_pre_hook(note)


@pytest.fixture(scope='module')
def straight(mini_coco, tmp_path_factory):
    """A run through all phases; its Runner and what its iterations saw."""
    work_dir = tmp_path_factory.mktemp('qat') / 'straight'
    runner = build_runner(tiny(mini_coco, work_dir, **{'default_hooks.checkpoint.max_keep_ckpts': 9}))
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'QATHook')
    hook.prepare(runner)
    spy = Spy(runner)
    runner.train()
    return runner, spy


def test_phases_follow_each_other(straight):
    runner, spy = straight
    yes, no = {True}, {False}
    assert spy.seen[:3] == [(no, yes, no, no)] * 3  # float warm-up: observed only
    assert spy.seen[3:8] == [(yes, yes, no, yes)] * 5  # QAT, boosted
    assert spy.seen[8:9] == [(yes, yes, yes, yes)]  # batch norm frozen
    assert spy.seen[9:] == [(yes, no, yes, yes)] * 3  # ranges frozen
    model = runner.model
    assert int(model.backbone.stem.bn.num_batches_tracked) == 8
    optimized = {id(p) for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']}
    assert optimized == {id(p) for p in model.parameters() if p.requires_grad}
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
    assert re.search(r'Iteration 4: QAT\.', log) and re.search(r'Iteration 10: QAT, batch norm and ranges frozen', log)
    assert 'Validation in simulated INT8.' in log
    phases = [record for record in read_scalars(runner.work_dir) if 'simulating' in record]
    begins = [(r['iter'], r['simulating'], r['norms_frozen'], r['ranges_frozen']) for r in phases]
    assert begins == [(1, 0, 0, 0), (4, 1, 0, 0), (9, 1, 1, 0), (10, 1, 1, 1)]


def test_the_checkpoint_is_a_float_checkpoint_plus_named_ranges(straight):
    runner, _ = straight
    checkpoint = read_checkpoint(f'{runner.work_dir}/epoch_4.pth')
    names = set(checkpoint['state_dict'])
    cfg = load_config(FLOAT, dict(data_root=runner.cfg.data_root))
    float_names = {name for name in names if not name.startswith('quantization.')}
    assert {name.rpartition('.')[2] for name in names - float_names} == {'min_val', 'max_val'}
    assert 'quantization.backbone.stages.1.0.project.conv.output.max_val' in names
    model, _ = load_model(FLOAT, f'{runner.work_dir}/epoch_4.pth', 'cpu', dict(data_root=runner.cfg.data_root), 'float')
    assert set(model.state_dict()) == float_names
    assert cfg.model.backbone == runner.cfg.model.backbone
    meta = checkpoint['meta']['quantization']
    assert meta['phase'] == 'QAT, batch norm and ranges frozen' and meta['points'] == [
        '1 epochs',
        '8 iterations',
        '75 %',
    ]
    assert meta['settings']['numerics'] == 'onnx'


@pytest.mark.parametrize('start', ['epoch_1', 'epoch_3'])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(straight, mini_coco, tmp_path, start):
    runner, _ = straight
    cfg = tiny(mini_coco, tmp_path / start)
    cfg.resume, cfg.load_from = True, f'{runner.work_dir}/{start}.pth'
    resumed = build_runner(cfg)
    resumed.train()
    one, two = (read_checkpoint(f'{folder}/epoch_4.pth') for folder in (runner.work_dir, cfg.work_dir))
    assert set(one['state_dict']) == set(two['state_dict'])
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name
    assert one['meta']['quantization'] == two['meta']['quantization']
    begins = [record['iter'] for record in read_scalars(cfg.work_dir) if 'simulating' in record]
    assert begins == {'epoch_1': [4, 9, 10], 'epoch_3': [10]}[start]  # what began before the resume is logged already


def test_a_training_in_int8_is_not_resumed_in_float(straight, mini_coco, tmp_path):
    runner, _ = straight
    cfg = tiny(mini_coco, tmp_path)
    cfg.default_hooks.pop('qat', None)
    cfg.custom_hooks = []
    cfg.resume, cfg.load_from = True, f'{runner.work_dir}/epoch_1.pth'
    with pytest.raises(ConfigError, match=r'epoch_1\.pth is of a training in INT8 and this config has no QATHook'):
        build_runner(cfg).train()


def test_all_arithmetics_beside_each_other(straight, mini_coco, tmp_path, capsys):
    runner, _ = straight
    checkpoint = f'{runner.work_dir}/epoch_4.pth'
    options = ['--cfg-options', f'data_root={mini_coco}', *SHORT[:-1], 'model.test_cfg.score_thr=0.0']
    out = tmp_path / 'compared.json'
    command = ('test', FLOAT, checkpoint, '--work-dir', tmp_path, '--compare', '--engine', 'onnxruntime')
    assert run_tool(*command, '--out', out, *options) == 0
    report = json.loads(out.read_text())['metrics']
    assert list(report) == ['float', 'simulated', 'converted', 'onnxruntime']
    engine, reference = (report[name]['coco/bbox_mAP'] for name in ('onnxruntime', 'converted'))
    assert abs(engine - reference) <= 0.002 and report['onnxruntime']['rms steps'] < 2
    assert report['onnxruntime'] != report['simulated']  # it was the engine that ran: not the last digit is equal
    described = json.loads((tmp_path / 'deploy' / 'onnxruntime_int8' / 'deploy.json').read_text())
    assert described['verification']['layers']['worst']['steps'] <= 1
    printed = capsys.readouterr().out
    assert re.search(r'float +simulated +\(change\) +converted', printed)
    assert re.search(rf'coco/bbox_mAP +{report["float"]["coco/bbox_mAP"]:.4f} ', printed)
    one = tmp_path / 'simulated.json'
    assert run_tool('test', QUANTIZED, checkpoint, '--work-dir', tmp_path, '--out', one, *options) == 0
    found = json.loads(one.read_text())['metrics']  # by its own config, and the default
    assert report['simulated'].pop('evaluation s') > 0 and found == report['simulated']


@pytest.mark.slow
def test_the_same_checkpoint_with_weights_of_7_bits(straight, mini_coco, tmp_path):
    """For simulation, reference and engine alike, by its own config and by the float one; the weights are the same."""
    runner, _ = straight
    checkpoint = f'{runner.work_dir}/epoch_4.pth'
    options = ['--cfg-options', f'data_root={mini_coco}', *SHORT[:-1], 'model.test_cfg.score_thr=0.0']
    found = {}
    for path, arguments in (
        (FLOAT, ('--weight-bits', 7, '--compare', '--engine', 'onnxruntime', '--no-verify')),
        (QUANTIZED, ('--weight-bits', 7)),
        (QUANTIZED, ()),
    ):
        out = tmp_path / f'{len(found)}.json'
        assert run_tool('test', path, checkpoint, '--work-dir', tmp_path, '--out', out, *arguments, *options) == 0
        found[len(found)] = json.loads(out.read_text())['metrics']
    compared, seven, eight = found.values()
    compared['simulated'].pop('evaluation s')
    assert compared['simulated'] == seven != eight
    assert abs(compared['onnxruntime']['coco/bbox_mAP'] - compared['converted']['coco/bbox_mAP']) <= 0.002
    assert 'rms steps' not in compared['onnxruntime']
    folder = tmp_path / 'deploy' / 'onnxruntime_int8'
    assert json.loads((folder / 'deploy.json').read_text())['numerics']['weight_bits'] == 7
    model = onnx.load(folder / 'network.onnx')
    values = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    weights = [value for value in values.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) > 40 and max(np.abs(value.astype(int)).max() for value in weights) == 63


def test_float_checkpoints_without_ranges(trained, mini_coco, tmp_path, capsys):
    options = ['--work-dir', tmp_path, '--cfg-options', f'data_root={mini_coco}', *SHORT]
    checkpoint = trained / 'epoch_2.pth'
    for wanted in ('--simulated', '--converted', '--compare'):
        assert run_tool('test', QUANTIZED, checkpoint, wanted, *options) == 2
        assert 'epoch_2.pth is a float checkpoint: it has no activation ranges' in capsys.readouterr().err
    out = tmp_path / 'float.json'
    assert run_tool('test', QUANTIZED, checkpoint, '--float', '--out', out, *options) == 0  # ranges stay empty
    assert json.loads(out.read_text())['execution'] == 'float'


def test_calibration_gives_the_same_kind_of_checkpoint(trained, mini_coco, tmp_path, capsys):
    source, options = trained / 'epoch_2.pth', ['--cfg-options', f'data_root={mini_coco}', *SHORT]
    ranges = {}
    for method in ('minmax', 'histogram'):
        out = tmp_path / f'{method}.pth'
        arguments = ['--out', out, '--num-images', 6, '--method', method]
        assert run_tool('calibrate', FLOAT, source, *arguments, *options) == 0
        checkpoint = read_checkpoint(out)
        meta = checkpoint['meta']['quantization']
        assert meta['phase'] == 'calibrated'
        assert meta['calibration'] == dict(images=6, method=method, percentile=99.99)
        state = checkpoint['state_dict']
        ranges[method] = {name: float(value) for name, value in state.items() if name.endswith('max_val')}
        for name, value in read_checkpoint(source)['state_dict'].items():
            assert torch.equal(value, state[name])
    names = list(ranges['minmax'])
    assert sum(ranges['histogram'][name] < ranges['minmax'][name] for name in names) > len(names) / 2
    assert run_tool('test', FLOAT, tmp_path / 'histogram.pth', '--work-dir', tmp_path, '--converted', *options) == 0
    assert run_tool('calibrate', FLOAT, tmp_path / 'none.pth') == 2
    assert 'none.pth does not exist' in capsys.readouterr().err


def test_what_would_be_wrong_is_refused(mini_coco, tmp_path):
    cfg = tiny(mini_coco, tmp_path / 'amp')
    runner = build_runner(cfg)
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'QATHook')
    from mmengine.optim import AmpOptimWrapper

    runner.optim_wrapper = object.__new__(AmpOptimWrapper)
    with pytest.raises(QuantizationError, match='mixed precision.*Expected OptimWrapper'):
        hook.before_run(runner)


def test_averaged_weights_accumulation_clipping_and_learned_scales(mini_coco, tmp_path):
    """EMA validates and saves its own weights with its own ranges; gradients accumulate over two iterations."""
    cfg = tiny(
        mini_coco,
        tmp_path / 'together',
        **{'optim_wrapper.accumulative_counts': 2, 'default_hooks.qat.learned_scales': True},
    )
    cfg.custom_hooks.append(dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3, priority=49))
    runner = build_runner(cfg)
    runner.train()
    network = quantized_network(runner.model)
    scales = [p for name, p in network.named_parameters() if name.endswith('log_scale')]
    assert len(scales) == len(list(network.activations())) + len(list(network.weights()))
    trained = [p for p in scales if runner.optim_wrapper.optimizer.state[p]['step'] > 0]
    assert len(trained) == len(scales)
    assert all((p != 0).all() and p.isfinite().all() for p in scales)
    ema = next(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))
    averages = [p for name, p in quantized_network(ema.module).named_parameters()]
    assert all(((a - p).abs() < 0.1).all() for a, p in zip(averages, scales, strict=True))  # none is still 0
    rates = [group['lr'] for group in runner.optim_wrapper.optimizer.param_groups]
    assert rates[-1] == pytest.approx(rates[0])  # the scales' group was added behind the schedulers' back
    assert 0 < rates[0] < 0.0015
    checkpoint = read_checkpoint(f'{cfg.work_dir}/epoch_4.pth')
    assert 'ema_state_dict' in checkpoint
    options = ['--cfg-options', f'data_root={mini_coco}', *SHORT[:-1]]
    saved = tmp_path / 'config.py'
    Config(dict(_base_=str(QUANTIZED), default_hooks=dict(qat=dict(learned_scales=True)))).dump(saved)
    assert run_tool('test', saved, f'{cfg.work_dir}/epoch_4.pth', '--work-dir', tmp_path, '--compare', *options) == 0


def test_the_coco_config_is_the_float_one_plus_the_hook():
    text = (ROOT / 'configs/ssdlite_frostnet_qat_coco.py').read_text().splitlines()
    assert len([line for line in text if line and not line.startswith('#')]) <= 3
    float_cfg, cfg = (load_config(ROOT / f'configs/ssdlite_frostnet_{name}coco.py') for name in ('', 'qat_'))
    assert cfg.default_hooks.qat.type == 'frostnet_mm.QATHook'
    assert cfg.model == float_cfg.model and cfg.optim_wrapper == float_cfg.optim_wrapper


SPY = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from frostnet_mm.quantization.prepare import quantized_network
from frostnet_mm.registry import HOOKS

@HOOKS.register_module()
class RankSpy(Hook):
    def after_train(self, runner):
        network = quantized_network(runner.model)
        state = {name: value.clone() for name, value in runner.model.module.state_dict().items()}
        torch.save(dict(state=state, simulating=network.simulating), f'{runner.work_dir}/rank{get_rank()}.pth')
"""


def test_two_processes_share_weights_and_ranges(mini_coco, tmp_path):
    (tmp_path / 'rank_spy.py').write_text(SPY)
    short = {'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 2, 'train_dataloader.batch_size': 3}
    cfg = tiny(mini_coco, tmp_path / 'run', **short)
    cfg.custom_imports['imports'].append('rank_spy')
    cfg.custom_hooks.append(dict(type='frostnet_mm.RankSpy'))
    cfg.dump(tmp_path / 'config.py')
    port = str(20000 + (os.getpid() + 7) % 20000)
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), str(tmp_path / 'config.py'), '2']
    paths = dict(PYTHONPATH=f'{ROOT}:{tmp_path}', PYTHON=sys.executable, PORT=port)
    environment = dict(os.environ, OMP_NUM_THREADS='1', **paths)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    one, two = (torch.load(tmp_path / f'run/rank{rank}.pth') for rank in (0, 1))
    assert one['simulating'] and two['simulating']
    names = [name for name in one['state'] if 'running' not in name]  # batch norm statistics are each rank's own
    assert sum(name.startswith('quantization.') for name in names) > 100
    for name in names:
        assert torch.equal(one['state'][name], two['state'][name]), name
    records = read_scalars(tmp_path / 'run')
    assert [r['iter'] for r in records if 'loss' in r] == list(range(1, 9))  # 23 images: 12 a process, 3 a batch
    assert len([r for r in records if 'coco/bbox_mAP' in r]) == 1
    assert (tmp_path / 'run/epoch_2.pth').is_file()


@pytest.mark.slow  # tests/test_killed.py resumes one in five phases
def test_a_segmenter_in_an_iteration_based_loop_resumes_in_every_phase(config, tmp_path):  # noqa: F811
    """Bitwise as without the stop; and the converted network segments as the simulated one does."""
    quantized = tmp_path / 'quantized.py'
    quantized.write_text(f"""
_base_ = {str(config)!r}
default_hooks = dict(
    qat=dict(type='frostnet_mm.QATHook', warmup='4 iterations', freeze_bn_at='75 %',
             freeze_observers_at='11 iterations'),
    checkpoint=dict(interval=2, max_keep_ckpts=9))
train_cfg = dict(max_iters=12, val_interval=12)
model = dict(decode_head=dict(dropout_ratio=0.0))  # mmengine does not save the generators' state
optim_wrapper = dict(optimizer=dict(type='frostnet_mm.GradBoostAdamW'))
""")
    straight = tmp_path / 'straight'
    assert run_tool('train', quantized, '--work-dir', straight) == 0
    last = read_checkpoint(straight / 'iter_12.pth')
    assert last['meta']['quantization']['phase'] == 'QAT, batch norm and ranges frozen'
    phases = [read_checkpoint(straight / f'iter_{i}.pth')['meta']['quantization']['phase'] for i in (2, 4, 6, 10)]
    assert phases == ['float warm-up', 'float warm-up', 'QAT', 'QAT, batch norm frozen']
    for start in (4, 10):
        resumed = tmp_path / f'from_{start}'
        assert run_tool('train', quantized, '--work-dir', resumed, '--resume', straight / f'iter_{start}.pth') == 0
        state = read_checkpoint(resumed / 'iter_12.pth')['state_dict']
        assert set(state) == set(last['state_dict'])
        for name, value in last['state_dict'].items():
            assert torch.equal(value, state[name]), (start, name)
    out = tmp_path / 'compared.json'
    assert run_tool('test', quantized, straight / 'iter_12.pth', '--work-dir', tmp_path, '--compare', '--out', out) == 0
    metrics = json.loads(out.read_text())['metrics']
    assert metrics['converted']['mIoU'] == pytest.approx(metrics['simulated']['mIoU'], abs=0.5)
