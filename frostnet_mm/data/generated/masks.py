"""Masks to COCO annotations: boxes, exact polygons and uncompressed run lengths."""

import cv2
import numpy as np


def mask_to_bbox(mask):
    """Tight box of a mask.

    Args:
        mask (np.ndarray): bool (H, W), not empty.

    Returns:
        list[int]: [x, y, width, height] in pixels, as COCO has it.
    """
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(cols[0]), int(rows[0]), int(cols[-1] - cols[0] + 1), int(rows[-1] - rows[0] + 1)]


def mask_to_rle(mask):
    """Uncompressed COCO run lengths, the form that crowd annotations have in COCO's files.

    Args:
        mask (np.ndarray): bool (H, W).

    Returns:
        dict: ``size`` [H, W] and ``counts``, the lengths of alternating runs of 0 and 1 down the
        columns, the first of them 0s (0 long if the first pixel is set).
    """
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return dict(size=list(mask.shape), counts=[0, *counts] if flat[0] else counts)


def drop_specks(mask, least):
    """Mask without its 4-connected parts smaller than some pixels.

    Args:
        mask (np.ndarray): bool (H, W).
        least (int): Pixels a part must have to stay.

    Returns:
        np.ndarray: bool (H, W).
    """
    if not mask.any():
        return mask.copy()
    x, y, width, height = mask_to_bbox(mask)
    inner = mask[y : y + height, x : x + width]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(inner.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= least
    keep[0] = False
    cleaned = np.zeros_like(mask)
    cleaned[y : y + height, x : x + width] = keep[labels]
    return cleaned


def mask_to_polygons(mask):
    """Polygons along the pixel edges of a mask: decoding them gives back exactly that mask.

    COCO's polygons cannot have holes. A part with a hole is therefore cut along the pixel edges of
    a column through the hole, and the pieces are separate polygons that abut.

    Args:
        mask (np.ndarray): bool (H, W).

    Returns:
        list[list[int]]: Polygons [x1, y1, x2, y2, ...] with whole-numbered vertices, pixel edges at
        whole numbers; at least 4 vertices each.
    """
    if not mask.any():
        return []
    x, y, width, height = mask_to_bbox(mask)
    return _trace(mask[y : y + height, x : x + width].astype(np.uint8), x, y)


def _trace(mask, left, top):
    """Polygons of a uint8 mask (h, w) whose first pixel lies at (left, top)."""
    polygons = []
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    for label in range(1, count):
        x, y, width, height, _ = (int(v) for v in stats[label])
        part = (labels[y : y + height, x : x + width] == label).astype(np.uint8)
        # Three pixels for one: contour points, which cv2 puts on pixel centres, then tell by
        # their remainder on which side of the original pixel they lie.
        fine = cv2.copyMakeBorder(part.repeat(3, axis=0).repeat(3, axis=1), 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=0)
        contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        holes = [c for c, links in zip(contours, tree[0], strict=True) if links[3] >= 0]
        if holes:
            box_x, _, box_w, _ = cv2.boundingRect(holes[0])
            cut = (box_x + box_w // 2) // 3 - 1
            polygons += _trace(np.ascontiguousarray(part[:, :cut]), left + x, top + y)
            polygons += _trace(np.ascontiguousarray(part[:, cut:]), left + x + cut, top + y)
            continue
        corners = (contours[0].reshape(-1, 2) - 3 + 1) // 3 + (left + x, top + y)
        changed = np.any(corners != np.roll(corners, 1, axis=0), axis=1)
        polygons.append([int(v) for v in corners[changed].ravel()])
    return polygons
