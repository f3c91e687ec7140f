"""The study runs what it says, once, and its table holds each seed's metric and their mean."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import ROOT, run_tool

CONFIG = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'
METRICS = {'float': 0.30, 'qat': 0.20, 'statassist': 0.25, 'gradboost': 0.26, 'ptq': 0.28}


@pytest.fixture
def commands(monkeypatch):
    """Stands in for the tools: notes their commands, and writes what they would write."""
    seen = []

    def answer(command, stdout=None, **kwargs):
        seen.append(command)
        tool, arguments = Path(command[1]).stem, dict(zip(command, command[1:], strict=False))
        code = 0
        if tool == 'train':
            folder = Path(arguments['--work-dir'])
            if 'fail' in str(folder):
                stdout.write('CUDA out of memory')
                code = 1
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_10.pth'))
        elif tool == 'calibrate':
            Path(arguments['--out']).write_bytes(b'')
        else:
            variant, seed = Path(arguments['--out']).parent.name.split('_seed')
            value = METRICS[variant] + int(seed) / 100
            by_name = {
                name: {'coco/bbox_mAP': value - i / 1000} for i, name in enumerate(('float', 'simulated', 'converted'))
            }
            metrics = by_name if '--compare' in command else by_name['float']
            Path(arguments['--out']).write_text(json.dumps(dict(metrics=metrics)))
        return Mock(**{'wait.return_value': code})

    monkeypatch.setattr('subprocess.Popen', answer)
    return seen


def test_runs_and_table(commands, mini_coco, tmp_path, capsys):
    arguments = [CONFIG, '--data-root', mini_coco, '--out', tmp_path, '--warmup', '3 epochs', '--seeds', '0', '2']
    arguments += ['--variants', 'ptq', 'float', 'qat', 'gradboost', '--qat-options', 'numerics=executorch']
    assert run_tool('studies/qat_study', *arguments) == 0
    tools = [Path(command[1]).stem for command in commands]
    assert (tools.count('train'), tools.count('calibrate'), tools.count('test')) == (6, 2, 8)
    table = capsys.readouterr().out
    assert '| float | float | 0.300, 0.320 (mean 0.310) |' in table
    assert '| gradboost | converted | 0.258, 0.278 (mean 0.268) |' in table
    assert '| float | simulated' not in table
    assert (tmp_path / 'table.md').read_text().strip() in table
    texts = {path.parent.name: path.read_text() for path in tmp_path.glob('*/config.py')}
    assert 'QATHook' not in texts['float_seed0'] and 'seed=2' in texts['float_seed2']
    assert "'warmup': '0 epochs', 'numerics': 'executorch'" in texts['qat_seed0']
    assert (
        "'warmup': '3 epochs'" in texts['gradboost_seed0']
        and "GradBoostAdamW', mode='paper'" in texts['gradboost_seed0']
    )
    before = len(commands)
    assert run_tool('studies/qat_study', *arguments) == 0
    assert len(commands) == before  # all was there


def test_a_failed_run_names_its_log(commands, mini_coco, tmp_path, capsys):
    out = tmp_path / 'fail'
    assert (
        run_tool(
            'studies/qat_study', CONFIG, '--data-root', mini_coco, '--out', out, '--variants', 'float', '--seeds', 0
        )
        == 2
    )
    assert f'{out}/float_seed0/train.out' in capsys.readouterr().err
    assert 'out of memory' in (out / 'float_seed0/train.out').read_text()
    assert run_tool('studies/qat_study', ROOT / 'none.py') == 2
