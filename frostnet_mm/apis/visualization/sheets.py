"""Pictures beside each other in one."""

from collections.abc import Sequence

import numpy as np

GAP = 8  # pixels


def arrange(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Put pictures into rows on white; a row is as high as its highest picture.

    Args:
        tiles (Sequence[np.ndarray]): uint8 of shape (H, W, 3), at least one.
        columns (int): Pictures in a row.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3).
    """
    width = max(tile.shape[1] for tile in tiles)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    size = (sum(heights) + GAP * (len(rows) - 1), columns * (width + GAP) - GAP, 3)
    sheet, top = np.full(size, 255, np.uint8), 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = column * (width + GAP)
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        top += height + GAP
    return sheet
