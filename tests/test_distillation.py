"""A float teacher beside the quantized network: its loss, its weights, and what becomes of them in a resumed run."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from test_gradient_check import batch
from test_qat_schedule import iterations
from test_qat_training import SPY, tiny
from test_segmentation import config  # noqa: F401  (a fixture)
from tiny_segmenter import images, prepared_segmenter
from torch import nn
from torch.nn import functional

from frostnet_mm.apis.visualization.training_plots import read_scalars
from frostnet_mm.engine.runner import build_runner
from frostnet_mm.errors import UserError
from frostnet_mm.models import read_checkpoint
from frostnet_mm.models.dense import detached
from frostnet_mm.quantization import QATHook, QuantizationError
from frostnet_mm.quantization.teacher import Distillation, distillation_loss


class Plain(nn.Module):
    """Two convolutions, a batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return (self.last(functional.dropout(functional.relu(self.norm(self.first(x))), 0.3, self.training)),)


class StandIn:
    """As much of a Runner as the teacher asks for."""

    def __init__(self, model, folder, load_from=None):
        self.model, self.work_dir, self._load_from = model, str(folder), load_from
        self.epoch, self.iter, self.train_loop = 1, 4, iterations(4, total=8)
        self.train_dataloader = type('Loader', (), {'dataset': type('Data', (), {})()})()


def guided(folder, weight=1.0):
    """A segmenter with statistics and ranges, its network, and the teacher, whose weights differ from now on."""
    torch.manual_seed(0)
    model, network = prepared_segmenter(Plain)
    model.train()
    network.simulate(False)
    for seed in range(3):
        model(*[images(seed), batch()[1]], mode='loss')
    distillation = Distillation('self', weight)
    distillation.prepare(StandIn(model, folder))
    distillation.start(StandIn(model, folder), resumed=False)
    return model, network, distillation


def state_of(distillation):
    return {name: value.clone() for name, value in distillation._state().items()}


def by_hand(student, teacher):
    """The definition, in NumPy's double precision."""
    student, teacher = student.detach().double().numpy(), teacher.detach().double().numpy()
    return ((student - teacher) ** 2).mean() / teacher.var()


def test_the_loss_is_the_error_as_a_share_of_the_teachers_variance():
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)) for _ in range(2)]
    expected = sum(by_hand(*pair) for pair in pairs) / 2
    assert float(distillation_loss(*zip(*pairs, strict=True))) == pytest.approx(expected, rel=1e-5)
    scaled = [[pair[side] * 1000 + 7 for pair in pairs] for side in (0, 1)]  # the same for heads of other units
    assert float(distillation_loss(*scaled)) == pytest.approx(expected, rel=1e-4)
    mean = torch.full_like(pairs[0][1], float(pairs[0][1].mean()))
    assert float(distillation_loss([mean], [pairs[0][1]])) == pytest.approx(1, rel=1e-5)


def test_an_output_that_is_constant_teaches_nothing_and_makes_no_nan():
    student = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = distillation_loss([student, student], [torch.full((2, 3), 4.0), torch.zeros(2, 3)])
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(student.grad, torch.zeros(2, 3))


def test_the_loss_of_a_model_equals_separate_forward_passes(tmp_path):
    model, network, _ = guided(tmp_path, weight=0.5)
    network.freeze_norms = True
    with torch.no_grad(), detached(model):  # the modules themselves, before anything changes
        expected_teacher = model.eval().decode_head(model.backbone(images()))
    model.train()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    network.simulate(True)
    students = []
    handle = network.register_forward_hook(lambda module, args, outputs: students.append(outputs[0]))
    losses = model(*batch(), mode='loss')
    handle.remove()
    expected = 0.5 * by_hand(students[0], expected_teacher)
    assert expected > 0.01 and float(losses['loss_distill']) == pytest.approx(expected, rel=1e-4)
    assert 'decode.loss_ce' in losses
    with torch.no_grad():
        assert 'loss_distill' not in model(*batch(), mode='loss')  # nothing to train
    model.eval()
    assert not isinstance(model(*batch(), mode='tensor'), dict)


def test_zero_where_student_and_teacher_are_the_same(tmp_path):
    model, network, _ = guided(tmp_path)
    network.freeze_norms = True
    for module in network.program.graph.nodes:
        if 'dropout' in str(module.target):
            module.args = (module.args[0], 0.0, *module.args[2:])
    network.program._forwards.clear()
    assert float(model(*batch(), mode='loss')['loss_distill']) == 0
    network.simulate(True)
    assert float(model(*batch(), mode='loss')['loss_distill']) > 1e-6


def test_only_the_student_is_trained_and_holds_no_teacher(tmp_path):
    model, network, distillation = guided(tmp_path)
    network.simulate(True)
    before, keys = state_of(distillation), set(model.state_dict())
    names = {name for name, _ in model.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=2)
    for _ in range(4):
        losses = model(*batch(), mode='loss')
        loss, logged = model.parse_losses({'loss_distill': losses['loss_distill']})  # the teacher's alone
        wrapper.update_params(loss)
    assert 'loss_distill' in logged
    after = state_of(distillation)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    own = model.state_dict()
    assert not torch.equal(own['backbone.first.weight'], before['backbone.first.weight'])
    assert not torch.equal(own['backbone.norm.running_mean'], before['backbone.norm.running_mean'])
    assert set(own) == keys and {name for name, _ in model.named_parameters()} == names
    assert not any(p.requires_grad for p in distillation.network.__dict__['root'].parameters())
    distillation.stop()
    assert 'loss_distill' not in model(*batch(), mode='loss')


def test_the_teacher_draws_no_random_numbers(tmp_path):
    """A dropout of the student drops what it would have dropped without a teacher."""
    model, _, distillation = guided(tmp_path)
    torch.manual_seed(3)
    one = model(*batch(), mode='loss')['decode.loss_ce']
    after = torch.rand(3)
    distillation.stop()
    torch.manual_seed(3)
    assert torch.equal(model(*batch(), mode='loss')['decode.loss_ce'], one) and torch.equal(torch.rand(3), after)


@pytest.mark.parametrize(
    'iteration, loaded, told', [(3, None, True), (4, None, False), (3, 'trained.pth', False), (7, None, False)]
)
def test_a_beginner_as_teacher_is_told(tmp_path, monkeypatch, iteration, loaded, told):
    """The weights of the first half of a training from scratch."""
    lines = []
    monkeypatch.setattr('frostnet_mm.quantization.teacher.print_log', lambda text, **kwargs: lines.append(text))
    runner = StandIn(prepared_segmenter(Plain)[0], tmp_path, loaded)
    runner.train_loop = iterations(iteration, total=8)
    distillation = Distillation('self')
    distillation.prepare(runner)
    distillation.start(runner, resumed=False)
    assert any('takes the weights at 38% of a training from scratch' in line for line in lines) == told


def test_options_are_checked():
    for options, message in (
        (dict(teacher='self', warmup=0), "teacher='self' with warmup=0 .* nothing trained .* teacher=CHECKPOINT"),
        (dict(teacher='self', warmup='0 %'), 'nothing trained'),
        (dict(teacher=3), "teacher=3 was given; expected 'self' or the path"),
        (dict(teacher='self', teacher_weight=0), 'teacher_weight=0 was given; expected a number above 0'),
        (dict(teacher='self', teacher_weight=float('nan')), 'teacher_weight=nan'),
    ):
        with pytest.raises(QuantizationError, match=message):
            QATHook(**options)
    assert QATHook(teacher='float.pth', warmup=0).distillation.teacher == 'float.pth'


def test_a_segmenter_resumes_bitwise_with_its_teacher(config, tmp_path, capsys):  # noqa: F811
    """In another work dir, before and after the switch; and what is missing or wrong is one message."""
    path = tmp_path / 'quantized.py'
    path.write_text(f"""
_base_ = {str(config)!r}
default_hooks = dict(
    qat=dict(type='frostnet_mm.QATHook', warmup='2 iterations', teacher='self', example_shape=(2, 3, 64, 96)),
    checkpoint=dict(interval=2, max_keep_ckpts=9), logger=dict(interval=1))
train_cfg = dict(max_iters=6, val_interval=99)
model = dict(decode_head=dict(dropout_ratio=0.0))
""")
    straight = tmp_path / 'straight'
    assert run_tool('train', path, '--work-dir', straight) == 0
    assert 'weights at 33% of a training from scratch' in capsys.readouterr().out
    last = read_checkpoint(straight / 'iter_6.pth')
    note = last['meta']['quantization']['teacher']
    assert (
        note['source'] == 'self' and 'teacher' not in read_checkpoint(straight / 'iter_2.pth')['meta']['quantization']
    )
    kept, switch = (read_checkpoint(straight / name)['state_dict'] for name in ('teacher.pth', 'iter_2.pth'))
    assert set(kept) == {name for name in switch if not name.startswith('quantization.')}
    assert all(torch.equal(value, switch[name]) for name, value in kept.items())
    logged = {r['step']: r.get('loss_distill') for r in read_scalars(straight) if 'loss' in r}
    assert [step for step, value in sorted(logged.items()) if value] == [3, 4, 5, 6]
    for start in (2, 4):
        resumed = tmp_path / f'from_{start}'
        assert run_tool('train', path, '--work-dir', resumed, '--resume', straight / f'iter_{start}.pth') == 0
        found = read_checkpoint(resumed / 'iter_6.pth')
        assert set(found['state_dict']) == set(last['state_dict']) == set(switch)
        for name, value in last['state_dict'].items():
            assert torch.equal(value, found['state_dict'][name]), (start, name)
        assert found['meta']['quantization'] == last['meta']['quantization']
        assert (resumed / 'teacher.pth').is_file()
    for damage in ('other', 'none'):
        file = straight / 'teacher.pth'
        if damage == 'other':
            torch.save(dict(state_dict={name: value + 1 for name, value in kept.items()}), file)
        else:
            file.unlink()
        capsys.readouterr()
        command = ('train', path, '--work-dir', tmp_path / damage, '--resume', straight / 'iter_4.pth')
        assert run_tool(*command) == 2
        assert f'digest {note["digest"]}) is not in' in capsys.readouterr().err


def test_a_detector_learns_from_a_checkpoint_with_averages(trained, mini_coco, tmp_path):
    """A file of the same config; EMA has no teacher, and the keys are those of a run without one."""
    source = trained / 'epoch_2.pth'
    options = {'default_hooks.qat.teacher': str(source), 'model.backbone.widen_factor': 0.5}
    options |= {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'default_hooks.qat.warmup': '1 iterations'}
    cfg = tiny(mini_coco, tmp_path / 'file', **options)
    cfg.custom_hooks.append(dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3, priority=49))
    runner = build_runner(cfg)
    runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, QATHook))
    expected = read_checkpoint(source)['state_dict']
    for name, value in state_of(hook.distillation).items():
        assert torch.equal(value, expected[name]), name
    records = [r for r in read_scalars(tmp_path / 'file') if 'loss' in r]
    assert ['loss_distill' in r for r in records] == [False, True, True]
    ema = next(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))
    saved = read_checkpoint(tmp_path / 'file/epoch_1.pth')
    ranges = {name for name in saved['state_dict'] if name.startswith('quantization.')}
    assert set(saved['state_dict']) - ranges == set(expected) and all(n.endswith('_val') for n in ranges)
    assert set(ema.module.state_dict()) == set(saved['state_dict'])
    assert not (tmp_path / 'file/teacher.pth').exists()
    # 12 outputs of the head: classes and boxes of six levels; maps of the neck are not among them
    assert len(hook.distillation._supervised) == 12


def test_a_wrong_checkpoint_is_one_message(tmp_path):
    torch.manual_seed(0)
    model, _ = prepared_segmenter(Plain)
    runner = StandIn(model, tmp_path)
    runner.train_dataloader.dataset.metainfo = dict(classes=('floor', 'sky'))
    state = {name: value for name, value in model.state_dict().items() if not name.startswith('quantization.')}
    other = dict(state, **{'backbone.first.weight': torch.zeros(9, 3, 3, 3)})
    for name, content in (
        ('other', dict(state_dict=other)),
        ('classes', dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('sky', 'floor'))))),
        ('fits', dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('floor', 'sky'))))),
    ):
        torch.save(content, tmp_path / f'{name}.pth')
    for name, message in (
        ('none', 'none.pth does not exist'),
        ('other', 'other.pth does not fit EncoderDecoder: .*backbone.first.weight'),
        ('classes', r'classes.pth was trained on 2 classes \(sky, floor\), the training data have 2 \(floor, sky\)'),
    ):
        with pytest.raises((UserError, FileNotFoundError), match=message):
            Distillation(tmp_path / f'{name}.pth').prepare(runner)
    Distillation(tmp_path / 'fits.pth', warm=False).prepare(runner)


@pytest.mark.slow
def test_two_processes_have_one_teacher(mini_coco, tmp_path):
    (tmp_path / 'rank_spy.py').write_text(
        SPY.replace(
            'simulating=network.simulating',
            'simulating=network.simulating, teacher=next('
            'h.distillation for h in runner.hooks if type(h).__name__ == "QATHook")._state()',
        )
    )
    short = {'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 3, 'train_dataloader.batch_size': 6}
    cfg = tiny(mini_coco, tmp_path / 'run', **short, **{'default_hooks.qat.teacher': 'self'})
    cfg.custom_imports['imports'].append('rank_spy')
    cfg.custom_hooks.append(dict(type='frostnet_mm.RankSpy'))
    cfg.dump(tmp_path / 'config.py')
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), str(tmp_path / 'config.py'), '2']
    paths = dict(PYTHONPATH=f'{ROOT}:{tmp_path}', PYTHON=sys.executable, PORT=str(20000 + (os.getpid() + 11) % 20000))
    environment = dict(os.environ, OMP_NUM_THREADS='1', **paths)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    one, two = (torch.load(tmp_path / f'run/rank{rank}.pth') for rank in (0, 1))
    assert one['simulating'] and set(one['teacher']) == set(two['teacher'])
    for name, value in one['teacher'].items():  # statistics too
        assert torch.equal(value, two['teacher'][name]), name
    for name in (name for name in one['state'] if 'running' not in name):
        assert torch.equal(one['state'][name], two['state'][name]), name
    assert any('loss_distill' in r for r in read_scalars(tmp_path / 'run'))
