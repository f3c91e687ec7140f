"""COCO's average precision, on the annotations that the data set has checked."""

from collections.abc import Sequence

from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from ..data.coco_categories import fit_classes
from ..data.coco_flags import is_ignored
from ..data.errors import DatasetError
from ..data.ground_truth import index_coco, read_ground_truth, settle_ground_truth
from ..registry import METRICS


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """mmdet's ``CocoMetric`` that reads the annotation file as ``CheckedCocoDataset`` does.

    On sound data it is mmdet's. mmdet's hands the file to pycocotools as it is, which fails on a byte order mark or on
    flags that are null, and never counts the object of annotation id 0 as found. See
    :func:`frostnet_mm.data.ground_truth.settle_ground_truth`.

    The images of the metric are those that were predicted, so that a data set with ``indices`` is evaluated on its part
    of the file, and they have the size that the data set knows. Categories are the data set's classes, by name.

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
            self._ground_truth = read_ground_truth(local_path, shown_as=ann_file)
        self._coco_api = index_coco(dict(images=[], annotations=[], categories=[]))  # tells that there is a file

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics on the images that were predicted.

        Args:
            results (list[tuple[dict, dict]]): For each image what is known of it, and its predictions.

        Returns:
            dict[str, float]: See the class.
        """
        classes = self.dataset_meta['classes']
        if self.format_only:
            categories = dict(categories=list(self._coco_api.dataset['categories']), annotations=[])
            fit_classes(categories, classes, self.ann_file, evaluated=True)
            self.cat_ids = [category['id'] for category in categories['categories'][: len(classes)]]
            return super().compute_metrics(results)
        sizes = {image['img_id']: (image['height'], image['width']) for image, _ in results}
        self._check_images(sizes)
        self._coco_api = settle_ground_truth(self._ground_truth, classes, sizes, self.ann_file)
        self.cat_ids = [category['id'] for category in self._coco_api.dataset['categories'][: len(classes)]]
        self.img_ids = self._coco_api.get_img_ids()
        self._check_objects()
        return super().compute_metrics(results)

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict:
        """Write the predictions, see the base class.

        Args:
            results (Sequence[dict]): Predictions.
            outfile_prefix (str): Path and first part of the names of the files.

        Returns:
            dict: The files by kind.
        """
        files = super().results2json(results, outfile_prefix)
        # pycocotools orders its results by category id; mmdet names those of single classes (classwise) by this list
        self.cat_ids = sorted(self.cat_ids)
        return files

    def _check_images(self, predicted: dict) -> None:
        known = {image['id'] for image in self._ground_truth['images']}
        foreign = predicted.keys() - known
        if foreign:
            raise DatasetError(
                f"'{self.ann_file}', which the metric reads, lacks {len(foreign)} of the {len(predicted)} images that "
                f'were predicted, such as the id {next(iter(foreign))!r}. Set ann_file of the evaluator to that of the '
                'data set.'
            )
        if len(predicted) < len(known):
            print_log(f"Evaluated on {len(predicted)} of the {len(known)} images of '{self.ann_file}'.", 'current')

    def _check_objects(self) -> None:
        category_ids = set(self.cat_ids)
        objects = self._coco_api.dataset['annotations']
        if not any(entry['category_id'] in category_ids and not is_ignored(entry) for entry in objects):
            raise DatasetError(
                f"'{self.ann_file}' has no object of the config's classes in the {len(self.img_ids)} images that were "
                'predicted: every metric would be -1.'
            )
