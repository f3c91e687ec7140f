"""The part of the training images that a search holds back, by what the data sets themselves then read."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import coco_files
import pytest
import seg_files
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from frostnet_mm.data.classification_own import part_of_each
from frostnet_mm.nas.errors import SearchError
from frostnet_mm.nas.split import chosen, chosen_of_each, split_training_data

PIPELINE = [dict(type='frostnet_mm.LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
TEST = [*PIPELINE, dict(type='PackDetInputs')]


def coco_config(root, wrap=None, **options):
    train = dict(
        type='frostnet_mm.CheckedCocoDataset',
        data_root=str(root),
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=coco_files.CLASSES),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=PIPELINE,
    )
    train |= options
    none = dict(train, ann_file='none.json', data_prefix=dict(img='nothing/'), test_mode=True, pipeline=TEST)
    return Config(
        dict(
            default_scope='mmdet',
            train_dataloader=dict(batch_size=2, dataset=wrap(train) if wrap else train),
            val_dataloader=dict(batch_size=3, dataset=none),
            test_dataloader=dict(batch_size=1, dataset=none),
            val_evaluator=dict(type='CocoMetric', ann_file=f'{root}/none.json', metric='bbox'),
            test_evaluator=[dict(type='CocoMetric', ann_file='x', format_only=True, outfile_prefix='y')],
        )
    )


def seg_config(root, wrap=None, kind='frostnet_mm.CheckedSegDataset', **options):
    train = dict(
        type=kind,
        data_root=str(root),
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        img_suffix='.jpg',
        seg_map_suffix='.png',
        metainfo=dict(classes=seg_files.CLASSES),
        pipeline=seg_files.LOAD,
    )
    train |= options
    none = dict(train, data_prefix=dict(img_path='no', seg_map_path='no'), test_mode=True, pipeline=seg_files.PACK)
    return Config(
        dict(
            default_scope='mmseg',
            train_dataloader=dict(batch_size=2, dataset=wrap(train) if wrap else train),
            val_dataloader=dict(batch_size=3, dataset=none),
            val_evaluator=dict(type='frostnet_mm.IoUMetric'),
        )
    )


def images_of(cfg, loader):
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg[f'{loader}_dataloader'].dataset)
    return [Path(dataset.get_data_info(index)['img_path']).name for index in range(len(dataset))], dataset


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / 'coco'
    root.mkdir()
    return coco_files.write_dataset(root)


def test_coco_data_are_split_by_image(coco, tmp_path):
    """10 images, of which one has no object and one is missing on disk."""
    coco_files.edit(coco, lambda data: data.update(
        annotations=[entry for entry in data['annotations'] if entry['image_id'] != 3]))  # fmt: skip
    (coco / 'images/0005.jpg').unlink()
    cfg = coco_config(coco)
    split_training_data(cfg, 0.5, 0, tmp_path / 'split')
    train, held_out = (json.loads((tmp_path / f'split/{part}.json').read_text()) for part in ('train', 'held_out'))
    whole = json.loads((coco / 'annotations/train.json').read_text())
    ids = [{image['id'] for image in part['images']} for part in (train, held_out)]
    assert ids[0] | ids[1] == set(range(1, 11)) - {5} and not ids[0] & ids[1]
    assert len(ids[1]) == 4  # half of 9: without the one that is missing, as more of its part it might be too many
    for part, own in zip((train, held_out), ids, strict=True):
        assert part['categories'] == whole['categories']
        assert [entry['id'] for entry in part['annotations']] == [
            entry['id'] for entry in whole['annotations'] if entry['image_id'] in own
        ]
    names, _ = images_of(cfg, 'train')
    assert set(names) == {f'{i:04d}.jpg' for i in ids[0] - {3}}
    for loader, batch in (('val', 3), ('test', 3)):
        names, dataset = images_of(cfg, loader)
        assert set(names) == {f'{i:04d}.jpg' for i in ids[1]} and dataset.test_mode
        assert len(dataset.pipeline.transforms) == 3 and cfg[f'{loader}_dataloader'].batch_size == batch
        assert cfg[f'{loader}_evaluator'].ann_file == str(tmp_path / 'split/held_out.json')
    assert cfg.val_cfg.type == 'ValLoop' and cfg.test_cfg.type == 'TestLoop'


def test_classes_are_split_each(tmp_path):
    for name, count in (('cat', 10), ('dog', 5), ('train', 1)):
        seg_files.write(tmp_path / 'made', count, name)
    root = tmp_path / 'made/images'
    for path in root.rglob('*.jpg'):  # those of one number are equal
        path.write_bytes(path.read_bytes() + path.parent.name.encode())
    load, pack = (dict(type=f'frostnet_mm.{name}') for name in ('LoadImageFromFile', 'PackClsInputs'))
    train = dict(type='frostnet_mm.ImageFolder', data_prefix=dict(img_path=str(root)), pipeline=[load])
    none = dict(train, data_prefix=dict(img_path='no'), pipeline=[load, pack])
    cfg = Config(
        dict(
            default_scope='mmengine',
            train_dataloader=dict(batch_size=2, dataset=train),
            val_dataloader=dict(batch_size=3, dataset=none),
            val_evaluator=dict(type='frostnet_mm.Accuracy'),
        )
    )
    split_training_data(cfg, 0.4, 0, tmp_path / 'split')
    parts = [(tmp_path / f'split/{part}.txt').read_text().splitlines() for part in ('train', 'held_out')]
    assert [Counter(name.split('/')[0] for name in part) for part in parts] == [
        dict(cat=6, dog=3, train=1),
        dict(cat=4, dog=2),
    ]
    assert not set(parts[0]) & set(parts[1]) and len(parts[0]) + len(parts[1]) == 16
    assert [len(images_of(cfg, loader)[0]) for loader in ('train', 'val', 'test')] == [10, 6, 6]
    assert images_of(cfg, 'val')[1].test_mode and len(images_of(cfg, 'val')[1].pipeline.transforms) == 2
    with pytest.raises(
        SearchError, match='val_fraction=0.1 of 16 different training images holds 2 back and leaves 14'
    ):
        chosen_of_each([[f'{name}/{index}' for index in range(8)] for name in 'ab'], 0.1, 0)


@pytest.mark.parametrize('seed', range(4))
def test_equal_images_are_on_one_side(coco, tmp_path, seed):
    """Of two images each has a copy under another name: of none is one trained on and the other held back."""
    folder = Path(coco_config(coco).train_dataloader.dataset.data_root)
    names = images_of(coco_config(coco), 'train')[0]
    files = {path.name: path for path in folder.rglob('*.jpg')}
    pairs = list(zip(names[:2], names[2:4], strict=True))
    for one, copy in pairs:
        shutil.copy(files[one], files[copy])
    cfg = coco_config(coco)
    split_training_data(cfg, 0.5, seed, tmp_path / 'split')
    held_out = set(images_of(cfg, 'val')[0])
    assert len(held_out) == 4 + sum(one in held_out for one, _ in pairs)
    assert all((one in held_out) == (copy in held_out) for one, copy in pairs)
    assert held_out.isdisjoint(images_of(cfg, 'train')[0])


def test_equal_images_of_two_classes_are_trained_on():
    """What they show is not decided; and a class keeps an image."""
    for seed in range(9):
        assert part_of_each([['a', 'b', 'both'], ['both', 'c', 'd', 'e'], ['both']], 0.9, seed) == set('abcde')


def test_the_split_is_kept_once_it_is_made(coco, tmp_path):
    cfg = coco_config(coco)
    split_training_data(cfg, 0.4, 0, tmp_path)
    before = images_of(cfg, 'val')[0]
    cfg = coco_config(coco)
    split_training_data(cfg, 0.5, 7, tmp_path)
    assert images_of(cfg, 'val')[0] == before
    assert chosen(range(20), 0.2, 3) == chosen(range(19, -1, -1), 0.2, 3) != chosen(range(20), 0.2, 4)


def test_a_part_of_a_file_and_a_wrapped_data_set_are_split(coco, tmp_path):
    cfg = coco_config(coco, lambda train: dict(type='RepeatDataset', times=3, dataset=train), indices=8)
    split_training_data(cfg, 0.5, 0, tmp_path)
    train = images_of(Config(dict(cfg, train_dataloader=cfg.train_dataloader.dataset)), 'train')[0]
    held_out = images_of(cfg, 'val')[0]
    assert set(train) | set(held_out) == {f'{i:04d}.jpg' for i in range(1, 9)} and not set(train) & set(held_out)
    assert cfg.train_dataloader.dataset.times == 3


@pytest.mark.parametrize('kind', ['frostnet_mm.CheckedSegDataset', 'BaseSegDataset'])
def test_segmentation_data_are_split_by_image(tmp_path, kind):
    root = seg_files.write(tmp_path / 'data', 12)
    cfg = seg_config(root, kind=kind)
    split_training_data(cfg, 0.4, 0, tmp_path / 'split')
    train, held_out = images_of(cfg, 'train')[0], images_of(cfg, 'val')[0]
    assert sorted(train + held_out) == [f'{i:03d}.jpg' for i in range(12)] and len(held_out) == 5
    assert images_of(cfg, 'test')[0] == held_out
    assert Path(cfg.val_dataloader.dataset.ann_file).read_text().split() == [name[:3] for name in held_out]


def test_bad_labels_and_other_extensions_of_segmentation_data(tmp_path):
    """An image whose label has another size stays out of both parts; one with another extension is in one of them."""
    root = seg_files.write(tmp_path / 'data', 12)
    Image.new('L', (9, 9)).save(seg_files.label_path(root, 4))
    path = seg_files.image_path(root, 7)
    Image.open(path).save(path.with_suffix('.PNG'), format='PNG')
    path.unlink()
    cfg = seg_config(root)
    split_training_data(cfg, 0.4, 0, tmp_path / 'split')
    names = [f'{i:03d}.jpg' for i in range(12) if i not in (4, 7)] + ['007.PNG']
    assert sorted(images_of(cfg, 'train')[0] + images_of(cfg, 'val')[0]) == sorted(names)


@pytest.mark.parametrize(
    'wrap, fraction, message',
    [
        (
            None,
            0.1,
            'val_fraction=0.1 of 10 different training images holds 1 back and leaves 9 to train on; expected at least',
        ),
        (None, 0.9, 'holds 9 back and leaves 1 to train on; expected at least 4 of each'),
        (
            lambda train: dict(type='ConcatDataset', datasets=[train, dict(train)]),
            0.5,
            'The training data set (ConcatDataset) joins 2 data sets (CheckedCocoDataset); the search holds a part',
        ),
        (lambda train: dict(train, ann_file=['a.json', 'b.json']), 0.5, 'joins 2 data sets'),
    ],
)
def test_data_that_cannot_be_split(coco, tmp_path, wrap, fraction, message):
    with pytest.raises(SearchError, match=re.escape(message)):
        split_training_data(coco_config(coco, wrap), fraction, 0, tmp_path / 'split')
    assert not (tmp_path / 'split').exists()


def test_a_part_without_objects_is_refused(coco, tmp_path):
    coco_files.edit(coco, lambda data: data.update(annotations=data['annotations'][:1]))
    held_out = chosen(range(1, 11), 0.4, 0)
    seed = 0 if 1 not in held_out else next(s for s in range(9) if 1 not in chosen(range(1, 11), 0.4, s))
    with pytest.raises(SearchError, match='None of the 4 images that val_fraction=0.4 holds back has an object'):
        split_training_data(coco_config(coco), 0.4, seed, tmp_path)
