"""COCO's average precision, on the annotations that the data set has checked."""

from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from ..data.coco_flags import is_ignored
from ..data.errors import DatasetError
from ..data.ground_truth import read_ground_truth
from ..registry import METRICS


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """mmdet's ``CocoMetric`` that reads the annotation file as ``CheckedCocoDataset`` does.

    On sound data it is mmdet's. mmdet's hands the file to pycocotools as it is, which fails on a byte order mark or on
    flags that are null, and never counts the object of annotation id 0 as found. See
    :func:`frostnet_mm.data.ground_truth.read_ground_truth`.

    The images of the metric are those that were predicted, so that a data set with ``indices`` is evaluated on its part
    of the file.

    Args:
        ann_file (str): COCO annotation file. ``frostnet_mm.load_config`` sets it to the data set's where it was
            forgotten.
        *args, **kwargs: Further arguments of ``mmdet.evaluation.CocoMetric``. With ``format_only`` nothing is checked,
            as files without annotations have to do.

    Raises:
        DatasetError: If there is no ``ann_file``; if the file is broken, or holds no object to evaluate against; on
            computing, if it lacks an image that was predicted.
    """

    def __init__(self, ann_file: str | None = None, *args, **kwargs) -> None:
        if not ann_file:
            raise DatasetError(
                'frostnet_mm.CocoMetric has no ann_file. The tools of frostnet_mm take that of the data set, with '
                "type='frostnet_mm.CheckedCocoDataset'; for others set val_evaluator.ann_file and "
                'test_evaluator.ann_file to the annotation file of val_dataloader and test_dataloader.'
            )
        self.ann_file = ann_file
        if kwargs.get('format_only'):
            super().__init__(ann_file, *args, **kwargs)
            return
        super().__init__(None, *args, **kwargs)
        with get_local_path(ann_file, backend_args=self.backend_args) as local_path:
            self._coco_api = read_ground_truth(local_path, shown_as=ann_file)
        if kwargs.get('sort_categories'):
            self._coco_api.dataset['categories'].sort(key=lambda category: category['id'])
            self._coco_api.createIndex()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics on the images that were predicted.

        Args:
            results (list[tuple[dict, dict]]): For each image what is known of it, and its predictions.

        Returns:
            dict[str, float]: See the class.
        """
        if not self.format_only:
            self.img_ids = self._predicted_images({prediction['img_id'] for _, prediction in results})
        return super().compute_metrics(results)

    def _predicted_images(self, predicted: set) -> list:
        known = self._coco_api.get_img_ids()
        foreign = predicted - set(known)
        if foreign:
            raise DatasetError(
                f"'{self.ann_file}', which the metric reads, lacks {len(foreign)} of the {len(predicted)} images that "
                f'were predicted, such as the id {next(iter(foreign))!r}. Set ann_file of the evaluator to that of the '
                'data set.'
            )
        image_ids = [image_id for image_id in known if image_id in predicted]
        if len(image_ids) < len(known):
            print_log(f"Evaluated on {len(image_ids)} of the {len(known)} images of '{self.ann_file}'.", 'current')
        category_ids = set(self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes']))
        objects = (entry for image_id in image_ids for entry in self._coco_api.imgToAnns[image_id])
        if not any(entry['category_id'] in category_ids and not is_ignored(entry) for entry in objects):
            raise DatasetError(
                f"'{self.ann_file}' has no object of the config's classes in the {len(image_ids)} images that were "
                'predicted: every metric would be -1.'
            )
        return image_ids
