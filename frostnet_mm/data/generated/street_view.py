"""Camera and canvas of generated street scenes: planes and outlines in metres, painted and labelled.

World coordinates are in metres: x to the right of the camera, y up from the ground, z forward. Images are float32
(H, W, 3), BGR, 0 to 255, until `textures.camera` turns them into uint8.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ..cityscapes import ID_OF
from .shapes import rasterise
from .textures import fractal_noise

NEAR = 2.0  # metres; nothing is painted closer to the camera
_MIN_TEXTURED = 12  # pixels; smaller outlines are painted in one colour


@dataclass(frozen=True)
class View:
    """A pinhole camera that looks along the street.

    Args:
        height (int): Rows of the image.
        width (int): Columns of the image.
        horizon (float): Row of the horizon.
        center (float): Column straight ahead.
        focal (float): Focal length in pixels.
        eye (float): Height of the camera over the ground in metres.
    """

    height: int
    width: int
    horizon: float
    center: float
    focal: float
    eye: float

    def project(self, points):
        """Pixels (K, 2) of world points (K, 3); z is raised to `NEAR`."""
        x, y, z = np.asarray(points, np.float64).T
        z = np.maximum(z, NEAR)
        return np.stack([self.center + self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z], axis=1)

    def upright(self, points, x, z):
        """Pixels of an outline (K, 2) in metres, right and up, that stands at x and z facing the camera."""
        points = np.asarray(points, np.float64)
        return self.project(np.stack([points[:, 0] + x, points[:, 1], np.full(len(points), z)], axis=1))


def clip_polygon(points, width, height):
    """Part of a polygon inside the image (Sutherland and Hodgman, 1974).

    Args:
        points (np.ndarray): Corners (K, 2) in pixels.
        width (int): Columns of the image.
        height (int): Rows of the image.

    Returns:
        np.ndarray: Corners (L, 2), L = 0 where nothing lies inside.
    """
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        inside = sign * (points[:, axis] - limit) >= 0
        if inside.all():  # most outlines, on most sides
            continue
        if not inside.any():
            return points[:0]
        following = np.roll(points, -1, axis=0)
        kept = []
        for here, after, is_in, next_in in zip(points, following, inside, np.roll(inside, -1), strict=True):
            if is_in:
                kept.append(here)
            if is_in != next_in:
                kept.append(here + (after - here) * (limit - here[axis]) / (after[axis] - here[axis]))
        points = np.array(kept).reshape(-1, 2)
    return points


class StreetCanvas:
    """Image being painted back to front, with the label of every pixel and the polygons in painting order.

    Args:
        rng (np.random.Generator): LoadedModel of randomness of all textures.
        view (View): The camera.
        haze (np.ndarray): BGR colour of the distance, (3,).
        sight (float): Metres after which haze takes 63 % of a colour.
    """

    def __init__(self, rng, view, haze, sight):
        self.rng, self.view, self.haze, self.sight = rng, view, np.asarray(haze, np.float32), sight
        self.image = np.zeros((view.height, view.width, 3), np.float32)
        self.labels = np.zeros((view.height, view.width), np.uint8)
        self.polygons = []

    def hazy(self, color, z):
        """A colour, or an image of colours, as it looks at a distance."""
        share = np.float32(1 - np.exp(-z / self.sight))
        return np.asarray(color, np.float32) * (1 - share) + self.haze * share

    def outline(self, points, color, z, label=None, strength=10.0):
        """Paint a filled outline.

        Args:
            points (np.ndarray): Corners (K, 2) in pixels.
            color (np.ndarray): BGR colour, (3,).
            z (float): Distance in metres, for the haze.
            label (str | None): Name of the label that the pixels get; None: a detail, which changes no label.
            strength (float): Amplitude of the texture in grey levels.
        """
        painted = self._place(points, label)
        if painted is None:
            return
        region, alpha = painted
        fill = np.asarray(color, np.float32)
        if strength and min(alpha.shape) >= 2 and alpha.size >= _MIN_TEXTURED:
            noise = fractal_noise(self.rng, *alpha.shape, octaves=2, coarse=max(2, min(alpha.shape) // 5))
            fill = fill + noise * np.float32(strength)
        self.image[region] += alpha[..., None] * (self.hazy(fill, z) - self.image[region])

    def plane(self, corners, texture, label, opacity=None):
        """Paint a flat rectangle of the world with a texture in perspective.

        Args:
            corners (np.ndarray): World points (4, 3): where the texture's corners lie, from its upper left clockwise.
            texture (np.ndarray): float32 (h, w, 3), BGR.
            label (str | None): As for `outline`.
            opacity (np.ndarray | None): float32 (h, w) in [0, 1]: what of the texture covers; the label is everywhere.
        """
        corners = np.asarray(corners, np.float64)
        points = self.view.project(corners)
        painted = self._place(points, label)
        if painted is None:
            return
        region, alpha = painted
        h, w = texture.shape[:2]
        source = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32) - 0.5
        target = (points - (region[1].start, region[0].start) - 0.5).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(source, target)
        size = (alpha.shape[1], alpha.shape[0])
        fill = cv2.warpPerspective(texture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if opacity is not None:
            alpha = alpha * cv2.warpPerspective(opacity, matrix, size, flags=cv2.INTER_LINEAR)
        z = self._depths(region, corners)
        self.image[region] += alpha[..., None] * (self.hazy(fill, z) - self.image[region])

    def _depths(self, region, corners):
        """Distances (h, w, 1) of a plane's pixels: of the ground by their row, of a facade by their column."""
        view, (low, high) = self.view, (max(corners[:, 2].min(), NEAR), corners[:, 2].max())
        if np.ptp(corners[:, 1]) == 0:
            rows = np.arange(region[0].start, region[0].stop, dtype=np.float32)[:, None, None] + 0.5
            z = view.focal * (view.eye - corners[0, 1]) / np.maximum(rows - view.horizon, 0.5)
        elif np.ptp(corners[:, 0]) == 0:
            columns = np.abs(np.arange(region[1].start, region[1].stop, dtype=np.float32)[None, :, None] - view.center)
            z = view.focal * abs(corners[0, 0]) / np.maximum(columns, 0.5)
        else:
            z = np.full((1, 1, 1), corners[:, 2].mean(), np.float32)
        return np.clip(z, low, high).astype(np.float32)

    def _place(self, points, label):
        """Label the pixels of an outline; returns its region and coverage, None where nothing is inside the image."""
        inside = clip_polygon(np.asarray(points, np.float64), self.view.width, self.view.height)
        if len(inside) < 3:
            return None
        clipped = rasterise([inside]).clip(self.view.height, self.view.width)
        if clipped is None:
            return None
        region, alpha = clipped
        if label is not None:
            self.labels[region][alpha >= 0.5] = ID_OF[label]
            self.polygons.append((label, np.round(inside).astype(int).tolist()))
        return region, alpha
