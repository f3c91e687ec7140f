"""Colours, patterns, backgrounds and camera effects for generated scenes.

Images are float32 (H, W, 3), BGR, 0 to 255, until `camera` turns them into uint8. Patterns are
float32 (H, W) or (H, W, C) in about [-1, 1].
"""

import cv2
import numpy as np

from .shapes import Pose, blob, project, rasterise


def random_color(rng, hue=None):
    """A BGR colour, from grey to saturated and from dark to bright.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        hue (float | None): Hue in degrees about which the colour lies, saturated; None: any hue.

    Returns:
        np.ndarray: float32 (3,) in [0, 255].
    """
    if hue is None:
        hsv = rng.uniform(0, 360), rng.uniform(0, 1), rng.uniform(0.12, 1)
    else:
        hsv = (hue + rng.uniform(-12, 12)) % 360, rng.uniform(0.55, 1), rng.uniform(0.35, 1)
    hsv = np.array([[hsv]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0] * 255


def color_against(rng, surround, distance, hue=None):
    """A colour whose distance to the surroundings lies in a range.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        surround (np.ndarray): Mean BGR colour around the object, (3,).
        distance (tuple[float, float]): Least and greatest Euclidean distance in BGR, 0 to 441.
        hue (float | None): As for `random_color`; without effect at low contrast, where the surroundings decide.

    Returns:
        np.ndarray: float32 (3,); the last of 24 draws where none fits.
    """
    low, high = distance
    surround = np.asarray(surround, dtype=np.float32)
    for _ in range(24):
        if high < 100:  # a narrow shell is hit by construction, not by chance
            step = rng.normal(size=3)
            color = surround + step / np.linalg.norm(step) * rng.uniform(low, high)
            color = np.clip(color, 0, 255).astype(np.float32)
        else:
            color = random_color(rng, hue)
        if low <= np.linalg.norm(color - surround) <= high:
            break
    return color


def fractal_noise(rng, height, width, octaves=4, channels=1, coarse=3, persistence=0.6):
    """Multi-octave value noise.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        height (int): Rows.
        width (int): Columns.
        octaves (int): Number of grids, each twice as fine as the one before.
        channels (int): Independent channels.
        coarse (int): Cells of the first grid along each side.
        persistence (float): Amplitude of a grid over that of the one before.

    Returns:
        np.ndarray: float32 (H, W, C), about [-1, 1].
    """
    noise = np.zeros((height, width, channels), np.float32)
    amplitude, total = 1.0, 0.0
    for octave in range(octaves):
        cells = coarse * 2**octave + 1
        grid = rng.uniform(-1, 1, (cells, cells, channels)).astype(np.float32)
        layer = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        noise += amplitude * layer.reshape(height, width, channels)
        total += amplitude
        amplitude *= persistence
    return noise * (1.6 / total)


def ramp(rng, height, width):
    """Linear gradient in a random direction, float32 (H, W) in [-1, 1]; arguments as elsewhere."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    value = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    return value / max(abs(np.cos(angle)) + abs(np.sin(angle)), 1e-6)


def stripes(rng, height, width, period):
    """Sharpened sine stripes.

    Args:
        rng (np.random.Generator): LoadedModel of randomness (direction, phase, sharpness).
        height (int): Rows.
        width (int): Columns.
        period (float): Pixels from one stripe to the next.

    Returns:
        np.ndarray: float32 (H, W) in [-1, 1].
    """
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None]
    k = 2 * np.pi / period
    wave = np.sin(np.float32(k * np.cos(angle)) * x + np.float32(k * np.sin(angle)) * y + np.float32(phase))
    return np.clip(wave * np.float32(rng.uniform(1, 4)), -1, 1)


def checks(rng, height, width, period):
    """Checkerboard: the product of two crossing stripe patterns; arguments as `stripes`."""
    first = stripes(rng, height, width, period)
    second = stripes(rng, height, width, period * rng.uniform(0.8, 1.25))
    return first * second


def make_fill(rng, height, width, color, strength):
    """Texture of one object: solid, stripes, checks, noise or gradient about a colour.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        height (int): Rows.
        width (int): Columns.
        color (np.ndarray): Mean BGR colour, (3,).
        strength (float): Greatest deviation from the colour, in grey levels.

    Returns:
        np.ndarray: float32 (H, W, 3), BGR.
    """
    kind = rng.choice(['solid', 'solid', 'solid', 'stripes', 'checks', 'noise', 'gradient'])
    period = max(3.0, min(height, width) * rng.uniform(0.15, 0.5))
    if kind == 'stripes':
        pattern = stripes(rng, height, width, period)
    elif kind == 'checks':
        pattern = checks(rng, height, width, period)
    elif kind == 'noise':
        pattern = fractal_noise(rng, height, width, octaves=3)[..., 0]
    elif kind == 'gradient':
        pattern = ramp(rng, height, width)
    else:
        pattern = np.zeros((height, width), np.float32)
    direction = rng.normal(size=3) * 0.5 + rng.choice([-1, 1])
    direction = (direction / np.abs(direction).max()).astype(np.float32)
    fill = color + pattern[..., None] * direction * np.float32(strength)
    return np.clip(fill, 0, 255).astype(np.float32)


def make_background(rng, height, width):
    """Textured ground: noise, gradient, at times stripes, and low-contrast clutter.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        height (int): Rows.
        width (int): Columns.

    Returns:
        np.ndarray: float32 (H, W, 3), BGR in [0, 255].
    """
    rows, cols = (height + 1) // 2, (width + 1) // 2  # it is smooth: half the resolution will do
    ground = np.empty((rows, cols, 3), np.float32)
    ground[:] = random_color(rng) * 0.7 + 38
    noise = fractal_noise(rng, rows, cols, octaves=int(rng.integers(3, 6)), channels=3)
    grey = cv2.cvtColor(noise, cv2.COLOR_BGR2GRAY)[..., None]
    tint = np.float32(rng.uniform(0.2, 0.8))
    ground += (noise * tint + grey * (1 - tint)) * np.float32(rng.uniform(8, 34))
    ground += ramp(rng, rows, cols)[..., None] * rng.uniform(-30, 30, 3).astype(np.float32)
    ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.3:
        wave = stripes(rng, height, width, rng.uniform(6, 50))
        ground += wave[..., None] * rng.uniform(-14, 14, 3).astype(np.float32)
    _scatter_clutter(rng, ground)
    return np.clip(ground, 0, 255)


def _scatter_clutter(rng, ground):
    """Paint irregular blobs and strokes onto the ground (in place), near its own colours."""
    height, width = ground.shape[:2]
    short = min(height, width)
    for _ in range(rng.poisson(5)):
        pose = Pose(
            (rng.uniform(0, width), rng.uniform(0, height)), short * rng.uniform(0.05, 0.4), rng.uniform(0, 6.28)
        )
        clipped = rasterise(project(blob(rng), pose)).clip(height, width)
        if clipped is not None:
            region, alpha = clipped
            ground[region] += alpha[..., None] * rng.uniform(-28, 28, 3).astype(np.float32)
    for _ in range(rng.poisson(2)):
        start = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        steps = rng.normal(0, short * 0.08, (int(rng.integers(2, 8)), 2))
        line = np.round(np.concatenate([start[None], start + np.cumsum(steps, axis=0)]))
        color = np.array(cv2.mean(ground)[:3]) + rng.uniform(-45, 45, 3)
        cv2.polylines(ground, [line.astype(np.int32)], False, color.tolist(), int(rng.integers(1, 4)), cv2.LINE_8)


def camera(rng, image):
    """What a camera does: light, blur, noise, quantization to 8 bits.

    Args:
        rng (np.random.Generator): LoadedModel of randomness.
        image (np.ndarray): float32 (H, W, 3), BGR in [0, 255].

    Returns:
        np.ndarray: uint8 (H, W, 3), BGR.
    """
    image = (image - 128) * np.float32(rng.uniform(0.75, 1.15)) + np.float32(128 + rng.uniform(-35, 30))
    if rng.random() < 0.08:  # motion: a short line as the kernel, centred, so nothing shifts
        length = int(rng.choice([3, 5]))
        kernel = np.eye(length) if rng.random() < 0.5 else np.zeros((length, length))
        if not kernel.any():
            kernel[length // 2] = 1
        image = cv2.filter2D(image, -1, kernel.astype(np.float32) / length)
    elif rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.1))
    image = image + np.float32(rng.uniform(1, 8)) * rng.standard_normal(image.shape, np.float32)
    return cv2.convertScaleAbs(np.maximum(image, 0))  # rounds and saturates at 255
