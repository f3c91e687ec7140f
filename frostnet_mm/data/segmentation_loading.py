"""Loading of label images that names what is wrong with a file."""

from collections.abc import Iterable

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations

from ..registry import TRANSFORMS
from .errors import DatasetError
from .loading import COLOR_TYPES, LoadImage
from .segmentation_files import Pair, size_fault
from .segmentation_labels import BadLabelError, count_values, decode_labels
from .segmentation_values import IGNORED, LabelValues, wrong_values_message


@TRANSFORMS.register_module()
class LoadSegAnnotations(BaseTransform):
    """mmseg's ``LoadAnnotations`` with a clear error for every label that is none.

    On sound labels (8 bit grey or palette, 1 bit) it yields what mmseg's yields. Grey in three equal channels, with
    alpha, or in 16 or 32 bits is understood too: see :func:`~.segmentation_labels.decode_labels`. Results without
    ``seg_map_path``, as those of mmseg's inference functions, pass unchanged.

    Required keys: ``seg_map_path``, ``reduce_zero_label``, ``label_map``, ``seg_fields``, as mmseg's data sets give
    them; optional ``label_values`` (:class:`~.segmentation_values.LabelValues`), which the values are held against, and
    ``ori_shape``, which the size is.

    Added keys: ``gt_seg_map``, uint8 (H, W); its name in ``seg_fields``; ``unlabelled``, whether no pixel has a class.

    Args:
        backend_args (dict, optional): File backend of mmengine. Defaults to None.

    Raises:
        BadLabelError: The file is missing, unreadable, in colours, or not of the image's size.
        DatasetError: It holds a value that is neither a class nor ignored.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load the labels of ``results``."""
        path = results.get('seg_map_path')
        if path is None:
            return results
        labels = decode_labels(self._content(path), path).values
        if 'ori_shape' in results:
            pair = Pair(results.get('img_path', '?'), path)
            if (fault := size_fault(pair, results['ori_shape'][:2], labels.shape)) is not None:
                raise BadLabelError(path, fault.text)
        values: LabelValues | None = results.get('label_values')
        if values is not None:
            counts = count_values(labels)
            if values.wrong(counts):
                root = results.get('data_root') or 'ROOT'
                raise DatasetError(f'{wrong_values_message(path, labels, counts, values, root)}.')
            results['unlabelled'] = not values.classes_in(counts)
        results['gt_seg_map'] = map_labels(labels, results.get('reduce_zero_label'), results.get('label_map'))
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def _content(self, path: str) -> bytes:
        try:
            return fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise BadLabelError(path, 'the file does not exist') from error
        except OSError as error:
            raise BadLabelError(path, f'the file cannot be read ({error})') from error

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


def map_labels(labels: np.ndarray, reduce_zero_label: bool | None, label_map: dict[int, int] | None) -> np.ndarray:
    """Stored values as class indices, uint8 (H, W), as mmseg's ``LoadAnnotations`` does it.

    Args:
        labels (np.ndarray): uint8 (H, W).
        reduce_zero_label (bool, optional): Whether 0 is ignored and 1 the first class.
        label_map (dict[int, int], optional): New value by old one.
    """
    if not reduce_zero_label and not label_map:
        return labels
    table = np.arange(256, dtype=np.uint8)
    if reduce_zero_label:
        table = np.where(table == IGNORED, IGNORED, table - 1)  # 0 becomes 255
    if label_map:
        old = table.copy()
        for before, after in label_map.items():
            table[old == before] = after
    return table[labels]


def reads_label_images(transforms: Iterable[object]) -> bool:
    """Whether a pipeline reads label images by mmseg's loader or ours; one of another kind may read other files."""
    return any(type(step) is LoadAnnotations or isinstance(step, LoadSegAnnotations) for step in transforms)


def checked_loader(transform: object) -> object:
    """Make mm's plain loaders of images and labels ours, which read the same and name what is wrong with a file.

    Args:
        transform (object): A step of a pipeline; others stay as they are, and so do loaders with options of their own.
    """
    if type(transform) is LoadAnnotations and transform.reduce_zero_label is None:
        return LoadSegAnnotations(transform.backend_args)
    if type(transform) is LoadImageFromFile:
        usual = transform.imdecode_backend == 'cv2' and not transform.ignore_empty and not transform.file_client_args
        if usual and transform.color_type in COLOR_TYPES:
            return LoadImage(transform.to_float32, transform.color_type, backend_args=transform.backend_args)
    return transform
