"""The ground truth of an evaluation, read from a COCO json as the data set reads it."""

from mmdet.datasets.api_wrappers import COCO

from .coco_checks import screen_boxes
from .coco_flags import check_usable, is_ignored, settle_flags
from .coco_json import load_coco_json


def index_coco(data: dict) -> COCO:
    """Make mmdet's pycocotools object of parsed annotations.

    Args:
        data (dict): Parsed annotation file, which the object keeps.
    """
    coco = COCO()
    coco.dataset = data
    coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return coco


def read_ground_truth(path: str, shown_as: str | None = None) -> COCO:
    """Read the annotations that predictions are compared with.

    They are those of ``CheckedCocoDataset`` in test mode: any encoding of json, flags of any form, without unusable
    boxes. pycocotools takes the annotation id 0 for "no match", stores ids as floating point numbers, and knows
    ``iscrowd`` alone: here annotations are numbered from 1, and ``ignore`` becomes ``iscrowd``.

    Args:
        path (str): Local annotation file.
        shown_as (str, optional): Its name in messages. Default: ``path``.

    Returns:
        COCO: mmdet's pycocotools object.

    Raises:
        DatasetError: If the file is broken, or holds no box to evaluate against.
    """
    shown_as = shown_as or path
    data = load_coco_json(path, shown_as=shown_as, evaluated=True)
    settle_flags(data, shown_as)
    num_boxes = len(data['annotations'])
    found = '; '.join(f'{len(finding.ids)} boxes {finding.cause}' for finding in screen_boxes(data, clip=False))
    check_usable(data, shown_as, num_boxes, found or 'all are fine', evaluated=True)
    data['annotations'] = [
        dict(annotation, id=number, iscrowd=int(is_ignored(annotation)))
        for number, annotation in enumerate(data['annotations'], start=1)
    ]
    return index_coco(data)
