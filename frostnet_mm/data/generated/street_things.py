"""Vehicles, people and street furniture of generated street scenes, each painted standing at (x, z) on the ground.

Every painter takes the canvas and the object's place in metres. Outlines are in metres, right and up from the middle of
the object's foot; what gives no label is a detail on the outline below it.
"""

import cv2
import numpy as np

from .shapes import blob
from .street_textures import hsv_color

_DARK = np.array((28, 26, 25), np.float32)


def box(left, right, low, high):
    """Corners (4, 2) of an upright rectangle in metres."""
    return np.array([(left, low), (right, low), (right, high), (left, high)], float)


def oval(x, y, width, height, number=20):
    """Ellipse (number, 2) in metres."""
    angles = 2 * np.pi * np.arange(number) / number
    return np.stack([x + 0.5 * width * np.cos(angles), y + 0.5 * height * np.sin(angles)], axis=1)


def bar(start, end, thickness):
    """Corners (4, 2) of a thick line in metres."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = (end - start) / np.linalg.norm(end - start)
    across = 0.5 * thickness * np.array((-along[1], along[0]))
    return np.array([start + across, end + across, end - across, start - across])


def _car_color(rng):
    if rng.random() < 0.6:
        return hsv_color(rng.uniform(0, 360), rng.uniform(0, 0.08), rng.choice([0.1, 0.25, 0.55, 0.9]))
    return hsv_color(rng.choice([0, 10, 120, 210, 225, 48]), rng.uniform(0.4, 0.9), rng.uniform(0.25, 0.8))


def _paint(canvas, x, z, parts):
    """Paint (outline, colour, label or None) parts facing the camera."""
    for points, color, label in parts:
        canvas.outline(canvas.view.upright(points, x, z), color, z, label, strength=7.0)


def _flank(canvas, x, z, outline, length, color, label, windows=None):
    """Body of a vehicle behind its end: the hull of both ends, and a strip of side windows (low, high) in metres."""
    view = canvas.view
    ends = np.concatenate([view.upright(outline, x, z), view.upright(outline, x, z + length)])
    canvas.outline(cv2.convexHull(ends.astype(np.float32))[:, 0], color * 0.72, z, label)
    side = x + (outline[:, 0].min() if x > 0 else outline[:, 0].max())
    if windows and abs(side) > 0.3:
        low, high = windows
        for start in np.arange(0.06, 0.9, max(1.4 / length, 0.12)):
            near, far = z + length * start, z + length * min(start + max(1.1 / length, 0.09), 0.95)
            corners = [(side, low, near), (side, low, far), (side, high, far), (side, high, near)]
            canvas.outline(view.project(corners), _DARK * 1.6, z, strength=0)
    for wheel in (0.16, 0.8):
        center = z + wheel * length
        rim = [(side, 0.34 + 0.34 * np.sin(a), center + 0.34 * np.cos(a)) for a in np.arange(12) * np.pi / 6]
        canvas.outline(view.project(rim), _DARK, z, label, strength=0)


def car(canvas, x, z):
    """A car seen from one end, its flank behind."""
    rng = canvas.rng
    w, h, deck = rng.uniform(1.7, 1.9), rng.uniform(1.4, 1.75), rng.uniform(0.85, 1.0)
    color, roof = _car_color(rng), rng.uniform(0.68, 0.85)
    body = np.array(
        [(-w / 2, 0.28), (w / 2, 0.28), (w / 2, deck), (w / 2 * roof, h), (-w / 2 * roof, h), (-w / 2, deck)]
    )
    _flank(canvas, x, z, body, rng.uniform(3.6, 4.8), color, 'car', (deck, h - 0.15))
    lamps = hsv_color(*((2, 0.9, 0.75) if rng.random() < 0.6 else (50, 0.1, 0.95)))
    glass = np.array([(-w * 0.44, deck), (w * 0.44, deck), (w * 0.46 * roof, h - 0.12), (-w * 0.46 * roof, h - 0.12)])
    parts = [(box(s - 0.12, s + 0.12, 0, 0.5), _DARK, 'car') for s in (-w * 0.38, w * 0.38)]
    parts += [(body, color, 'car'), (glass, _DARK * rng.uniform(1.0, 2.6), None)]
    parts += [(box(s - 0.17, s + 0.17, deck - 0.28, deck - 0.06), lamps, None) for s in (-w * 0.4, w * 0.4)]
    parts += [
        (box(-0.26, 0.26, 0.55, 0.68), np.array((225, 225, 225)), None),
        (box(-w / 2, w / 2, 0.28, 0.42), _DARK * 1.4, None),
    ]
    _paint(canvas, x, z, parts)


def truck(canvas, x, z):
    """A lorry: a high plain load box over a dark frame."""
    rng = canvas.rng
    w, h = rng.uniform(2.3, 2.55), rng.uniform(3.0, 3.9)
    color = hsv_color(rng.choice([0, 40, 120, 210]), rng.choice([0.03, 0.5]), rng.uniform(0.5, 0.95))
    load = box(-w / 2, w / 2, 0.95, h)
    _flank(canvas, x, z, box(-w / 2, w / 2, 0.35, h), rng.uniform(6, 9), color, 'truck')
    lamps = hsv_color(2, 0.9, 0.7)
    parts = [(box(-w * 0.45, w * 0.45, 0.3, 1.0), _DARK, 'truck')]
    parts += [(box(s - 0.2, s + 0.2, 0, 0.8), _DARK * 0.7, 'truck') for s in (-w * 0.36, w * 0.36)]
    parts += [(load, color, 'truck'), (box(-0.03, 0.03, 1.0, h - 0.1), color * 0.6, None)]
    parts += [(box(-w / 2, w / 2, h - 0.15, h), color * 0.7, None), (box(-w / 2, w / 2, 0.95, 1.1), color * 0.55, None)]
    parts += [(box(s - 0.14, s + 0.14, 0.72, 0.92), lamps, None) for s in (-w * 0.4, w * 0.4)]
    _paint(canvas, x, z, parts)


def bus(canvas, x, z):
    """A bus: a wide window high up, a line sign, rows of side windows."""
    rng = canvas.rng
    w, h = rng.uniform(2.4, 2.6), rng.uniform(2.9, 3.2)
    color = hsv_color(rng.choice([0, 28, 50, 120, 210]), rng.uniform(0.55, 0.9), rng.uniform(0.5, 0.9))
    body = box(-w / 2, w / 2, 0.3, h)
    _flank(canvas, x, z, body, rng.uniform(9, 12), color, 'bus', (1.3, h - 0.5))
    parts = [(box(s - 0.15, s + 0.15, 0, 0.5), _DARK, 'bus') for s in (-w * 0.4, w * 0.4)]
    parts += [(body, color, 'bus'), (box(-w * 0.44, w * 0.44, 1.25, h - 0.55), _DARK * 2, None)]
    parts += [(box(-w * 0.3, w * 0.3, h - 0.42, h - 0.12), np.array((40, 190, 245)), None)]
    parts += [(box(s - 0.16, s + 0.16, 0.7, 0.95), hsv_color(50, 0.15, 0.95), None) for s in (-w * 0.4, w * 0.4)]
    _paint(canvas, x, z, parts)


def train(canvas, x, z):
    """A tram: two colours, a rounded head with a tall window and one lamp row, long, with windows along it."""
    rng = canvas.rng
    w, h = rng.uniform(2.4, 2.65), rng.uniform(3.3, 3.7)
    low = hsv_color(rng.choice([0, 120, 210, 275]), rng.uniform(0.5, 0.9), rng.uniform(0.35, 0.8))
    high = hsv_color(45, rng.uniform(0.02, 0.25), rng.uniform(0.8, 0.98))
    head = np.array([(-w / 2, 0.2), (w / 2, 0.2), (w / 2, h - 0.7), (w * 0.36, h), (-w * 0.36, h), (-w / 2, h - 0.7)])
    _flank(canvas, x, z, head, rng.uniform(18, 30), high, 'train', (1.5, h - 0.9))
    parts = [(head, high, 'train'), (box(-w / 2, w / 2, 0.2, 1.3), low, None)]
    parts += [(box(-w * 0.36, w * 0.36, 1.45, h - 0.75), _DARK * 1.5, None)]
    parts += [(oval(s, 0.85, 0.3, 0.3, 12), np.array((215, 240, 250)), None) for s in (-w * 0.3, w * 0.3)]
    parts += [(box(-w * 0.2, w * 0.2, h - 0.55, h - 0.25), np.array((60, 210, 250)), None)]
    parts += [(box(-w * 0.45, w * 0.45, 0.05, 0.25), _DARK, 'train')]
    _paint(canvas, x, z, parts)


def _two_wheels(radius, base, tyre, color, motor):
    """Parts of a bicycle or motorcycle from the side, and the height of its saddle in metres."""
    label = 'motorcycle' if motor else 'bicycle'
    front, rear = (base / 2, radius), (-base / 2, radius)
    top = radius * (2.0 if motor else 2.5)
    parts = []
    for x, y in (front, rear):
        parts.append((oval(x, y, 2 * radius, 2 * radius, 24), _DARK, label))
        if not motor:
            parts.append((oval(x, y, 2 * (radius - tyre), 2 * (radius - tyre), 24), _DARK * 3.8, None))
        else:
            parts.append((oval(x, y, radius, radius, 16), _DARK * 4.5, None))
    thick = 0.16 if motor else 0.07
    bars = [
        (rear, (-0.1, top)),
        (rear, (0.05, radius)),
        ((-0.1, top), (base * 0.33, top)),
        ((0.05, radius), (base * 0.33, top)),
    ]
    bars += [(front, (base * 0.33, top + 0.12)), ((base * 0.33, top + 0.12), (base * 0.33 - 0.16, top + 0.2))]
    parts += [(bar(*ends, thick), color, label) for ends in bars]
    parts.append((box(-0.24, 0.02, top, top + 0.07), _DARK, label))
    if motor:
        tank = np.array([(-0.55, 0.62), (-0.3, 0.3), (0.3, 0.3), (0.5, 0.72), (0.3, 0.95), (-0.1, 0.78), (-0.7, 0.86)])
        parts += [(tank, color, label), (box(-0.16, 0.16, 0.3, 0.5), _DARK * 3, None)]
        parts.append((oval(0.55, 0.86, 0.2, 0.2, 12), np.array((200, 235, 245)), label))
    return parts, top


def _turned(parts, turn):
    """Outlines narrowed and mirrored as if the object were turned away; turn in [-1, 1]."""
    return [(points * (turn, 1), color, label) for points, color, label in parts]


def _clothes(rng):
    return hsv_color(rng.uniform(0, 360), rng.uniform(0.05, 0.85), rng.uniform(0.12, 0.9))


def _skin(rng):
    return hsv_color(rng.uniform(14, 28), rng.uniform(0.25, 0.6), rng.uniform(0.35, 0.95))


def _cycle(canvas, x, z, motor, ridden):
    rng = canvas.rng
    color = _car_color(rng) if motor else hsv_color(rng.uniform(0, 360), rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.9))
    radius = rng.uniform(0.3, 0.34) if motor else rng.uniform(0.33, 0.37)
    parts, top = _two_wheels(radius, rng.uniform(1.3, 1.45) if motor else rng.uniform(0.98, 1.1), 0.05, color, motor)
    turn = rng.choice([-1, 1]) * rng.uniform(0.55, 1)
    if ridden:
        coat, trousers = _clothes(rng), _clothes(rng) * 0.6
        hip, shoulder = np.array((-0.15, top + 0.12)), np.array((0.12, top + 0.68))
        parts += [
            (bar(hip, (0.14, top * 0.72), 0.2), trousers, 'rider'),
            (bar((0.14, top * 0.72), (0.02, 0.25), 0.15), trousers, 'rider'),
        ]
        parts += [
            (bar(hip - (0, 0.05), shoulder, 0.38), coat, 'rider'),
            (bar(shoulder, (0.42, top + 0.2), 0.12), coat * 0.85, 'rider'),
        ]
        parts += [(oval(0.22, top + 0.88, 0.25, 0.3, 14), _skin(rng), 'rider')]
        helmet = oval(0.21, top + 0.96, 0.29, 0.2, 14)
        parts += [(helmet, _clothes(rng), 'rider')] if motor or rng.random() < 0.6 else []
    _paint(canvas, x, z, _turned(parts, turn))


def bicycle(canvas, x, z):
    """A parked bicycle."""
    _cycle(canvas, x, z, motor=False, ridden=False)


def motorcycle(canvas, x, z):
    """A parked motorcycle."""
    _cycle(canvas, x, z, motor=True, ridden=False)


def cyclist(canvas, x, z):
    """A rider on a bicycle."""
    _cycle(canvas, x, z, motor=False, ridden=True)


def motorcyclist(canvas, x, z):
    """A rider on a motorcycle."""
    _cycle(canvas, x, z, motor=True, ridden=True)


def person(canvas, x, z):
    """Someone who stands or walks."""
    rng = canvas.rng
    h, step = rng.uniform(1.5, 1.9), rng.uniform(0.04, 0.3)
    coat, trousers = _clothes(rng), _clothes(rng) * 0.7
    hip, shoulder = 0.48 * h, 0.82 * h
    parts = [(bar((0, hip), (s * step, 0.02), 0.17), trousers * (0.85 if s < 0 else 1), 'person') for s in (-1, 1)]
    torso = np.array(
        [
            (-0.17, hip - 0.06),
            (0.17, hip - 0.06),
            (0.23, shoulder),
            (0.1, shoulder + 0.06),
            (-0.1, shoulder + 0.06),
            (-0.23, shoulder),
        ]
    )
    parts += [
        (bar((s * 0.2, shoulder - 0.02), (s * (0.22 + step / 2), hip), 0.11), coat * 0.85, 'person') for s in (-1, 1)
    ]
    parts += [(torso, coat, 'person'), (oval(0, 0.92 * h, 0.22, 0.27, 16), _skin(rng), 'person')]
    parts += [(oval(0, 0.96 * h, 0.23, 0.16, 14), _DARK * rng.uniform(0.6, 4), 'person')]
    if rng.random() < 0.25:  # a bag, which Cityscapes' annotators call dynamic
        parts.append((box(0.3, 0.5, 0.12, 0.45), _clothes(rng) * 0.7, 'dynamic'))
    _paint(canvas, x, z, parts)


def pole(canvas, x, z):
    """A pole: a lamp post, or one that carries a sign, signs or traffic lights."""
    kind = canvas.rng.choice(['lamp', 'sign', 'sign', 'light', 'light'])
    dict(lamp=lamp_post, sign=sign_post, light=light_post)[kind](canvas, x, z)


def _shaft(rng, height, thickness):
    return box(-thickness / 2, thickness / 2, 0, height), hsv_color(210, 0.05, rng.uniform(0.2, 0.65)), 'pole'


def lamp_post(canvas, x, z):
    """A tall pole with an arm over the road."""
    rng = canvas.rng
    h, reach = rng.uniform(6, 9), -np.sign(x) * rng.uniform(1, 2)
    shaft = _shaft(rng, h, rng.uniform(0.16, 0.26))
    _paint(canvas, x, z, [shaft, (bar((0, h - 0.06), (reach, h + 0.15), 0.12), shaft[1], 'pole')])


def sign_post(canvas, x, z):
    """A pole with one or two traffic signs: round, triangular or square."""
    rng = canvas.rng
    y, parts = rng.uniform(2.3, 2.9), [_shaft(rng, 3.2, rng.uniform(0.09, 0.16))]
    for _ in range(rng.integers(1, 3)):
        size, kind = rng.uniform(0.65, 0.95), rng.integers(4)
        if kind == 0:
            outline, inner, colors = (
                oval(0, y, size, size),
                oval(0, y, 0.7 * size, 0.7 * size),
                ((2, 0.9, 0.8), (0, 0, 0.95)),
            )
        elif kind == 1:
            corners = np.array([(-0.55, -0.45), (0.55, -0.45), (0, 0.5)]) * size
            outline, inner, colors = corners + (0, y), corners * 0.62 + (0, y), ((2, 0.9, 0.8), (50, 0.1, 0.95))
        elif kind == 2:
            outline, inner = oval(0, y, size, size), bar((-0.2 * size, y), (0.25 * size, y + 0.15), 0.12)
            colors = ((215, 0.9, 0.75), (0, 0, 0.95))
        else:
            outline, inner = box(-size / 2, size / 2, y - size / 2, y + size / 2), oval(0, y, 0.5 * size, 0.6 * size)
            colors = ((215, 0.85, 0.7) if rng.random() < 0.5 else (50, 0.9, 0.9), (0, 0, 0.95))
        parts += [(outline, hsv_color(*colors[0]), 'traffic sign'), (inner, hsv_color(*colors[1]), None)]
        y -= size * 1.05
    _paint(canvas, x, z, parts)


def light_post(canvas, x, z):
    """A pole with a traffic light, at times a second one on an arm over the road."""
    rng = canvas.rng
    arm = rng.random() < 0.4
    parts = [_shaft(rng, 5.6 if arm else 3.5, rng.uniform(0.11, 0.2))]
    places = [(0.0, 2.5)]
    if arm:
        reach = -np.sign(x) * rng.uniform(1.5, 2.6)
        parts.append((bar((0, 5.5), (reach, 5.6), 0.13), parts[0][1], 'pole'))
        places.append((reach, 4.9))
    lit = rng.integers(3)
    for left, low in places:
        parts.append((box(left - 0.2, left + 0.2, low, low + 1.05), _DARK, 'traffic light'))
        for number, hue in enumerate((2, 45, 140)):  # red, amber, green from above
            shade = hsv_color(hue, 0.9, 1.0 if number == lit else 0.22)
            parts.append((oval(left, low + 0.87 - 0.34 * number, 0.26, 0.26, 12), shade, None))
    _paint(canvas, x, z, parts)


def tree(canvas, x, z):
    """A tree; its trunk is vegetation too, as in Cityscapes."""
    rng = canvas.rng
    trunk, crown = rng.uniform(1.8, 3.0), rng.uniform(3.5, 6.5)
    bark = hsv_color(rng.uniform(15, 35), rng.uniform(0.2, 0.45), rng.uniform(0.15, 0.4))
    _paint(canvas, x, z, [(box(-0.16, 0.16, 0, trunk + 1), bark, 'vegetation')])
    hue = rng.uniform(70, 125) if rng.random() < 0.85 else rng.uniform(20, 50)
    leaves = hsv_color(hue, rng.uniform(0.35, 0.7), rng.uniform(0.2, 0.5))
    for number in range(3):
        outline = blob(rng)[0] * (crown, crown) + (rng.uniform(-0.8, 0.8), trunk + crown * 0.4 + rng.uniform(-0.5, 0.8))
        points = canvas.view.upright(outline, x, z)
        canvas.outline(points, leaves * (0.8 + 0.2 * number), z, 'vegetation', strength=26.0)


def bin_(canvas, x, z):
    """A litter bin, static to Cityscapes."""
    color = hsv_color(canvas.rng.choice([25, 120, 210]), 0.4, canvas.rng.uniform(0.2, 0.7))
    _paint(canvas, x, z, [(box(-0.25, 0.25, 0.1, 1.0), color, 'static')])
