"""Crops of detection data: only of boxes that belong to the pixels, and faults before the first is cut."""

import json
import shutil

import cv2
import numpy as np
import pytest
from conftest import run_tool
from PIL import Image

from frostnet_mm.data import crops
from frostnet_mm.data.crops import CropOptions, write_crops
from frostnet_mm.data.errors import DatasetError
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.errors import UserError

ORIENTATION = 0x0112  # a tag of EXIF


def coco(root, size=(60, 90), stated=None, boxes=((5, 10, 30, 20),), orientation=1):
    """Twelve black images (H, W) in each split with white boxes; the json states a size."""
    height, width = stated or size
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for split in ('train', 'val'):
        (root / f'{split}2017').mkdir(parents=True)
        content = dict(images=[], annotations=[], categories=[dict(id=1, name='a'), dict(id=2, name='b')])
        for index in range(12):
            image = np.zeros((*size, 3), np.uint8)
            image[50:] = 100 + 2 * index + (split == 'val')  # no two images are the same
            for x, y, w, h in boxes:
                image[y : y + h, x : x + w] = 255
                box = dict(bbox=[x, y, w, h], area=w * h, iscrowd=0, category_id=1 + index % 2, image_id=index + 1)
                content['annotations'].append(box | dict(id=len(content['annotations']) + 1))
            Image.fromarray(image).save(root / f'{split}2017/{index}.jpg', quality=98, exif=exif)
            content['images'].append(dict(id=index + 1, file_name=f'{index}.jpg', height=height, width=width))
        path = root / f'annotations/instances_{split}2017.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return root


def test_boxes_of_another_frame_give_no_crops(tmp_path, capsys):
    """Made on the stored pixels of images with an EXIF orientation: what was cut out showed something else."""
    root, out = coco(tmp_path / 'coco', orientation=6), tmp_path / 'crops'
    assert run_tool('prepare_crops', root, '--out', out, '--margin', 0) == 2
    said = capsys.readouterr().err
    assert 'give no crops, more than 10%' in said and 'height and width are swapped' in said
    assert '--ignore-orientation' in said and not out.exists()
    assert run_tool('prepare_crops', root, '--out', out, '--margin', 0, '--ignore-orientation') == 0
    found = [cv2.imread(str(file)) for file in out.glob('*/*/*.png')]
    assert {crop.shape for crop in found} == {(20, 30, 3)} and len(found) == 24
    assert min(crop.mean() for crop in found) > 250


def test_boxes_of_images_that_were_scaled_give_no_crops(tmp_path):
    root = coco(tmp_path / 'coco', stated=(120, 180))
    with pytest.raises(DatasetError, match="images of '.*instances_train2017.json' give no crops, more than 10%"):
        write_crops(root, tmp_path / 'crops')


def test_boxes_are_cut_off_at_the_image(tmp_path):
    """Which is a few pixels smaller than the json says; of one box too little is left."""
    root = coco(tmp_path / 'coco', stated=(64, 92), boxes=((70, 20, 22, 30), (80, 56, 12, 6)))
    assert write_crops(root, tmp_path / 'crops', CropOptions(margin=0, min_size=6))['train'].total() == 12
    assert {cv2.imread(str(file)).shape for file in (tmp_path / 'crops').glob('*/*/*.png')} == {(30, 20, 3)}


def test_images_of_both_splits_are_told(tmp_path, monkeypatch):
    """Their crops are no copies of each other, and would not be found."""
    root, said = coco(tmp_path / 'coco'), []
    monkeypatch.setattr(crops.CheckedCocoDataset, '_warn', lambda self, message, *level: said.append(message))
    write_crops(root, tmp_path / 'none')
    assert not any('are training images as well' in message for message in said)
    for index in range(3):
        shutil.copy(root / f'train2017/{index}.jpg', root / f'val2017/{index}.jpg')
    write_crops(root, tmp_path / 'some')
    assert sum('3 of 12 validation images are training images as well' in message for message in said) == 1


def test_faults_are_found_before_the_first_crop(tmp_path, monkeypatch):
    root = coco(tmp_path / 'coco')
    monkeypatch.setattr(crops, 'write_bytes', lambda *given: pytest.fail('a crop was written'))
    with pytest.raises(DatasetError, match='^No crop of a, b in the training data: lower --min-size'):
        write_crops(root, tmp_path / 'crops', CropOptions(min_size=50))
    (root / 'annotations/instances_val2017.json').unlink()
    with pytest.raises(DatasetError, match="instances_val2017.json' does not exist: expected a folder with annot"):
        write_crops(root, tmp_path / 'crops')
    monkeypatch.setattr('os.path.ismount', lambda path: True)
    with pytest.raises(
        UserError, match=r"^--out '.*' is where a disk is mounted \(a volume\): give a new folder in it"
    ):
        write_crops(root, tmp_path / 'crops')


def test_crops_of_hidden_images_are_not_hidden(tmp_path):
    root = coco(tmp_path / 'coco')
    path = root / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    for entry in content['images']:
        (root / 'train2017' / entry['file_name']).rename(root / f'train2017/.{entry["file_name"]}')
        entry['file_name'] = f'.{entry["file_name"]}'
    path.write_text(json.dumps(content))
    counts = write_crops(root, tmp_path / 'crops')['train']
    images = ImageFolder(data_root=str(tmp_path / 'crops'), data_prefix=dict(img_path='train'), pipeline=[])
    assert counts.total() == len(images) == 12
