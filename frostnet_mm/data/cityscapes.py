"""Cityscapes' labels and where its files lie.

The ids, names and colours are those of cityscapesscripts (``helpers/labels.py``, https://github.com/mcordts/cityscapesScripts,
MIT), the layout is that of the archives leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

IGNORED = 255  # train id of what is neither trained nor evaluated
NUM_CLASSES = 19
SPLITS = ('train', 'val', 'test')
OFFICIAL_COUNTS = dict(train=2975, val=500, test=1525)  # images of gtFine, Cordts et al., arXiv 1604.01685
IMAGE_SUFFIX = '_leftImg8bit.png'
LABEL_IDS_SUFFIX = '_gtFine_labelIds.png'
TRAIN_IDS_SUFFIX = '_gtFine_labelTrainIds.png'
COLOR_SUFFIX = '_gtFine_color.png'
POLYGONS_SUFFIX = '_gtFine_polygons.json'


class Label(NamedTuple):
    """One row of Cityscapes' label table.

    Args:
        name (str): Name of the label.
        id (int): Value in ``*_labelIds.png``.
        train_id (int): Value in ``*_labelTrainIds.png``: 0 to 18, or 255 for what is ignored.
        color (tuple[int, int, int]): RGB in ``*_color.png``.
    """

    name: str
    id: int
    train_id: int
    color: tuple


LABELS = tuple(
    Label(*row)
    for row in (
        ('unlabeled', 0, 255, (0, 0, 0)),
        ('ego vehicle', 1, 255, (0, 0, 0)),
        ('rectification border', 2, 255, (0, 0, 0)),
        ('out of roi', 3, 255, (0, 0, 0)),
        ('static', 4, 255, (0, 0, 0)),
        ('dynamic', 5, 255, (111, 74, 0)),
        ('ground', 6, 255, (81, 0, 81)),
        ('road', 7, 0, (128, 64, 128)),
        ('sidewalk', 8, 1, (244, 35, 232)),
        ('parking', 9, 255, (250, 170, 160)),
        ('rail track', 10, 255, (230, 150, 140)),
        ('building', 11, 2, (70, 70, 70)),
        ('wall', 12, 3, (102, 102, 156)),
        ('fence', 13, 4, (190, 153, 153)),
        ('guard rail', 14, 255, (180, 165, 180)),
        ('bridge', 15, 255, (150, 100, 100)),
        ('tunnel', 16, 255, (150, 120, 90)),
        ('pole', 17, 5, (153, 153, 153)),
        ('polegroup', 18, 255, (153, 153, 153)),
        ('traffic light', 19, 6, (250, 170, 30)),
        ('traffic sign', 20, 7, (220, 220, 0)),
        ('vegetation', 21, 8, (107, 142, 35)),
        ('terrain', 22, 9, (152, 251, 152)),
        ('sky', 23, 10, (70, 130, 180)),
        ('person', 24, 11, (220, 20, 60)),
        ('rider', 25, 12, (255, 0, 0)),
        ('car', 26, 13, (0, 0, 142)),
        ('truck', 27, 14, (0, 0, 70)),
        ('bus', 28, 15, (0, 60, 100)),
        ('caravan', 29, 255, (0, 0, 90)),
        ('trailer', 30, 255, (0, 0, 110)),
        ('train', 31, 16, (0, 80, 100)),
        ('motorcycle', 32, 17, (0, 0, 230)),
        ('bicycle', 33, 18, (119, 11, 32)),
        # in polygons only: json2labelImg draws no negative id. Its official train id is -1; nothing is trained on it.
        ('license plate', -1, 255, (0, 0, 142)),
    )
)
ID_OF = {label.name: label.id for label in LABELS}
CLASSES = tuple(label.name for label in LABELS if label.train_id != IGNORED)
PALETTE = tuple(label.color for label in LABELS if label.train_id != IGNORED)
_DRAWN = [label for label in LABELS if label.id >= 0]  # in the order of their ids, which have no gap
_TRAIN_IDS = np.array([label.train_id for label in _DRAWN], np.uint8)
_COLORS = np.array([label.color for label in _DRAWN], np.uint8)


def to_train_ids(label_ids):
    """Train ids of label ids.

    Args:
        label_ids (np.ndarray): uint8 (H, W), values of ``*_labelIds.png``.

    Returns:
        np.ndarray: uint8 (H, W), 0 to 18 and 255.

    Raises:
        ValueError: If a value is no label id.
    """
    if label_ids.size and int(label_ids.max()) >= len(_TRAIN_IDS):
        wrong = sorted({int(value) for value in np.unique(label_ids)} - set(range(len(_TRAIN_IDS))))
        raise ValueError(
            f'label ids {wrong[:8]} are none of Cityscapes (0 to {len(_TRAIN_IDS) - 1}): expected the pixels of a '
            f'*{LABEL_IDS_SUFFIX}, not of a labelTrainIds, color or instanceIds picture'
        )
    return _TRAIN_IDS[label_ids]


def to_colors(label_ids):
    """Picture of label ids in Cityscapes' colours, uint8 (H, W) -> RGB uint8 (H, W, 3)."""
    return _COLORS[label_ids]


def label_path(root, image, suffix):
    """The annotation file of an image.

    Args:
        root (str | Path): Folder with ``leftImg8bit`` and ``gtFine``.
        image (str | Path): An image below ``root/leftImg8bit``.
        suffix (str): One of this module's suffixes.

    Returns:
        Path: ``root/gtFine/<split>/<city>/<name><suffix>``.
    """
    root, image = Path(root), Path(image)
    folder = image.parent.relative_to(root / 'leftImg8bit')
    stem = image.stem.removesuffix(Path(IMAGE_SUFFIX).stem)  # images may be of another format
    return root / 'gtFine' / folder / (stem + suffix)
