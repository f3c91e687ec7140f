"""The ground truth of an evaluation, read from a COCO json as the data set reads it."""

from collections.abc import Mapping, Sequence

from mmdet.datasets.api_wrappers import COCO

from .coco_categories import fit_classes
from .coco_checks import screen_boxes
from .coco_entries import drop_repeated_boxes
from .coco_flags import IGNORED, check_usable, is_ignored, report_ignored
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


def read_ground_truth(path: str, shown_as: str | None = None) -> dict:
    """Read the annotations that predictions are compared with.

    They are those of ``CheckedCocoDataset`` in test mode, as far as the file alone tells.

    Args:
        path (str): Local annotation file.
        shown_as (str, optional): Its name in messages. Default: ``path``.

    Returns:
        dict: Parsed annotations for :func:`settle_ground_truth`.

    Raises:
        DatasetError: If the file is broken, or holds no box to evaluate against.
    """
    shown_as = shown_as or path
    data, _ = load_coco_json(path, shown_as)
    ignored, _ = report_ignored(data['annotations'], len(data['annotations']))
    found = f'{ignored} {IGNORED}' if ignored else 'all are fine'
    check_usable(data, shown_as, len(data['annotations']), found, evaluated=True)
    return data


def settle_ground_truth(data: dict, classes: Sequence[str], sizes: Mapping, path: str) -> COCO:
    """Leave of the annotations what ``CheckedCocoDataset`` leaves in test mode, and index it.

    pycocotools takes the annotation id 0 for "no match", stores ids as floating point numbers, and knows ``iscrowd``
    alone: here annotations are numbered from 1, and ``ignore`` becomes ``iscrowd``.

    Args:
        data (dict): What :func:`read_ground_truth` has read; it stays as it is.
        classes (Sequence[str]): The data set's class names.
        sizes (Mapping): (height, width) of the images that were predicted, by id, as the data set knows them. The json
            may state none, or exchange them.
        path (str): Annotation file, for messages.

    Returns:
        COCO: mmdet's pycocotools object of the images that were predicted.

    Raises:
        DatasetError: If the file does not fit the classes.
    """
    images = [
        dict(image, height=int(sizes[image['id']][0]), width=int(sizes[image['id']][1]))
        for image in data['images']
        if image['id'] in sizes
    ]
    data = dict(data, images=images)
    fit_classes(data, classes, path, evaluated=True)
    data['annotations'] = [entry for entry in data['annotations'] if entry['image_id'] in sizes]
    screen_boxes(data, clip=False)
    drop_repeated_boxes(data, path)
    data['annotations'] = [
        dict(annotation, id=number, iscrowd=int(is_ignored(annotation)))
        for number, annotation in enumerate(data['annotations'], start=1)
    ]
    return index_coco(data)
