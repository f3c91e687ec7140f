"""The check of mmseg's own data sets, from outside."""

from collections.abc import Sequence
from logging import INFO

from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from .errors import DatasetError, DatasetNotFoundError
from .loading import LoadImage
from .segmentation_checks import check_pairs
from .segmentation_files import Pair, no_images_message
from .segmentation_loading import checked_loader, reads_label_images
from .segmentation_values import LabelValues

_MEND = "With type='frostnet_mm.CheckedSegDataset' (CheckedCityscapesDataset) single bad files are skipped in training."


def check_plain(dataset: BaseSegDataset, classes: Sequence[str]) -> None:
    """Check the files of one of mmseg's data sets as ``frostnet_mm.CheckedSegDataset`` does, and refuse any fault.

    Plain loaders in its pipeline become ours.

    Args:
        dataset (BaseSegDataset): The data set.
        classes (Sequence[str]): The classes, if the data set names none.

    Raises:
        DatasetError: See :class:`~.segmentation.CheckedSegDataset`.
    """
    dataset.pipeline.transforms = [checked_loader(transform) for transform in dataset.pipeline.transforms]
    place = dataset.data_prefix.get('img_path') or '.'
    if not isinstance(get_file_backend(place, backend_args=dataset.backend_args), LocalBackend):
        return
    if not len(dataset):
        raise DatasetNotFoundError(no_images_message(place, dataset.img_suffix))
    steps = dataset.pipeline.transforms
    oriented = all(step.color_type == 'color' for step in steps if isinstance(step, LoadImage))
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    pairs = [Pair(info['img_path'], info.get('seg_map_path') if reads_label_images(steps) else None) for info in infos]
    names = dataset.metainfo.get('classes') or classes
    values = LabelValues.of(names, dataset.label_map, dataset.reduce_zero_label, dataset.ignore_index)
    findings = check_pairs(pairs, values, oriented, dataset.data_root or 'ROOT')
    if findings.faults:
        kinds = ', '.join(f'{count} {kind}' for kind, count in findings.kinds().items())
        first = next(iter(findings.faults.values())).text
        raise DatasetError(
            f"'{place}': {len(findings.faults)} of {len(pairs)} images cannot be used ({kinds}); the first: {first}. "
            f'{_MEND}'
        )
    for form, count in findings.forms.items():
        print_log(
            f'{count} of {findings.read} labels read are stored as {form}: taken as class indices.', 'current', INFO
        )
    if findings.read:
        print_log(
            f"Labels of '{place}' ({findings.read} of {len(pairs)} read): {values.describe(findings.counts)}.",
            'current',
            INFO,
        )
