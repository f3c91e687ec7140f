"""The share of images whose class is among the first k predictions."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ..data.errors import DatasetError
from ..registry import METRICS
from .class_scores import class_table, percent


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Top-k accuracy in percent: ``accuracy/top1`` and so on, as mmpretrain names them, and top-1 of each class.

    An image counts as right for k if fewer than k classes have a higher score than its own, and of those with the same
    score the ones of lower index count as higher: a network that puts out the same for all classes is not right.

    Args:
        topk (int | Sequence[int]): Numbers k; those that are not less than the number of classes are left out, and
            where none is left it is 1. Default: (1, 5).
        collect_device (str): 'cpu' or 'gpu', for several processes. Default: 'cpu'.
        prefix (str, optional): In place of 'accuracy'.

    Raises:
        ValueError: ``topk`` is no positive number, or on computing, if no image was evaluated.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: int | Sequence[int] = (1, 5), collect_device: str = 'cpu', prefix: str | None = None):
        super().__init__(collect_device, prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in self.topk):
            raise ValueError(f'topk={topk!r}, expected whole numbers of at least 1, such as (1, 5)')

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the rank of each image's class, from 0.

        Args:
            data_batch (dict): What the model was given; not read.
            data_samples (Sequence[dict]): With ``pred_score`` (classes, ) and ``gt_label`` (1, ).

        Raises:
            DatasetError: A label is no index of a class.
        """
        for sample in data_samples:
            scores = sample['pred_score'].float()
            label = class_index(sample['gt_label'], len(scores), sample.get('img_path'))
            own = scores[label]
            before = (scores > own) | ((scores == own) & (torch.arange(len(scores), device=scores.device) < label))
            rank = len(scores) if torch.isnan(scores).any() else int(before.sum())
            self.results.append((label, rank, len(scores)))

    def compute_metrics(self, results: list[tuple[int, int, int]]) -> dict[str, float]:
        """Average, and log a table of the classes.

        Args:
            results (list[tuple[int, int, int]]): For each image its class, the rank of that, and the number of classes.

        Returns:
            dict[str, float]: Percent, rounded to two decimals.
        """
        if not results:
            raise ValueError('Accuracy was given no image: check test_dataloader.dataset and its data_prefix.')
        labels, ranks, (count, *_) = (torch.tensor(values) for values in zip(*results, strict=True))
        known = [k for k in self.topk if k == 1 or k < int(count)] or [1]
        metrics = {f'top{k}': percent((ranks < k).double().mean()) for k in known}
        classes = self.dataset_meta['classes']
        columns = {
            f'top{k}': {
                name: percent((ranks[labels == index] < k).double().mean())
                for index, name in enumerate(classes)
                if (labels == index).any()
            }
            for k in known
        }
        print_log(f'per class results:\n{class_table(columns, classes)}', logger='current')
        return metrics


def class_index(label: Any, count: int, image: Any = None) -> int:
    """The class of an image as a number.

    Args:
        label (Tensor | int): What its data set says, one number.
        count (int): The number of classes.
        image (str, optional): The image, for the message.

    Raises:
        DatasetError: It is no index of a class: a value for several classes, or out of range.
    """
    values = torch.as_tensor(label).flatten().tolist()
    if len(values) == 1 and values[0] in range(count):
        return int(values[0])
    given = values[0] if len(values) == 1 else values
    raise DatasetError(
        f'gt_label={given} of {image or "an image"}: expected one index of a class, 0 to {count - 1}, the number of '
        f'classes of the model being {count}. Labels of several classes have no top-k.'
    )
