"""Images so narrow that a Resize leaves nothing of a side: counted as unusable, or named, by every way to a network."""

import json

import cv2
import numpy as np
import pytest
from conftest import run_tool
from small_classifier import write_small_classifier
from test_image_folder import three_classes

from frostnet_mm.apis.images import preprocessed
from frostnet_mm.apis.inference import build_pipeline, predict
from frostnet_mm.data.coco import CheckedCocoDataset
from frostnet_mm.data.errors import BadImageError, DatasetError, ResizedAwayError
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.data.loading import resize_errors
from frostnet_mm.engine.config import load_config

RESIZE = dict(type='Resize', scale=(64, 64), keep_ratio=True)


@pytest.fixture
def data(tmp_path):
    root = three_classes(tmp_path / 'data')
    for split in ('train', 'val'):
        cv2.imwrite(str(root / split / 'disc/strip.png'), np.full((1, 4000, 3), 90, np.uint8))
    return root


def folder(root, split, backend='cv2', **options):
    steps = [dict(type='frostnet_mm.LoadImage'), dict(RESIZE, backend=backend), dict(type='frostnet_mm.PackClsInputs')]
    return ImageFolder(data_root=str(root), data_prefix=split, pipeline=steps, **options)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_a_folder_of_classes(data, backend):
    train, val = folder(data, 'train', backend), folder(data, 'val', backend, test_mode=True)
    strip = next(index for index in range(len(val)) if val.get_data_info(index)['img_path'].endswith('strip.png'))
    item = val[strip]  # it stays in the metric, as a grey image
    assert item['inputs'].shape == (3, 64, 64) and val.num_bad_images == 1
    assert item['data_samples'].gt_label.tolist() == [0]
    strip = next(index for index in range(len(train)) if train.get_data_info(index)['img_path'].endswith('strip.png'))
    assert train.prepare_data(strip) is None and train.num_bad_images == 1
    with pytest.raises(DatasetError, match='resized to nothing: its sides differ too much for the scale'):
        folder(data, 'train', backend, max_bad_fraction=0.0).prepare_data(strip)


def test_data_in_coco_format(tmp_path):
    (tmp_path / 'images').mkdir()
    cv2.imwrite(str(tmp_path / 'images/strip.png'), np.full((1, 1000, 3), 90, np.uint8))
    content = dict(
        images=[dict(id=1, file_name='strip.png', width=1000, height=1)],
        categories=[dict(id=1, name='a')],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[2, 0, 50, 1], area=50, iscrowd=0)],
    )
    (tmp_path / 'a.json').write_text(json.dumps(content))
    steps = [dict(type='frostnet_mm.LoadImage'), RESIZE, dict(type='mmdet.PackDetInputs', meta_keys=('img_path',))]
    own = dict(data_root=str(tmp_path), ann_file='a.json', metainfo=dict(classes=('a',)), pipeline=steps)
    val = CheckedCocoDataset(**own, data_prefix=dict(img='images/'), test_mode=True)
    assert val[0]['inputs'].shape == (3, 64, 64) and val.num_bad_images == 1


def test_inference_names_it_and_goes_on(data, tmp_path, capsys):
    more = f"""
test_pipeline = [dict(type='frostnet_mm.LoadImageFromFile'), dict({RESIZE!r}), dict(type='frostnet_mm.PackClsInputs')]
val_dataloader.update(dataset=dict(pipeline=test_pipeline))
"""
    config = write_small_classifier(tmp_path / 'ratio.py', data, epochs=1, more=more)
    assert run_tool('train', config, '--work-dir', tmp_path / 'out') == 0
    checkpoint, strip = tmp_path / 'out/epoch_1.pth', data / 'val/disc/strip.png'
    assert run_tool('infer', config, checkpoint, strip, data / 'val/disc/0.png', '--out', tmp_path / 'seen') == 1
    results = json.loads((tmp_path / 'seen/results.json').read_text())
    assert list(results['images']) == ['0.png'] and 'resized to nothing' in results['failed']['strip.png']
    cfg = load_config(config)
    with pytest.raises(BadImageError, match="strip.png': it is resized to nothing"):
        predict(None, build_pipeline(cfg), [strip])
    assert list(preprocessed(None, cfg, [str(strip)])) == []  # calibration leaves it out
    assert 'left out: cannot use the image' in capsys.readouterr().out


def test_other_errors_pass():
    for error in (ValueError('something else'), cv2.error('of another kind'), BadImageError('a.png', 'empty')):
        with pytest.raises(type(error)) as caught, resize_errors('a.png'):
            raise error
        assert not isinstance(caught.value, ResizedAwayError)
