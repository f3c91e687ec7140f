"""What a prediction is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MOST_CLASSES = 5  # of an image that are told


@dataclass
class Detections:
    """Objects found in an image, by falling score.

    Args:
        boxes (np.ndarray): float32 of shape (K, 4): x1, y1, x2, y2 in pixels of the image given.
        scores (np.ndarray): float32 of shape (K,).
        labels (np.ndarray): int64 of shape (K,), indices of ``classes``.
        classes (Sequence[str]): The class names.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: Sequence[str] = ()

    def to_dict(self) -> dict:
        """The detections as plain data."""
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return dict(
            detections=[
                {'label': i, 'class': self.classes[i], 'score': round(s, 4), 'bbox': [round(v, 2) for v in box]}
                for i, s, box in rows
            ]
        )


@dataclass
class LabelMap:
    """The class of every pixel.

    Args:
        labels (np.ndarray): uint8 (uint16 for more than 256 classes) of shape (H, W) of the image given.
        classes (Sequence[str]): The class names.
    """

    labels: np.ndarray
    classes: Sequence[str] = ()

    def to_dict(self) -> dict:
        """The number of pixels of each class that occurs."""
        found = zip(*np.unique(self.labels, return_counts=True), strict=True)
        return dict(pixels={self.classes[int(i)]: int(count) for i, count in found})


@dataclass
class ClassScores:
    """What an image shows.

    Args:
        scores (np.ndarray): float32 of shape (C,), one a class, whose sum is 1.
        classes (Sequence[str]): The class names.
    """

    scores: np.ndarray
    classes: Sequence[str] = ()

    @property
    def best(self) -> np.ndarray:
        """int64 of shape (K,): the classes of the highest scores, at most 5, by falling score."""
        return np.argsort(-self.scores, kind='stable')[:MOST_CLASSES]

    def to_dict(self) -> dict:
        """The best classes as plain data."""
        return dict(
            classes=[
                {'label': i, 'class': self.classes[i], 'score': round(float(self.scores[i]), 4)}
                for i in self.best.tolist()
            ]
        )


class Geometry(NamedTuple):
    """Sizes (height, width) of an image on its way to the network, and the scales (x, y) of resizing."""

    original: tuple[int, int]
    image: tuple[int, int]  # resized and padded by the pipeline; boxes are clipped to it
    padded: tuple[int, int]  # that of the network's input
    scale: tuple[float, float]


def geometry_values(geometry: Geometry) -> np.ndarray:
    """What a network that decodes is told of an image: its width and height in the input, and the scales (x, y)."""
    return np.asarray([*geometry.image[::-1], *geometry.scale], np.float32)
