"""Data sets and image loading.

The detection data set builds on mmdet, those of segmentation on mmseg; without one of them everything else is there.
"""

from importlib.util import find_spec

from ..lazy import offer

_DETECTION = {'.coco': ['CheckedCocoDataset'], '.cropping': ['MinIoURandomCrop']} if find_spec('mmdet') else {}
_SEGMENTATION = (
    {
        '.segmentation': ['CheckedCityscapesDataset', 'CheckedSegDataset'],
        '.segmentation_loading': ['LoadSegAnnotations'],
    }
    if find_spec('mmseg')
    else {}
)
__all__ = offer(
    __name__,
    {
        '.classification_transforms': ['PackClsInputs', 'RandomPaddedCrop', 'RandomResizedCrop'],
        '.coco_json': ['palette_for', 'read_coco_classes'],
        '.errors': ['BadImageError', 'DatasetError', 'DatasetNotFoundError'],
        '.image_folder': ['ImageFolder'],
        '.loading': ['LoadImage'],
        **_DETECTION,
        **_SEGMENTATION,
    },
)
