"""What is killed with SIGKILL goes on as if it had not been; a full disk costs nothing that was there."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.fileio import LocalBackend
from mmengine.runner import EpochBasedTrainLoop
from test_golden import CHECKPOINT, CONFIG, DATA

from frostnet_mm.apis.visualization.scalars import read_scalars
from frostnet_mm.engine.config import load_config
from frostnet_mm.engine.hooks import AtomicCheckpointHook
from frostnet_mm.engine.hooks.atomic_checkpoint_hook import remove_unfinished
from frostnet_mm.engine.hooks.missed_validation_hook import validation_due
from frostnet_mm.engine.late_removal import keep_until_saved, write_noted
from frostnet_mm.engine.runner import build_runner
from frostnet_mm.errors import CheckpointWriteError
from frostnet_mm.models import read_checkpoint

STUDIES = ROOT / 'tools/studies'


@pytest.fixture
def studies(monkeypatch):
    """What lies in tools/studies can be imported."""
    monkeypatch.syspath_prepend(str(STUDIES))
    monkeypatch.syspath_prepend(str(STUDIES.parent))


def train_in_child(runner, work_dir, resume, watch):
    """Train in a forked process, whose network is captured already; its exit status, -9 if it was killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        torch.set_num_threads(1)
        runner._work_dir, runner._resume = str(work_dir), resume
        watch.install()
        runner.train()
        code = 0
    finally:
        os._exit(code)


def test_a_training_that_is_killed_five_times(studies, tmp_path):
    """In five phases, with averaged weights, and checkpoints between the halves of an update."""
    from _kill_cases import CASES
    from _kill_compare import checkpoint_differences
    from _kill_moment import Moment, Watch

    cfg = load_config(replace(CASES['segmenter_ema'], workers=0).write(tmp_path))
    cfg.work_dir = str(tmp_path / 'runner')
    runner = build_runner(cfg)
    next(hook for hook in runner.hooks if type(hook).__name__ == 'QATHook').prepare(runner)
    straight, killed, spans = tmp_path / 'straight', tmp_path / 'killed', tmp_path / 'spans.json'
    for folder in (straight, killed):
        folder.mkdir()
    assert train_in_child(runner, straight, False, Watch(spans)) == 0
    moments = (
        Moment('float warm-up', 1, 0.5, False),
        Moment('checkpoint', 0, 0.95, True),  # the new one is in place
        Moment('switch to INT8', 0, 0.5, False),
        Moment('validation', 0, 0.05, False),
        Moment('ranges frozen', 0, 0.5, False),
    )
    phases = []
    for moment in moments:
        resume, note = (killed / 'last_checkpoint').is_file(), tmp_path / 'note.json'
        assert train_in_child(runner, killed, resume, Watch(spans, moment, note)) == -signal.SIGKILL
        phases.append(json.loads(note.read_text())['phase'])
    assert phases == [moment.phase for moment in moments]
    assert train_in_child(runner, killed, True, Watch(tmp_path / 'rest.json')) == 0
    assert checkpoint_differences(straight, killed) == []
    last = read_checkpoint(killed / 'iter_12.pth')
    assert last['optimizer']['gradboost']['steps'] == 4 and 'accumulated_gradients' not in last
    assert len(read_checkpoint(killed / 'iter_9.pth')['accumulated_gradients']) > 20
    changed = dict(last, state_dict=last['state_dict'].copy())
    name = next(iter(changed['state_dict']))
    changed['state_dict'][name] = torch.nextafter(changed['state_dict'][name], torch.tensor(9.0))
    torch.save(changed, killed / 'iter_12.pth')  # the comparison sees one last place
    (found,) = checkpoint_differences(straight, killed)
    assert found.startswith(f'iter_12.pth: state_dict.{name}: Tensor of ')


# -- checkpoints


class Hub:
    def __init__(self, info):
        self.runtime_info, self.get_info = info, info.get

    def update_info(self, name, value):
        self.runtime_info[name] = value


def hook_of(folder, save, info=None):
    """A hook that keeps one checkpoint, and a stand-in for its Runner."""
    hook, hub = AtomicCheckpointHook(max_keep_ckpts=1), Hub({} if info is None else info)
    runner = SimpleNamespace(work_dir=str(folder), message_hub=hub, save_checkpoint=save, logger=SimpleNamespace())
    runner.logger.info = lambda text: None
    hook.before_train(runner)
    hook.file_backend = LocalBackend()
    keep_until_saved([hook])
    return hook, runner


def test_the_old_checkpoint_goes_when_the_new_one_is_named(tmp_path):
    """Before everything that is done to a file, last_checkpoint names a checkpoint that is there."""
    last, seen = tmp_path / 'last_checkpoint', []

    def look(event, arguments):
        if event in ('open', 'os.rename', 'os.remove') and last.exists() and str(tmp_path) in str(arguments[0]):
            seen.append((event, Path(last.read_text()).is_file()))

    hook, runner = hook_of(tmp_path, lambda folder, name, *args, **kwargs: Path(folder, name).write_bytes(b'weights'))
    hook._save_checkpoint_with_step(runner, 1, {})
    guard = []

    def audit(event, arguments):
        if guard and guard[-1]:
            guard[-1] = False
            look(event, arguments)
            guard[-1] = True

    sys.addaudithook(audit)
    guard.append(True)
    hook._save_checkpoint_with_step(runner, 2, {})
    guard.append(False)
    assert {event for event, _ in seen} >= {'open', 'os.rename', 'os.remove'} and all(there for _, there in seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['epoch_2.pth', 'last_checkpoint']
    assert last.read_text() == str(tmp_path / 'epoch_2.pth')


def test_the_old_checkpoint_of_a_run_that_was_killed_before_it_went(tmp_path, monkeypatch):
    """Killed when last_checkpoint names the new one: what that does not count any more is gone after the resume."""
    saved = {}

    def save(folder, name, *args, **kwargs):
        write_noted([hook], runner.message_hub)  # as CheckpointRunner does
        saved[name] = json.dumps(runner.message_hub.runtime_info)
        Path(folder, name).touch()

    hook, runner = hook_of(tmp_path, save)
    hook._save_checkpoint_with_step(runner, 1, {})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalBackend, 'remove', Mock(side_effect=KeyboardInterrupt))
        hook._save_checkpoint_with_step(runner, 2, {})
    (tmp_path / 'epoch_0.pth').touch()  # somebody else's
    assert len(list(tmp_path.glob('*.pth'))) == 3 and 'epoch_2' in (tmp_path / 'last_checkpoint').read_text()
    hook, runner = hook_of(tmp_path, save, json.loads(saved['epoch_2.pth']))
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['epoch_0.pth', 'epoch_2.pth']
    hook._save_checkpoint_with_step(runner, 3, {})
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['epoch_0.pth', 'epoch_3.pth']


@pytest.mark.parametrize(
    'last, noted',
    [
        ('run/epoch_2.pth', ['../kept.pth', 'config.py', 'epoch_2.pth', '', '.', 7, None]),  # from a stranger
        ('other/epoch_2.pth', ['epoch_1.pth']),  # resumed in the folder of another training
        (None, ['epoch_1.pth']),
    ],
)
def test_a_checkpoint_has_nothing_else_removed(tmp_path, last, noted):
    folder = tmp_path / 'run'
    folder.mkdir()
    paths = [tmp_path / 'kept.pth', *(folder / name for name in ('config.py', 'epoch_1.pth', 'epoch_2.pth'))]
    for path in paths:
        path.touch()
    info = dict(removed_checkpoints=noted) | ({} if last is None else dict(last_ckpt=str(tmp_path / last)))
    hook_of(folder, None, info)
    assert all(path.is_file() for path in paths)


@contextmanager
def file_limit(size):
    """Files can have so many bytes, as on a disk that is nearly full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_last_checkpoint_on_a_full_disk(tmp_path):
    hook, runner = hook_of(tmp_path, lambda folder, name, *args, **kwargs: Path(folder, name).touch())
    hook._save_checkpoint_with_step(runner, 1, {})
    with file_limit(8), pytest.raises(CheckpointWriteError, match='last_checkpoint cannot be written: File too large'):
        hook._save_checkpoint_with_step(runner, 2, {})
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth']


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    (tmp_path / '.last_checkpoint.unfinished').mkdir()
    for name in ('.last_checkpoint.unfinished/last_checkpoint', '.epoch_3.pth.unfinished', 'epoch_2.pth', '.other'):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.other', 'epoch_2.pth']


# -- validations


class EpochLoop(EpochBasedTrainLoop):
    def __init__(self, **values):
        self.dataloader, self.val_begin, self.val_interval = range(5), 1, 1
        self.dynamic_milestones, self.dynamic_intervals = [], [1]
        self.__dict__.update(values)


@pytest.mark.parametrize(
    ('epoch', 'iteration', 'interval', 'length', 'due'),
    [
        (2, 10, 2, 5, True),
        (1, 5, 2, 5, False),
        (3, 15, 2, 5, True),  # the end
        (2, 12, 2, 5, False),  # in the middle of an epoch
        (2, 8, 2, 4, True),  # epochs had another length
        (0, 0, 1, 5, False),
    ],
)
def test_when_a_validation_was_due(epoch, iteration, interval, length, due):
    loop = EpochLoop(_epoch=epoch, _iter=iteration, _max_epochs=3, dynamic_intervals=[interval])
    assert validation_due(loop, length) is due


def test_curves_of_a_run_that_began_with_a_validation(tmp_path):
    """The metric that a killed run has logged as well counts once; a line that is cut off not at all."""
    runs = (
        [dict(loss=3.0, iter=1, step=1), dict(loss=2.0, iter=2, step=2), {'coco/bbox_mAP': 0.1, 'step': 1}],
        [{'coco/bbox_mAP': 0.2, 'step': 1}, dict(loss=1.0, iter=3, step=3)],
        [{'coco/bbox_mAP': 0.3, 'step': 2}],
    )
    for index, run in enumerate(runs):
        path = tmp_path / f'2026010{index}/vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text(''.join(json.dumps(record) + '\n' for record in run) + '{"loss": 0.5, "it' * (index == 1))
    records = read_scalars(tmp_path)
    assert [record.get('loss', record.get('coco/bbox_mAP')) for record in records] == [3.0, 2.0, 0.2, 1.0, 0.3]
    assert [record['at_iter'] for record in records] == [1, 2, 2, 3, 3]


# -- other files on a full disk


def message_of(capsys):
    error = capsys.readouterr().err
    assert error.count('error: ') == 1 and 'Traceback' not in error
    return error.rpartition('error: ')[2]


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def test_a_deployment_that_does_not_fit(tmp_path, capsys):
    out = tmp_path / 'deployment'
    arguments = (CONFIG, CHECKPOINT, '--engine', 'onnxruntime', '--no-verify', '--out', out, '--cfg-options', DATA)
    assert run_tool('deploy', *arguments) == 0
    before = files_of(tmp_path)
    capsys.readouterr()
    with file_limit((out / 'network.onnx').stat().st_size // 2):
        assert run_tool('deploy', *arguments) == 2
    message = message_of(capsys)
    assert 'cannot be written: File too large. Make room, or write to another folder.' in message
    assert 'network.onnx' in message and str(tmp_path) in message
    assert files_of(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ['deployment']


def test_a_report_that_does_not_fit(tmp_path, capsys):
    run = tmp_path / 'run/20260101/vis_data'
    run.mkdir(parents=True)
    (run / 'scalars.json').write_text('{"loss": 1.0, "iter": 1, "step": 1}\n')
    arguments = (tmp_path / 'run', '--out', tmp_path / 'curves.png')
    assert run_tool('plot_curves', *arguments) == 0
    before = files_of(tmp_path)
    with file_limit(1000):
        assert run_tool('plot_curves', *arguments) == 2
    assert f'{tmp_path}/curves.png cannot be written: File too large. Make room' in message_of(capsys)
    assert files_of(tmp_path) == before


# -- studies


def test_what_a_killed_study_has_started_ends_with_it(tmp_path):
    text = f'import os, time\nopen({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))\ntime.sleep(60)\n'
    (tmp_path / 'sleep.py').write_text(text)
    code = f'import _runs, pathlib\n_runs.TOOLS = pathlib.Path({str(tmp_path)!r})\n'
    code += f'_runs.run(["sleep.py"], pathlib.Path({str(tmp_path / "log")!r}))'
    paths = os.pathsep.join(map(str, (STUDIES, ROOT)))
    study = subprocess.Popen([sys.executable, '-c', code], env=dict(os.environ, PYTHONPATH=paths))
    wait_until(lambda: (tmp_path / 'pid').is_file() and (tmp_path / 'pid').read_text())
    child = int((tmp_path / 'pid').read_text())
    assert is_running(child)
    study.kill()
    study.wait()
    wait_until(lambda: not is_running(child))


def is_running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2][0] != 'Z'
    except FileNotFoundError:
        return False


def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
