"""Predictions drawn on their images."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .images import optional
from .results import Detections, LabelMap


def draw(
    image: np.ndarray, result: Detections | LabelMap, num_classes: int, palette: Sequence[Sequence[int]] = ()
) -> np.ndarray:
    """Draw a prediction on a copy of its image.

    Args:
        image (np.ndarray): uint8 BGR of shape (H, W, 3).
        result (Detections | LabelMap): What was found in it.
        num_classes (int): How many classes there are.
        palette (Sequence[Sequence[int]]): RGB of the classes; where it ends, PASCAL VOC's colours go on. Default: ().

    Returns:
        np.ndarray: uint8 BGR of shape (H, W, 3).
    """
    colours = [_colour(label, palette) for label in range(num_classes)]
    if isinstance(result, LabelMap):
        return ((image.astype(np.uint16) + np.asarray(colours, np.uint8)[result.labels]) // 2).astype(np.uint8)
    return _draw_boxes(image, result, colours)


def _colour(label: int, palette: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """BGR of a class: of the palette (RGB), else as PASCAL VOC numbers its colours."""
    if label < len(palette):
        return tuple(int(value) for value in palette[label][::-1])
    return tuple(sum(((label + 1) >> (3 * bit + c) & 1) << (7 - bit) for bit in range(3)) for c in (2, 1, 0))


def _draw_boxes(image: np.ndarray, result: Detections, colours: list[tuple[int, int, int]]) -> np.ndarray:
    cv2, thickness = optional('cv2'), max(1, round(max(image.shape) / 500))
    rows = [
        (tuple(round(v) for v in box), colours[i], f'{result.classes[i]} {score:.2f}')
        for box, i, score in zip(result.boxes.tolist(), result.labels.tolist(), result.scores.tolist(), strict=True)
    ]
    if cv2 is not None:
        image, scale = np.array(image), max(image.shape) / 1200
        for (x1, y1, x2, y2), colour, text in rows[::-1]:  # the best on top
            cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness)
            cv2.putText(image, text, (x1, max(y1 - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness)
        return image
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    pen = ImageDraw.Draw(picture)
    for (x1, y1, x2, y2), colour, text in rows[::-1]:
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour[::-1], width=thickness)
        pen.text((x1, max(y1 - 12, 0)), text, fill=colour[::-1])
    return np.asarray(picture)[..., ::-1]


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a BGR image; the suffix says in which format."""
    path, cv2 = Path(path), optional('cv2')
    path.parent.mkdir(parents=True, exist_ok=True)
    if cv2 is None:
        from PIL import Image

        Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(path)
    else:
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
