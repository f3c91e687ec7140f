"""Data sets and image loading.

The detection data set builds on mmdet; without mmdet (segmentation only) everything else still imports.
"""

from importlib.util import find_spec

from .coco_json import DatasetError, DatasetNotFoundError, palette_for, read_coco_classes
from .loading import BadImageError, LoadImage

__all__ = ['BadImageError', 'DatasetError', 'DatasetNotFoundError', 'LoadImage', 'palette_for', 'read_coco_classes']

if find_spec('mmdet') is not None:
    from .coco import CheckedCocoDataset
    from .cropping import MinIoURandomCrop

    __all__ += ['CheckedCocoDataset', 'MinIoURandomCrop']
