"""Outlines, their projection and their rasterisation for generated scenes.

An outline is a list of closed contours, each a float array (K, 2) of (x, y) points in a unit frame:
centred on the origin, about 1 across. Several contours are filled by the even-odd rule, so a second
contour inside the first one is a hole.
"""

from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLE = 4  # coverage is counted on a 4x4 grid in each pixel: 17 grey levels on edges
_SHIFT = 4  # fractional bits of the vertices that cv2.fillPoly takes


@dataclass(frozen=True)
class Pose:
    """Where and how an outline lies in the image.

    Args:
        center (tuple[float, float]): (x, y) in pixels, pixel edges at whole numbers.
        size (float): Diameter in pixels before the aspect change.
        angle (float): Rotation in radians.
        aspect (float): Width over height before the rotation; the area is kept.
        tilt (tuple[float, float]): Perspective terms (kx, ky) of ``1 + kx * x + ky * y`` in the
            unit frame; 0 is a view from straight above, 0.3 a noticeable tilt.
    """

    center: tuple
    size: float
    angle: float = 0.0
    aspect: float = 1.0
    tilt: tuple = (0.0, 0.0)


@dataclass(frozen=True)
class Footprint:
    """Coverage of an outline on the pixel grid; it may reach past the image.

    Args:
        alpha (np.ndarray): Covered share of each pixel, float32 (h, w) in [0, 1].
        left (int): Image column of ``alpha``'s first column; may be negative.
        top (int): Image row of ``alpha``'s first row; may be negative.
    """

    alpha: np.ndarray
    left: int
    top: int

    @property
    def solid(self):
        """np.ndarray: bool (h, w), the pixels that are covered by half or more."""
        return self.alpha >= 0.5

    def clip(self, height, width):
        """Part inside an image.

        Args:
            height (int): Rows of the image.
            width (int): Columns of the image.

        Returns:
            tuple[tuple[slice, slice], np.ndarray] | None: The region (rows, columns) in the image
            and the alpha there, or None where nothing lies inside.
        """
        y0, x0 = max(self.top, 0), max(self.left, 0)
        y1 = min(self.top + self.alpha.shape[0], height)
        x1 = min(self.left + self.alpha.shape[1], width)
        if y0 >= y1 or x0 >= x1:
            return None
        inner = self.alpha[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left]
        return (slice(y0, y1), slice(x0, x1)), inner


def _polar(radii, start=-np.pi / 2):
    """Points at even angles with the given radii, (K,) -> (K, 2)."""
    radii = np.asarray(radii, dtype=np.float64)
    angles = start + 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _disc(rng):
    return [_polar(np.full(56, 0.5))]


def _square(rng):
    s = 0.43
    return [np.array([(-s, -s), (s, -s), (s, s), (-s, s)])]


def _triangle(rng):
    return [_polar(np.full(3, 0.57)) + (0, 0.09)]


def _star(rng):
    inner = rng.uniform(0.20, 0.27)
    return [_polar(np.tile([0.54, inner], 5))]


def _ring(rng):
    hole = 0.5 * rng.uniform(0.48, 0.68)
    return [_polar(np.full(56, 0.5)), _polar(np.full(40, hole))]


def _cross(rng):
    a, r = rng.uniform(0.12, 0.18), 0.5
    return [
        np.array(
            [(-a, -r), (a, -r), (a, -a), (r, -a), (r, a), (a, a), (a, r), (-a, r), (-a, a), (-r, a), (-r, -a), (-a, -a)]
        )
    ]


def _bar(rng):
    half = rng.uniform(0.06, 0.12)
    return [np.array([(-0.5, -half), (0.5, -half), (0.5, half), (-0.5, half)])]


def _ell(rng):
    t = rng.uniform(0.2, 0.3)
    return [np.array([(-0.4, -0.5), (-0.4 + t, -0.5), (-0.4 + t, 0.5 - t), (0.4, 0.5 - t), (0.4, 0.5), (-0.4, 0.5)])]


def _arrow(rng):
    t, neck = rng.uniform(0.08, 0.14), rng.uniform(-0.05, 0.1)
    return [np.array([(-0.5, -t), (neck, -t), (neck, -0.33), (0.5, 0), (neck, 0.33), (neck, t), (-0.5, t)])]


def _chevron(rng):
    t = rng.uniform(0.18, 0.28)
    return [np.array([(-0.3, -0.5), (0.3 - t, 0), (-0.3, 0.5), (-0.3 + t, 0.5), (0.3, 0), (-0.3 + t, -0.5)])]


def _crescent(rng):
    angles = np.linspace(0.25 * np.pi, 1.75 * np.pi, 36)
    outer = 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    bulge = rng.uniform(0.45, 0.65)
    inner = outer[::-1] * (bulge, 1.0) + (0.5 * np.cos(0.25 * np.pi) * (1 - bulge), 0)
    return [np.concatenate([outer, inner[1:-1]])]


def _half_disc(rng):
    angles = np.linspace(0, np.pi, 30)
    return [0.5 * np.stack([np.cos(angles), np.sin(angles) - 0.45], axis=1)]


def blob(rng):
    """Irregular smooth closed outline: a circle bent by four random harmonics.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.

    Returns:
        list[np.ndarray]: One contour (48, 2).
    """
    angles = 2 * np.pi * np.arange(48) / 48
    radii = np.full(48, 0.34)
    for harmonic in range(2, 6):
        radii += 0.16 / harmonic * rng.normal() * np.cos(harmonic * angles + rng.uniform(0, 6.28))
    return [_polar(np.clip(radii, 0.08, 0.55)) * (1, rng.uniform(0.4, 0.8))]


# The classes: told apart by outline alone. Order is the order of the categories.
CLASS_OUTLINES = dict(disc=_disc, square=_square, triangle=_triangle, star=_star, ring=_ring, cross=_cross)
# Hard negatives: drawn like the classes, belonging to none of them.
DISTRACTOR_OUTLINES = dict(
    bar=_bar, ell=_ell, arrow=_arrow, chevron=_chevron, crescent=_crescent, half_disc=_half_disc, blob=blob
)


def project(outline, pose):
    """Lay an outline into the image.

    Args:
        outline (list[np.ndarray]): Contours (K, 2) in the unit frame.
        pose (Pose): Position, size, rotation, aspect and tilt.

    Returns:
        list[np.ndarray]: Contours (K, 2) in pixels.
    """
    stretch = np.sqrt(pose.aspect)
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    placed = []
    for contour in outline:
        x, y = contour[:, 0] * stretch, contour[:, 1] / stretch
        x, y = cos * x - sin * y, sin * x + cos * y
        depth = 1 + pose.tilt[0] * x + pose.tilt[1] * y
        placed.append(np.stack([x / depth, y / depth], axis=1) * pose.size + pose.center)
    return placed


def rasterise(contours):
    """Anti-aliased coverage of a filled outline.

    Args:
        contours (list[np.ndarray]): Contours (K, 2) in pixels, pixel edges at whole numbers.

    Returns:
        Footprint: The coverage in the outline's own bounding box, not clipped to any image.
    """
    points = np.concatenate(contours)
    left, top = np.floor(points.min(axis=0)).astype(int)
    right, bottom = np.ceil(points.max(axis=0)).astype(int)
    width, height = max(right - left, 1), max(bottom - top, 1)
    fine = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), dtype=np.uint8)
    # cv2 puts whole numbers on pixel centres, hence the half pixel.
    scaled = [np.round(((c - (left, top)) * SUPERSAMPLE - 0.5) * (1 << _SHIFT)).astype(np.int32) for c in contours]
    cv2.fillPoly(fine, scaled, 255, lineType=cv2.LINE_8, shift=_SHIFT)
    alpha = cv2.resize(fine, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    return Footprint(alpha.astype(np.float32) / 255, int(left), int(top))
