"""Surfaces of generated street scenes, as textures that `StreetCanvas.plane` lays into the world.

All are float32 (h, w, 3), BGR, 0 to 255, and come from the random generator given.
"""

import cv2
import numpy as np

from .textures import fractal_noise

_WALL_HUES = ((18, 0.35), (28, 0.3), (8, 0.5), (45, 0.15), (210, 0.12), (0, 0.03))  # (degrees, greatest saturation)


def hsv_color(hue, saturation, value):
    """BGR colour, float32 (3,), of a hue in degrees, a saturation and a value in [0, 1]."""
    hsv = np.array([[(hue % 360, saturation, value)]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0] * 255


def _noisy(rng, height, width, color, strength, octaves=5, coarse=4):
    ground = np.empty((height, width, 3), np.float32)
    ground[:] = color
    return ground + fractal_noise(rng, height, width, octaves=octaves, coarse=coarse) * np.float32(strength)


def asphalt(rng, height, width):
    """Grey asphalt with patches and fine grain."""
    tone = rng.uniform(65, 120)
    tint = rng.uniform(-6, 6, 3)
    road = _noisy(rng, height, width, tone + tint, rng.uniform(8, 18))
    road += rng.normal(0, rng.uniform(2, 7), (height, width, 1)).astype(np.float32)
    for _ in range(rng.poisson(2)):  # mended places
        x, y = rng.integers(width), rng.integers(height)
        part = road[y : y + int(rng.integers(8, 60)), x : x + int(rng.integers(8, 40))]
        part += np.float32(rng.uniform(-22, 10))
    return road


def mark_lanes(rng, road, across, along, lines):
    """Paint lane lines onto a road texture, in place.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        road (np.ndarray): The texture; its rows run along the road, far end first.
        across (float): Columns a metre.
        along (float): Rows a metre.
        lines (Sequence[tuple[float, bool]]): Metres from the left edge, and whether the line is broken.
    """
    white = np.float32(rng.uniform(165, 235))
    phase = int(rng.uniform(0, 12 * along))
    for x, broken in lines:
        left = int(round((x - 0.09) * across))
        stripe = road[:, max(left, 0) : left + max(int(0.18 * across), 1)]
        if not broken:
            stripe += 0.8 * (white - stripe)
            continue
        for start in range(phase % int(12 * along), road.shape[0], int(12 * along)):
            dash = stripe[start : start + int(6 * along)]
            dash += 0.85 * (white - dash)
    if rng.random() < 0.25:  # zebra crossing
        start = road.shape[0] - int(rng.uniform(9, 28) * along)
        period = max(int(1.0 * across), 2)
        for left in range(0, road.shape[1], period):
            bar = road[start : start + int(3 * along), left : left + period // 2]
            bar += 0.85 * (white - bar)


def pavement(rng, height, width, cell):
    """Slabs with joints, lighter than most asphalt, at times reddish.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        height (int): Rows.
        width (int): Columns.
        cell (tuple[int, int]): Rows and columns of a slab.
    """
    color = hsv_color(rng.uniform(0, 40), rng.uniform(0.02, 0.22), rng.uniform(0.42, 0.7))
    ground = _noisy(rng, height, width, color, rng.uniform(5, 12))
    slabs = rng.normal(0, 7, (height // cell[0] + 1, width // cell[1] + 1, 1)).astype(np.float32)
    ground += slabs.repeat(cell[0], 0).repeat(cell[1], 1)[:height, :width]
    ground[:: cell[0]] -= 24
    ground[:, :: cell[1]] -= 24
    return ground


def grass(rng, height, width):
    """Terrain: green to brown, rough."""
    color = hsv_color(rng.uniform(50, 105), rng.uniform(0.3, 0.6), rng.uniform(0.38, 0.62))
    ground = _noisy(rng, height, width, color, rng.uniform(14, 24), octaves=6)
    return ground + rng.normal(0, 9, (height, width, 3)).astype(np.float32)


def facade(rng, metres_high, metres_long, scale):
    """A house front with storeys of windows, a ground floor and a ledge.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        metres_high (float): Height of the house.
        metres_long (float): Length of the front.
        scale (float): Pixels a metre.
    """
    height, width = max(int(metres_high * scale), 8), max(int(metres_long * scale), 8)
    hue, most = _WALL_HUES[rng.integers(len(_WALL_HUES))]
    color = hsv_color(hue + rng.uniform(-6, 6), rng.uniform(0, most), rng.uniform(0.35, 0.85))
    wall = _noisy(rng, height, width, color, rng.uniform(4, 14))
    if rng.random() < 0.4:  # brick courses
        wall[:: max(int(scale * 0.4), 2)] -= np.float32(rng.uniform(5, 14))
    storey, bay = rng.uniform(2.8, 3.6) * scale, rng.uniform(1.8, 3.2) * scale
    glass = hsv_color(rng.uniform(190, 230), rng.uniform(0.05, 0.4), rng.uniform(0.12, 0.4))
    frame = np.float32(rng.choice([-35, 35]))
    for top in np.arange(height - storey, -storey * 0.3, -storey):
        ground_floor = top > height - 1.5 * storey
        for left in np.arange(bay * 0.25, width - bay * 0.4, bay):
            y0, y1 = max(int(top + storey * 0.22), 0), int(top + storey * (0.95 if ground_floor else 0.75))
            x0, x1 = int(left), int(left + bay * (0.75 if ground_floor else 0.55))
            if y1 - y0 < 2:
                continue
            wall[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] += frame
            wall[y0:y1, x0:x1] = glass + np.float32(rng.uniform(-14, 30))
            if rng.random() < 0.15:  # a blind, or light inside
                wall[y0 : (y0 + y1) // 2, x0:x1] = np.float32(rng.uniform(120, 220))
    wall[: max(int(scale * 0.4), 1)] -= 25
    return wall


def masonry(rng, height, width):
    """A wall without windows: concrete panels or courses of stone."""
    if rng.random() < 0.5:
        color = hsv_color(rng.uniform(0, 30), rng.uniform(0.15, 0.5), rng.uniform(0.35, 0.6))
        step, joint = max(height // int(rng.integers(5, 9)), 2), (2 * height) // 5
    else:
        color = hsv_color(rng.uniform(30, 60), rng.uniform(0, 0.1), rng.uniform(0.45, 0.75))
        step, joint = height, height * 2
    wall = _noisy(rng, height, width, color, rng.uniform(8, 18))
    wall[::step] -= 28
    wall[:, :: max(joint, 3)] -= 20
    wall[: max(height // 10, 1)] += 18  # coping
    return wall


def railing(rng, height, width, pitch):
    """A fence of bars and two rails, seen through between them.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        height (int): Rows.
        width (int): Columns.
        pitch (int): Columns from bar to bar, at least 2.

    Returns:
        tuple[np.ndarray, np.ndarray]: The texture and its opacity (h, w).
    """
    color = hsv_color(rng.choice([20, 120, 210]), rng.uniform(0, 0.4), rng.uniform(0.12, 0.85))
    fence = _noisy(rng, height, width, color, 10)
    opacity = np.full((height, width), rng.uniform(0.05, 0.4), np.float32)  # wire between the bars
    bar = max(pitch // int(rng.integers(2, 4)), 1)
    for offset in range(bar):
        opacity[:, offset::pitch] = 1
    rail = max(height // 9, 1)
    opacity[:rail] = 1
    opacity[-2 * rail : -rail] = 1
    return fence, opacity


def sky(rng, height, width, horizon):
    """Sky from clear to overcast, brighter towards the horizon.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        height (int): Rows.
        width (int): Columns.
        horizon (float): Row where the sky ends.

    Returns:
        tuple[np.ndarray, np.ndarray]: The sky (H, W, 3), and the BGR colour of the haze at the horizon, (3,).
    """
    value = rng.uniform(0.6, 1.0)
    top = hsv_color(rng.uniform(200, 220), rng.uniform(0.03, 0.6), value)
    low = hsv_color(rng.uniform(25, 215), rng.uniform(0.0, 0.15), min(value * rng.uniform(0.95, 1.2), 1))
    share = np.clip(np.arange(height, dtype=np.float32) / max(horizon, 1), 0, 1)[:, None, None]
    clouds = np.clip(fractal_noise(rng, height, width, octaves=4, coarse=2), 0, 1)
    air = top + share * (low - top)
    air = air + clouds * np.float32(rng.uniform(0, 0.8)) * (np.float32(245 * value) - air)
    return np.clip(air, 0, 255).astype(np.float32), low
