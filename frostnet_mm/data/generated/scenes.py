"""Scenes of the generated detection data: what is painted where, and what of it stays visible.

Everything is painted back to front. A canvas keeps, for each pixel, the object that owns it, so the
masks are those of the visible parts. A shape that would leave an earlier object less than
`MIN_LEFT` visible is placed elsewhere, so that few objects become unrecognisable; those that do are
treated by `Scene.annotated`.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from .masks import drop_specks, mask_to_bbox
from .shapes import CLASS_OUTLINES, DISTRACTOR_OUTLINES, Pose, project, rasterise
from .textures import camera, color_against, fractal_noise, make_background, make_fill, random_color

CLASSES = tuple(CLASS_OUTLINES)
MIN_SIDE_IMAGE = 32  # pixels; below, nothing of the size range fits
MIN_LEFT = 0.6  # share of an object that later shapes must leave visible
MAX_OVER = 0.15  # share of a new object that may lie on other objects
MIN_INSIDE = 0.7  # share of a shape that must lie inside the image
MIN_VISIBLE = 0.25  # an object less visible than this is not annotated
MIN_SIDE = 6  # nor one whose visible box is narrower than this, in pixels
MIN_SPECK = 8  # visible fragments of fewer pixels are left out of the mask
MIN_SIZE = 9.0  # diameter in pixels of the smallest single object
MEAN_EXTRA = 4.5  # objects beyond the first: Poisson with this mean
MAX_OBJECTS = 12
# (share of the objects, least and greatest diameter over the image's short side); log-uniform
SIZE_RANGES = ((0.12, 0.06, 0.12), (0.78, 0.15, 0.6), (0.1, 0.6, 0.85))
MAX_TURN = 0.45  # radians either way: things have an upright, as they do in photographs
# (least, greatest) distance in BGR between an object's mean colour and what lies around it
CONTRAST = (120, 441)
LOW_CONTRAST = (28, 60)
LOW_CONTRAST_SHARE = 0.1
# Most objects have about the hue of their class, as many things in photographs have a colour: a cue, and no more,
# because the others, and all distractors, have any.
TYPICAL_HUE = {name: 360.0 * number / len(CLASSES) for number, name in enumerate(CLASSES)}
TYPICAL_HUE_SHARE = 0.8
_TRIES = 16  # places tried for one shape


@dataclass
class SceneObject:
    """One object, or one crowd of objects, in a scene.

    Args:
        category (str): Name of the class.
        iscrowd (bool): Whether it is a cluster of objects annotated as one.
        full_area (int): Pixels it covers alone, past the image's borders included.
        mask (np.ndarray | None): bool (H, W), its visible pixels; set when the scene is done.
    """

    category: str
    iscrowd: bool = False
    full_area: int = 0
    mask: np.ndarray = None


@dataclass
class Scene:
    """A rendered image and all objects painted into it, annotated or not.

    Args:
        image (np.ndarray): uint8 (H, W, 3), BGR.
        objects (list[SceneObject]): In painting order, back to front.
    """

    image: np.ndarray
    objects: list = field(default_factory=list)

    def annotated(self):
        """Objects that an annotator would mark.

        Left out, as COCO's annotators leave out what cannot be told: objects of which less than
        `MIN_VISIBLE` is visible, and those whose visible box is under `MIN_SIDE` pixels in width or
        height. Fragments under `MIN_SPECK` pixels are dropped from the masks first. A crowd keeps
        its mask whole.

        Returns:
            list[SceneObject]: With the cleaned masks, in painting order.
        """
        kept = []
        for item in self.objects:
            mask = item.mask if item.iscrowd else drop_specks(item.mask, MIN_SPECK)
            if np.count_nonzero(mask) < max(MIN_VISIBLE * item.full_area, 1):
                continue
            if min(mask_to_bbox(mask)[2:]) < MIN_SIDE:
                continue
            kept.append(SceneObject(item.category, item.iscrowd, item.full_area, mask))
        return kept


class _Canvas:
    """Image being painted, with the owner of every pixel (0: none of the objects)."""

    def __init__(self, image):
        self.image = image
        self.owner = np.zeros(image.shape[:2], np.int16)
        self.objects = []
        self.visible = [0]  # pixels owned, by owner number

    def fits(self, footprint, own=0, max_over=1.0):
        """Whether a shape lies enough inside, not too much on objects, and leaves each of them recognisable."""
        clipped = footprint.clip(*self.owner.shape)
        if clipped is None:
            return False
        region, alpha = clipped
        solid = alpha >= 0.5
        if np.count_nonzero(solid) < max(MIN_INSIDE * np.count_nonzero(footprint.solid), 1):
            return False
        covered = np.bincount(self.owner[region][solid], minlength=len(self.visible))
        if covered[1:].sum() > max_over * covered.sum():
            return False
        return all(
            number == own or covered[number] == 0 or self.visible[number] - covered[number] >= MIN_LEFT * item.full_area
            for number, item in enumerate(self.objects, start=1)
        )

    def surround(self, footprint):
        """Mean BGR colour under a shape, (3,)."""
        clipped = footprint.clip(*self.owner.shape)
        if clipped is None:
            return np.array(cv2.mean(self.image)[:3])
        return np.array(cv2.mean(self.image[clipped[0]])[:3])

    def add(self, item):
        """Register an object; returns its owner number."""
        self.objects.append(item)
        self.visible.append(0)
        return len(self.objects)

    def paint(self, footprint, fill, number=0):
        """Paint a shape for an owner (0: a distractor, which only takes pixels away)."""
        if number:
            item = self.objects[number - 1]
            item.full_area += int(np.count_nonzero(footprint.solid))
        clipped = footprint.clip(*self.owner.shape)
        if clipped is None:
            return
        region, alpha = clipped
        y, x = region[0].start - footprint.top, region[1].start - footprint.left
        fill = fill[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        self.image[region] += alpha[..., None] * (fill - self.image[region])
        solid, owner = alpha >= 0.5, self.owner[region]
        if number and item.iscrowd:  # members overlap: count shared pixels once
            item.full_area -= int(np.count_nonzero(owner[solid] == number))
        taken = np.bincount(owner[solid], minlength=len(self.visible))
        for other in np.flatnonzero(taken):
            self.visible[other] -= int(taken[other])
        owner[solid] = number
        self.visible[number] += int(np.count_nonzero(solid))

    def finish(self, rng):
        """Hand over the scene."""
        for number, item in enumerate(self.objects, start=1):
            item.mask = self.owner == number
        return Scene(camera(rng, self.image), [o for o in self.objects if o.full_area])


def _log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_size(rng, short):
    """Diameter in pixels of a single object."""
    shares, lows, highs = zip(*SIZE_RANGES, strict=True)
    kind = rng.choice(len(shares), p=shares)
    return max(MIN_SIZE, short * _log_uniform(rng, lows[kind], highs[kind]))


def _draw_pose(rng, height, width, size):
    """Anywhere with the centre inside, turned by up to `MAX_TURN`, stretched by up to 1.3 and mildly tilted."""
    return Pose(
        (rng.uniform(0, width), rng.uniform(0, height)),
        size,
        rng.uniform(-MAX_TURN, MAX_TURN),
        _log_uniform(rng, 1 / 1.3, 1.3),
        tuple(rng.uniform(-0.18, 0.18, 2)),
    )


def _draw_fill(rng, canvas, footprint, hue=None):
    """Texture for a shape, of a hue or any, readable or at times close to what it lies on."""
    surround = canvas.surround(footprint)
    low = rng.random() < LOW_CONTRAST_SHARE
    color = color_against(rng, surround, LOW_CONTRAST if low else CONTRAST, hue)
    fill = make_fill(rng, *footprint.alpha.shape, color, rng.uniform(6, 12 if low else 40))
    if rng.random() < 0.35:  # light from one side
        light = fractal_noise(rng, *footprint.alpha.shape, octaves=1, coarse=1)
        fill = np.clip(fill * (1 + 0.2 * light), 0, 255)
    return fill


def _place_object(rng, canvas):
    name = CLASSES[rng.integers(len(CLASSES))]
    height, width = canvas.owner.shape
    outline, size = CLASS_OUTLINES[name](rng), _draw_size(rng, min(height, width))
    hue = TYPICAL_HUE[name] if rng.random() < TYPICAL_HUE_SHARE else None
    for _ in range(_TRIES):
        footprint = rasterise(project(outline, _draw_pose(rng, height, width, size)))
        if canvas.fits(footprint, max_over=MAX_OVER):
            fill = _draw_fill(rng, canvas, footprint, hue)
            canvas.paint(footprint, fill, canvas.add(SceneObject(name)))
            return


def _place_distractor(rng, canvas):
    names = list(DISTRACTOR_OUTLINES)
    outline = DISTRACTOR_OUTLINES[names[rng.integers(len(names))]](rng)
    height, width = canvas.owner.shape
    size = max(MIN_SIZE, min(height, width) * _log_uniform(rng, 0.08, 0.45))
    for _ in range(_TRIES):
        footprint = rasterise(project(outline, _draw_pose(rng, height, width, size)))
        if canvas.fits(footprint):
            canvas.paint(footprint, _draw_fill(rng, canvas, footprint))
            return


def _place_occluder(rng, canvas):
    """A grey bar right across part of the image."""
    height, width = canvas.owner.shape
    short = min(height, width)
    half = 0.5 * rng.uniform(0.02, 0.06)
    outline = [np.array([(-0.5, -half), (0.5, -half), (0.5, half), (-0.5, half)])]
    for _ in range(_TRIES):
        pose = Pose(
            (rng.uniform(0, width), rng.uniform(0, height)), short * rng.uniform(0.5, 1.2), rng.uniform(0, np.pi)
        )
        footprint = rasterise(project(outline, pose))
        if canvas.fits(footprint):
            grey = np.full(3, rng.uniform(40, 200), np.float32)
            canvas.paint(footprint, make_fill(rng, *footprint.alpha.shape, grey, 8))
            return


def _place_crowd(rng, canvas):
    """A cluster of 14 to 40 tiny objects of one class, one object to the annotations."""
    name = CLASSES[rng.integers(len(CLASSES))]
    height, width = canvas.owner.shape
    short = min(height, width)
    center = np.array([width, height]) * rng.uniform(0.2, 0.8, 2)
    spread = short * rng.uniform(0.08, 0.16, 2)
    color = random_color(rng)
    number = canvas.add(SceneObject(name, iscrowd=True))
    for _ in range(rng.integers(14, 41)):
        size = max(6.0, short * rng.uniform(0.035, 0.07))
        pose = Pose(
            tuple(center + rng.normal(size=2) * spread), size, rng.uniform(0, 6.28), _log_uniform(rng, 0.8, 1.25)
        )
        footprint = rasterise(project(CLASS_OUTLINES[name](rng), pose))
        if canvas.fits(footprint, own=number):
            tone = np.clip(color + rng.normal(0, 18, 3), 0, 255).astype(np.float32)
            canvas.paint(footprint, make_fill(rng, *footprint.alpha.shape, tone, 12), number)


def render_scene(rng, height, width, empty=False, crowd=False):
    """Render one scene.

    Args:
        rng (np.random.Generator): The only source of randomness; equal states give equal scenes.
        height (int): Rows, at least `MIN_SIDE_IMAGE`.
        width (int): Columns, at least `MIN_SIDE_IMAGE`.
        empty (bool): Only background and distractors, no object of any class.
        crowd (bool): Add one crowd; ignored in an empty scene.

    Returns:
        Scene: The image and its objects.

    Raises:
        ValueError: If the image is smaller than `MIN_SIDE_IMAGE` on a side.
    """
    if min(height, width) < MIN_SIDE_IMAGE:
        raise ValueError(
            f'a scene needs at least {MIN_SIDE_IMAGE} pixels on each side, got height {height} and width {width}'
        )
    canvas = _Canvas(make_background(rng, height, width))
    steps = [_place_distractor] * int(rng.integers(2, 7) if empty else rng.poisson(0.8))
    if rng.random() < 0.25:
        steps += [_place_occluder] * int(rng.integers(1, 3))
    if not empty:
        steps += [_place_object] * min(1 + int(rng.poisson(MEAN_EXTRA)), MAX_OBJECTS)
        steps += [_place_crowd] * int(crowd)
    for index in rng.permutation(len(steps)):
        steps[index](rng, canvas)
    return canvas.finish(rng)
