"""The predictor of deployments: folders, engines, threads, drawing, command line."""

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from frostnet_mm.deploy.deploy import copy_device
from frostnet_mm.device import (
    DeploymentError,
    Detections,
    LabelMap,
    Network,
    Predictor,
    open_network,
    predictor,
    read_deployment,
)

CLASSES, SIZE = 3, 96


# -- folders


def write_network(path):
    """Scores and boxes by a convolution each, on cells of 16 pixels."""
    rng = np.random.default_rng(0)
    weights = {'w0': rng.normal(0, 0.08, (CLASSES, 3, 16, 16)), 'w1': rng.normal(0, 0.05, (4, 3, 16, 16))}
    nodes = [
        helper.make_node('Conv', ['images', f'w{i}'], [f'bbox_head.{i}.0'], kernel_shape=[16, 16], strides=[16, 16])
        for i in range(2)
    ]
    shapes = [('images', 3, SIZE), ('bbox_head.0.0', CLASSES, SIZE // 16), ('bbox_head.1.0', 4, SIZE // 16)]
    first, *others = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, s, s]) for n, c, s in shapes)
    values = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, 'network', [first], others, values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9), path)
    return weights


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('made')
    write_network(folder / 'network.onnx')
    save(folder, 'onnxruntime', 'network.onnx')
    return folder


def save(folder, engine, network, *more):
    level = dict(stride=[16, 16], base_anchors=[[-8, -8, 24, 24]])
    coder = dict(type='delta_xywh', means=[0] * 4, stds=[0.2] * 4, wh_ratio_clip=0.016, ctr_clamp=None)
    decoding = dict(kind='anchors', levels=[level], coder=coder, scores='sigmoid', num_classes=CLASSES)
    decoding |= dict(outputs=dict(scores=['bbox_head.0.0'], boxes=['bbox_head.1.0']), score_threshold=0.05, nms_pre=100)
    decoding |= dict(iou_threshold=0.5, max_per_image=50, min_size=-1, class_agnostic=False, clip=True)
    description = dict(
        format=1,
        engine=engine,
        network=network,
        files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (network, *more)},
        task='detection',
        classes=['cat', 'dog', 'cow'],
        palette=[],
        input=dict(name='images', shape=[1, 3, SIZE, SIZE], dtype='float32'),
        outputs=[dict(name='bbox_head.0.0'), dict(name='bbox_head.1.0')],
        preprocessing=dict(
            resize=dict(width=SIZE, height=SIZE, keep_ratio=False),
            pad=None,
            size_divisor=1,
            bgr_to_rgb=True,
            mean=[120.0] * 3,
            std=[60.0] * 3,
            baked=False,
        ),
        decoding=decoding,
    )
    (folder / 'deploy.json').write_text(json.dumps(description))


@pytest.fixture
def deployment(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / 'deployment'))


def change(folder, **values):
    path = folder / 'deploy.json'
    description = json.loads(path.read_text())
    for key, value in values.items():
        if value is None:
            del description[key]
        else:
            description[key] = value
    path.write_text(json.dumps(description))


BROKEN = [
    (dict(format=3), 'has format 3, this predictor reads 1 and 2: use the predictor.py of the deployment itself'),
    (dict(format=None), 'does not describe a deployment: expected an object with "format"'),
    (dict(classes=None), 'has no "classes": it is truncated or foreign'),
    (dict(classes='cat'), '"classes" is \'cat\', not of the type expected'),
    (dict(preprocessing=dict(resize=None)), '"preprocessing" has no "pad"'),
    (dict(engine='tflite'), '"engine" is \'tflite\', expected one of executorch, inductor, onnxruntime, openvino'),
    (dict(outputs=[]), r'"outputs" is \[\], expected names'),
    (dict(outputs=[dict(name='bbox_head.0.0')]), r"\"decoding\" reads \['bbox_head.1.0'\], the network has"),
    (
        dict(decoding=dict(kind='heatmap')),
        r'"decoding" is of kind \'heatmap\', expected one of anchors, points, logits',
    ),
    (dict(decoding=dict(kind='logits', output='x')), r'"decoding" has no align_corners, num_classes\.'),
    (dict(network='other.onnx'), '"files" lacks the network other.onnx'),
    (dict(files={'network.onnx': '0', '../x': '0'}), r'network.onnx is not the file that was deployed: its sha256 is'),
    (dict(files={'../x': '0', 'network.onnx': '0'}), r'the file \.\./x lies outside'),
]


@pytest.mark.parametrize('values, message', BROKEN)
def test_broken_descriptions_are_refused(deployment, values, message):
    assert read_deployment(deployment)['engine'] == 'onnxruntime'
    change(deployment, **values)
    with pytest.raises(DeploymentError, match=message):
        read_deployment(deployment)


def test_broken_folders_are_refused(deployment, tmp_path):
    with pytest.raises(DeploymentError, match=r'is no deployment: expected a file deploy\.json'):
        read_deployment(tmp_path)
    path = deployment / 'network.onnx'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DeploymentError, match=r'network\.onnx is not the file that was deployed'):
        Predictor(deployment)
    assert read_deployment(deployment, verify=False)
    path.unlink()
    path.symlink_to('/proc/self/mem')  # a file to all that ask, which cannot be read
    with pytest.raises(DeploymentError, match=r'network\.onnx cannot be read: Input/output error'):
        read_deployment(deployment)
    path.unlink()
    with pytest.raises(DeploymentError, match=r'network\.onnx is missing'):
        read_deployment(deployment, verify=False)
    text = (deployment / 'deploy.json').read_text()
    for broken in (text[: len(text) // 2], '', '[]', '\0\xff'):
        (deployment / 'deploy.json').write_text(broken)
        with pytest.raises(DeploymentError, match=r'deploy\.json (cannot be read as JSON|does not describe)'):
            read_deployment(deployment)


# -- engines


@pytest.fixture(scope='module')
def openvino_deployment(made, tmp_path_factory):
    openvino = pytest.importorskip('openvino')
    folder = tmp_path_factory.mktemp('openvino')
    model = openvino.Core().read_model(made / 'network.onnx')
    openvino.save_model(model, folder / 'network.xml', compress_to_fp16=False)
    save(folder, 'openvino', 'network.xml', 'network.bin')
    return folder


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_engines_compute_the_network_from_eight_threads(made, request, engine, tmp_path):
    folder = made if engine == 'onnxruntime' else request.getfixturevalue('openvino_deployment')
    network = open_network(folder, threads=1)
    assert isinstance(network, Network) and network.description['engine'] == engine
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32) for _ in range(24)]
    weights = write_network(tmp_path / 'again.onnx').values()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(network, batches))
    for images, outputs in zip(batches, found, strict=True):
        for output, weight in zip(outputs, weights, strict=True):
            expected = torch.conv2d(torch.from_numpy(images), torch.from_numpy(weight).float(), stride=16)
            np.testing.assert_allclose(output, expected.numpy(), atol=1e-3)
    network.close()
    with pytest.raises(DeploymentError, match='closed'):
        network(batches[0])


def test_openvino_fills_its_tables_before_threads_run_it(openvino_deployment, monkeypatch):
    """Threads that make its first call with NumPy's types at once would wait for each other without end."""
    from openvino import Type

    calls, to_dtype = [], Type.to_dtype
    monkeypatch.setattr(Type, 'to_dtype', lambda self: calls.append(self) or to_dtype(self))
    network = open_network(openvino_deployment, threads=1)
    assert len(calls) >= 1
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(network, [np.ones((1, 3, SIZE, SIZE), np.float32)] * 8))
    assert all(np.array_equal(one, other) for result in found for one, other in zip(result, found[0], strict=True))


def test_predictions_from_eight_threads(made):
    images = [np.random.default_rng(i).integers(0, 256, (80 + i, 120, 3), dtype=np.uint8) for i in range(16)]
    model = Predictor(made, threads=1)
    expected = [model.predict(image) for image in images]
    assert min(len(result.scores) for result in expected) >= 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.predict, images))
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.boxes, other.boxes) and np.array_equal(one.labels, other.labels)


def test_wrong_inputs_and_options_are_named(made, monkeypatch):
    network = open_network(made)
    with pytest.raises(DeploymentError, match=r'given float32 of shape \(1, 3, 96, 97\), it expects float32 of shape'):
        network(np.zeros((1, 3, SIZE, SIZE + 1), np.float32))
    with pytest.raises(DeploymentError, match=r'given float64 of shape .*expects float32'):
        network(np.zeros((1, 3, SIZE, SIZE)))
    with pytest.raises(DeploymentError, match=r"onnxruntime has no option \['precision_hint'\], expected one of"):
        open_network(made, precision_hint='bf16')
    with pytest.raises(DeploymentError, match='threads=0, expected None or a whole number'):
        open_network(made, threads=0)
    with pytest.raises(DeploymentError, match='score_threshold=2, expected'):
        Predictor(made, score_threshold=2)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(
        DeploymentError, match='needs onnxruntime, which cannot be imported .*: pip install onnxruntime'
    ):
        open_network(made)


def test_a_network_that_the_engine_cannot_load_is_named(deployment):
    (deployment / 'network.onnx').write_bytes(b'no network')
    change(deployment, files={'network.onnx': hashlib.sha256(b'no network').hexdigest()})
    with pytest.raises(DeploymentError, match=r'onnxruntime cannot load .*network\.onnx'):
        Predictor(deployment)


def test_outputs_that_are_wrong_are_named(made):
    outputs = [np.zeros((1, CLASSES, 6, 6), np.float32), np.zeros((1, 4, 6, 6), np.float32)]
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    assert len(Predictor(made, network=lambda _: outputs).predict(image).scores) == 50
    spoiled = copy.deepcopy(outputs)
    spoiled[1][0, 2, 3, 4] = np.nan
    with pytest.raises(DeploymentError, match=r'bbox_head\.1\.0 holds NaN'):
        Predictor(made, network=lambda _: spoiled).predict(image)
    with pytest.raises(DeploymentError, match=r'bbox_head\.0\.0 has shape \(1, 2, 6, 6\), expected \(1, 3, height'):
        Predictor(made, network=lambda _: [outputs[0][:, :2], outputs[1]]).predict(image)
    none = [np.full_like(outputs[0], -9), outputs[1]]
    result = Predictor(made, network=lambda _: none).predict(image)
    assert result.boxes.shape == (0, 4) and result.boxes.dtype == np.float32 and result.to_dict() == dict(detections=[])


# -- drawing, command line


@pytest.fixture
def pixels():
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (64, 48), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize('opencv', [False, True])
def test_drawing(made, monkeypatch, opencv):
    if not opencv:
        monkeypatch.setitem(sys.modules, 'cv2', None)
    model = Predictor(made, network=lambda images: [])
    image = np.full((60, 80, 3), 200, np.uint8)
    boxes = np.array([[10, 20, 50, 50]], np.float32)
    drawn = model.draw(image, Detections(boxes, np.array([0.5], np.float32), np.array([1]), ('cat', 'dog', 'cow')))
    assert (image == 200).all() and drawn.shape == image.shape
    assert drawn[35, 10].tolist() == drawn[50, 30].tolist() == [0, 128, 0]  # the second colour of PASCAL VOC, green
    assert drawn[35, 30].tolist() == [200] * 3
    labels = np.zeros((60, 80), np.uint8)
    labels[:30] = 1
    assert model.draw(image, LabelMap(labels))[[0, 59], 0].tolist() == [[100, 164, 100], [100, 100, 164]]


def test_command_line_needs_nothing_of_ours(deployment, tmp_path, pixels):
    copy_device(deployment)
    cv2.imwrite(str(tmp_path / 'one.png'), pixels)
    cv2.imwrite(str(tmp_path / 'two.jpg'), pixels[:, ::-1])
    code = (
        'import runpy, sys\n'
        f'sys.argv = ["predictor.py", "one.png", "two.jpg", "--out", "out", "--json", "found.json", "--threads", "1"]\n'
        f'try: runpy.run_path({str(deployment / "predictor.py")!r}, run_name="__main__")\n'
        'except SystemExit as stop: assert stop.code == 0, stop\n'
        'foreign = {"torch", "mmcv", "mmengine", "mmdet", "frostnet_mm", "PIL"} & set(sys.modules)\n'
        'assert foreign <= {"PIL"}, foreign\n'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / 'found.json').read_text())
    assert [Path(entry['image']).name for entry in found] == ['one.png', 'two.jpg']
    expected = Predictor(deployment, score_threshold=0.3).predict(pixels).to_dict()
    assert found[0] == dict(image='one.png', height=48, width=64, **expected) and len(found[0]['detections']) > 2
    assert {'label', 'class', 'score', 'bbox'} == set(found[0]['detections'][0])
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['one.png', 'two.jpg']


@pytest.mark.parametrize('count', [2, 300])
def test_a_reader_that_has_enough_gets_no_traceback(deployment, tmp_path, pixels, count):
    """As `predictor.py … | head -1`, with an output that fits into a pipe's buffer and one that does not."""
    cv2.imwrite(str(tmp_path / 'one.png'), pixels)
    for index in range(count):
        (tmp_path / f'{"long" * 50}{index}.png').symlink_to(tmp_path / 'one.png')
    command = [sys.executable, str(deployment / 'predictor.py'), str(tmp_path), '--json', str(tmp_path / 'found.json')]
    copy_device(deployment)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if count > 2:
        assert 'detections' in process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == '' and process.wait(100) == 1
    assert json.loads((tmp_path / 'found.json').read_text())


def test_command_line_names_what_is_wrong(made, tmp_path, pixels, capsys):
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / 'one.png'), pixels)
    images = [str(tmp_path / folder / 'one.png') for folder in ('a', 'b')]
    for arguments, message in [
        ([str(tmp_path / 'absent.png')], 'absent.png does not exist: give an image'),
        ([*images, '--out', str(tmp_path / 'one.png')], 'is one picture for 2 images: give a folder'),
        ([images[0], '--out', images[0]], 'would replace an image that was given'),
    ]:
        assert predictor.main([*arguments, '--folder', str(made)]) == 1
        assert message in capsys.readouterr().err
    assert predictor.main([images[0], '--folder', str(made), '--out', str(tmp_path / 'x.png')]) == 0
    assert cv2.imread(str(tmp_path / 'x.png')).shape == pixels.shape
    assert 'detections (' in capsys.readouterr().out


def test_what_fails_is_named_and_the_rest_is_kept(made, tmp_path, pixels, capsys):
    images = tmp_path / 'images'
    (images / 'sub').mkdir(parents=True)
    for name in ('a.png', 'a.bmp', 'sub/a.png'):
        cv2.imwrite(str(images / name), pixels)
    (images / 'cut.png').write_bytes((images / 'a.png').read_bytes()[:100])
    arguments = ['--folder', str(made), '--out', str(images / 'drawn'), '--json', str(tmp_path / 'found.json')]
    assert predictor.main([str(images), *arguments]) == 1
    assert 'cut.png' in capsys.readouterr().err
    found = json.loads((tmp_path / 'found.json').read_text())
    assert [Path(entry['image']).name for entry in found] == ['a.bmp', 'a.png', 'cut.png', 'a.png']
    assert [sorted(entry) for entry in found if 'error' in entry] == [['error', 'image']]
    assert 'truncated' in found[2]['error'] and found[3]['detections'] == found[1]['detections'] != []
    drawn = sorted(str(path.relative_to(images / 'drawn')) for path in (images / 'drawn').rglob('*.png'))
    assert drawn == ['a.png', 'a_bmp.png', 'sub/a.png']
    assert predictor.main([str(images), *arguments]) == 1  # its own pictures are not taken for input
    assert len(json.loads((tmp_path / 'found.json').read_text())) == 4
    assert predictor.main([str(images), '--folder', str(made), '--out', str(images)]) == 1
    assert 'give another folder with --out' in capsys.readouterr().err


@pytest.mark.parametrize('opencv', [False, True])
def test_masks_of_a_segmenter_lie_beside_the_json(made, tmp_path, pixels, monkeypatch, opencv):
    if not opencv:
        monkeypatch.setitem(sys.modules, 'cv2', None)
    labels = (np.arange(48 * 64).reshape(48, 64) % 3).astype(np.uint8)
    monkeypatch.setattr(Predictor, 'predict', lambda *_: LabelMap(labels, ('cat', 'dog', 'cow')))
    for name in ('a.png', 'b.bmp'):
        Image.fromarray(pixels).save(tmp_path / name)
    arguments = ['--folder', str(made), '--json', str(tmp_path / 'new/found.json')]
    assert predictor.main([str(tmp_path / 'a.png'), str(tmp_path / 'b.bmp'), *arguments]) == 0
    found = json.loads((tmp_path / 'new/found.json').read_text())
    assert [entry['mask'] for entry in found] == ['found_masks/a.png', 'found_masks/b.png']
    assert found[0]['pixels'] == dict(cat=1024, dog=1024, cow=1024)
    for entry in found:
        assert np.array_equal(np.asarray(Image.open(tmp_path / 'new' / entry['mask'])), labels)
