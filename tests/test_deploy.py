"""Deployments: what the engines run, that they compute what was trained, and what is refused."""

import json
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import EXACT_BITS, ROOT, run_tool
from mmengine.dataset import pseudo_collate
from onnx import numpy_helper
from torch import nn

from frostnet_mm.apis.inference import build_pipeline
from frostnet_mm.deploy.cost import engine_int8_share, layer_costs, macs_by_node
from frostnet_mm.deploy.deploy import DeployOptions, deploy, deploy_model
from frostnet_mm.deploy.engine_network import EngineNetwork
from frostnet_mm.deploy.engines import base, engine_of
from frostnet_mm.deploy.flat_network import Normalization, traceable
from frostnet_mm.deploy.heads.onnx_decoding import with_decoding
from frostnet_mm.deploy.loaded_model import load_for_deployment, set_input_size
from frostnet_mm.deploy.onnx.export import onnx_of
from frostnet_mm.deploy.onnx.rewrites.pad_depthwise import pad_depthwise
from frostnet_mm.deploy.verification import deployment, verify
from frostnet_mm.deploy.verification.images import verification_images
from frostnet_mm.deploy.verification.layers import compare_layers
from frostnet_mm.device import (
    DeploymentError,
    Predictor,
    check_deployment,
    command,
    compare_outputs,
    open_network,
    predictor,
)
from frostnet_mm.models.dense import DenseNetwork, attached

CONFIG = ROOT / 'configs/ssdlite_frostnet_coco.py'
CLASSES = {'model.bbox_head.num_classes': 4, 'model.test_cfg.score_thr': 0.25}
ENGINES = ('onnxruntime', 'openvino')


@pytest.fixture(scope='module')
def source():
    """SSDLite on FrostNet small, 320x320, random weights, ranges of noise."""
    return load_for_deployment(CONFIG, None, 'int8', CLASSES, weight_bits=EXACT_BITS)


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    """A picture of rectangles, 90x130."""
    import cv2

    generator = np.random.default_rng(0)
    image = np.full((90, 130, 3), 90, np.uint8)
    for _ in range(12):
        x, y, colour = generator.integers(0, 100), generator.integers(0, 70), generator.integers(0, 256, 3)
        image[y : y + 20, x : x + 30] = colour
    path = tmp_path_factory.mktemp('picture') / 'picture.png'
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture(scope='module')
def deployed(source, picture, tmp_path_factory):
    """The same network in both engines: folder and description by engine."""
    root = tmp_path_factory.mktemp('deployed')
    options = DeployOptions(images=[str(picture)])
    return {name: (root / name, deploy_model(source, engine_of(name), root / name, options)) for name in ENGINES}


def kinds(description, *names):
    return {key: count for key, count in description['operators'].items() if key.split()[0] in names}


def test_onnxruntime_runs_everything_in_integers(source, deployed):
    """The 12 convolutions that put out floats are products; 7 residual adds, 10 concats of feature reuse (SPECS)."""
    folder, description = deployed['onnxruntime']
    count = sum(isinstance(module, nn.Conv2d) for module in DenseNetwork(source.model).modules())
    assert count == 88
    names = ('QLinearConv', 'QLinearAdd', 'QLinearConcat', 'MatMulIntegerToFloat', 'Conv', 'Add', 'Concat')
    assert kinds(description, *names) == {
        'QLinearConv int8': count - 12,
        'QLinearConcat int8': 10,
        'QLinearAdd int8': 7,
        'MatMulIntegerToFloat int8': 12,
    }
    assert description['operators']['QuantizeLinear conversion'] == 1  # the images
    assert 'DequantizeLinear conversion' not in description['operators']
    assert description['engine_int8_share'] == description['int8_share'] == 1.0
    layers = engine_of('onnxruntime').profile(folder, [np.zeros((1, 3, 320, 320), np.float32)])
    products = {layer.name.split('/')[0] for layer in layers if layer.kind == 'MatMulIntegerToFloat'}
    assert products == {f'bbox_head.{kind}_convs.{level}.1' for kind in ('cls', 'reg') for level in range(6)}


def test_openvino_runs_all_convolutions_in_integers(deployed):
    _, description = deployed['openvino']
    assert kinds(description, 'Convolution', 'Concatenation', 'Eltwise', 'Pooling', 'Add') == {
        'Convolution int8': 88,
        'Concatenation int8': 10,
    }
    assert description['engine_int8_share'] == description['int8_share'] == 1.0


def test_shares_of_macs_by_hand(deployed):
    """The twelve last convolutions: 1x1 from the head's depthwise channels to 6 priors of 5 scores or 4 numbers."""
    folder, description = deployed['onnxruntime']
    model = onnx.load(deployed['openvino'][0] / 'network.onnx')  # the other has padded channels
    macs = macs_by_node(model)
    assert sum(macs.values()) == description['model']['macs']
    channels, sizes = (96, 320, 512, 256, 256, 128), (20, 10, 5, 3, 2, 1)
    last = sum(c * s * s * 6 * (5 + 4) for c, s in zip(channels, sizes, strict=True))
    assert sum(value for name, value in macs.items() if name.startswith('bbox_head') and '.1/' in name) == last
    other = macs_by_node(onnx.load(folder / 'network.onnx'))
    assert sum(value for name, value in other.items() if name.startswith('bbox_head') and '.1/' in name) == last
    # the stem reads 2x2 blocks of 2x2 pixels in place of 3x3 pixels
    assert other['backbone.stem.conv/Conv'] * 9 == macs['backbone.stem.conv/Conv'] * 16
    assert 1 < sum(other.values()) / sum(macs.values()) < 1.1
    layers = engine_of('onnxruntime').profile(folder, [np.zeros((1, 3, 320, 320), np.float32)])
    integers = [layer for layer in layers if layer.kind != 'MatMulIntegerToFloat']
    share = engine_int8_share(onnx.load(folder / 'network.onnx'), integers)
    assert share == pytest.approx(1 - last / sum(other.values()), abs=1e-9)
    assert engine_int8_share(model, []) == 0


@pytest.mark.parametrize('name', ENGINES)
def test_costs_are_found_by_the_names_that_engines_give(deployed, name):
    folder, _ = deployed[name]
    model = onnx.load(folder / 'network.onnx')
    layers = engine_of(name).profile(folder, [np.zeros((1, 3, 320, 320), np.float32)])
    costs = layer_costs(model, layers)
    assert sum(cost.macs for cost in costs.values()) == sum(macs_by_node(model).values())
    forms = Counter(cost.form for cost in costs.values())
    # one stem; in the head and the neck 12 + 4 depthwise ones, 4 of them of stride 2; FrostNet small has 14 blocks
    stem = dict(openvino='conv 3x3 /2', onnxruntime='conv 2x2')[name]  # blocks of 2x2 pixels
    assert forms[stem] == 1 and sum(n for form, n in forms.items() if form.startswith('depthwise')) == 30
    assert forms['depthwise 3x3 /2'] == 4 and forms['depthwise 5x5 /2'] == 4
    assert sum(forms.values()) == 88


@pytest.mark.parametrize('name', ENGINES)
def test_every_layer_is_computed_exactly(deployed, name):
    """Within one step of the unfused operators, nearly everywhere; the file records the check."""
    folder, description = deployed[name]
    images = np.random.default_rng(1).normal(size=(1, 3, 320, 320)).astype(np.float32)
    layers = compare_layers(onnx.load(folder / 'network.onnx'), images, engine_of(name).run_onnx)
    assert len(layers) == 94
    assert max(layer.steps for layer in layers) <= 1
    assert all(layer.share <= 1e-3 or layer.count <= 2 for layer in layers)
    checked = description['verification']
    assert checked['layers']['count'] == 94 and checked['source'] == 'images' and len(checked['outputs']) == 12
    assert json.loads((folder / 'deploy.json').read_text()) == description


def test_an_engine_that_is_wrong_in_one_layer_is_found(deployed):
    model = onnx.load(deployed['onnxruntime'][0] / 'network.onnx')
    wrong = 'backbone.stages.1.0.depthwise.activate/QuantizeLinear'

    def broken(content, images, names):
        values = engine_of('onnxruntime').run_onnx(content, images, names)
        values[names.index(wrong)] = values[names.index(wrong)] ^ 8
        return values

    images = np.random.default_rng(1).normal(size=(1, 3, 320, 320)).astype(np.float32)
    layers = compare_layers(model, images, broken)
    assert verify.failed_layers(layers)[0].name == wrong
    with pytest.raises(DeploymentError, match='first layer that differs is backbone.stages.1.0.depthwise.activate'):
        verify.require_agreement([], layers, engine_of('onnxruntime'))


def test_a_file_that_is_not_the_network_is_found(source, deployed, picture, tmp_path, monkeypatch):
    """One weight tensor of the exported file is negated: outputs deviate, and the layer is named."""
    wrong = 'backbone.stages.3.0.expand.conv.weight'
    export = onnx_of

    def broken(*args):
        model = onnx.load_from_string(export(*args))
        weight = next(value for value in model.graph.initializer if value.name == wrong)
        weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), wrong))
        return model.SerializeToString()

    monkeypatch.setattr('frostnet_mm.deploy.engines.onnx_engine.onnx_of', broken)
    with pytest.raises(DeploymentError, match=r'first layer that differs is backbone.stages.3.0.expand.activate'):
        deploy_model(source, engine_of('onnxruntime'), tmp_path / 'out', DeployOptions(images=[str(picture)]))
    assert not list(tmp_path.iterdir())  # nothing half-finished stays


@pytest.mark.parametrize(('level', 'wrong', 'passes'), [(5, 1, True), (5, 12, False), (0, 4, False)])
def test_outputs_of_few_values_are_compared_on_more_images(source, deployed, monkeypatch, capsys, level, wrong, passes):
    """The map of one position deviates on the first of so many images, by chance; one of 20x20 not by chance.

    By twice the reference's own error: of 4 images that is (1 + 4/4) ** 0.5 of it, of 12 (1 + 4/12) ** 0.5.
    """
    folder, description = deployed['onnxruntime']
    example, runs = torch.zeros(1, 3, 320, 320), []

    def noise(count):
        return verification_images(source, [], description, example, False, count)

    def compare(names, found, expected, in_float):
        if level in (own := [int(name[-1]) for name in names]):
            place = own.index(level)
            runs.append((len(found), len(names)))
            errors = [one[place] - other[place] for one, other in zip(expected, in_float, strict=True)]
            for values in found[:wrong]:
                values[place] = values[place] + 2 * np.sqrt(np.mean(np.square(errors)))
        return compare_outputs(names, found, expected, in_float)

    monkeypatch.setattr(deployment, 'compare_outputs', compare)
    monkeypatch.setattr(verify, 'check_layers', lambda *args: [])  # they are sound, and slow
    given = (source, engine_of('onnxruntime'), folder, noise(4), None, 'noise', lambda: noise(12))
    if passes:
        summary, compared = deployment.verify_network(*given)
        assert summary['images'] == 12 and len(compared['deployed']) == 12
        assert 'bbox_head.0.5: of few values, compared on 12 images.' in capsys.readouterr().out
    else:
        with pytest.raises(DeploymentError, match=f'1 of 12 outputs deviate, the first is bbox_head.0.{level}'):
            deployment.verify_network(*given)
    assert runs == ([(4, 12)] if level == 0 else [(4, 12), (12, 1)])


def test_weights_of_a_file_share_no_zero_point(deployed):
    """onnxruntime 1.31 could not make them unsigned otherwise, where its sums would saturate."""
    for folder, _ in deployed.values():
        model = onnx.load(folder / 'network.onnx')
        constants = {value.name for value in model.graph.initializer}
        read = [
            tuple(node.input)
            for node in model.graph.node
            if node.op_type == 'DequantizeLinear' and node.input[0] in constants and len(node.input) > 2
        ]
        assert len(read) >= 76
        for place in (0, 2):
            assert max(Counter(names[place] for names in read).values()) == 1


def test_padded_channels_change_no_bit(deployed):
    """Every depthwise convolution between two 1x1 ones gets a multiple of 16 channels."""
    plain, padded = (onnx.load(deployed['openvino'][0] / 'network.onnx') for _ in range(2))
    pad_depthwise(padded)
    groups = [
        {node.name: a.i for node in model.graph.node for a in node.attribute if a.name == 'group' and a.i > 1}
        for model in (plain, padded)
    ]
    changed = {name: (count, groups[1][name]) for name, count in groups[0].items() if count != groups[1][name]}
    # expansions 3 and 6 of small's block table (SPECS): 72, 168, 312 and 360 channels
    assert Counter(changed.values()) == {(72, 80): 2, (168, 176): 1, (312, 320): 2, (360, 368): 3}
    assert pad_depthwise(padded) == [] and all(count % 16 == 0 for name, count in groups[1].items() if name in changed)
    images = np.random.default_rng(2).normal(size=(1, 3, 320, 320)).astype(np.float32)
    names = [output.name for output in plain.graph.output]
    found = [engine_of('onnxruntime').run_onnx(model.SerializeToString(), images, names) for model in (plain, padded)]
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize('name', ENGINES)
def test_a_deployment_checks_the_engine_of_its_machine(deployed, name, tmp_path, capsys):
    """By the folder alone: the values that the reference gave, of an image that it was verified with."""
    folder = Path(shutil.copytree(deployed[name][0], tmp_path / name))
    description = deployed[name][1]
    found = check_deployment(folder)
    assert [output.name for output in found] == [output['name'] for output in description['outputs']]
    assert all(output.passed and output.max_steps < 1 for output in found)  # the machine that it was deployed on
    assert predictor.main(['--folder', str(folder), '--check']) == 0
    assert f'{name} computes on this machine what was deployed; the network takes' in capsys.readouterr().out
    plain = open_network(folder)

    def wrong(images):
        outputs = plain(images)
        level = (outputs[7].max() - outputs[7].min()) / 255
        return [*outputs[:7], outputs[7] + (2 * found[7].reference_error + 1) * level, *outputs[8:]]

    assert [output.name for output in check_deployment(folder, wrong) if not output.passed] == [found[7].name]
    with pytest.raises(DeploymentError, match='puts out .* has more values'):
        check_deployment(folder, lambda images: [value[:, :1, :1, :1] for value in plain(images)])
    (folder / 'check.npz').write_bytes(b'')
    with pytest.raises(DeploymentError, match='check.npz is not the file that was deployed'):
        check_deployment(folder)
    lacking = {key: value for key, value in description['files'].items() if key != 'check.npz'}
    (folder / 'deploy.json').write_text(json.dumps(description | dict(files=lacking)))
    assert predictor.main(['--folder', str(folder), '--check']) == 1
    assert 'has no check.npz to compare with' in capsys.readouterr().err


def test_checks_fail_from_the_command_line_and_say_why(deployed, monkeypatch, capsys):
    folder = str(deployed['openvino'][0])
    monkeypatch.setattr(predictor.OutputDifference, 'passed', False)
    for saturates in (True, False):
        monkeypatch.setattr(command, 'may_saturate', lambda _, saturates=saturates: saturates)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert predictor.main(['--folder', folder, '--check']) == 1
        text = capsys.readouterr().err
        assert 'does not compute on this machine what was deployed: 12 of 12 outputs' in text
        assert ('--weight-bits 7' in text) == saturates


@pytest.mark.parametrize('name', ENGINES)
def test_mm_and_the_predictor_agree_on_an_engine(source, deployed, picture, name):
    """Boxes of mm's pipeline and decoding with the engine at the seam, and of the folder by itself."""
    folder, description = deployed[name]
    alone = Predictor(folder).predict(picture)
    data = build_pipeline(source.cfg)(dict(img_path=str(picture), img_id=0))
    with attached(source.model, EngineNetwork(open_network(folder), source.network.layout)), torch.no_grad():
        (sample,) = source.model.test_step(pseudo_collate([data]))
    found = sample.pred_instances
    assert len(found) == len(alone.boxes) > 0
    np.testing.assert_allclose(alone.scores, found.scores.numpy(), atol=1e-5)
    assert Counter(alone.labels.tolist()) == Counter(found.labels.tolist())
    order, other = (
        np.lexsort((*boxes.round(2).T, scores.round(4)))
        for boxes, scores in ((alone.boxes, alone.scores), (found.bboxes.numpy(), found.scores.numpy()))
    )
    np.testing.assert_allclose(alone.boxes[order], found.bboxes.numpy()[other], atol=1e-2)
    assert description['classes'] == list(source.model.dataset_meta['classes'])


def test_seam_splits_batches(source, deployed):
    """Three images through a network that was written for one."""
    folder, _ = deployed['onnxruntime']
    images = torch.randn(3, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with attached(source.model, EngineNetwork(open_network(folder), source.network.layout)):
        ((scores, boxes),) = source.model.extract_feat(images).outputs
    single = open_network(folder)(images[2:].numpy())
    assert [tuple(s.shape[:2]) for s in scores] == [(3, 30)] * 6
    assert np.array_equal(scores[3][2].numpy(), single[3][0]) and np.array_equal(boxes[0][2].numpy(), single[6][0])


def test_baked_preprocessing(source):
    """uint8 (N, H, W, 3) BGR in: the same network as behind mm's data preprocessor."""
    settings = source.model.data_preprocessor
    baked = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True)
    raw = torch.randint(0, 256, (1, 320, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = settings(dict(inputs=[raw[0].permute(2, 0, 1)], data_samples=[]))['inputs']
    with torch.no_grad():
        exact, integers = source.float_network(images), source.network(images)
        for a, b in zip(traceable(source.float_network, baked)(raw), exact, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
        # in integers a pixel on the edge between two steps may fall to the other side: within INT8's own error
        for a, b, c in zip(traceable(source.network, baked)(raw), integers, exact, strict=True):
            assert (a - b).square().mean() < (b - c).square().mean()


def test_decoding_in_the_engine(source, deployed, picture, tmp_path):
    """ONNX's decoding and suppression against NumPy's, on the same engine; and the same file in the other engine."""
    options = DeployOptions(images=[str(picture)], decode=True)
    description = deploy_model(source, engine_of('onnxruntime'), tmp_path / 'out', options)
    assert [output['name'] for output in description['outputs']] == ['boxes', 'scores', 'labels']
    assert description['verification']['decoded_share'] >= 0.98
    one, other = (Predictor(folder).predict(picture) for folder in (deployed['onnxruntime'][0], tmp_path / 'out'))
    assert abs(len(one.boxes) - len(other.boxes)) <= 0.02 * len(one.boxes) and len(one.boxes) > 20
    assert (np.diff(other.scores) <= 0).all() and other.labels.dtype == np.int64
    np.testing.assert_allclose(one.scores[:10], other.scores[:10], atol=1e-5)
    content, names = (tmp_path / 'out' / 'network.onnx').read_bytes(), ('boxes', 'scores', 'labels')
    images = np.random.default_rng(3).normal(size=(1, 3, 320, 320)).astype(np.float32)
    found, expected = (engine_of(name).run_onnx(content, images, names) for name in ('openvino', 'onnxruntime'))
    assert abs(len(found[1]) - len(expected[1])) <= 0.1 * len(expected[1]) and found[0].shape == (len(found[1]), 4)
    np.testing.assert_allclose(found[1][:5], expected[1][:5], atol=0.05)


def test_what_has_no_decoding_in_onnx(deployed):
    content = (deployed['onnxruntime'][0] / 'network.onnx').read_bytes()
    for decoding in (None, dict(kind='logits')):
        with pytest.raises(DeploymentError, match='leave --with-decode out'):
            with_decoding(content, decoding, (320, 320))


def test_input_size_replaces_that_of_the_pipeline(source):
    cfg = source.cfg.copy()
    set_input_size(cfg, (192, 256))
    steps = {step['type']: step for step in cfg.test_dataloader.dataset.pipeline}
    assert steps['Resize']['scale'] == (256, 192)


def test_what_cannot_be_deployed_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DeploymentError, match="'tflite' is not known; expected one of onnxruntime, openvino"):
        deploy(CONFIG, None, 'tflite', tmp_path / 'out')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('all my work')
    with pytest.raises(DeploymentError, match='holds other files'):
        deploy(CONFIG, None, 'onnxruntime', tmp_path / 'mine')
    monkeypatch.setattr(base, 'find_spec', lambda name: None)
    with pytest.raises(
        DeploymentError, match=r'openvino is not installed .*pip install openvino.*frostnet-mm\[openvino\]'
    ):
        deploy(CONFIG, None, 'openvino', tmp_path / 'out')


def test_tool_says_what_is_wrong(tmp_path, trained, capsys):
    config = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'
    checkpoint = trained / 'epoch_2.pth'
    out = ('--engine', 'onnxruntime', '--out', tmp_path / 'out', '--cfg-options', 'model.backbone.widen_factor=0.5')
    assert run_tool('deploy', config, checkpoint, *out) == 2
    assert 'has no activation ranges' in capsys.readouterr().err
    assert run_tool('deploy', config, tmp_path / 'none.pth', *out) == 2
    assert 'none.pth' in capsys.readouterr().err


def test_outputs_are_judged_by_their_distance_to_float():
    """Three networks by hand: the reference is 2 steps from float; an engine may be 2.75 steps away, not more."""
    exact = [[np.linspace(0, 255, 1000).reshape(1, 1000)]]
    reference = [[exact[0][0] + np.where(np.arange(1000) % 2, 2, -2)]]
    step = (reference[0][0].max() - reference[0][0].min()) / 255
    for distance, passed in ((-2, True), (2.7 * step, True), (2.9 * step, False)):
        (found,) = compare_outputs(['x'], [[exact[0][0] + distance]], reference, exact)
        assert found.reference_error == pytest.approx(2 / step) and found.passed == passed
        assert found.engine_error == pytest.approx(abs(distance) / step)
    (found,) = compare_outputs(['x'], [[exact[0][0] * (1 + 1e-5)]], exact, exact)
    assert found.passed and found.reference_error == 0
    (found,) = compare_outputs(['x'], [[exact[0][0] + 1]], exact, exact)  # float: 1/255 of the range is too far
    assert not found.passed
    with pytest.raises(DeploymentError, match='not finite'):
        compare_outputs(['x'], [[exact[0][0] * np.nan]], exact, exact)
