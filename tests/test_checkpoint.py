"""One object for a checkpoint: read once a command, and nothing else interprets what its meta says."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_tool
from test_golden import CHECKPOINT, CONFIG, DATA, IMAGE
from torch import nn

from frostnet_mm import CheckpointError
from frostnet_mm.quantization import Checkpoint

READS: list[str] = []


def _note(event, arguments):
    if event == 'open' and isinstance(arguments[0], str) and arguments[0].endswith('.pth'):
        READS.append(arguments[0])


sys.addaudithook(_note)  # sees every opening of a file by Python, from wherever; it cannot be removed again


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the golden one, under a name of its own."""
    path = tmp_path / 'counted.pth'
    path.write_bytes(CHECKPOINT.read_bytes())
    return path


def reads(path, name, *args):
    """How often a tool opens a checkpoint."""
    READS.clear()
    assert run_tool(name, *args) == 0
    return READS.count(str(path))


OPTIONS = ('--cfg-options', DATA, 'test_dataloader.dataset.indices=2', 'train_dataloader.dataset.indices=2')
TRAIN = (
    'train_dataloader.dataset.ann_file=annotations/instances_val2017.json',
    'train_dataloader.dataset.data_prefix.img=val2017/',
)


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('test', ('--compare', '--engine', 'onnxruntime', '--no-verify', '--work-dir', '{}/work')),
        ('infer', (IMAGE, '--out', '{}/out')),
        ('calibrate', ('--out', '{}/int8.pth', '--num-images', 2, '--method', 'minmax')),
        ('analyze_quant', ('--num-images', 1, '--out', '{}/analysis')),
        ('deploy', ('--engine', 'onnxruntime', '--out', '{}/deployment', '--num-images', 1)),
    ],
)
def test_a_tool_reads_its_checkpoint_once(name, arguments, checkpoint, tmp_path):
    arguments = [str(argument).format(tmp_path) for argument in arguments]
    assert reads(checkpoint, name, CONFIG, checkpoint, *arguments, *OPTIONS, *TRAIN) == 1


@pytest.mark.parametrize('options', [('--resume', '{}'), ('load_from={}',)])
def test_training_reads_its_checkpoint_once(options, checkpoint, tmp_path):
    """Resumed at its end, and as the first weights of a training of one iteration."""
    options = [option.format(checkpoint) for option in options]
    flags, keys = (options, []) if options[0] == '--resume' else ([], [*options, 'train_cfg.max_epochs=1'])
    keys += ['train_dataloader.batch_size=2', 'val_dataloader=None', 'val_cfg=None', 'val_evaluator=None']
    arguments = (CONFIG, '--work-dir', tmp_path / 'work', *flags, *OPTIONS, *TRAIN, *keys)
    assert reads(checkpoint, 'train', *arguments) == 1


def test_nothing_else_interprets_the_meta():
    found = set()
    for path in [*(ROOT / 'frostnet_mm').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            key = None
            if isinstance(node, ast.Subscript):
                key = node.slice
            elif isinstance(node, ast.Call) and getattr(node.func, 'attr', '') in ('get', 'pop') and node.args:
                key = node.args[0]
            if isinstance(key, ast.Constant) and key.value in ('meta', 'dataset_meta', 'quantization'):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == {'frostnet_mm/models/checkpoints.py', 'frostnet_mm/quantization/checkpoint.py'}


def test_a_digest_is_that_of_the_file(tmp_path):
    from hashlib import sha256

    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=nn.Linear(2, 1).state_dict()), path)
    assert Checkpoint.open(path).digest == sha256(path.read_bytes()).hexdigest()


def test_what_a_float_checkpoint_says():
    linear = nn.Linear(2, 1)
    checkpoint = Checkpoint(dict(state_dict=linear.state_dict()), 'last.pth')
    assert (checkpoint.classes, checkpoint.scheme, checkpoint.settings_with(7)) == (None, None, None)
    assert (checkpoint.quantized, checkpoint.reached, checkpoint.execution()) == (False, None, 'float')
    with pytest.raises(CheckpointError, match='last.pth is a float checkpoint.*tools/calibrate.py'):
        checkpoint.execution('converted')
    other = nn.Linear(2, 1)
    checkpoint.load_into(other)
    assert torch.equal(other.weight, linear.weight)
    with pytest.raises(CheckpointError, match=r'2 of another shape|1 of another shape \(weight'):
        checkpoint.load_into(nn.Linear(3, 1))
    with pytest.raises(CheckpointError, match='last.pth has 1 entries that Linear lacks: bias'):
        checkpoint.load_into(nn.Linear(2, 1, bias=False))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f'Checkpoint {tmp_path}/none.pth does not exist'):
        Checkpoint.open(Path(tmp_path) / 'none.pth')
