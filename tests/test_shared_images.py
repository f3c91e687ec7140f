"""Validation images that are trained on, and images of two classes: what a training says, for each kind of data."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
from coco_files import log_to  # noqa: E402
from mmengine.dataset import ConcatDataset, RepeatDataset  # noqa: E402
from seg_files import build, write  # noqa: E402

from frostnet_mm.data import coco_duplicates  # noqa: E402
from frostnet_mm.data.image_folder import ImageFolder  # noqa: E402
from frostnet_mm.engine.hooks import SharedImagesHook  # noqa: E402


def said(train, val, log):
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=train), _val_loop=None)
    if val is not None:
        runner._val_loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=val))
    with log_to(log) as lines:
        SharedImagesHook().before_train(runner)
        return [line for line in lines() if 'images' in line]


@pytest.fixture
def classes(tmp_path):
    """Two classes, whose images have the same names and differ."""
    generator = np.random.default_rng(0)
    for split, names in (('train', '0123'), ('val', '01')):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for index in names:
                pixels = generator.integers(0, 255, (9, 9, 3), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / split / name / f'{index}.png'), pixels)
    return tmp_path


def folder(root, split):
    return ImageFolder(data_root=str(root), data_prefix=dict(img_path=split), pipeline=[], test_mode=split == 'val')


@pytest.mark.parametrize('wrap', [lambda one: one, lambda one: RepeatDataset(one, 2), lambda one: ConcatDataset([one])])
def test_classification(classes, tmp_path, wrap):
    assert said(folder(classes, 'train'), folder(classes, 'val'), tmp_path / 'sound') == []
    shutil.copy(classes / 'val/dog/1.png', classes / 'train/dog/1.png')
    shutil.copy(classes / 'train/dog/3.png', classes / 'train/cat/3.png')
    shutil.copy(classes / 'train/dog/2.png', classes / 'train/dog/4.png')  # twice in a class: no contradiction
    leak, double = said(wrap(folder(classes, 'train')), wrap(folder(classes, 'val')), tmp_path / 'spoilt')
    assert f"1 of 4 validation images are training images as well, such as '{classes}/val/dog/1.png'" in leak
    assert leak.endswith('Take them out of the training images.')
    assert '1 training images lie in the folders of several classes' in double
    assert f"'{classes}/train/cat/3.png' and '{classes}/train/dog/3.png'" in double
    assert said(wrap(folder(classes, 'train')), None, tmp_path / 'without val') == [double]


def test_images_under_other_names(classes, tmp_path, monkeypatch):
    shutil.copy(classes / 'val/cat/0.png', classes / 'train/dog/other.png')
    shutil.copy(classes / 'train/cat/2.png', classes / 'train/dog/another.png')
    (classes / 'train/dog/gone.png').symlink_to(classes / 'no such file.png')
    parts = [folder(classes, split) for split in ('train', 'val')]
    leak, double = said(*parts, tmp_path / 'few')
    assert f"1 of 4 validation images are training images as well, such as '{classes}/val/cat/0.png'" in leak
    assert f"'{classes}/train/cat/2.png' and '{classes}/train/dog/another.png'" in double
    monkeypatch.setattr(coco_duplicates, 'ANY_NAME', 13)  # there are 14, and of more only equal names are compared
    assert said(*parts, tmp_path / 'many') == [double]  # 10 of training
    monkeypatch.setattr(coco_duplicates, 'ANY_NAME', 9)
    assert said(*parts, tmp_path / 'more') == []


def test_files_of_one_size(tmp_path):
    """Equal in the middle and different at the end, or different in the middle alone, are different images."""
    generator = np.random.default_rng(0)
    content = generator.integers(0, 255, 20_000, dtype=np.uint8).tobytes()
    files = dict(one=content, same=content, end=content[:-1] + b'x', middle=content[:9_999] + b'xx' + content[10_001:])
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = {name: str(tmp_path / name) for name in files}
    assert coco_duplicates.same_content(paths.values()) == [[paths['one'], paths['same']]]
    assert coco_duplicates.shared_images([paths['same']], list(paths.values())) == [paths['one'], paths['same']]


def test_segmentation(tmp_path):
    root = write(tmp_path / 'data')
    train = build(root)
    (leak,) = said(train, build(root, test_mode=True), tmp_path / 'same')
    assert f'{len(train)} of {len(train)} validation images' in leak and len(train) == 10


def test_data_sets_that_list_no_files(tmp_path):
    assert said([1, 2], [1, 2], tmp_path / 'log') == []
    plain = type('Plain', (), dict(get_data_info=lambda self, index: dict(img_path=None), __len__=lambda self: 2))()
    assert said(plain, plain, tmp_path / 'log') == []
