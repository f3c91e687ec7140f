"""Non-maximum suppression."""

import numpy as np

NMS_BLOCK = 256


def nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, limit: int | None = None) -> np.ndarray:
    """Greedy non-maximum suppression, as ``mmcv.ops.nms``; of equal scores the first comes first.

    INT8 networks give many equal scores. Which of them mm takes first depends on the CPU: its sorting is not stable.

    Args:
        boxes (np.ndarray): float32 of shape (N, 4): x1, y1, x2, y2.
        scores (np.ndarray): float32 of shape (N,).
        iou_threshold (float): A box that overlaps a better one by more is dropped.
        limit (int, optional): Stop at so many boxes. Default: all.

    Returns:
        np.ndarray: Indices of the boxes that are kept, by falling score.
    """
    order = np.argsort(-scores, kind='stable')
    boxes = boxes[order]
    kept = np.empty(0, np.int64)
    for start in range(0, len(order), NMS_BLOCK):  # a whole matrix of overlaps would grow with the square
        block = np.arange(start, min(start + NMS_BLOCK, len(order)))
        if len(kept):
            block = block[~_overlap(boxes[block], boxes[kept], iou_threshold).any(1)]
        overlaps = _overlap(boxes[block], boxes[block], iou_threshold)
        alive = np.ones(len(block), bool)
        for index in np.flatnonzero(np.triu(overlaps, 1).any(1)):  # the others suppress none
            if alive[index]:
                alive[index + 1 :] &= ~overlaps[index, index + 1 :]
        kept = np.concatenate([kept, block[alive]])
        if limit is not None and len(kept) >= limit:
            break
    return order[kept[:limit]]


def _overlap(one: np.ndarray, other: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Whether the IoU of each of one's boxes with each of the other's exceeds a threshold, of shape (N, M)."""
    x1, y1, x2, y2 = one.T[:, :, None]
    u1, v1, u2, v2 = other.T[:, None]
    intersection = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), 0)
    intersection *= np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), 0)
    with np.errstate(invalid='ignore', divide='ignore'):  # boxes without area: 0 / 0 exceeds nothing
        return intersection / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection) > np.float32(iou_threshold)


def suppress(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, decoding: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Suppression as a description's ``decoding`` says: by class or not, and so many boxes an image.

    Args:
        boxes (np.ndarray): float32 of shape (N, 4): x1, y1, x2, y2.
        scores (np.ndarray): float32 of shape (N,).
        labels (np.ndarray): Of shape (N,).
        decoding (dict): The description's.

    Returns:
        tuple[np.ndarray, np.ndarray, np.ndarray]: Boxes, scores and labels that are kept, by falling score.
    """
    if not len(boxes):
        return boxes.astype(np.float32), scores.astype(np.float32), labels
    apart = boxes
    if not decoding['class_agnostic']:  # shifts each class to where no other is, as mmcv.ops.batched_nms
        apart = boxes + (labels.astype(np.float32) * (boxes.max() + np.float32(1)))[:, None]
    most = decoding['max_per_image']
    kept = nms(apart, scores, decoding['iou_threshold'], most if most is not None and most > 0 else None)[:most]
    return boxes[kept], scores[kept], labels[kept]
