"""The share of images whose class is among the first k predictions."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ..registry import METRICS
from .class_scores import class_table, percent


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Top-k accuracy in percent: ``accuracy/top1`` and so on, as mmpretrain names them, and top-1 of each class.

    An image counts as right for k if fewer than k classes have a higher score than its own, and of those with the same
    score the ones of lower index count as higher: a network that puts out the same for all classes is not right.

    Args:
        topk (int | Sequence[int]): Numbers k; those that are not less than the number of classes are left out.
            Default: (1, 5).
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
        """
        for sample in data_samples:
            scores, label = sample['pred_score'].float(), int(sample['gt_label'])
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
        known = [k for k in self.topk if k == 1 or k < int(count)]
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
