"""Files from strangers: no code of theirs runs, no number of theirs is trusted; faults that fuzzing has found."""

import ast
import http.server
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import torch
from coco_files import annotation, edit, error_of, write_dataset
from conftest import ROOT
from PIL import Image

from frostnet_mm import CheckpointError, FrostNet
from frostnet_mm.device import (
    DeploymentError,
    ImageError,
    Predictor,
    check_deployment,
    normalize_pixels,
    open_network,
    read_deployment,
    read_image,
)
from frostnet_mm.models.checkpoints import read_file, require_training_state
from frostnet_mm.quantization import Checkpoint

GOLDEN = ROOT / 'tests' / 'golden'


class Runs:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.makedirs, (self.folder,)


# -- images


def chunks(content):
    start = 8
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], 'big')
        yield content[start + 4 : start + 8], content[start:end]
        start = end


def animated(damaged):
    """A PNG of two frames; damaged, with a filter that there is not, in a sound stream with sound checksums."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    frames = [Image.fromarray(pixels[::-1].copy())]
    Image.fromarray(pixels).save(file, 'PNG', save_all=True, append_images=frames)
    parts = [b'\x89PNG\r\n\x1a\n']
    for kind, chunk in chunks(file.getvalue()):
        if damaged and kind == b'IDAT':
            rows = bytearray(zlib.decompress(chunk[8:-4]))
            rows[121 * 9] = 77  # the filter of row 9
            data = kind + zlib.compress(bytes(rows))
            chunk = struct.pack('>I', len(data) - 4) + data + struct.pack('>I', zlib.crc32(data))
        parts.append(chunk)
    return pixels, b''.join(parts)


def test_the_animation_of_a_png_is_kept_from_opencv(tmp_path):
    """OpenCV 4.12 crashes on the damaged one, or mixes what lay in memory into it: opencv issue 27744."""
    pixels, content = animated(damaged=False)
    (tmp_path / 'a.png').write_bytes(content)
    assert np.array_equal(read_image(tmp_path / 'a.png')[..., ::-1], pixels)
    (tmp_path / 'b.png').write_bytes(animated(damaged=True)[1])
    code = 'import sys; from frostnet_mm.device import read_image; read_image(sys.argv[1])'
    done = subprocess.run([sys.executable, '-c', code, tmp_path / 'b.png'], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and 'ImageError' in done.stderr.splitlines()[-1]
    with pytest.raises(ImageError, match='no image that OpenCV or Pillow can read'):
        read_image(tmp_path / 'b.png')
    (tmp_path / 'c.png').write_bytes(cv2.imencode('.png', pixels)[1].tobytes())
    assert np.array_equal(read_image(tmp_path / 'c.png'), pixels)


# -- annotations


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda data: data['images'][0].update(width=10**400),
            'has width=1000.*000, height=30, expected positive pixel',
        ),
        (lambda data: data['annotations'][0].update(area=10**400), 'has area=1000.*000, expected a number'),
        (
            lambda data: data['annotations'][0].update(bbox=[1, 2, 'x' * 9000, 4]),
            r'has bbox=.*, expected \[x, y, width',
        ),
        (lambda data: data['annotations'][0].update(bbox=[1, 2, 10**400, 4]), r'has bbox=.*, expected \[x, y, width'),
    ],
)
def test_numbers_that_no_float_holds_are_refused_in_few_words(change, message, tmp_path):
    edit(write_dataset(tmp_path), change)
    error = error_of(tmp_path)
    assert len(error) < 1000
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)


def test_huge_whole_numbers_are_numbers(tmp_path):
    edit(write_dataset(tmp_path), lambda data: data['annotations'].append(annotation(99, bbox=(1, 2, 10**30, 4))))
    from coco_files import build

    assert len(build(tmp_path)) == 10


@pytest.mark.parametrize('text', ['{"info": ' + '[' * 100_000, '{"images": [{"id": 1' + '0' * 5000 + '}]}'])
def test_json_without_end_is_refused(text, tmp_path):
    (write_dataset(tmp_path) / 'annotations/train.json').write_text(text)
    assert 'holds no COCO annotations that can be read' in error_of(tmp_path)


# -- checkpoints


def test_a_config_in_a_checkpoint_is_taken_out():
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    content = dict(meta=dict(epoch=1, iter=2, config='x = 1', cfg='x = 1'), message_hub=hub, state_dict={})
    require_training_state(content, 'x')
    assert content['meta'] == dict(epoch=1, iter=2, cfg='x = 1')


@pytest.mark.slow
def test_a_config_in_a_checkpoint_is_not_run(tmp_path):
    """mmengine's Runner.resume reads a text meta.config as Python."""
    from conftest import run_tool

    content = torch.load(GOLDEN / 'qat.pth', weights_only=False)
    content['meta']['config'] = f'import os\nos.makedirs({str(tmp_path / "ran")!r})\n'
    torch.save(content, tmp_path / 'x.pth')
    options = [f'data_root={GOLDEN / "coco"}', 'train_dataloader.dataset.ann_file=annotations/instances_val2017.json']
    options += ['train_dataloader.dataset.data_prefix.img=val2017/', 'val_dataloader=None', 'val_cfg=None']
    arguments = (GOLDEN / 'detector.py', '--resume', tmp_path / 'x.pth', '--work-dir', tmp_path / 'work')
    assert run_tool('train', *arguments, '--cfg-options', *options, 'val_evaluator=None') == 0  # it is at its end
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('trusted', [False, True])
@pytest.mark.parametrize('place', ['local', 'prefix', 'http'])
def test_mmengine_reads_checkpoints_without_running_them(place, trusted, tmp_path, monkeypatch):
    """Its fork reads once more without weights_only what was refused, and torch does so at once with downloads."""
    from mmengine.model import BaseModule, PretrainedInit
    from mmengine.runner import CheckpointLoader

    monkeypatch.setenv('FROSTNET_TRUST_CHECKPOINT', str(int(trusted)))
    torch.save(dict(state_dict={'a.weight': torch.ones(2)}, x=Runs(tmp_path / 'ran')), tmp_path / 'x.pth')
    module = BaseModule()
    if place == 'http':
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
        handler = lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory=tmp_path)  # noqa: E731
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}/x.pth'
        read = lambda: CheckpointLoader.load_checkpoint(address, 'cpu')  # noqa: E731
    else:
        read = lambda: PretrainedInit(str(tmp_path / 'x.pth'), 'a' if place == 'prefix' else None)(module)  # noqa: E731
    if trusted:
        read()
    else:
        with pytest.raises(CheckpointError, match=r'holds a Python object of type os.makedirs, which could run code'):
            read()
    assert (tmp_path / 'ran').exists() == trusted


def test_every_reading_of_pickles_is_weights_only():
    """In the sources: torch.load with ``weights_only`` that follows the user's trust, and no other way to unpickle."""
    found = {}
    for path in [*(ROOT / 'frostnet_mm').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            text = ast.unparse(node.func)
            keys = {key.arg: ast.unparse(key.value) for key in node.keywords}
            if text.endswith(('torch.load', 'load_state_dict_from_url')):
                found.setdefault(path.relative_to(ROOT).as_posix(), []).append(keys.get('weights_only'))
            elif text.startswith(('pickle.load', 'dill.', 'joblib.', 'shelve.', 'marshal.load')) or text == 'Unpickler':
                found[f'{path.name}: {text}'] = None
            elif text in ('np.load', 'numpy.load'):
                assert keys.get('allow_pickle', 'False') == 'False', path
    assert found == {
        'frostnet_mm/models/checkpoint_files.py': ['not is_trusted()'],
        'frostnet_mm/models/upstream.py': ['not is_trusted()'] * 2,
        'tools/studies/_fuzz_models.py': ['False'],  # a file of the repository
    }


TENSORS = [
    (lambda value: value.to_sparse(), 'in a form that no model here has \\(sparse\\)'),
    (lambda value: torch.zeros(value.shape, device='meta'), 'in a form that no model here has \\(no numbers\\)'),
    (lambda value: torch.zeros(1).expand(10**6, 10**6), 'would take 4,000,000,000,000 bytes'),
    (lambda value: value * float('nan'), 'has NaN or infinite weights in 1 of'),
]


@pytest.mark.parametrize('spoil, message', TENSORS)
def test_tensors_that_are_no_weights_are_refused(spoil, message, tmp_path):
    net = FrostNet('small', 0.35)
    state = net.state_dict()
    state['stem.bn.weight'] = spoil(state['stem.bn.weight'])
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path / 'x.pth').load_into(net)


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path):
    file = io.BytesIO()
    torch.save(dict(state_dict={'a': torch.zeros(3)}), file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / 'x.pth', 'w', zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1 << 27) if name.endswith('data/0') else old.read(name))
    with pytest.raises(CheckpointError, match=r'it would unpack to 134,[\d,]+ bytes'):
        read_file(tmp_path / 'x.pth')


@pytest.mark.parametrize(
    'note, message',
    [
        ([], 'a list, expected a dict'),
        (dict(settings=dict(weight_bits='8')), 'weight_bits=.8. was given, expected 2 to 8'),
        (dict(settings=dict(example_shape=3)), 'TypeError'),
        (dict(settings={}, reached=dict(ranges='x')), 'unexpected keyword argument'),
        ({}, "KeyError: 'settings'"),
    ],
)
def test_notes_of_quantization_that_are_none(note, message):
    checkpoint = Checkpoint(dict(meta=dict(quantization=note), state_dict={}), 'x.pth')
    with pytest.raises(Exception, match=message) as caught:
        checkpoint.settings, checkpoint.reached  # noqa: B018
    from frostnet_mm.errors import UserError

    assert isinstance(caught.value, UserError)


def test_weights_alone_cannot_be_resumed():
    with pytest.raises(
        CheckpointError, match='x cannot be resumed: it has no meta.epoch, meta.iter, message_hub.log_sc'
    ):
        require_training_state(dict(state_dict={}), 'x')


# -- deployments


@pytest.fixture
def deployment(tmp_path):
    return shutil.copytree(GOLDEN / 'deployment', tmp_path / 'deployment')


def describe(folder, change):
    path = folder / 'deploy.json'
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


VALUES = [
    ('preprocessing', 'mean', ['a'], 'preprocessing.mean is .*, expected a number a channel'),
    ('preprocessing', 'std', [0, 1, 1], 'preprocessing.std is .*, expected a number above 0 a channel'),
    ('preprocessing', 'std', [1.0], 'preprocessing has 3 means, 1 deviations'),
    ('preprocessing', 'resize', dict(width=10**6, height=10**6, keep_ratio=False), 'resize is .*67 million pixels'),
    ('preprocessing', 'crop', None, 'crop is None, expected width and height'),
    ('preprocessing', 'crop', dict(width=0, height=8), 'crop is .*, expected width and height, whole numbers from 1'),
    ('preprocessing', 'size_divisor', 0, 'size_divisor is 0, expected a whole number from 1'),
    ('decoding', 'nms_pre', 0.5, 'decoding.nms_pre is 0.5, expected a whole number'),
    ('decoding', 'iou_threshold', float('nan'), 'decoding.iou_threshold is nan, expected a finite number'),
    ('decoding', 'num_classes', 7, 'decoding.num_classes is 7, there are 2 classes'),
    ('decoding', 'levels', [], 'decoding.levels is .*, expected levels with stride'),
    ('decoding', 'kind', [], 'is of kind \\[\\], expected one of anchors'),
    ('input', 'shape', [1, 3, 10**9, 10**9], 'input.shape is .*at most 67 million'),
    ('input', 'dtype', 'float64', "input.dtype is 'float64', expected float32 or uint8"),
]


@pytest.mark.parametrize('section, key, value, message', VALUES)
def test_values_that_cannot_be_computed_with(deployment, section, key, value, message):
    describe(deployment, lambda description: description[section].update({key: value}))
    with pytest.raises(DeploymentError, match=message):
        read_deployment(deployment)


def test_a_pipe_is_no_description(deployment):
    (deployment / 'deploy.json').unlink()
    os.mkfifo(deployment / 'deploy.json')
    with pytest.raises(DeploymentError, match='is no deployment: expected a file deploy.json'):
        read_deployment(deployment)  # reading would wait for ever


def test_a_description_without_end(deployment):
    (deployment / 'deploy.json').write_text('{"format": ' + '[' * 100_000)
    with pytest.raises(DeploymentError, match='cannot be read as JSON .*recursion'):
        read_deployment(deployment)


def test_weights_that_the_engine_reads_by_itself_are_of_the_deployment(deployment):
    """OpenVINO takes network.bin for network.xml: one that is not named has no digest."""
    shutil.copyfile(deployment / 'network.onnx', deployment / 'network.xml')
    (deployment / 'network.bin').write_bytes(b'exchanged')

    def change(description):
        description.update(engine='openvino', network='network.xml')
        description['files']['network.xml'] = description['files']['network.onnx']

    describe(deployment, change)
    with pytest.raises(DeploymentError, match='"files" lacks the network network.bin'):
        read_deployment(deployment)


def change_check(folder, change):
    from hashlib import sha256

    path = folder / 'check.npz'
    with np.load(path) as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez_compressed(path, **arrays)
    digest = sha256(path.read_bytes()).hexdigest()
    describe(folder, lambda description: description['files'].update({'check.npz': digest}))


def spoil_check(folder, name, change):
    change_check(folder, lambda arrays: arrays.update({name: change(arrays[name])}))


@pytest.mark.parametrize(
    'name, change',
    [
        ('exact_0', lambda value: np.full_like(value, np.inf)),  # from which the engine may then be as far
        ('reference_0', lambda value: np.full_like(value, np.nan)),
        ('reference_1', lambda value: value[:5]),
        ('positions_0', lambda value: value[:0]),
        ('positions_0', lambda value: value.astype(np.float32)),
        ('positions_0', lambda value: value - 10**6),
        ('images', lambda value: value[0]),
        ('images', lambda value: np.array([dict(a=1)], object)),
    ],
)
def test_checks_that_prove_nothing_are_refused(name, change, deployment):
    assert all(output.passed for output in check_deployment(deployment))
    spoil_check(deployment, name, change)
    with pytest.raises(DeploymentError, match='check.npz (holds|cannot be read)'):
        check_deployment(deployment)


def test_an_engine_is_compared_with_what_it_gave_where_it_was_deployed(deployment):
    """An output of few values may be far from float on the one image of the check, in an engine that is right."""
    plain, last = open_network(deployment), 7

    def drifted(factor):
        def run(images):
            outputs = [np.array(value) for value in plain(images)]
            outputs[last] = factor * outputs[last]
            return outputs

        return run

    with np.load(deployment / 'check.npz') as stored:
        where, exact = stored[f'positions_{last}'], stored[f'exact_{last}']
    pixels = np.load(deployment / 'check.npz')['images']
    settings = read_deployment(deployment)['preprocessing']
    there = drifted(1.5)(normalize_pixels(pixels[0], pixels.shape[1:3], settings))
    far, near = drifted(1.5), drifted(1.0)
    assert [output.passed for output in check_deployment(deployment, far)] == last * [True] + [False]

    def store(arrays):
        for index, value in enumerate(there):
            arrays[f'deployed_{index}'] = value.ravel()[arrays[f'positions_{index}']]

    change_check(deployment, store)
    found = check_deployment(deployment, far)
    assert all(output.passed and output.max_steps == 0 for output in found)
    values = there[last].ravel()[where]
    step = (values.max() - values.min()) / 255
    assert found[last].reference_error == pytest.approx(np.sqrt(np.mean((values - exact) ** 2)) / step)
    assert all(output.passed for output in check_deployment(deployment, near))  # as the reference, elsewhere
    assert [output.passed for output in check_deployment(deployment, drifted(2.5))] == last * [True] + [False]
    for name, change in (('deployed_0', lambda value: value + np.inf), ('deployed_1', lambda value: value[:5])):
        folder = shutil.copytree(deployment, deployment.parent / name)
        spoil_check(folder, name, change)
        with pytest.raises(DeploymentError, match='check.npz holds values that nothing can be compared with'):
            check_deployment(folder)


def test_what_the_engine_cannot_run_is_one_message(deployment):
    describe(deployment, lambda description: description['input'].update(name='pictures'))
    with pytest.raises(DeploymentError, match='onnxruntime cannot run the network: .*images'):
        Predictor(deployment).predict(np.zeros((48, 64, 3), np.uint8))


# -- nothing calls home


CALLS = """
import sys, socket
def refuse(*args, **kwargs):
    raise AssertionError(f'the network is asked for: {args}')
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
seen = []
sys.addaudithook(lambda event, args: seen.append((event, str(args))) if event.startswith('socket.') and
                 event not in ('socket.__new__', 'socket.gethostname') else None)
import frostnet_mm.apis.inference, frostnet_mm.deploy.deploy, frostnet_mm.engine.runner
from frostnet_mm.device import Predictor, check_deployment
import numpy as np, openvino, onnxruntime
openvino.Core()
assert all(output.passed for output in check_deployment(sys.argv[1]))
Predictor(sys.argv[1]).predict(np.zeros((48, 64, 3), np.uint8))
assert not seen, seen
"""


def test_engines_do_not_call_home(tmp_path):
    """Neither by Python's sockets nor by a file of theirs in the home folder, where their telemetry begins."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(('ORT_', 'CI'))}
    environment |= dict(HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / '.cache'), PYTHONPATH=str(ROOT))
    code = [sys.executable, '-c', CALLS, GOLDEN / 'deployment']
    done = subprocess.run(code, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    left = [path.name for path in tmp_path.rglob('*') if 'matplotlib' not in str(path) and path.is_file()]
    assert left == []


@pytest.mark.slow
def test_the_tools_need_no_network(monkeypatch, tmp_path):
    """Training, evaluation, inference, calibration and deployment of a small model, with sockets forbidden."""
    from conftest import run_tool

    def refuse(*args, **kwargs):
        raise AssertionError(f'the network is asked for: {args[1:]}')

    for name in ('connect', 'connect_ex', 'sendto'):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    data = f'data_root={GOLDEN / "coco"}'
    parts = [f'train_dataloader.dataset.{value}' for value in ('ann_file=annotations/instances_val2017.json',)]
    options = ['--cfg-options', data, *parts, 'train_dataloader.dataset.data_prefix.img=val2017/']
    config, checkpoint = GOLDEN / 'detector.py', GOLDEN / 'qat.pth'
    image = GOLDEN / 'coco/val2017/000000.png'
    short = ('train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1')
    assert run_tool('train', config, '--work-dir', tmp_path / 'work', *options, *short) == 0
    assert run_tool('test', config, checkpoint, '--work-dir', tmp_path / 'test', *options) == 0
    assert run_tool('infer', config, checkpoint, image, '--out', tmp_path / 'infer', *options) == 0
