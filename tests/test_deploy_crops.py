"""Classifiers whose test pipeline cuts the middle out of an image, deployed: against mm's own pipeline and model."""

import json
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from frostnet_mm.apis.inference import build_pipeline, predict
from frostnet_mm.apis.model import load_model
from frostnet_mm.apis.swap.swap import input_shape
from frostnet_mm.benchmark.measure.loading import load
from frostnet_mm.deploy.deploy import DeployOptions, deploy
from frostnet_mm.deploy.heads.preprocessing import resize_and_pad
from frostnet_mm.deploy.loaded_model import gather_statistics, load_for_deployment
from frostnet_mm.deploy.verification.images import require_equal_inputs
from frostnet_mm.device import DeploymentError, Predictor
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.image_sizes import image_sizes, set_image_size
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.registry import MODELS

IMAGENET = ROOT / 'configs/frostnet_imagenet.py'
NAMES = ('cat', 'cow', 'dog')
#: Height and width: upright, wide, square, and smaller than the crops.
SIZES = [(97, 131), (140, 80), (64, 64), (45, 180), (200, 51), (30, 26), (150, 149), (75, 90), (33, 99), (260, 120)]


def resize(width, height, keep_ratio=False):
    return dict(type='Resize', scale=(width, height), keep_ratio=keep_ratio)


def crop(*size):
    return dict(type='CenterCrop', crop_size=size if len(size) > 1 else size[0])


def smooth(generator, height, width):
    few = generator.integers(0, 256, (*generator.integers(2, 8, 2), 3), dtype=np.uint8)
    return cv2.resize(few, (width, height))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images in a folder a class, a config of a small network, and a checkpoint whose scores differ by image."""
    root, generator = tmp_path_factory.mktemp('crops'), np.random.default_rng(0)
    for split, (index, size) in product(('train', 'val'), enumerate(SIZES)):
        path = root / 'data' / split / NAMES[index % 3] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), smooth(generator, *size))
    config = root / 'small.py'
    config.write_text(
        f"""
_base_ = {str(IMAGENET)!r}
data_root = {str(root / 'data')!r}
arch = dict(_delete_=True, stem=16, stages=[[(3, 16, 2, None, 2)], [(3, 32, 3, 2, 2)], [(3, 48, 2, None, 1, 'fused')]])
model = dict(
    backbone=dict(arch=arch, out_indices=(2,)),
    head=dict(in_channels=48, num_classes=3, hidden_channels=None, dropout=0.0),
)
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""
    )
    cfg = load_config(config)
    torch.manual_seed(0)
    init_default_scope('mmengine')
    model = MODELS.build(cfg.model)
    model.init_weights()
    images = np.stack([smooth(generator, 64, 64) for _ in range(32)]).transpose(0, 3, 1, 2)
    gather_statistics(model, DenseNetwork(model), [(torch.from_numpy(images.copy()) - 118.0) / 58.0])
    torch.nn.init.normal_(model.head.fc.weight, std=0.6)
    meta = dict(dataset_meta=dict(classes=NAMES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), root / 'small.pth')
    return root


def config_of(folder, tmp_path, steps, name='own'):
    """The config with other steps between reading and packing."""
    path = tmp_path / f'{name}.py'
    steps = [dict(type='frostnet_mm.LoadImageFromFile'), *steps, dict(type='frostnet_mm.PackClsInputs')]
    path.write_text(
        f'_base_ = {str(folder / "small.py")!r}\ntest_pipeline = {steps!r}\n'
        'val_dataloader = dict(dataset=dict(pipeline=test_pipeline))\ntest_dataloader = val_dataloader\n'
    )
    return path


def paths_of(folder):
    return sorted(str(path) for path in (folder / 'data/val').rglob('*.png'))


def expected_scores(config, folder):
    """What tools/infer.py predicts, before it is rounded: one image at a time."""
    model, cfg = load_model(config, folder / 'small.pth', 'cpu', execution='float')
    pipeline = build_pipeline(cfg)
    return np.stack([predict(model, pipeline, [path])[0].pred_score.numpy() for path in paths_of(folder)])


ENDLESS = 100000
CASES = {  # the steps; the options; the network's height and width; the steps of the same by hand
    'square': ([resize(96, 96), crop(64)], {}, (64, 64), None),
    'shorter_side': ([resize(ENDLESS, 72, True), crop(64, 64)], {}, (64, 64), None),
    'the_shape_of_the_crop': ([resize(ENDLESS, 72, True), crop(64)], dict(shape=(64, 64)), (64, 64), None),
    'not_square': ([resize(100, 90), crop(64, 48)], {}, (48, 64), None),
    'crop_beyond_the_image': ([resize(48, 40), crop(64)], {}, (40, 48), None),
    'crop_beyond_one_side': ([resize(48, 80), crop(56)], {}, (56, 48), None),
    'padded': ([resize(96, 96), crop(48), dict(type='Pad', size=(64, 56), pad_val=114)], {}, (56, 64), None),
    'padded_to_a_square': ([resize(96, 96), crop(64, 40), dict(type='Pad', pad_to_square=True)], {}, (64, 64), None),
    'any_size': ([resize(80, 80, True), crop(64)], dict(dynamic=True), (None, None), None),
    'not_resized': ([crop(40, 56)], dict(dynamic=True), (None, None), None),
    'baked': ([resize(96, 96), crop(64)], dict(bake=True), (64, 64), None),
    'scaled': ([resize(96, 96), crop(64)], dict(shape=(32, 48)), (32, 48), [resize(72, 48), crop(48, 32)]),
    'scaled_shorter_side': (
        [resize(ENDLESS, 72, True), crop(64)],
        dict(shape=(32, 48)),
        (32, 48),
        [resize(ENDLESS, 54, True), crop(48, 32)],
    ),
    'scaled_beyond_the_image': (
        [resize(48, 40), crop(64)],
        dict(shape=(80, 96)),
        (80, 96),
        [resize(96, 80), crop(128)],
    ),
}


SLOW = ('crop_beyond_one_side', 'not_resized', 'scaled_beyond_the_image', 'padded')


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]
)
def test_scores_are_those_of_mm(name, folder, tmp_path):
    steps, options, size, by_hand = CASES[name]
    config = config_of(folder, tmp_path, steps)
    how = DeployOptions(precision='float', num_images=3, **options)
    description = deploy(config, folder / 'small.pth', 'onnxruntime', tmp_path / 'out', how)
    assert tuple(description['input']['shape'][1:3] if how.bake else description['input']['shape'][2:]) == size
    assert description['verification']['predicted_share'] == 1 and description['verification']['source'] == 'images'
    predictor = Predictor(tmp_path / 'out')
    found = np.stack([predictor.predict(path).scores for path in paths_of(folder)])
    expected = expected_scores(config_of(folder, tmp_path, by_hand or steps, 'by_hand'), folder)
    assert found.shape == (len(SIZES), 3) and np.ptp(expected, 0).max() > 0.2  # the images have other scores
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_config_of_imagenet_needs_no_shape(folder, tmp_path):
    """By the tools: of 10 images the classes and the scores, as they are written, to four digits."""
    config, checkpoint = folder / 'small.py', folder / 'small.pth'
    how = ('--engine', 'onnxruntime', '--float', '--out', tmp_path / 'out')
    assert run_tool('deploy', config, checkpoint, *how) == 0
    description = json.loads((tmp_path / 'out/deploy.json').read_text())
    assert description['input']['shape'] == [1, 3, 224, 224]
    assert description['preprocessing']['crop'] == dict(width=224, height=224)
    assert run_tool('infer', config, checkpoint, folder / 'data/val', '--out', tmp_path / 'seen') == 0
    seen = json.loads((tmp_path / 'seen/results.json').read_text())['images']
    predictor = Predictor(tmp_path / 'out')
    for path, (name, own) in zip(paths_of(folder), sorted(seen.items()), strict=True):
        assert path.endswith(name)
        found, wanted = predictor.predict(path).to_dict()['classes'], own['classes']
        assert [row['class'] for row in found] == [row['class'] for row in wanted]
        assert [row['score'] for row in found] == pytest.approx([row['score'] for row in wanted], abs=2e-4)


def test_a_network_of_any_shape_is_captured_with_the_crop(folder, tmp_path, monkeypatch):
    examples = []
    monkeypatch.setattr('frostnet_mm.deploy.deploy._facts', lambda *given: examples.append(given[4].shape) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        how = DeployOptions(precision='float', dynamic=True)
        deploy(folder / 'small.py', folder / 'small.pth', 'onnxruntime', tmp_path / 'out', how)
    assert examples == [(1, 3, 224, 224)] and input_shape(load_config(IMAGENET, classes=())) == (224, 224)


@pytest.mark.parametrize('precision', ['int8', 'float'])
def test_engines_are_evaluated_behind_a_crop(precision, folder, tmp_path, capsys):
    """Of batches of four images; the accuracy is that of float, and of the predictions one by one."""
    config = config_of(folder, tmp_path, [resize(96, 96), crop(64)])
    checkpoint, options = folder / 'small.pth', ['--float']
    if precision == 'int8':
        arguments = ('--out', tmp_path / 'small_int8.pth', '--num-images', 10)
        assert run_tool('calibrate', config, checkpoint, *arguments) == 0
        checkpoint, options = tmp_path / 'small_int8.pth', ['--compare']
    arguments = ('--engine', 'onnxruntime', '--out', tmp_path / 'm.json', '--work-dir', tmp_path)
    assert run_tool('test', config, checkpoint, *options, *arguments) == 0
    metrics = json.loads((tmp_path / 'm.json').read_text())['metrics']
    predicted = [NAMES[index] for index in expected_scores(config, folder).argmax(1)]
    right = [path.split('/')[-2] == name for path, name in zip(paths_of(folder), predicted, strict=True)]
    assert metrics['onnxruntime']['accuracy/top1'] == pytest.approx(100 * np.mean(right), abs=0.01)
    assert '--shape' not in capsys.readouterr().out.splitlines()[-1]


# -- images that are smaller than the crop


OPEN = [resize(80, 80, True), crop(64)]


def test_a_size_that_is_open_is_asked_for(folder, tmp_path):
    config = config_of(folder, tmp_path, OPEN)
    expected = r'leaves 64x64 \(width x height\) of an image, .* Give --shape 64 64, with .* \(--dynamic\)\.'
    with pytest.raises(DeploymentError, match=expected):
        deploy(config, folder / 'small.pth', 'onnxruntime', tmp_path / 'out')


def test_what_does_not_fill_the_network_is_refused(folder, tmp_path):
    """Of the images, those which mm's own pipeline makes as large as the crop are predicted, and as by mm."""
    config = config_of(folder, tmp_path, OPEN)
    paths, expected = paths_of(folder), expected_scores(config, folder)
    pipeline = build_pipeline(load_config(config))
    whole = [pipeline(dict(img_path=path, img_id=0))['inputs'].shape == (3, 64, 64) for path in paths]
    assert 2 <= sum(whole) <= len(paths) - 3
    fit = [path for path, own in zip(paths, whole, strict=True) if own]
    how = DeployOptions(precision='float', shape=(64, 64), images=fit[:1])
    deploy(config, folder / 'small.pth', 'onnxruntime', tmp_path / 'out', how)
    predictor = Predictor(tmp_path / 'out')
    for path, fits, scores in zip(paths, whole, expected, strict=True):
        if fits:
            np.testing.assert_allclose(predictor.predict(path).scores, scores, atol=1e-4)
        else:
            with pytest.raises(DeploymentError, match=r'has the fixed size 64x64: .* takes no padding, .*\(dynamic\)'):
                predictor.predict(path)


def test_a_network_that_is_filled_up_does_not_pass_verification(folder, tmp_path):
    """A device that pads the crop into a larger input, as for a detector: mm's own image is not padded with it."""
    config = config_of(folder, tmp_path, [resize(96, 96), crop(64)])
    how = DeployOptions(precision='float', num_images=1)
    description = deploy(config, folder / 'small.pth', 'onnxruntime', tmp_path / 'out', how)
    source = load_for_deployment(config, folder / 'small.pth', 'float')
    image = cv2.imread(paths_of(folder)[0])
    require_equal_inputs(source, image, description, (64, 64))
    larger = description | dict(task='detection', input=description['input'] | dict(shape=[1, 3, 96, 96]))
    with pytest.raises(DeploymentError, match=r"as 96x96, through mm's own pipeline as 64x64; expected the same size"):
        require_equal_inputs(source, image, larger, (96, 96))


@pytest.mark.parametrize(
    'steps, shape, fits',
    [
        ([resize(ENDLESS, 48, True), crop(64)], (32, 32), '64x64'),  # what Resize makes does not fill the crop
        ([resize(96, 96), crop(64), dict(type='Pad', pad_to_square=True)], (48, 64), '64x64'),
    ],
)
def test_shapes_that_no_scale_gives_are_refused(steps, shape, fits, folder, tmp_path):
    config = config_of(folder, tmp_path, steps)
    expected = f'The shape {shape[0]} {shape[1]} .* leaves {fits} at most .* Give --shape 64 64 or .*--dynamic'
    with pytest.raises(ConfigError, match=expected):
        how = DeployOptions(precision='float', shape=shape)
        deploy(config, folder / 'small.pth', 'onnxruntime', tmp_path / 'out', how)


def test_a_resize_behind_the_crop_is_refused(folder, tmp_path):
    cfg = load_config(config_of(folder, tmp_path, [crop(64), resize(32, 32)]))
    with pytest.raises(ConfigError, match='Resize, or one after CenterCrop or Pad .* expected Resize, then CenterCrop'):
        resize_and_pad(cfg)


@pytest.mark.parametrize('size', [0, (48, 64, 3), (48, '64'), None])
def test_a_crop_of_no_size_is_refused(size, folder, tmp_path):
    cfg = load_config(config_of(folder, tmp_path, [resize(96, 96), dict(type='CenterCrop', crop_size=size)]))
    for read in (resize_and_pad, input_shape):
        with pytest.raises(ConfigError, match=r'CenterCrop\.crop_size=.* expected one side of a square, or \(width'):
            read(cfg)


def test_the_benchmark_says_why_an_image_does_not_fit(folder, tmp_path):
    config = config_of(folder, tmp_path, [resize(64, 64, True)])
    square = next(path for path in paths_of(folder) if cv2.imread(path).shape == (64, 64, 3))
    how = DeployOptions(precision='float', shape=(64, 64), images=[square])
    deploy(config, folder / 'small.pth', 'onnxruntime', tmp_path / 'out', how)
    cv2.imwrite(str(tmp_path / 'wide.png'), np.zeros((60, 80, 3), np.uint8))
    spec = dict(kind='deployment', folder=str(tmp_path / 'out'), precision='float', threads=1, batch=1, shape=None)
    for image, reason in ((square, ''), (tmp_path / 'wide.png', 'becomes 64x48 (width x height), the network has')):
        loaded = load(spec | dict(image=str(image), installed=True))
        assert reason in loaded.no_stages and (loaded.stages is None) == bool(reason)


def test_the_benchmark_times_a_classifier_in_torch(folder, tmp_path):
    """Its end-to-end time asked the model for a method that mm's detectors and segmenters have."""
    config = config_of(folder, tmp_path, [resize(64, 64)])
    spec = dict(kind='torch', config=str(config), checkpoint=str(folder / 'small.pth'), precision='float', threads=1)
    loaded = load(spec | dict(batch=1, shape=(64, 64), image=paths_of(folder)[0]))
    times = loaded.stages()  # of preparing, the network and the rest
    assert len(times) == 3 and min(times) > 0


# -- the sizes behind a pipeline, against mm's own transforms


def shape_behind(steps, size):
    return Compose(ConfigDict(p=steps).p)(dict(img=np.zeros((*size, 3), np.uint8)))['img'].shape[:2]


RESIZES = [[], [resize(60, 44)], [resize(60, 60, True)], [resize(70, 40, True)], [resize(ENDLESS, 40, True)]]
CROPS = [[], [crop(36)], [crop(50, 30)], [crop(80, 64)]]
PADS = [
    [],
    [dict(type='Pad', size=(48, 52))],
    [dict(type='Pad', size=(90, 100))],
    [dict(type='Pad', pad_to_square=True)],
]


@pytest.mark.parametrize('index', range(len(RESIZES)))
def test_sizes_are_those_of_the_transforms(index):
    """Of images of all ratios: they lie in the bounds, and a fixed size is that of all."""
    init_default_scope('mmengine')
    images = [*SIZES, (300, 10), (10, 300), (600, 400)]
    for cut, pad in product(CROPS, PADS):
        steps = [*RESIZES[index], *cut, *pad]
        sizes, found = image_sizes(ConfigDict(p=steps).p), [shape_behind(steps, size) for size in images]
        for own in found:
            assert all(low <= side <= high for low, side, high in zip(sizes.least, own, sizes.most, strict=True)), steps
        if cut:  # without one a Pad is believed to hold the images
            assert set(found) == {sizes.fixed} or sizes.fixed is None
        if not pad:
            assert sizes.fixed is not None or len(set(found)) > 1
        if sizes.longest is not None:
            assert {max(own) for own in found} == {sizes.longest}


@pytest.mark.parametrize('index', range(len(RESIZES)))
def test_a_pipeline_with_a_crop_is_scaled_to_any_shape(index):
    init_default_scope('mmengine')
    generator, count = np.random.default_rng(index), 0
    for cut, pad in product(CROPS[1:], PADS):
        for size in generator.integers(8, 200, (6, 2)).tolist():
            steps = ConfigDict(p=[*RESIZES[index], *cut, *pad]).p
            fixed = image_sizes(steps).fixed
            try:
                set_image_size(steps, tuple(size))
            except ConfigError:
                continue
            once = [dict(step) for step in steps]
            set_image_size(steps, tuple(size))  # the loaders of a config may share a pipeline
            assert [dict(step) for step in steps] == once and image_sizes(steps).most == tuple(size)
            if fixed is not None:
                count += 1
                assert shape_behind(steps, (120, 160)) == shape_behind(steps, (230, 90)) == tuple(size)
    assert count > 10 or index in (0, 2, 3)  # which leave most sizes open


def test_a_long_side_that_bounds_nothing_stays_what_deployments_hold():
    steps = ConfigDict(p=[resize(ENDLESS, 256, True), crop(224)]).p
    set_image_size(steps, (448, 448))
    assert steps[0]['scale'] == (ENDLESS, 512) and steps[1]['crop_size'] == (448, 448)
    set_image_size(steps, (896, 896))
    assert steps[0]['scale'] == ((1 << 26) // 1024, 1024)
