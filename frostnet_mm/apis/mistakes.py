"""What a model confuses: confusion matrices, precision by recall, and the images with the most mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric

from ..errors import UserError

IOU = 0.5  # from which on a box is found
BACKGROUND = 'background'
RECALLS = np.linspace(0, 1, 101)  # where COCO reads off the precision


class MistakesError(UserError):
    """The test data have nothing to compare predictions with."""


@dataclass
class Report:
    """What was confused.

    Args:
        task (str): 'detection', 'segmentation' or 'classification'.
        names (list[str]): Of the rows and columns of the matrix: the classes, in detection 'background' behind them.
        matrix (ndarray): (rows, columns): objects, pixels or images by their class and by the predicted one.
        mistakes (ndarray): Of each image: objects missed, invented or confused; share of wrong pixels; the score of
            a wrong class.
        curves (dict[str, ndarray]): In detection the precision at ``RECALLS`` by class, at an IoU of 0.5.
        score_thr (float, optional): In detection the least score of the matrix.
    """

    task: str
    names: list[str]
    matrix: np.ndarray
    mistakes: np.ndarray
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    score_thr: float | None = None

    def worst(self, count: int) -> list[int]:
        """The images with the most mistakes, the worst first; those without any are left out."""
        order = np.argsort(-self.mistakes, kind='stable')[:count]
        return [int(index) for index in order if self.mistakes[index] > 0]


class Mistakes(BaseMetric):
    """Compares predictions with the truth beside the evaluator's metrics; ``report`` is there after the evaluation.

    Detections of a score of at least ``score_thr`` are matched, the best first, each with the free object of the
    highest IoU from 0.5 on, of its own class if there is one, else of another. What lies in a crowd counts neither way.
    Curves take all detections, matched within their class as COCO does.

    Args:
        dataset (BaseDataset): The test data, whose annotations are the truth of detectors.
        score_thr (float): Default: 0.3.
    """

    default_prefix = None

    def __init__(self, dataset: BaseDataset, score_thr: float = 0.3) -> None:
        super().__init__()
        self.dataset, self.score_thr = dataset, score_thr
        self.report: Report | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep what was predicted; of a segmenter the counts of pixels by class and predicted class.

        Args:
            data_batch (dict): Not read.
            data_samples (Sequence[dict]): mm's, with predictions.
        """
        for sample in data_samples:
            if 'pred_instances' in sample:
                found = sample['pred_instances']
                names = ('bboxes', 'scores', 'labels')
                self.results.append(tuple(found[name].detach().cpu().numpy() for name in names))
            elif 'pred_sem_seg' in sample:
                if 'gt_sem_seg' not in sample:
                    raise MistakesError(
                        'The test pipeline loads no labels to compare with: it lacks LoadAnnotations behind Resize.'
                    )
                maps = (sample[name]['data'].squeeze().cpu().numpy() for name in ('gt_sem_seg', 'pred_sem_seg'))
                self.results.append(count_pixels(*maps, len(self.dataset_meta['classes'])))
            elif 'pred_score' in sample:
                scores = sample['pred_score'].detach().float().cpu().numpy()
                self.results.append((int(sample['gt_label']), int(scores.argmax()), float(scores.max())))
            else:
                raise MistakesError(f'Predictions of {", ".join(sample)} are none that can be compared with the truth.')

    def compute_metrics(self, results: list) -> dict:
        """Make the report.

        Args:
            results (list): For each image of the data set, in its order, what :meth:`process` kept.

        Returns:
            dict: Empty, as the numbers are the evaluator's own.
        """
        classes = list(self.dataset_meta['classes'])
        if isinstance(results[0], np.ndarray):
            self.report = _pixels(results, classes)
        elif isinstance(results[0][0], int):
            self.report = _images(results, classes)
        else:
            truths = [_truth(self.dataset.get_data_info(index)) for index in range(len(results))]
            self.report = detections(results, truths, classes, self.score_thr)
        return {}


def count_pixels(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Pixels (classes, classes) by class and predicted class; those whose truth is no class are left out."""
    known = truth < classes
    pairs = truth[known].astype(np.int64) * classes + found[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _pixels(counts: Sequence[np.ndarray], classes: list[str]) -> Report:
    wrong = np.array([(own.sum() - np.trace(own)) / max(1, own.sum()) for own in counts])
    return Report('segmentation', classes, np.sum(counts, axis=0), wrong)


def _images(results: Sequence[tuple[int, int, float]], classes: list[str]) -> Report:
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for label, found, _ in results:
        matrix[label, found] += 1
    mistakes = np.array([score if label != found else 0.0 for label, found, score in results])
    return Report('classification', classes, matrix, mistakes)


def _truth(info: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (K, 4), labels (K,) and flags of crowds (K,) of an image."""
    instances = info.get('instances')
    if instances is None:
        raise MistakesError('The test data have no annotations to compare with.')
    boxes = np.array([own['bbox'] for own in instances], float).reshape(-1, 4)
    labels = np.array([own['bbox_label'] for own in instances], int)
    return boxes, labels, np.array([bool(own.get('ignore_flag', 0)) for own in instances], bool)


def detections(
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    truths: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    classes: list[str],
    score_thr: float = 0.3,
) -> Report:
    """Compare boxes with the truth.

    Args:
        found (Sequence[tuple[ndarray, ndarray, ndarray]]): Of each image boxes (N, 4) as x1, y1, x2, y2, scores (N,)
            and labels (N,).
        truths (Sequence[tuple[ndarray, ndarray, ndarray]]): Of each image boxes (K, 4), labels (K,), crowds (K,).
        classes (list[str]): Class names.
        score_thr (float): Least score for the matrix. Default: 0.3.
    """
    matrix = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    mistakes = np.zeros(len(found))
    kept: list[list[tuple[float, bool]]] = [[] for _ in classes]
    counts = np.zeros(len(classes), int)
    for index, ((boxes, scores, labels), (own, own_labels, crowd)) in enumerate(zip(found, truths, strict=True)):
        order = np.argsort(-scores, kind='stable')
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        overlaps, covered = _overlaps(boxes, own)
        in_crowd = (covered[:, crowd] >= IOU).any(axis=1)
        overlaps = np.where(crowd, 0.0, overlaps)
        counts += np.bincount(own_labels[~crowd], minlength=len(classes))
        before = np.trace(matrix)
        total = matrix.sum()
        _match(matrix, overlaps, labels, own_labels, crowd, in_crowd, scores >= score_thr)
        mistakes[index] = (matrix.sum() - total) - (np.trace(matrix) - before)
        for label in np.unique(labels):
            rows, columns = labels == label, own_labels == label
            crowded = (covered[rows][:, columns & crowd] >= IOU).any(axis=1)
            kept[label] += _ranked(overlaps[rows][:, columns & ~crowd], scores[rows], crowded)
    curves = {name: _precisions(kept[label], int(counts[label])) for label, name in enumerate(classes) if counts[label]}
    return Report('detection', [*classes, BACKGROUND], matrix, mistakes, curves, score_thr)


def _match(
    matrix: np.ndarray,
    overlaps: np.ndarray,
    labels: np.ndarray,
    truth: np.ndarray,
    crowd: np.ndarray,
    in_crowd: np.ndarray,
    shown: np.ndarray,
) -> None:
    """Count the objects of one image."""
    background, free = len(matrix) - 1, ~crowd
    for row in np.flatnonzero(shown):
        near = free & (overlaps[row] >= IOU)
        same = near & (truth == labels[row])
        candidates = np.flatnonzero(same if same.any() else near)
        if len(candidates):
            best = candidates[np.argmax(overlaps[row][candidates])]
            free[best] = False
            matrix[truth[best], labels[row]] += 1
        elif not in_crowd[row]:
            matrix[background, labels[row]] += 1
    for label in truth[free]:
        matrix[label, background] += 1


def _ranked(overlaps: np.ndarray, scores: np.ndarray, crowded: np.ndarray) -> list[tuple[float, bool]]:
    """Scores of one class in one image, and whether each found an object; what lies in a crowd is left out."""
    free, ranked = np.ones(overlaps.shape[1], bool), []
    for row, score in enumerate(scores):
        near = np.where(free, overlaps[row], 0.0)
        if near.size and near.max() >= IOU:
            free[near.argmax()] = False
            ranked.append((float(score), True))
        elif not crowded[row]:
            ranked.append((float(score), False))
    return ranked


def _precisions(ranked: Sequence[tuple[float, bool]], count: int) -> np.ndarray:
    """The precision at ``RECALLS``: the highest at this recall or a higher one; 0 at a recall that is not reached."""
    right = np.array([hit for _, hit in sorted(ranked, key=lambda pair: -pair[0])], bool)
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / count, RECALLS, side='left')
    return np.where(places < len(hits), np.append(precision, 0.0)[np.minimum(places, len(hits))], 0.0)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU (N, K) of boxes, and the share of each box that lies in each of the others."""
    top = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = np.prod(np.clip(bottom - top, 0, None), axis=2)
    areas, other_areas = (np.prod(own[:, 2:] - own[:, :2], axis=1) for own in (boxes, others))
    whole = areas[:, None] + other_areas[None] - inside
    return inside / np.maximum(whole, 1e-9), inside / np.maximum(areas[:, None], 1e-9)
