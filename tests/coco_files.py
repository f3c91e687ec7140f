"""A small sound data set in COCO format, for the tests to break."""

import json
import logging
from contextlib import contextmanager

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image

from frostnet_mm.data import CheckedCocoDataset, DatasetError

NUM_IMAGES, WIDTH, HEIGHT = 10, 40, 30
CLASSES = ('cat', 'dog', 'owl')


def annotation(id, image_id=1, category_id=7, bbox=(5, 6, 10, 12), **keys):
    return dict(id=id, image_id=image_id, category_id=category_id, bbox=list(bbox), area=120, iscrowd=0, **keys)


def write_dataset(tmp_path):
    """Write a sound data set: 10 images of 40x30 with 2 boxes each, category ids with gaps and out of order."""
    data = dict(
        images=[dict(id=i, file_name=f'{i:04d}.jpg', width=WIDTH, height=HEIGHT) for i in range(1, NUM_IMAGES + 1)],
        annotations=[
            annotation(2 * i + j, image_id=i, category_id=(7, 3, 12)[i % 3], bbox=(3 * j, 4, 10 + i, 12.5))
            for i in range(1, NUM_IMAGES + 1)
            for j in range(2)
        ],
        categories=[dict(id=7, name='cat'), dict(id=3, name='dog'), dict(id=12, name='owl')],
    )
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'images').mkdir()
    rng = np.random.default_rng(0)
    for image in data['images']:
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(
            tmp_path / 'images' / image['file_name']
        )
    (tmp_path / 'annotations' / 'train.json').write_text(json.dumps(data))
    return tmp_path


@contextmanager
def log_to(path):
    """Collect what is logged, by level; in a file, as data loader workers log in their own processes."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter('%(levelname)s %(message)s'))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        yield lambda level='WARNING': [line for line in path.read_text().splitlines() if line.startswith(level)]
    finally:
        logger.removeHandler(handler)
        handler.close()


def edit(root, change):
    path = root / 'annotations' / 'train.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def truncate(root, *ids):
    for i in ids:
        path = root / 'images' / f'{i:04d}.jpg'
        path.write_bytes(path.read_bytes()[:-200])


def build(root, cls=CheckedCocoDataset, classes=CLASSES, **kwargs):
    kwargs = dict(
        dict(data_root=str(root), ann_file='annotations/train.json', data_prefix=dict(img='images/')), **kwargs
    )
    return cls(metainfo=dict(classes=classes), **kwargs)


def error_of(root, error=DatasetError, **kwargs):
    with pytest.raises(error) as caught:
        build(root, **kwargs)
    return str(caught.value)


def assert_in(text, *parts):
    for part in parts:
        assert part in text, f'{part!r} not in {text!r}'
