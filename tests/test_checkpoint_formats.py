"""Checkpoints as other versions and other tools write them: where the weights are, and which classes they know."""

import json
import struct

import pytest
import torch
from conftest import run_tool
from test_checkpoints import log  # noqa: F401
from test_golden import CHECKPOINT, CONFIG, DATA, IMAGE

from frostnet_mm import CheckpointError
from frostnet_mm.engine.config import load_config
from frostnet_mm.models.checkpoints import dataset_meta_of, read_checkpoint, state_dict_of
from frostnet_mm.quantization import Checkpoint

WEIGHTS = {'backbone.conv.weight': torch.arange(6.0).view(2, 3), 'head.bias': torch.tensor([1.5])}
OTHERS = {key: value + 1 for key, value in WEIGHTS.items()}


def wrapped(weights, prefix='module.'):
    return {f'{prefix}{key}': value for key, value in weights.items()}


def averaged(weights):
    """As mmcv 1 keeps what it does not use: beside the weights, under names with underscores."""
    return {f'ema_{key.replace(".", "_")}': value for key, value in weights.items()}


@pytest.mark.parametrize(
    'content',
    [
        WEIGHTS,
        dict(state_dict=WEIGHTS),
        dict(meta={}, state_dict=wrapped(WEIGHTS)),
        dict(model=WEIGHTS, optimizer={}),
        dict(model=OTHERS, model_ema=WEIGHTS),
        dict(state_dict=OTHERS, state_dict_ema=wrapped(WEIGHTS)),
        dict(state_dict=WEIGHTS, ema_state_dict=dict(wrapped(OTHERS), steps=torch.tensor(3))),
        dict(ema_state_dict=dict(wrapped(WEIGHTS), steps=torch.tensor(3))),
        dict(state_dict=WEIGHTS | averaged(OTHERS)),
        dict(state_dict=wrapped(WEIGHTS, '_orig_mod.')),
        dict(state_dict=wrapped(WEIGHTS, 'module._orig_mod.')),
    ],
)
def test_the_weights_are_found(content, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(content, path)
    found = state_dict_of(read_checkpoint(path))
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


def safetensors(tensors, types):
    """A file as the format's description says: length, header, numbers."""
    header, numbers = {'__metadata__': {'format': 'pt'}}, b''
    for name, value in tensors.items():
        data = value.contiguous().view(torch.uint8).numpy().tobytes()
        offsets = [len(numbers), len(numbers) + len(data)]
        header[name] = dict(dtype=types[value.dtype], shape=list(value.shape), data_offsets=offsets)
        numbers += data
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + numbers


def test_safetensors(tmp_path):
    tensors = WEIGHTS | {
        'count': torch.tensor([7, -1]),
        'half': torch.tensor([[0.5]], dtype=torch.bfloat16),
        'none': torch.empty(0, 4),
    }
    types = {torch.float32: 'F32', torch.int64: 'I64', torch.bfloat16: 'BF16'}
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(safetensors(tensors, types))
    found = state_dict_of(read_checkpoint(path))
    assert list(found) == list(tensors)
    for key, value in tensors.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value)


@pytest.mark.parametrize('cut', [5, 60, -3])
def test_a_truncated_safetensors_file_is_named(cut, tmp_path):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(safetensors(WEIGHTS, {torch.float32: 'F32'})[:cut])
    with pytest.raises(CheckpointError, match=r'weights\.safetensors .* truncated or not a file of safetensors'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        (dict(dataset_meta=dict(classes=('a', 'b'), palette=[1])), dict(classes=('a', 'b'), palette=[1])),
        (dict(dataset_meta=dict(CLASSES=['a', 'b'], PALETTE=None)), dict(classes=('a', 'b'), palette=None)),
        (dict(CLASSES=('a', 'b'), PALETTE=[2]), dict(classes=('a', 'b'), palette=[2])),
        (dict(CLASSES='cat'), dict(classes=('cat',))),
        (dict(epoch=3), None),
        (None, None),
    ],
)
def test_classes_of_all_versions(meta, expected):
    assert dataset_meta_of(dict(meta=meta)) == expected


# -- with a config


@pytest.fixture(scope='module')
def float_weights():
    """The golden checkpoint's weights, and the classes that it was trained with."""
    opened = Checkpoint.open(CHECKPOINT)
    weights = {key: value for key, value in opened.state_dict.items() if not key.startswith('quantization.')}
    return weights, opened.classes


def of_config(tmp_path, content, classes=None, options=None):
    path = tmp_path / 'old.pth'
    torch.save(content, path)
    checkpoint = Checkpoint.open(path, classes)
    cfg = load_config(CONFIG, dict(item.split('=') for item in [DATA]) | (options or {}), classes=checkpoint.classes)
    return checkpoint.dataset_meta_for(cfg)['classes']


def test_classes_come_from_checkpoint_option_config(tmp_path, float_weights, log):  # noqa: F811
    weights, classes = float_weights
    count = len(classes)
    other = tuple(f'kind {index}' for index in range(count))
    assert of_config(tmp_path, dict(meta=dict(CLASSES=other), state_dict=weights)) == other
    assert of_config(tmp_path, weights, other) == other
    assert not any('notes no classes' in message for message in log)
    assert len(of_config(tmp_path, weights)) == count
    said = [message for message in log if 'notes no classes' in message]
    assert len(said) == 1 and f'old.pth notes no classes: it is taken for one of the {count} that the config' in said[0]


def test_the_tools_take_a_plain_state_dict_with_the_names_that_are_given(tmp_path, float_weights, capfd):
    weights, classes = float_weights
    path = tmp_path / 'plain.pth'
    torch.save(wrapped(weights), path)
    names = [f'kind {index}' for index in range(len(classes))]
    out = tmp_path / 'out'
    assert run_tool('infer', CONFIG, path, IMAGE, '--out', out, '--cfg-options', DATA, '--classes', *names) == 0
    assert (
        run_tool('infer', CONFIG, path, IMAGE, '--out', out, '--cfg-options', DATA, '--classes', 'one', 'two', 'three')
        == 2
    )
    message = '--classes names 3 classes (one, two, three), the model of the config has num_classes=2'
    assert message in capfd.readouterr().err
