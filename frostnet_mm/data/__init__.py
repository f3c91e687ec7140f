"""Data sets and image loading.

The detection data set builds on mmdet; without mmdet (segmentation only) everything else is there.
"""

from importlib.util import find_spec

from ..lazy import offer

_DETECTION = {'.coco': ['CheckedCocoDataset'], '.cropping': ['MinIoURandomCrop']} if find_spec('mmdet') else {}
__all__ = offer(
    __name__,
    {
        '.coco_json': ['palette_for', 'read_coco_classes'],
        '.errors': ['BadImageError', 'DatasetError', 'DatasetNotFoundError'],
        '.loading': ['LoadImage'],
        **_DETECTION,
    },
)
