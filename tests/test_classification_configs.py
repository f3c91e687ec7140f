"""Configs of classifiers: their variables reach what reads them, and their augmentation is the one that they name."""

import math
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmcv.transforms import Compose
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from PIL import Image, ImageOps

from frostnet_mm.data.classification_transforms import RandomPaddedCrop
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.engine.build_errors import building
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.loops import ResumableEpochTrainLoop

CONFIGS = ('frostnet_custom_cls', 'frostnet_qat_custom_cls', 'frostnet_cifar', 'frostnet_imagenet')


def config(name, **options):
    return load_config(ROOT / f'configs/{name}.py', options, classes=('a', 'b'))


def pipeline(steps):
    init_default_scope('mmengine')
    return Compose(list(steps))


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('size', [None, 48, 64])
def test_the_network_sees_the_input_size(name, size, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    cfg = config(name, **(dict(input_size=size) if size else {}))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        inputs = pipeline(loader.dataset.pipeline)(dict(img_path=str(tmp_path / 'a.png'), gt_label=0))['inputs']
        assert inputs.shape == (3, cfg.input_size, cfg.input_size)
    assert cfg.input_size == size or size is None


@pytest.mark.parametrize('size, shorter', [(224, 256), (64, 73), (160, 183)])
def test_imagenet_tests_seven_eighths_of_the_shorter_side(size, shorter):
    (resize,) = (step for step in config('frostnet_imagenet', input_size=size).test_pipeline if step.type == 'Resize')
    assert resize.scale == (100000, shorter)


@pytest.mark.parametrize('size, padding', [(32, 4), (64, 8)])
def test_cifar_moves_images_every_way_alike(size, padding, tmp_path):
    """Four pixels of 32 on each side (He et al. 2016, section 4.2)."""
    ramp = np.zeros((size, size, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(size)[None] + 130, np.arange(size)[:, None] + 130
    cv2.imwrite(str(tmp_path / 'a.png'), ramp)
    steps = config('frostnet_cifar', input_size=size).train_dataloader.dataset.pipeline
    train = pipeline(step for step in steps if step.type != 'RandomFlip')
    np.random.seed(0)
    middle, moved = size // 2, Counter()
    for _ in range(3000):
        pixel = train(dict(img_path=str(tmp_path / 'a.png'), gt_label=0))['inputs'][:, middle, middle].tolist()
        moved[0, pixel[0] - 130 - middle] += 1
        moved[1, pixel[1] - 130 - middle] += 1
    for axis in (0, 1):
        counts = [moved[axis, offset] for offset in range(-padding, padding + 1)]
        assert sum(counts) == 3000 and min(counts) > 0.6 * 3000 / (2 * padding + 1)


def test_a_padded_crop_by_hand(monkeypatch):
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    crop = RandomPaddedCrop(1, pad_val=(7, 8, 9))
    monkeypatch.setattr(crop, 'draw', lambda: (2, 0))  # of the image the right and upper part, one border on top
    result = crop(dict(img=image))
    border = [7, 8, 9]
    assert result['img'].tolist() == [[border] * 3, [*image[0, 1:].tolist(), border]]
    assert result['img_shape'] == (2, 3)
    with pytest.raises(ValueError, match='padding=-1, expected a whole number'):
        RandomPaddedCrop(-1)


# -- timm's rand-m9: what its code computes for magnitude 9 stands beside each number


@pytest.fixture(scope='module')
def augment():
    """The two steps of RandAugment of the ImageNet config."""
    steps = pipeline(config('frostnet_imagenet').train_dataloader.dataset.pipeline).transforms
    return [step for step in steps if type(step).__name__ == 'RandAugment']


def always(augment, name):
    """An operation of the config, whose chance is taken out."""
    (step,) = (own for choice in augment[0].transforms for own in choice.transforms if type(own).__name__ == name)
    assert step.prob == 0.5
    return lambda image: apply(step, image)


def apply(step, image):
    prob, step.prob = step.prob, 1.0
    try:
        return step(dict(img=image.copy(), img_shape=image.shape[:2]))['img']
    finally:
        step.prob = prob


NOISE = np.random.default_rng(0).integers(5, 250, (32, 32, 3), dtype=np.uint8)


def test_a_quarter_of_the_images_stays_as_it_is(augment):
    """Each of two operations is applied with a probability of 0.5, and any of them changes these pixels."""
    np.random.seed(0)
    unchanged = 0
    for _ in range(3000):
        results = dict(img=NOISE.copy(), img_shape=NOISE.shape[:2])
        for step in augment:
            results = step(results)
        unchanged += np.array_equal(results['img'], NOISE)
    assert len(augment[0].transforms) == 15  # timm's, with both ways of each move
    assert unchanged / 3000 == pytest.approx(0.25, abs=0.03)


def test_operations_are_drawn_with_replacement(augment):
    np.random.seed(0)
    pairs = [[int(index) for step in augment for index in step.random_pipeline_index()] for _ in range(6000)]
    assert {len(pair) for pair in pairs} == {2}
    assert sum(first == second for first, second in pairs) / 6000 == pytest.approx(1 / 15, abs=0.012)


def test_operations_on_values_are_those_of_pillow(augment):
    image = Image.fromarray(NOISE)
    expected = dict(
        Posterize=ImageOps.posterize(image, int(9 / 10 * 4)),
        Solarize=ImageOps.solarize(image, int(9 / 10 * 256)),
        Invert=ImageOps.invert(image),
    )
    for name, values in expected.items():
        assert np.array_equal(always(augment, name)(NOISE), np.asarray(values)), name
    added = np.where(NOISE < 128, np.minimum(255, NOISE.astype(int) + int(9 / 10 * 110)), NOISE)
    assert np.array_equal(always(augment, 'SolarizeAdd')(NOISE), added)
    brighter = np.clip(NOISE * (9 / 10 * 1.8 + 0.1), 0, 255)
    assert np.abs(always(augment, 'Brightness')(NOISE) - brighter).max() <= 0.02 * 255 + 1  # 1.7 for 1.72


def test_moves_are_as_far_as_those_of_timm(augment):
    flat = np.full((200, 200, 3), 7, np.uint8)
    for axis, name in ((1, 'X'), (0, 'Y')):
        moved = always(augment, f'Translate{name}')(flat)
        border = (moved != 7).all(2).all(1 - axis)
        assert border.sum() == pytest.approx(9 / 10 * 0.45 * 200, abs=1.5)
        assert {tuple(pixel) for pixel in moved.take(np.flatnonzero(border)[0], axis)} == {(104, 116, 124)}
        sheared = (always(augment, f'Shear{name}')(flat) != 7).any(2).sum(axis)
        assert sheared.max() - sheared.min() == pytest.approx(9 / 10 * 0.3 * 200, abs=1.5)
    line = np.zeros((201, 201, 3), np.uint8)
    line[100, 100:] = 255
    ys, xs = np.nonzero(always(augment, 'Rotate')(line)[..., 2] > 150)
    angle = math.degrees(math.atan2(abs(ys[xs.argmax()] - 100), xs.max() - 100))
    assert angle == pytest.approx(9 / 10 * 30, abs=1)


# -- learning rates


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').rglob('*.py')), ids=lambda path: path.stem)
def test_the_base_batch_size_is_a_number_of_its_own(path):
    """What the learning rate is for does not follow the batch that is asked for: --auto-scale-lr would do nothing."""
    if '_base_' in path.parts or 'auto_scale_lr' not in (own := load_config(path, classes=('a', 'b'))):
        return
    options = {'batch_size': 7} if 'batch_size' in own else {'train_dataloader.batch_size': 7}
    changed = load_config(path, options, classes=('a', 'b'))
    assert changed.train_dataloader.batch_size == 7 != own.train_dataloader.batch_size
    assert changed.auto_scale_lr == own.auto_scale_lr


# -- what is said


@pytest.mark.parametrize('epochs', [1, 3])
def test_a_schedule_that_ends_in_the_warm_up_names_its_variables(epochs):
    cfg = config('frostnet_imagenet', max_epochs=epochs)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    message = rf'param_scheduler.1: .*end should be .*Lower warmup_epochs=3, or raise max_epochs={epochs}.$'
    with pytest.raises(ConfigError, match=message), building(cfg):
        PARAM_SCHEDULERS.build(cfg.param_scheduler[1], default_args=dict(optimizer=optimizer))


def test_fewer_images_than_a_batch(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / '1.png'), np.zeros((8, 8, 3), np.uint8))
    data = ImageFolder(data_root=str(tmp_path), pipeline=[])
    runner = SimpleNamespace(visualizer=SimpleNamespace(), cfg=dict(batch_size=32))
    loader = torch.utils.data.DataLoader(data, batch_size=32, drop_last=True)
    message = f"has 2 images, fewer than a batch of 32: lower batch_size, or check the images in '{tmp_path}"
    with pytest.raises(ConfigError, match=message):
        ResumableEpochTrainLoop(runner, loader, max_epochs=1)
    runner.cfg = {}
    with pytest.raises(ConfigError, match='lower train_dataloader.batch_size'):
        ResumableEpochTrainLoop(runner, loader, max_epochs=1)
