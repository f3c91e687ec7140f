"""The generated streets, checked with mmseg, PIL and by hand, not with the generator's own code."""

import hashlib
import importlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.datasets import CityscapesDataset
from PIL import Image, ImageDraw

from frostnet_mm.data import cityscapes
from frostnet_mm.data.generated import mini_cityscapes
from frostnet_mm.data.generated.mini_cityscapes import generate_mini_cityscapes
from frostnet_mm.data.generated.street import render_street
from frostnet_mm.data.generated.street_view import View, clip_polygon

SIZE = (96, 192)
COUNTS = dict(num_train=12, num_val=12)
SMALL = dict(num_train=2, num_val=1, size=(64, 64), progress=False)
# Evaluated label ids in the order of the train ids, from Cityscapes' label definitions
EVALUATED = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]


def hashes(root):
    """sha256 of every file, by its path below root."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(root).rglob('*'))
        if p.is_file()
    }


def read(path):
    return np.array(Image.open(path))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp('mini') / 'cityscapes'
    generate_mini_cityscapes(path, seed=0, size=SIZE, progress=False, **COUNTS)
    return path


# --- the label table


def test_label_table_is_the_official_one():
    table = {label.id: label for label in cityscapes.LABELS}
    assert len(cityscapes.LABELS) == 35 and set(table) == set(range(-1, 34))
    assert [i for i in range(34) if table[i].train_id != 255] == EVALUATED
    assert [table[i].train_id for i in EVALUATED] == list(range(19))
    # mmseg's list of classes and colours as the second source
    assert cityscapes.CLASSES == CityscapesDataset.METAINFO['classes']
    assert [list(color) for color in cityscapes.PALETTE] == CityscapesDataset.METAINFO['palette']


def test_label_table_equals_that_of_cityscapesscripts():
    labels = pytest.importorskip('cityscapesscripts.helpers.labels').labels
    # the license plate has train id -1 there, which no picture of 8 bits can hold
    theirs = [(row.name, row.id, row.trainId if row.trainId >= 0 else 255, row.color) for row in labels]
    assert [tuple(label) for label in cityscapes.LABELS] == theirs


def test_train_ids_of_label_ids():
    ids = np.arange(34, dtype=np.uint8)[None]
    expected = [EVALUATED.index(i) if i in EVALUATED else 255 for i in range(34)]
    assert cityscapes.to_train_ids(ids).tolist() == [expected]
    with pytest.raises(ValueError, match=r'\[34, 255\].*none of Cityscapes \(0 to 33\)'):
        cityscapes.to_train_ids(np.array([[0, 34, 255]], np.uint8))


# --- the files


def test_layout_is_that_of_cityscapes(root):
    for split, count in dict(train=12, val=12).items():
        images = sorted((root / 'leftImg8bit' / split).glob('*/*.png'))
        assert len(images) == count
        cities = {path.parent.name for path in images}
        for path in images:
            city, sequence, frame, kind = path.stem.split('_')
            assert city == path.parent.name and kind == 'leftImg8bit' and len(sequence) == len(frame) == 6
            assert read(path).shape == (*SIZE, 3) and read(path).dtype == np.uint8
            stem = str(root / 'gtFine' / split / city / f'{city}_{sequence}_{frame}_gtFine_')
            ids, train_ids, color = (read(stem + kind) for kind in ('labelIds.png', 'labelTrainIds.png', 'color.png'))
            table = {label.id: label for label in cityscapes.LABELS}
            for value in np.unique(ids):
                at = ids == value
                assert set(train_ids[at].tolist()) == {table[value].train_id}
                assert {tuple(row) for row in color[at].tolist()} == {table[value].color}
        if split == 'train':
            train_cities = cities
    assert not train_cities & cities


@pytest.mark.parametrize('split', ['train', 'val'])
def test_all_classes_and_void_occur(root, split):
    counts = np.zeros(256, int)
    for path in (root / 'gtFine' / split).rglob('*_labelTrainIds.png'):
        counts += np.bincount(read(path).ravel(), minlength=256)
    assert (counts[:19] > 12 * 96 * 192 * 2e-4).all(), dict(zip(cityscapes.CLASSES, counts, strict=False))
    assert 0.02 < counts[255] / counts.sum() < 0.2
    assert counts[19:255].sum() == 0
    assert counts[0] / counts.sum() < 0.6  # not all road


def test_returned_counts_are_those_of_the_files(root):
    counts = generate_mini_cityscapes(root, seed=0, size=SIZE, progress=False, **COUNTS)
    for split in ('train', 'val'):
        labels = [read(path) for path in sorted((root / 'gtFine' / split).rglob('*_labelTrainIds.png'))]
        for value, name in [*enumerate(cityscapes.CLASSES), (255, 'void')]:
            assert counts[split]['pixels'][name] == sum(int((one == value).sum()) for one in labels)
            assert counts[split]['images_with'][name] == sum(bool((one == value).any()) for one in labels)


def test_polygons_draw_the_labels(root):
    """As json2labelImg draws them: filled by PIL in their order, border pixels included."""
    for path in sorted((root / 'gtFine' / 'val').rglob('*_polygons.json'))[:6]:
        data = json.loads(path.read_text())
        drawn = Image.new('L', (data['imgWidth'], data['imgHeight']), 0)
        for item in data['objects']:
            corners = [tuple(corner) for corner in item['polygon']]
            assert all(0 <= x <= data['imgWidth'] and 0 <= y <= data['imgHeight'] for x, y in corners)
            ImageDraw.Draw(drawn).polygon(corners, fill=cityscapes.ID_OF[item['label']])
        ids = read(str(path).replace('polygons.json', 'labelIds.png'))
        assert np.mean(np.array(drawn) == ids) > 0.9  # thin things grow by half a pixel on each side


def test_mmseg_reads_it(root):
    dataset = CityscapesDataset(
        data_root=str(root),
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
    )
    assert len(dataset) == 12
    sample = dataset[3]
    assert sample['img'].shape == (*SIZE, 3) and sample['gt_seg_map'].shape == SIZE
    assert set(np.unique(sample['gt_seg_map']).tolist()) <= {*range(19), 255}


# --- the bytes


def test_labels_of_a_seed_are_pinned():
    """A change of the scenes needs a new GENERATOR_VERSION and a new digest here."""
    digest, mean = hashlib.sha256(), []
    for split, index in (('train', 0), ('train', 2), ('val', 3)):
        scene = mini_cityscapes.make_sample(0, split, index, SIZE)
        digest.update(scene.labels.tobytes())
        mean.append(scene.image.mean())
    assert mini_cityscapes.GENERATOR_VERSION == '1.0'
    assert digest.hexdigest()[:16] == PINNED
    # the last bit of float32 differs between processors: means, not bytes
    assert mean == pytest.approx(PINNED_MEANS, abs=0.05)


PINNED = '455f5985351cb239'
PINNED_MEANS = [140.293, 105.19, 125.076]


def test_same_seed_gives_same_bytes_and_another_seed_others(root, tmp_path):
    again = mini_cityscapes.make_sample(0, 'train', 5, SIZE)
    other = mini_cityscapes.make_sample(1, 'train', 5, SIZE)
    path = next((root / 'leftImg8bit').rglob('*_000005_000019_leftImg8bit.png'))
    assert np.array_equal(cv2.imread(str(path)), again.image)
    assert not np.array_equal(again.labels, other.labels) and not np.array_equal(again.image, other.image)


def test_images_are_not_flat(root):
    """Texture and noise inside of a class, and another light in every image."""
    path = sorted((root / 'leftImg8bit' / 'train').rglob('*.png'))[0]
    image = read(path).astype(float)
    labels = read(cityscapes.label_path(root, path, cityscapes.TRAIN_IDS_SUFFIX))
    for value in (0, 2):  # road and building
        assert image[labels == value].std(axis=0).min() > 4
    tones = [read(p)[60:, 60:130].mean() for p in sorted((root / 'leftImg8bit').rglob('*.png'))]
    assert np.std(tones) > 8  # light differs from image to image


# --- perspective


def test_projection_and_clipping_by_hand():
    view = View(100, 200, horizon=40.0, center=100.0, focal=150.0, eye=1.5)
    points = view.project([(0, 0, 10), (2, 1.5, 10), (-3, 0, 150)])
    assert points == pytest.approx(np.array([(100, 62.5), (130, 40), (97, 41.5)]))
    square = np.array([(-10.0, -10.0), (10, -10), (10, 10), (-10, 10)])
    assert sorted(map(tuple, clip_polygon(square, 200, 100).tolist())) == [(0, 0), (0, 10), (10, 0), (10, 10)]
    assert len(clip_polygon(square - 50, 200, 100)) == 0


def test_size_too_small_is_refused():
    with pytest.raises(ValueError, match='height 63 and width 128'):
        render_street(np.random.default_rng(0), 63, 128)


# --- folders


def test_second_call_interruption_and_foreign_folders(tmp_path, monkeypatch):
    path = tmp_path / 'data'
    make, made = mini_cityscapes.make_sample, []

    def interrupted(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args)
        return make(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mini_cityscapes, 'make_sample', interrupted)
        generate_mini_cityscapes(path, **SMALL)
    assert not (path / '.complete').exists() and not list(path.glob('.partial-*'))
    counts = generate_mini_cityscapes(path, **SMALL)
    before = hashes(path)
    with monkeypatch.context() as patch:
        patch.setattr(mini_cityscapes, 'make_sample', None)  # not called again
        assert generate_mini_cityscapes(path, **SMALL) == counts
    next(path.rglob('*_labelIds.png')).unlink()
    generate_mini_cityscapes(path, **SMALL)
    assert hashes(path) == before
    with pytest.raises(FileExistsError, match='height 64 instead of 80.*--overwrite'):
        generate_mini_cityscapes(path, **dict(SMALL, size=(80, 64)))
    foreign = tmp_path / 'foreign'
    (foreign / 'gtFine').mkdir(parents=True)
    with pytest.raises(FileExistsError, match='not made by this generator'):
        generate_mini_cityscapes(foreign, overwrite=True, **SMALL)


@pytest.mark.parametrize('wrong', [dict(num_train=0), dict(seed=-5), dict(size=(64, 32))])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match='at least 64 pixels'):
        generate_mini_cityscapes(tmp_path / 'data', **{**SMALL, **wrong})
    assert not (tmp_path / 'data').exists()


def test_command_writes_data_and_preview(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / 'tools'))
    tool = importlib.import_module('make_mini_data')
    out, sheet = tmp_path / 'data', tmp_path / 'preview.png'
    argv = ['cityscapes', '--out', str(out), '--train', '3', '--val', '1', '--size', '64', '80']
    argv += ['--preview', str(sheet)]
    assert tool.main(argv) == 0
    assert 'train: 3 images' in capsys.readouterr().out
    assert cv2.imread(str(sheet)).shape == (2 * 64, 4 * 80, 3)
    assert '--overwrite' in tool.main([*argv, '--seed', '1'])
