"""Folders of classes as people have them: several data sets, lists beside new images, links, two forms of a name."""

import json
import os
import unicodedata
from types import SimpleNamespace

import pytest
from coco_files import log_to
from conftest import ROOT, run_tool
from mmengine.config import ConfigDict
from mmengine.dataset import ClassBalancedDataset
from test_own_data_classification import fill

from frostnet_mm.apis.images import spread_paths
from frostnet_mm.data.errors import DatasetError, DatasetNotFoundError
from frostnet_mm.data.generated.mini_coco import generate_mini_coco
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.device.image_search import find_images
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.config_values import check_values
from frostnet_mm.engine.hooks import ClassFoldersHook
from frostnet_mm.registry import DATASETS

CONFIG = ROOT / 'configs/frostnet_custom_cls.py'


def paths_of(dataset):
    """By class the paths below the folder, as sets."""
    found = {name: set() for name in dataset.metainfo['classes']}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        found[dataset.metainfo['classes'][info['gt_label']]].add(os.path.relpath(info['img_path'], dataset.folder))
    return found


# -- links


def test_a_link_upward_brings_no_other_class(tmp_path):
    """``cat/all`` leads to the folder of all classes: its dogs are no cats."""
    fill(tmp_path, 'train/cat', 'train/dog', count=2)
    (tmp_path / 'train/cat/all').symlink_to('..')
    (tmp_path / 'train/dog/top').symlink_to(tmp_path)
    (tmp_path / 'more').mkdir()
    fill(tmp_path, 'more', count=1)
    (tmp_path / 'train/dog/more').symlink_to(tmp_path / 'more')  # elsewhere: followed
    train = ImageFolder(data_root=str(tmp_path), data_prefix='train', pipeline=[])
    assert paths_of(train) == {'cat': {'cat/0.jpg', 'cat/1.jpg'}, 'dog': {'dog/0.jpg', 'dog/1.jpg', 'dog/more/0.jpg'}}
    found = find_images([str(tmp_path / 'train/cat')])
    assert found.names == ['0.jpg', '1.jpg'] and 'links to a folder that they lie in: ' in found.notes[0]


# -- lists


def test_a_list_speaks_of_what_it_lists(tmp_path):
    fill(tmp_path, 'train/a', 'train/b', 'train/c', count=3)
    (tmp_path / 'some.txt').write_text('a/0.jpg\nb/1.jpg\n')
    own = dict(data_root=str(tmp_path), data_prefix='train', ann_file='some.txt', pipeline=[])
    with pytest.raises(
        DatasetError, match=r"some.txt' lists no image of 1 of 3 classes: 'c'. .* classes = \('a', 'b'\)"
    ):
        ImageFolder(**own)
    with pytest.raises(DatasetNotFoundError, match="some.txt' lists no image of the classes 'c'"):
        ImageFolder(**own, metainfo=dict(classes=('c',)), leave_out_others=True)
    with log_to(tmp_path / 'log') as lines:
        two = ImageFolder(**own, metainfo=dict(classes=('a', 'b')), leave_out_others=True)
        assert not [line for line in lines() if 'leave out' in line]  # of c nothing was asked for
    assert paths_of(two) == {'a': {'a/0.jpg'}, 'b': {'b/1.jpg'}}


def looked_at(cfg, log, train=None):
    """What the hook says before a training of a config."""
    train = train or DATASETS.build(cfg.train_dataloader.dataset)
    with log_to(log) as lines:
        ClassFoldersHook().before_train(SimpleNamespace(cfg=cfg, train_dataloader=SimpleNamespace(dataset=train)))
        return lines()


def test_images_that_no_list_has_are_counted(tmp_path):
    """``frostnet new`` lists what was there; images that came later are in neither list."""
    data = fill(tmp_path / 'data', 'a', 'b', count=4)
    config = tmp_path / 'own.py'
    assert run_tool('new_config', config, '--data', data, '--task', 'classification', '--val-share', 0.25) == 0
    assert looked_at(load_config(config), tmp_path / 'log') == []
    fill(data, 'b', count=6, seed=1)
    (line,) = looked_at(load_config(config), tmp_path / 'log')
    assert "data': 2 images of the classes are in no list of this config and are not used, such as" in line
    assert line.rstrip().endswith('New ones belong into a list.') and 'b/4.jpg' in line
    beside = load_config(config)
    beside.val_dataloader.dataset.pop('ann_file')  # validation reads all of the folder
    assert looked_at(beside, tmp_path / 'log of all') == []
    fill(data, 'c', count=2, seed=2)  # a class that the config leaves out
    own = tmp_path / 'some.py'
    own.write_text(f"_base_ = {str(config)!r}\nclasses = ('a', 'b')\n")
    (line,) = looked_at(load_config(own), tmp_path / 'log of some')
    assert '2 images of the classes' in line


# -- several data sets


@pytest.fixture
def parts(tmp_path):
    """Two sources, of which each lacks a class that the other has, and a validation part of all."""
    fill(tmp_path, 'first/a', 'first/b', 'second/b', 'second/c', 'val/a', 'val/b', 'val/c', count=2)
    config = tmp_path / 'parts.py'
    config.write_text(
        f'_base_ = {str(CONFIG)!r}\n'
        f'data_root = {str(tmp_path)!r}\n'
        'classes = {classes}\n'
        "one = dict(type='frostnet_mm.ImageFolder', data_root=data_root, pipeline={{_base_.train_pipeline}})\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[\n"
        "    dict(one, data_prefix='first'), dict(one, data_prefix=dict(img_path='second'))]))\n"
    )
    return config


def named(config, classes):
    config.write_text(config.read_text().replace('{classes}', repr(classes)))
    return config


def test_several_folders_may_lack_classes(parts, tmp_path):
    with pytest.raises(ConfigError, match=r"different classes: a, b in .* classes = \('a', 'b', 'c'\)"):
        load_config(named(parts, 'from_annotations'))
    parts.write_text(parts.read_text().replace("'from_annotations'", "('a', 'b', 'c')"))
    cfg = load_config(parts)
    train = DATASETS.build(cfg.train_dataloader.dataset)
    assert [train.get_data_info(index)['gt_label'] for index in range(8)] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert looked_at(cfg, tmp_path / 'log', train) == []


@pytest.mark.parametrize(('count', 'number'), [(4, 4), (8, 8), (9, 8), (128, 8), (1, 1)])
def test_images_are_spread_over_all_that_there_are(parts, tmp_path, count, number):
    """For calibration: no class is left out because there are fewer images than were asked for, nor a part."""
    cfg = load_config(named(parts, ('a', 'b', 'c')))
    found = [os.path.relpath(path, tmp_path) for path in spread_paths(cfg, count)]
    assert len(found) == len(set(found)) == number
    every = [f'{name}/{index}.jpg' for name in ('first/a', 'first/b', 'second/b', 'second/c') for index in (0, 1)]
    assert found == every[:: 8 // number]
    assert len(spread_paths(cfg, count, 'val')) == min(6, count)
    cfg.train_dataloader.dataset.datasets.append(cfg.train_dataloader.dataset.datasets[0])  # one that is repeated
    assert [os.path.relpath(path, tmp_path) for path in spread_paths(cfg, count)] == found


def test_a_class_that_no_part_has_is_refused(parts, tmp_path):
    cfg = load_config(named(parts, ('a', 'b', 'c', 'd')))
    with pytest.raises(DatasetError, match="first and .*second' has no image of 1 of 4 classes: 'd'"):
        looked_at(cfg, tmp_path / 'log')


def test_several_folders_are_trained_on(parts, tmp_path):
    options = ('input_size=32', 'batch_size=4', 'max_epochs=1', 'train_dataloader.num_workers=0')
    options += ('train_dataloader.persistent_workers=False',)
    config = named(parts, ('a', 'b', 'c'))
    assert run_tool('train', config, '--work-dir', tmp_path / 'out', '--cfg-options', *options) == 0
    assert (tmp_path / 'out/epoch_1.pth').is_file()


def test_classes_can_be_balanced(tmp_path):
    """Each image as often as the square root of how much rarer than a half its class is; a is 1 of 5 images."""
    fill(tmp_path, 'train/a', count=1)
    fill(tmp_path, 'train/b', count=4)
    train = ImageFolder(data_root=str(tmp_path), data_prefix='train', pipeline=[])
    balanced = ClassBalancedDataset(train, oversample_thr=0.5)  # sqrt(0.5 / 0.2) = 1.58: twice
    assert [balanced.get_data_info(index)['gt_label'] for index in range(len(balanced))] == [0, 0, 1, 1, 1, 1]


# -- names and values


def test_two_forms_of_a_name_are_told_apart(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
    fill(tmp_path, f'val/{decomposed}', 'val/tea', count=1)
    own = dict(data_root=str(tmp_path), data_prefix='val', pipeline=[], test_mode=True)
    for others in (True, False):
        with pytest.raises(DatasetError, match='looks as a class does and is written with other characters'):
            ImageFolder(**own, metainfo=dict(classes=(composed, 'tea')), leave_out_others=others)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(metainfo=('a', 'b')), r"metainfo=\('a', 'b'\) of the config: expected a dict, such as dict\(classes="),
        (dict(data_prefix=['train']), r"data_prefix=\['train'\] of the config: expected a dict"),
        (dict(data_root=5), 'data_root=5 of the config: expected a path as text'),
    ],
)
def test_values_of_another_kind_are_named(tmp_path, options, said):
    config = tmp_path / 'own.py'
    ((key, value),) = options.items()
    config.write_text(f'_base_ = {str(CONFIG)!r}\ntrain_dataloader = dict(dataset=dict({key}={value!r}))\n')
    with pytest.raises(ConfigError, match=said):
        load_config(config)


@pytest.mark.parametrize(
    ('base', 'said'),
    [
        ('ssdlite_frostnet_coco', r"CheckedCocoDataset: data_prefix='train' .* dict\(img='train2017/'\)"),
        (
            'espnetv2_frostnet_custom_seg',
            r"CheckedSegDataset: data_prefix='train' .* dict\(img_path='images/train', seg",
        ),
    ],
)
def test_a_text_where_a_data_set_has_several_folders(tmp_path, base, said):
    config = tmp_path / 'own.py'
    path = str(CONFIG.with_name(f'{base}.py'))
    config.write_text(f"_base_ = {path!r}\ntrain_dataloader = dict(dataset=dict(data_prefix='train'))\n")
    with pytest.raises(ConfigError, match=said):
        load_config(config)


def test_a_size_is_a_number_or_two(tmp_path):
    data = fill(tmp_path, 'train/a', 'train/b', 'val/a', 'val/b', count=1)
    cfg = load_config(CONFIG, dict(data_root=str(data), input_size=(64, 48)))  # Resize.scale becomes a pair of pairs
    with pytest.raises(ConfigError, match=r'Resize.scale=.*: expected a positive number, or a pair of them'):
        check_values(cfg)
    pairs = dict(type='RandomResize', scale=[(64, 48), (128, 96)])
    parts = dict(type='mmdet.RandomCrop', crop_size=(0.4, 0.6), crop_type='relative_range')
    cfg.val_dataloader.dataset.pipeline = cfg.test_dataloader.dataset.pipeline = [ConfigDict(pairs), ConfigDict(parts)]
    check_values(cfg)


def test_crops_of_one_class_are_no_training(tmp_path, capsys):
    generate_mini_coco(tmp_path / 'coco', 8, 2, progress=False)
    for split in ('train', 'val'):
        path = tmp_path / f'coco/annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        content['categories'] = [dict(id=1, name='cell')]
        for own in content['annotations']:
            own['category_id'] = 1
        path.write_text(json.dumps(content))
    assert run_tool('prepare_crops', tmp_path / 'coco', '--out', tmp_path / 'crops', '--min-size', 1) == 0
    said = capsys.readouterr().out
    assert 'One class, cell: a classifier needs a second' in said and 'Train on it' not in said
    with pytest.raises(DatasetError, match='one class, cell'):
        ImageFolder(data_root=str(tmp_path / 'crops'), data_prefix='train', pipeline=[])
