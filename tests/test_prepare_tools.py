"""tools/prepare_cityscapes.py and prepare_coco.py on generated data with the faults that downloads have."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import run_tool
from PIL import Image

from frostnet_mm.data.cityscapes import LABEL_IDS_SUFFIX, POLYGONS_SUFFIX, TRAIN_IDS_SUFFIX
from frostnet_mm.data.generated.mini_cityscapes import generate_mini_cityscapes
from frostnet_mm.data.generated.mini_coco import generate_mini_coco


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('whole')
    generate_mini_cityscapes(path / 'city', num_train=3, num_val=2, size=(64, 96), progress=False)
    generate_mini_coco(path / 'coco', num_train=4, num_val=3, progress=False)
    return path


@pytest.fixture
def city(whole, tmp_path):
    return shutil.copytree(whole / 'city', tmp_path / 'city')


@pytest.fixture
def coco(whole, tmp_path):
    return shutil.copytree(whole / 'coco', tmp_path / 'coco')


def files(root, suffix):
    return sorted(root.rglob(f'*{suffix}'))


# --- Cityscapes


def test_train_ids_are_made_as_the_generator_makes_them(city, capsys):
    wanted = {path: path.read_bytes() for path in files(city, TRAIN_IDS_SUFFIX)}
    pixels = {path: np.array(Image.open(path)) for path in wanted}
    for path in wanted:
        path.unlink()
    assert run_tool('prepare_cityscapes', city) == 0
    out = capsys.readouterr().out
    assert 'train: 3 *_gtFine_labelTrainIds.png written' in out and 'val: 2 *_gtFine' in out
    assert 'train: 3 images, the official data set has 2,975' in out and 'ego vehicle, rectification border' in out
    for path, labels in pixels.items():
        assert np.array_equal(np.array(Image.open(path)), labels)
    assert run_tool('prepare_cityscapes', city, '--workers', 0) == 0  # again: nothing to do
    assert 'written' not in capsys.readouterr().out
    assert not [path for path in city.rglob('.*png*')]  # nothing half written


def test_faulty_files_of_cityscapes_are_named(city, capsys):
    images, ids = files(city / 'leftImg8bit', '.png'), files(city, LABEL_IDS_SUFFIX)
    images[0].write_bytes(images[0].read_bytes()[:2000])  # cut off
    cv2.imwrite(str(images[1]), np.zeros((64, 80, 3), np.uint8))
    labels = np.array(Image.open(ids[2]))
    labels[0, 0] = 77
    Image.fromarray(labels).save(ids[2])
    ids[3].unlink()
    files(city, TRAIN_IDS_SUFFIX)[3].unlink()
    files(city / 'leftImg8bit/val', '.png')[1].unlink()
    assert run_tool('prepare_cityscapes', city) == 1
    out = capsys.readouterr().out
    assert 'PROBLEM: 1 faulty images in train' in out and 'PROBLEM: 2 faulty files in train' in out
    assert 'truncated' in out and '(64, 80) (height, width), its labels are (64, 96)' in out and '[77]' in out
    assert '1 images of val have no *_gtFine_labelIds.png nor' in out and '--from-polygons' in out
    assert 'val: 1 *_gtFine_labelIds.png without an image' in out and 'not usable' in out
    assert run_tool('prepare_cityscapes', city, '--fast') == 1  # sizes and missing labels are seen without decoding
    assert '1 faulty files in train' in capsys.readouterr().out


def test_train_ids_of_another_table_are_found_and_made_again(city, capsys):
    path = files(city, TRAIN_IDS_SUFFIX)[0]
    right = np.array(Image.open(path))
    Image.fromarray(np.zeros_like(right)).save(path)
    assert run_tool('prepare_cityscapes', city) == 1
    assert '--overwrite makes it again' in capsys.readouterr().out
    assert run_tool('prepare_cityscapes', city, '--overwrite') == 0
    assert np.array_equal(np.array(Image.open(path)), right)


def test_data_with_train_ids_only_are_usable(city, capsys):
    for path in files(city, LABEL_IDS_SUFFIX):
        path.unlink()
    assert run_tool('prepare_cityscapes', city) == 0
    assert 'train: 3 images have train ids only' in capsys.readouterr().out
    wrong = np.array(Image.open(files(city, TRAIN_IDS_SUFFIX)[0]))
    wrong[0, 0] = 26  # a label id
    Image.fromarray(wrong).save(files(city, TRAIN_IDS_SUFFIX)[0])
    assert run_tool('prepare_cityscapes', city) == 1
    assert 'holds the value 26 (1 of 6,144 pixels, the first in row 0, column 0)' in capsys.readouterr().out


def test_missing_folders_of_cityscapes_say_where_to_get_them(city, tmp_path, capsys):
    shutil.rmtree(city / 'gtFine')
    assert run_tool('prepare_cityscapes', city) == 1
    assert 'cityscapes-dataset.com' in capsys.readouterr().out
    assert run_tool('prepare_cityscapes', tmp_path / 'none') == 2
    assert 'gtFine_trainvaltest.zip' in capsys.readouterr().err


def test_labels_from_polygons(city, capsys):
    wanted = {path: np.array(Image.open(path)) for path in files(city, LABEL_IDS_SUFFIX)}
    for path in [*wanted, *files(city, TRAIN_IDS_SUFFIX)]:
        path.unlink()
    try:
        import cityscapesscripts  # noqa: F401
    except ImportError:
        assert run_tool('prepare_cityscapes', city, '--from-polygons') == 2
        assert 'pip install cityscapesscripts' in capsys.readouterr().err
        return
    assert run_tool('prepare_cityscapes', city, '--from-polygons') == 0
    for path, labels in wanted.items():
        assert np.mean(np.array(Image.open(path)) == labels) > 0.85  # small pictures: much of them is edges
    assert len(files(city, TRAIN_IDS_SUFFIX)) == len(files(city, POLYGONS_SUFFIX)) == 5


def test_official_metric_agrees_with_a_prediction_made_by_hand(city):
    """mmseg's CityscapesMetric reads the generated labelIds; perfect predictions score 1 in every class present."""
    pytest.importorskip('cityscapesscripts')
    from mmengine.structures import PixelData
    from mmseg.evaluation import CityscapesMetric
    from mmseg.structures import SegDataSample

    for path in files(city / 'gtFine/val', LABEL_IDS_SUFFIX):  # the official script also reads these; no instances here
        ids = np.array(Image.open(path)).astype(np.uint16)
        cv2.imwrite(str(path).replace('labelIds', 'instanceIds'), ids)
    metric = CityscapesMetric(output_dir=str(city / 'results'))
    for path in files(city / 'leftImg8bit/val', '.png'):
        train_path = str(path).replace('leftImg8bit/', 'gtFine/').replace('_leftImg8bit.png', TRAIN_IDS_SUFFIX)
        labels = cv2.imread(train_path, cv2.IMREAD_UNCHANGED).astype(np.int64)
        labels[labels == 255] = 0  # whatever is predicted there is ignored
        sample = SegDataSample(metainfo=dict(img_path=str(path), seg_map_path=train_path))
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
        metric.process({}, [sample.to_dict()])
    scores = metric.evaluate(2)
    assert scores['averageScoreCategories'] == pytest.approx(1.0)


# --- COCO


def test_sound_coco_is_usable(coco, capsys):
    assert run_tool('prepare_coco', coco) == 0
    out = capsys.readouterr().out
    assert 'train2017: 4 images, the official data set has 118,287' in out and out.rstrip().endswith('usable')
    assert 'val2017: 3 images, the official data set has 5,000' in out and '6 categories' in out


def test_faulty_files_of_coco_are_named(coco, capsys):
    images = files(coco / 'train2017', '.jpg')
    images[0].write_bytes(images[0].read_bytes()[:1500])
    cv2.imwrite(str(images[1]), np.zeros((50, 60, 3), np.uint8))
    images[2].unlink()
    shutil.copy(images[3], coco / 'train2017' / 'other.jpg')
    path = coco / 'annotations' / 'instances_val2017.json'
    data = json.loads(path.read_text())
    data['annotations'][0]['bbox'][2] = 0
    path.write_text(json.dumps(data))
    assert run_tool('prepare_coco', coco, '--workers', 0) == 1
    out = capsys.readouterr().out
    assert '2 faulty images in train2017' in out and 'truncated' in out and 'is (50, 60) (height, width)' in out
    assert 'are missing in' in out and images[2].name in out
    assert '1 files that the json does not list' in out
    assert 'val2017: 1 of' in out and 'zero or negative width' in out
    assert run_tool('prepare_coco', coco, '--fast') == 1
    assert '1 faulty images in train2017' in capsys.readouterr().out


def test_broken_and_missing_parts_of_coco(coco, tmp_path, capsys):
    path = coco / 'annotations' / 'instances_train2017.json'
    path.write_bytes(path.read_bytes()[:500])
    shutil.rmtree(coco / 'val2017')
    assert run_tool('prepare_coco', coco) == 1
    out = capsys.readouterr().out
    assert 'cut off' in out and 'val2017' in out and 'cocodataset.org' in out and '2 problems' in out
    assert run_tool('prepare_coco', tmp_path / 'none') == 2
