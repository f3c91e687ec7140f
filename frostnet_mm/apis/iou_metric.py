"""Intersection over union, averaged over the classes that the truth holds."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric as MMSegIoUMetric

from ..registry import METRICS
from .class_scores import class_table, percent


@METRICS.register_module()
class IoUMetric(MMSegIoUMetric):
    """mmseg's ``IoUMetric`` that does not punish the mean for classes that never occur in the truth.

    mmseg averages over all classes that occur in the truth *or* in a prediction: a class that the truth lacks counts as
    IoU 0 as soon as one pixel is predicted as it, so that the mean of a data set without trains hangs on whether a
    single pixel was called a train. Here the mean goes over the classes of the truth alone. Nothing is forgiven: a
    pixel predicted as an absent class is missing from the class that it belongs to, whose IoU and accuracy it lowers.

    A class of the truth that is never predicted has a Dice and F score of 0; mmseg leaves the F score out of the mean.

    The metrics are in percent, rounded to two decimals: ``aAcc``, the means ``mIoU``, ``mAcc`` (or ``mDice``,
    ``mFscore``, ...) and each class of the truth as ``IoU.road``. Classes that the truth lacks have no entry.

    Args:
        present_only (bool): Average over the classes that occur in the truth; False is mmseg's mean. Default: True.
        **kwargs: Arguments of ``mmseg.evaluation.IoUMetric``.

    Raises:
        ValueError: On computing, if no image was evaluated, or no pixel of the truth has a class.
    """

    def __init__(self, present_only: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.present_only = present_only

    def compute_metrics(self, results: list[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """Average over the classes, and log a table of them.

        Args:
            results (list[tuple[Tensor]]): For each image the pixels by class of the intersection, the union, the
                prediction and the truth, each of shape (number of classes, ).

        Returns:
            dict[str, float]: See the class.
        """
        if self.format_only:
            return super().compute_metrics(results)
        if not results:
            raise ValueError('IoUMetric was given no image: check test_dataloader.dataset and its data_prefix.')
        intersect, union, predicted, truth = (sum(areas).double() for areas in zip(*results, strict=True))
        present = (truth > 0).numpy()
        if not present.any():
            raise ValueError(
                f'IoUMetric: no pixel of the truth has one of the {len(present)} classes: all are ignore_index '
                f'({self.ignore_index}) or out of range. Are these the right label files (labelTrainIds for '
                'Cityscapes)?'
            )
        scores = self.total_area_to_metrics(
            intersect, union, predicted, truth, self.metrics, self.nan_to_num, self.beta
        )
        accuracy = scores.pop('aAcc')
        if self.present_only:
            if 'Fscore' in scores:
                scores['Fscore'] = np.where(np.isnan(scores['Fscore']), 0.0, scores['Fscore'])
            scores = {name: np.where(present, values, np.nan) for name, values in scores.items()}
        metrics = dict(aAcc=percent(accuracy))
        metrics |= {f'm{name}': percent(np.nanmean(values)) for name, values in scores.items()}
        classes = self.dataset_meta['classes']
        first = next(iter(scores))  # one score a class: the log has the others
        metrics |= {
            f'{first}.{name}': percent(value)
            for name, value, is_present in zip(classes, scores[first], present, strict=True)
            if is_present
        }
        self._log(scores, classes, present)
        return metrics

    def _log(self, scores: dict[str, np.ndarray], classes: Sequence[str], present: np.ndarray) -> None:
        columns = {
            name: {c: percent(v) for c, v, p in zip(classes, values, present, strict=True) if p}
            for name, values in scores.items()
        }
        print_log(f'per class results:\n{class_table(columns, classes)}', logger='current')
        if self.present_only and not present.all():
            absent = ', '.join(name for name, is_present in zip(classes, present, strict=True) if not is_present)
            print_log(
                f'Means over the {int(present.sum())} of {len(present)} classes that occur in the truth (not: '
                f'{absent}); pixels predicted as one of the others count as errors of the class that they belong to.',
                logger='current',
            )
        elif self.present_only:
            print_log(f'Means over all {len(present)} classes: each occurs in the truth.', logger='current')


def scores_by_class(metrics: dict[str, float], score: str = 'IoU') -> dict[str, float]:
    """The entries ``IoU.road`` and the like of an evaluation, by class.

    Args:
        metrics (dict[str, float]): What :class:`IoUMetric` returned, or tools/test.py wrote.
        score (str): 'IoU', 'Dice' or 'Fscore'. Default: 'IoU'.

    Returns:
        dict[str, float]: Percent by class of the truth.
    """
    return {name.removeprefix(f'{score}.'): value for name, value in metrics.items() if name.startswith(f'{score}.')}
