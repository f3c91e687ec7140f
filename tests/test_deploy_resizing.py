"""How test pipelines of mmcv and mmpretrain resize, on a device: against the transforms, pixel by pixel."""

from importlib.util import find_spec
from itertools import product
from types import SimpleNamespace

import mmcv
import mmengine.registry
import mmpretrain_parts  # noqa: F401 registers its transforms
import numpy as np
import pytest
import torch
from conftest import run_tool
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from frostnet_mm.apis.images import spread_paths
from frostnet_mm.apis.model import load_model
from frostnet_mm.apis.swap.swap import input_shape
from frostnet_mm.deploy.deploy import DeployOptions, deploy
from frostnet_mm.deploy.heads.describe import describe_model
from frostnet_mm.deploy.heads.preprocessing import resize_and_pad
from frostnet_mm.device import DeploymentError, ImageError, Predictor, format_of, preprocess, read_deployment
from frostnet_mm.device.description_values import check_values
from frostnet_mm.device.resizing import METHODS, resized
from frostnet_mm.engine.config import ConfigError, load_config, model_config
from frostnet_mm.engine.image_sizes import image_sizes, set_image_size
from frostnet_mm.models.input_channels import input_channels
from frostnet_mm.registry import MODELS

#: Height and width: upright, wide, square, small, and such as halves of pixels are rounded at.
SIZES = [(97, 131), (140, 80), (64, 64), (45, 180), (200, 51), (30, 26), (75, 90), (333, 250), (101, 100)]


def transform(kind, size, **options):
    return dict(type=kind, **{'crop_size' if 'Crop' in kind else 'scale': size}, **options)


def edge(name, size=48, **options):
    return transform('ResizeEdge', size, edge=name, **options)


def cropped(size, **options):
    return transform('EfficientNetCenterCrop', size, **options)


CENTRE = transform('CenterCrop', 40)
CASES = {
    **{f'{name} edge': [edge(name)] for name in ('short', 'long', 'width', 'height')},
    'as mmpretrain on ImageNet': [edge('short', backend='pillow'), CENTRE],
    'as mmpretrain with EfficientNet': [cropped(56)],
    'without a margin, by Pillow': [cropped(50, crop_padding=0, backend='pillow', interpolation='lanczos')],
    'a wide margin': [cropped(33, crop_padding=57, interpolation='area')],
    **{
        f'{method} by {backend}': [transform('Resize', (72, 56), backend=backend, interpolation=method)]
        for backend, methods in METHODS.items()
        for method in methods
    },
    'of a ratio by Pillow': [transform('Resize', (90, 60), keep_ratio=True, backend='pillow'), CENTRE],
}


def config_of(steps):
    steps = [dict(type='LoadImageFromFile'), *steps, dict(type='frostnet_mm.PackClsInputs')]
    return Config(dict(test_dataloader=dict(dataset=dict(pipeline=steps))))


def description_of(steps):
    """Of a network of any size that reads grey levels."""
    resize, pad, options = resize_and_pad(config_of(steps))
    plain = dict(size_divisor=1, bgr_to_rgb=False, mean=[0.0] * 3, std=[1.0] * 3, baked=False)
    settings = dict(resize=resize, pad=pad, **plain, **options)
    return dict(task='classification', input=dict(shape=[None, 3, None, None]), preprocessing=settings)


def pixels(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def expected_of(steps, image, scope='mmengine'):
    init_default_scope(scope)
    return Compose(ConfigDict(p=steps).p)(dict(img=image))['img']


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain'])
@pytest.mark.parametrize('name', CASES)
def test_pixels_are_those_of_the_pipeline(name, scope):
    """Of mmcv, of stand-ins for mmpretrain's transforms, and of those themselves where it is installed."""
    if scope == 'mmpretrain':
        if (spec := find_spec('mmpretrain')) is None or spec.origin is None:
            pytest.skip('mmpretrain is not installed: pip install onedl-mmpretrain')
        import mmpretrain.datasets  # noqa: F401 registers its transforms
    description = description_of(CASES[name])
    for size in SIZES:
        expected = expected_of(CASES[name], pixels(size), scope)
        found, geometry = preprocess(pixels(size), description)
        np.testing.assert_array_equal(found[0], expected.transpose(2, 0, 1).astype(np.float32), str(size))
        assert geometry.image == expected.shape[:2]


def without(monkeypatch, *lacking):
    from frostnet_mm.device import resizing

    present = resizing.optional
    monkeypatch.setattr(resizing, 'optional', lambda name: None if name in lacking else present(name))


def test_without_opencv_pillow_does_its_own(monkeypatch):
    steps = CASES['as mmpretrain on ImageNet']
    expected = [expected_of(steps, pixels(size)) for size in SIZES]
    without(monkeypatch, 'cv2')
    for size, own in zip(SIZES, expected, strict=True):
        found = preprocess(pixels(size), description_of(steps))[0]
        np.testing.assert_array_equal(found[0], own.transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize(
    'name, library, how',
    [
        ('bicubic by cv2', 'cv2', 'bicubic by cv2, which is not installed here. Install OpenCV: pip install opencv'),
        ('box by pillow', 'PIL', 'box by pillow, which is not installed here. Install Pillow: pip install pillow'),
    ],
)
def test_a_library_that_is_not_there_is_named(name, library, how, monkeypatch):
    without(monkeypatch, library)
    with pytest.raises(DeploymentError, match=f'^The deployment resizes images as the model was evaluated, {how}'):
        preprocess(pixels((64, 64)), description_of(CASES[name]))


@pytest.mark.parametrize('channels', [1, 2, 4, 5])
def test_other_numbers_of_channels_are_resized_as_by_mmcv(channels):
    """Two and four are colours with an alpha channel for Pillow; mmcv takes no five by it."""
    image = pixels((60, 50))
    several = np.ascontiguousarray(np.concatenate([image, image[::-1]], 2)[..., :channels])
    for backend in ('cv2', 'pillow') if channels < 5 else ('cv2',):
        steps = [transform('Resize', (33, 41), backend=backend)]
        description = description_of(steps)
        description['preprocessing'] |= dict(mean=[0.0] * channels, std=[1.0] * channels)
        given = several[..., 0] if channels == 1 else several
        expected = mmcv.imresize(given, (33, 41), backend=backend).reshape(41, 33, channels)
        found = preprocess(several, description)[0][0]
        np.testing.assert_array_equal(found, expected.transpose(2, 0, 1).astype(np.float32), backend)


def test_an_image_that_becomes_nothing_or_too_large_is_refused():
    narrow = dict(width=48, height=48, keep_ratio=True, edge='long')
    with pytest.raises(ImageError, match=r'^An image of 2x300 pixels \(width x height\) is resized to nothing\.$'):
        resized((300, 2), narrow)
    description = description_of(CASES['as mmpretrain with EfficientNet'])
    with pytest.raises(ImageError, match=r'^An image of 100x1 pixels \(width x height\) is resized to nothing\.$'):
        preprocess(pixels((1, 100)), description)
    with pytest.raises(ImageError, match=r'is resized to 1000x30000000, more than 67108864 pixels\.$'):
        resized((30000, 1), dict(width=1000, height=1000, keep_ratio=True, edge='short'))


@pytest.mark.parametrize(
    'step, message',
    [
        (edge('longest'), "ResizeEdge with edge='longest' .* expected one of short, long, width, height"),
        (edge('short', interpolation='box'), "backend='cv2' and interpolation='box' .* pillow: .*box"),
        (transform('Resize', 64, backend='pil'), "Resize with backend='pil' and interpolation='bilinear'"),
        (edge('short', 0), 'ResizeEdge with scale=0 .* expected a whole number from 1'),
        (edge('short', (48, 64)), r'ResizeEdge with scale=\(48, 64\) .* expected a whole number from 1'),
        (dict(type='ResizeEdge'), 'ResizeEdge with scale=None'),
        (dict(type='EfficientNetCenterCrop'), 'EfficientNetCenterCrop with crop_size=None'),
        (
            cropped(32, crop_padding=-16),
            'crop_padding=-16 .* expected a whole number from 0',
        ),
        (dict(type='Resize', scale_factor=0.5), r'Resize with scale_factor=0\.5 .* expected a scale'),
    ],
)
def test_what_mm_does_not_know_either_is_refused(step, message):
    with pytest.raises(ConfigError, match=message):
        resize_and_pad(config_of([step]))


def test_a_pipeline_of_arrays_is_refused():
    """As those of CIFAR in mmpretrain: the arrays of its data set are RGB, files are BGR."""
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[edge('short'), dict(type='PackInputs')]))))
    with pytest.raises(ConfigError, match='another first step than reading a file .* expected one of LoadImage, '):
        resize_and_pad(cfg)


def test_records_without_files_are_refused(monkeypatch):
    dataset = type('CIFAR', (list,), dict(get_data_info=lambda self, index: dict(img=self[index])))([1, 2, 3])
    monkeypatch.setattr('frostnet_mm.apis.images.DATASETS', SimpleNamespace(build=lambda cfg: dataset))
    with pytest.raises(ConfigError, match=r'^test_dataloader\.dataset \(CIFAR\) holds arrays, not files: '):
        spread_paths(config_of([]), 2, 'test')


def test_predictors_of_before_refuse_what_they_would_leave_out():
    plain = dict(resize=dict(width=8, height=8, keep_ratio=True))
    assert format_of(plain) == format_of(dict(resize=None)) == 1
    assert format_of(plain | dict(crop=dict(width=4, height=4))) == 2
    for key in ('edge', 'middle', 'backend', 'interpolation'):
        assert format_of(dict(resize=plain['resize'] | {key: 1})) == 2


@pytest.mark.parametrize('first, second', [(edge('short'), cropped(32)), (CENTRE, edge('long')), (cropped(32), CENTRE)])
def test_a_second_resizing_is_refused_but_a_crop_follows(first, second):
    if second is CENTRE:
        assert resize_and_pad(config_of([first, second]))[2]['crop'] == dict(width=40, height=40)
        return
    with pytest.raises(ConfigError, match=f'a second transform {second["type"]}, or one after CenterCrop or Pad'):
        resize_and_pad(config_of([first, second]))


@pytest.mark.parametrize(
    'wrong', [dict(edge='all'), dict(backend='pil'), dict(interpolation='box'), dict(middle=0), dict(middle=1.5)]
)
def test_values_of_a_damaged_deployment_are_refused(wrong):
    resize = dict(width=8, height=8, keep_ratio=True) | wrong
    with pytest.raises(DeploymentError, match='preprocessing.resize is .*, expected null, or width, height'):
        check_values(dict(preprocessing=dict(resize=resize)), 'deploy.json', '')


# -- the sizes behind such pipelines


@pytest.mark.parametrize('name', [name for name in CASES if ' by ' not in name])
def test_sizes_are_those_of_the_transforms(name):
    sizes = image_sizes(ConfigDict(p=CASES[name]).p)
    found = [expected_of(CASES[name], pixels(size)).shape[:2] for size in [*SIZES, (300, 10), (10, 300)]]
    for own in found:
        assert all(low <= side <= high for low, side, high in zip(sizes.least, own, sizes.most, strict=True))
    assert (sizes.fixed is None) == (len(set(found)) > 1) and sizes.fixed in (None, found[0])
    if sizes.longest is not None:
        assert {max(own) for own in found} == {sizes.longest}


@pytest.mark.parametrize(
    'steps, size, expected',
    [
        ([edge('short', 256), transform('CenterCrop', 224)], (192, 192), [('scale', 219), ('crop_size', (192, 192))]),
        ([cropped(224)], (112, 112), [('crop_size', 112), ('crop_padding', 16)]),
        ([edge('short')], (64, 96), [('scale', 64)]),
        ([edge('long')], (64, 96), [('scale', 96)]),
        ([edge('width')], (64, 96), [('scale', 96)]),
        ([edge('height')], (64, 96), [('scale', 64)]),
    ],
)
def test_pipelines_are_scaled_to_a_shape(steps, size, expected):
    changed = ConfigDict(p=steps).p
    set_image_size(changed, size)
    assert [(key, step[key]) for step in changed for key in step if (key, step[key]) in expected] == expected
    square = expected_of(changed, pixels(size))
    assert square.shape[:2] == size


def test_a_square_crop_takes_no_other_shape():
    with pytest.raises(ConfigError, match=r'leaves 224x224 at most .* Give --shape 224 224 or leave the size open'):
        set_image_size(ConfigDict(p=[cropped(224)]).p, (160, 224))


# -- a classifier of mmpretrain through the tools


CONFIG = """
default_scope = 'mmengine'
custom_imports = dict(imports=['mmpretrain_parts'])
data_preprocessor = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 55.0], to_rgb=True)
model = dict(
    type='StandInImageClassifier',
    backbone=dict(type='mmdet.MobileNetV2', widen_factor=0.25, out_indices=(7,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='StandInLinearClsHead', num_classes=3, in_channels=1280),
)
pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='ResizeEdge', scale=72, backend='pillow'),
    dict(type='CenterCrop', crop_size=64),
    dict(type='frostnet_mm.PackClsInputs'),
]
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='frostnet_mm.ImageFolder', data_root='none', pipeline=pipeline),
)
test_evaluator = dict(type='frostnet_mm.Accuracy')
test_cfg = dict()
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('mmpretrain') / 'own.py'
    path.write_text(CONFIG)
    return path


def test_the_preprocessor_beside_the_model_is_its_own(config, tmp_path):
    """As in every config of mmpretrain: mm's Runner reads it, and whoever else builds the model must."""
    torch.manual_seed(0)
    init_default_scope('mmengine')
    cfg = Config.fromfile(config)
    runner = Runner(cfg.model, str(tmp_path), data_preprocessor=cfg.data_preprocessor, experiment_name='own')
    torch.save(dict(state_dict=runner.model.state_dict(), meta=dict(dataset_meta=dict(classes='abc'))), tmp_path / 'c')
    loaded, _ = load_model(config, tmp_path / 'c', 'cpu')
    images = dict(inputs=[torch.from_numpy(pixels((9, 7)).transpose(2, 0, 1).copy())])
    given = [model.data_preprocessor(images)['inputs'] for model in (loaded, runner.model)]
    assert torch.equal(*given) and float(given[0].mean()) < 5
    own = load_config(config, {'data_preprocessor.to_rgb': False})
    assert 'data_preprocessor' not in own.model and model_config(own).data_preprocessor.to_rgb is False
    own.dump(tmp_path / 'dumped.py')  # and again from a config that was written
    changed = load_config(tmp_path / 'dumped.py', {'data_preprocessor.mean': [1.0, 2.0, 3.0]})
    assert model_config(changed).data_preprocessor.mean == [1.0, 2.0, 3.0]
    inner = load_config(config, {'model.data_preprocessor': dict(mean=[4.0] * 3)})
    assert model_config(inner).data_preprocessor == dict(mean=[4.0] * 3)


def test_its_backbone_is_swapped(config, tmp_path, capsys):
    """The pooling between them names no channels, the head does."""
    assert run_tool('swap_backbone', config, '--out', tmp_path / 'swapped.py') == 0
    assert 'model.head.in_channels: 1280 -> 320' in capsys.readouterr().out
    cfg = load_config(tmp_path / 'swapped.py')
    assert cfg.model.backbone.type == 'frostnet_mm.FrostNet' and input_shape(cfg) == (64, 64)
    model = MODELS.build(cfg.model)
    assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


class Dense(torch.nn.Module):
    """As LeNet: its dense layer fits images of one size alone."""

    num_classes = 3

    def __init__(self, channels=1, size=32):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, 4, 3, 2, 1)
        self.fc = torch.nn.Linear(size * size, self.num_classes)

    def forward(self, x):
        return (self.fc(self.conv(x).flatten(1)),)


@pytest.mark.parametrize('channels, size', list(product((1, 3, 4), (32, 64))))
def test_channels_of_a_backbone_with_dense_layers(channels, size):
    backbone = Dense(channels, size).train()
    assert input_channels(backbone) == channels and backbone.training and not backbone.conv._forward_hooks


@pytest.mark.parametrize('precision', ['int8', 'float'])
def test_it_is_deployed_and_verified(precision, config, tmp_path):
    """With noise; the classes are the backbone's, whose dense layer fits images of one size alone."""
    mmengine.registry.MODELS.register_module(name='DenseBackbone', module=Dense, force=True)
    own = tmp_path / 'dense.py'
    own.write_text(
        f'_base_ = {str(config)!r}\nmodel = dict(neck=None, head=dict(_delete_=True, type="StandInClsHead"),\n'
        '    backbone=dict(_delete_=True, type="DenseBackbone", channels=3, size=64))\n'
    )
    options = DeployOptions(precision=precision, example_shape=(64, 64) if precision == 'int8' else None)
    description = deploy(own, None, 'onnxruntime', tmp_path / 'out', options)
    assert description['preprocessing'] == dict(
        resize=dict(width=72, height=72, keep_ratio=True, edge='short', backend='pillow', interpolation='bilinear'),
        crop=dict(width=64, height=64),
        pad=None,
        size_divisor=1,
        pad_value=0.0,
        bgr_to_rgb=True,
        mean=[120.0, 110.0, 100.0],
        std=[60.0, 50.0, 55.0],
        baked=False,
    )
    assert description['input']['shape'] == [1, 3, 64, 64] and description['verification']['predicted_share'] == 1
    assert read_deployment(tmp_path / 'out')['decoding'] == dict(kind='classes', output='head', num_classes=3)
    assert Predictor(tmp_path / 'out').predict(pixels((80, 100))).scores.sum() == pytest.approx(1, abs=1e-5)


def test_a_head_without_classes_asks_for_them(config, tmp_path):
    own = tmp_path / 'none.py'
    own.write_text(f'_base_ = {str(config)!r}\nmodel = dict(head=dict(_delete_=True, type="StandInClsHead"))\n')
    with pytest.raises(ConfigError, match=r'^ClsHead does not say how many classes it has \(num_classes\), which'):
        deploy(own, None, 'onnxruntime', tmp_path / 'out', DeployOptions(precision='float'))


def test_a_head_of_unknown_classes_is_not_decoded(config):
    """Neither its own, nor those of a backbone whose output it changes (mmpretrain's VigClsHead)."""
    cfg = load_config(config)
    model = MODELS.build(model_config(cfg))
    model.dataset_meta = dict(classes=('a', 'b', 'c'))
    model.backbone.num_classes = 1000
    del model.head.num_classes
    reason = describe_model(model, cfg)['no_decoding']
    assert reason == 'LinearClsHead does not say how many classes it has (num_classes)'
