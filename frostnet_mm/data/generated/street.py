"""Generated street scenes: a road in perspective with what stands beside it and what moves on it, all labelled.

A scene is painted back to front: sky, ground, road and pavements, the skyline, then the houses, walls and fences of
both sides and everything that stands on the ground, from far to near, and last what belongs to the camera.
"""

from dataclasses import dataclass

import numpy as np

from ..cityscapes import ID_OF
from . import street_textures as surfaces
from . import street_things as things
from .street_view import NEAR, StreetCanvas, View
from .textures import camera

MIN_SIDE_IMAGE = 64  # pixels; below, poles and signs are under a pixel wide
FAR = 110.0  # metres at which the street ends in the skyline
_ROWS_A_METRE, _COLUMNS_A_METRE = 6.0, 14.0  # of the textures on the ground
_MOST_HIDDEN = 0.5  # share of an object's width that a nearer one may hide
#: What each scene is made to contain, in turn, beside what chance brings: the classes that streets lack most.
SPECIALS = (
    ('truck', 'cyclist', 'fence'),
    ('bus', 'motorcycle', 'wall'),
    ('train', 'bicycle', 'fence'),
    ('motorcyclist', 'truck', 'wall'),
    ('cyclist', 'bus', 'terrain'),
    ('train', 'motorcyclist', 'terrain'),
)
_LENGTHS = dict(car=6, truck=11, bus=14, train=30, motorcyclist=4, cyclist=4)  # metres of road that a vehicle takes


@dataclass
class StreetScene:
    """A rendered street.

    Args:
        image (np.ndarray): uint8 (H, W, 3), BGR.
        labels (np.ndarray): uint8 (H, W), Cityscapes' label ids.
        polygons (list[tuple[str, list]]): Label name and corners [x, y] in pixels, in painting order.
    """

    image: np.ndarray
    labels: np.ndarray
    polygons: list


@dataclass(frozen=True)
class _Side:
    """One side of the street; distances in metres from the middle of the camera, all positive.

    Args:
        sign (int): -1 left, 1 right.
        curb (float): Where the road ends.
        walk (float): Where the pavement ends, and a strip of terrain begins.
        front (float): Where walls, fences and houses stand.
        barrier (str): 'wall', 'fence' or 'none', in front of what is behind.
        open (bool): Trees and terrain instead of houses.
    """

    sign: int
    curb: float
    walk: float
    front: float
    barrier: str
    open: bool


def _make_side(rng, sign, curb, wanted):
    barrier = next((name for name in ('wall', 'fence') if name in wanted), None)
    barrier = barrier or rng.choice(['none', 'none', 'wall', 'fence'])
    walk = curb + rng.uniform(1.6, 3.6)
    strip = rng.uniform(1.5, 5) if 'terrain' in wanted or rng.random() < 0.4 else rng.uniform(0, 0.6)
    return _Side(sign, curb, walk, walk + strip, str(barrier), rng.random() < 0.25)


def _ground_plane(canvas, x0, x1, near, far, texture, label):
    canvas.plane([(x0, 0, far), (x1, 0, far), (x1, 0, near), (x0, 0, near)], texture, label)


def _paint_ground(canvas, sides, near, wanted):
    """Terrain to the horizon, road with lane lines, pavements, at times parking and rails."""
    rng, view = canvas.rng, canvas.view
    rows = int((FAR - near) * _ROWS_A_METRE)
    ground = surfaces.grass(rng, 96, 192)
    _ground_plane(canvas, -60, 60, near, 400, ground, 'terrain')
    left, right = -sides[0].curb, sides[1].curb
    road = surfaces.asphalt(rng, rows, int((right - left) * _COLUMNS_A_METRE))
    middle = -1.75 - left  # the camera drives in the middle of a lane 3.5 m wide
    lines = [(0.15, False), (right - left - 0.3, False), (middle, True)] + [(middle - 3.5, True)] * (middle > 4.5)
    surfaces.mark_lanes(rng, road, _COLUMNS_A_METRE, _ROWS_A_METRE, lines[int(rng.random() < 0.3) :])
    _ground_plane(canvas, left, right, near, FAR, road, 'road')
    for side in sides:
        x0, x1 = sorted((side.sign * side.curb, side.sign * side.walk))
        columns = max(int((x1 - x0) * _COLUMNS_A_METRE), 4)
        slabs = surfaces.pavement(rng, rows, columns, (4, max(columns // int(rng.integers(2, 5)), 2)))
        _ground_plane(canvas, x0, x1, near, FAR, slabs, 'sidewalk')
        curb = np.full((4, 4, 3), rng.uniform(130, 200), np.float32)
        edge = sorted((side.sign * side.curb, side.sign * (side.curb + 0.16)))
        _ground_plane(canvas, *edge, near, FAR, curb, 'sidewalk')
    if rng.random() < 0.2:
        start = rng.uniform(near + 1, 25)
        bay = surfaces.asphalt(rng, 80, 40) * np.float32(0.85)
        _ground_plane(canvas, right - 2.2, right, start, start + rng.uniform(8, 20), bay, 'parking')
    if 'train' in wanted:
        for x in (-4.2, -2.8):
            rail = np.full((4, 4, 3), rng.uniform(50, 170), np.float32)
            _ground_plane(canvas, x - 0.07, x + 0.07, near, FAR, rail, 'rail track')
    sheet = surfaces.fractal_noise(rng, view.height, view.width, octaves=6, coarse=6)
    canvas.image += sheet * np.float32(rng.uniform(2, 6))


def _paint_skyline(canvas):
    """What closes the street in the distance: houses or trees."""
    rng, x = canvas.rng, -70.0
    while x < 70:
        width, high = rng.uniform(6, 16), rng.uniform(5, 22)
        if rng.random() < 0.5:
            texture = surfaces.facade(rng, high, width, 3)
            corners = [(x, high, FAR), (x + width, high, FAR), (x + width, 0, FAR), (x, 0, FAR)]
            canvas.plane(corners, texture, 'building')
        else:
            outline = things.blob(rng)[0] * (width * 1.5, high) + (0, high * 0.3)
            color = surfaces.hsv_color(rng.uniform(70, 120), 0.4, 0.3)
            canvas.outline(canvas.view.upright(outline, x + width / 2, FAR), color, FAR, 'vegetation', 18.0)
        x += width * rng.uniform(0.6, 1)


def _facing_street(canvas, x, z0, z1, high, texture, label, opacity=None):
    """A vertical plane along the street from z0 to z1, its texture's left edge at z0."""
    canvas.plane([(x, high, z0), (x, high, z1), (x, 0, z1), (x, 0, z0)], texture, label, opacity)


def _house(canvas, side, z0, z1, high):
    """A block of a side: the front along the street, and the gable that looks at the camera."""
    rng, x = canvas.rng, side.sign * (side.front + 0.4)
    scale = 9.0 if z0 < 30 else 5.0
    front = surfaces.facade(rng, high, z1 - z0, scale)
    gable = front[:, : int(8 * scale)] * np.float32(rng.uniform(0.7, 0.95))
    deep = x + side.sign * 12
    canvas.plane([(x, high, z0), (deep, high, z0), (deep, 0, z0), (x, 0, z0)], gable, 'building')
    _facing_street(canvas, x, z0, z1, high, front * np.float32(rng.uniform(0.75, 1.1)), 'building')


def _barrier(canvas, side, z0, z1):
    """A wall or fence along a side."""
    rng, x = canvas.rng, side.sign * side.front
    scale = 16 if z0 < 25 else 8
    high = rng.uniform(1.3, 2.4) if side.barrier == 'wall' else rng.uniform(1.0, 1.7)
    shape = int(high * scale), int((z1 - z0) * scale)
    if side.barrier == 'wall':
        _facing_street(canvas, x, z0, z1, high, surfaces.masonry(rng, *shape), 'wall')
    else:
        bars, opacity = surfaces.railing(rng, *shape, max(scale // 3, 2))
        _facing_street(canvas, x, z0, z1, high, bars, 'fence', opacity)


def _roadside(rng, side):
    """Everything fixed on one side of the street, as (distance, painter) pairs."""
    entries, z = [], NEAR + 0.5
    while z < FAR - 4:  # metres: shorter fronts are not worth a texture
        length = rng.uniform(9, 22)
        end = min(z + length, FAR)
        if side.open or rng.random() < 0.12:
            for _ in range(3):
                place = (side.sign * (side.front + rng.uniform(1, 9)), rng.uniform(z + 2, end + 4))
                entries.append((end + 0.1, lambda canvas, place=place: things.tree(canvas, *place)))
        else:
            high = rng.uniform(6, 20)
            entries.append((end, lambda canvas, a=z, b=end, h=high: _house(canvas, side, a, b, h)))
        if side.barrier != 'none' and (z < 30 or rng.random() < 0.5):
            entries.append((end - 0.01, lambda canvas, a=z, b=end: _barrier(canvas, side, a, b)))
        z = end + (rng.uniform(2, 7) if rng.random() < 0.3 else 0)
    return entries


class _Places:
    """Columns that the objects of a scene take, so that none is mostly hidden."""

    def __init__(self, view):
        self.view, self.taken = view, []

    def claim(self, x, z, width):
        """Whether an object there leaves the others visible and is visible itself; takes the place if so."""
        left, right = self.view.project([(x - width / 2, 0, z), (x + width / 2, 0, z)])[:, 0]
        left, right = max(left, 0.0), min(right, float(self.view.width))
        if right - left < 0.4 * self.view.focal * width / z:  # mostly outside the image
            return False
        for other_left, other_right, other_z in self.taken:
            behind = other_right - other_left if other_z > z else right - left
            if min(right, other_right) - max(left, other_left) > _MOST_HIDDEN * behind:
                return False
        self.taken.append((left, right, z))
        return True


_WIDTHS = dict(car=1.9, truck=2.6, bus=2.7, train=2.7, motorcyclist=1.6, cyclist=1.4, bicycle=1.4, motorcycle=1.8)


def _claim_special(rng, places, sides, name):
    """A place near the camera for an object that a scene must contain, or None."""
    for _ in range(30):
        near = 9.0 if name in ('truck', 'bus', 'train', 'car') else 5.5
        z = rng.uniform(near, near * (2.4 if near > 6 else 2.0))
        if name == 'train':
            x = -3.5
        elif name in ('truck', 'bus', 'car'):
            x = rng.choice([-3.6, 0.2, sides[1].curb - 1.3])
        elif name in ('cyclist', 'motorcyclist'):
            x = rng.uniform(-sides[0].curb + 0.8, sides[1].curb - 0.8)
        else:
            side = sides[rng.integers(2)]
            x = side.sign * rng.uniform(side.curb + 0.3, side.walk)
        if places.claim(x, z, _WIDTHS[name]):
            return x, z
    return None


def _traffic(rng, places, sides, wanted):
    """Vehicles and riders on the lanes, as (distance, painter) pairs."""
    entries = []
    for name in (name for name in wanted if hasattr(things, name)):
        place = _claim_special(rng, places, sides, name)
        if place is not None:
            entries.append((place[1], lambda canvas, n=name, p=place: getattr(things, n)(canvas, *p)))
    kinds, shares = ('car', 'truck', 'bus', 'motorcyclist', 'cyclist'), (0.78, 0.06, 0.05, 0.05, 0.06)
    lanes = [0.0, sides[1].curb - 1.2] + [-3.5] * ('train' not in wanted)
    for lane in lanes:
        z = rng.uniform(7, 25)
        while z < 80:
            kind = str(rng.choice(kinds, p=shares))
            x = lane + rng.normal(0, 0.25)
            if rng.random() < 0.7 and places.claim(x, z, _WIDTHS[kind]):
                entries.append((z, lambda canvas, k=kind, x=x, z=z: getattr(things, k)(canvas, x, z)))
            z += _LENGTHS[kind] + rng.exponential(9)
    return entries


def _pavement_life(rng, places, sides):
    """People, poles, trees, bins and parked cycles on the pavements, as (distance, painter) pairs."""
    entries = []

    def add(painter, x, z, width):
        if places.claim(x, z, width):
            entries.append((z, lambda canvas: painter(canvas, x, z)))

    for side in sides:
        z = rng.uniform(6, 11)
        while z < 70:
            add(things.pole, side.sign * (side.curb + 0.35), z, 0.5)
            z += rng.uniform(6, 16)
        for _ in range(rng.poisson(2.5)):
            x = side.sign * rng.uniform(side.curb + 0.4, side.walk + 0.2)
            add(things.person, x, rng.uniform(6, 35), 0.6)
        for _ in range(rng.poisson(0.6)):
            kind = rng.choice(['bicycle', 'bicycle', 'motorcycle', 'bin_'])
            x = side.sign * rng.uniform(side.curb + 0.5, side.walk)
            add(getattr(things, str(kind)), x, rng.uniform(6, 25), 1.2)
        if rng.random() < 0.5:
            for z in np.arange(rng.uniform(8, 18), 70, rng.uniform(9, 18)):
                add(things.tree, side.sign * (side.walk + 0.3), z, 1.0)
    if rng.random() < 0.35:
        add(things.person, rng.uniform(-2, 2), rng.uniform(8, 25), 0.6)
    return entries


def _paint_own_parts(canvas):
    """The bonnet of the car that carries the camera, and the image's border that rectification leaves."""
    rng, view = canvas.rng, canvas.view
    high = view.height * rng.uniform(0.04, 0.1)
    angles = np.linspace(np.pi, 2 * np.pi, 40)
    middle = view.center + rng.uniform(-0.05, 0.05) * view.width
    bonnet = np.stack([middle + 0.62 * view.width * np.cos(angles), view.height + high * np.sin(angles)], axis=1)
    canvas.outline(bonnet, np.full(3, rng.uniform(25, 80)), 0.0, 'ego vehicle', strength=14.0)
    thick = max(round(view.width / 400), 1)
    canvas.labels[:, :thick] = canvas.labels[:, -thick:] = ID_OF['rectification border']
    canvas.labels[:thick] = canvas.labels[-thick:] = ID_OF['out of roi']
    w, h, t = view.width, view.height, thick
    for label, boxes in (
        ('rectification border', ((0, 0, t, h), (w - t, 0, w, h))),
        ('out of roi', ((0, 0, w, t), (0, h - t, w, h))),
    ):
        for x0, y0, x1, y1 in boxes:  # PIL's polygons, with which these are drawn, include their last pixels
            corners = [[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]
            canvas.polygons.append((label, corners))


def render_street(rng, height, width, special=0):
    """Render one street.

    Args:
        rng (np.random.Generator): The only source of randomness; equal states give equal scenes.
        height (int): Rows, at least `MIN_SIDE_IMAGE`.
        width (int): Columns, at least `MIN_SIDE_IMAGE`.
        special (int): Which of `SPECIALS` the scene contains, counted in turns.

    Returns:
        StreetScene: The image, its label ids and its polygons.

    Raises:
        ValueError: If the image is smaller than `MIN_SIDE_IMAGE` on a side.
    """
    if min(height, width) < MIN_SIDE_IMAGE:
        raise ValueError(
            f'a street needs at least {MIN_SIDE_IMAGE} pixels on each side, got height {height} and width {width}'
        )
    wanted = SPECIALS[special % len(SPECIALS)]
    horizon = height * rng.uniform(0.38, 0.48)
    center, focal = width * rng.uniform(0.42, 0.58), width * rng.uniform(0.8, 1.1)
    view = View(height, width, horizon, center, focal, rng.uniform(1.15, 1.5))
    air, haze = surfaces.sky(rng, height, width, horizon)
    canvas = StreetCanvas(rng, view, haze, rng.uniform(70, 400))
    canvas.image[:], canvas.labels[:] = air, ID_OF['sky']
    canvas.polygons.append(('sky', [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]))
    curbs = (rng.uniform(5.6, 9), rng.uniform(2.6, 6))
    sides = [_make_side(rng, sign, curb, wanted) for sign, curb in zip((-1, 1), curbs, strict=True)]
    near = max(NEAR, 0.8 * focal * view.eye / (height - horizon))
    _paint_ground(canvas, sides, near, wanted)
    _paint_skyline(canvas)
    places = _Places(view)
    entries = _traffic(rng, places, sides, wanted) + _pavement_life(rng, places, sides)
    entries += [entry for side in sides for entry in _roadside(rng, side)]
    for _, paint in sorted(entries, key=lambda entry: -entry[0]):
        paint(canvas)
    _paint_own_parts(canvas)
    return StreetScene(camera(rng, canvas.image), canvas.labels, canvas.polygons)
