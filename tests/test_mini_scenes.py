"""Scenes, shapes and masks of the generated data, against geometry by hand and pycocotools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from frostnet_mm.data.generated.masks import mask_to_polygons, mask_to_rle
from frostnet_mm.data.generated.scenes import Scene, SceneObject, render_scene
from frostnet_mm.data.generated.shapes import CLASS_OUTLINES, Pose, project, rasterise


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(32, 200),
    width=st.integers(32, 200),
    empty=st.booleans(),
    crowd=st.booleans(),
)
def test_scenes_are_sound(seed, height, width, empty, crowd):
    scene = render_scene(np.random.default_rng(seed), height, width, empty, crowd)
    assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
    assert scene.image.std() > 1
    objects = scene.annotated()
    assert not (empty and scene.objects)
    assert len(objects) <= len(scene.objects) <= 13
    owners = np.zeros((height, width), int)
    for item in objects:
        owners += item.mask
        assert item.mask.sum() >= 0.25 * item.full_area
        rows, cols = np.nonzero(item.mask)
        assert min(np.ptp(rows), np.ptp(cols)) + 1 >= 6
    assert owners.max() <= 1


def test_scene_too_small_for_anything():
    with pytest.raises(ValueError, match='height 31 and width 64'):
        render_scene(np.random.default_rng(0), 31, 64)


def test_hidden_and_tiny_objects_are_not_annotated():
    def item(height, width, full_area):
        mask = np.zeros((64, 64), bool)
        mask[10 : 10 + height, 10 : 10 + width] = True
        return SceneObject('disc', full_area=full_area, mask=mask)

    speck = item(10, 10, 120)
    speck.mask[50:52, 50:53] = True  # 6 pixels apart from the rest: not part of the mask
    objects = [item(10, 10, 400), item(10, 10, 401), item(5, 30, 150), item(6, 6, 36), speck]
    kept = Scene(np.zeros((64, 64, 3), np.uint8), objects).annotated()
    assert [int(o.mask.sum()) for o in kept] == [100, 36, 100]
    assert kept[-1].mask[:20].sum() == 100


@pytest.mark.parametrize(
    'name, area',
    [  # of a diameter of 1; ranges where proportions vary
        ('disc', (np.pi / 4, np.pi / 4)),
        ('square', (0.86**2, 0.86**2)),
        ('triangle', (3**1.5 / 4 * 0.57**2,) * 2),
        ('star', tuple(5 * 0.54 * r * np.sin(np.pi / 5) for r in (0.20, 0.27))),
        ('ring', tuple(np.pi / 4 * (1 - r**2) for r in (0.68, 0.48))),
        ('cross', tuple(4 * a - 4 * a**2 for a in (0.12, 0.18))),
    ],
)
def test_shapes_cover_the_area_that_geometry_gives(name, area):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        pose = Pose((3.3, -40.7), 120.0, rng.uniform(0, 6.28), aspect=1.3)  # aspect keeps the area
        footprint = rasterise(project(CLASS_OUTLINES[name](rng), pose))
        assert area[0] * 0.98 < footprint.alpha.sum() / 120**2 < area[1] * 1.02
        assert footprint.solid.sum() == pytest.approx(footprint.alpha.sum(), rel=0.01)


def test_even_rectangle_is_placed_to_the_pixel():
    corners = np.array([(4, 7), (10, 7), (10, 9.5), (4, 9.5)])
    footprint = rasterise([corners])
    region, alpha = footprint.clip(20, 8)
    assert (region[0].start, region[0].stop, region[1].start, region[1].stop) == (7, 10, 4, 8)
    assert alpha[:2] == pytest.approx(1) and alpha[2] == pytest.approx(0.5, abs=0.26)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    density=st.floats(0.05, 0.95),
    grain=st.integers(1, 6),
)
def test_polygons_and_run_lengths_decode_to_the_mask(seed, height, width, density, grain):
    # Random dots and blocks: holes in holes, diagonal contacts, borders; worse than any scene.
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-height // grain), -(-width // grain))) < density
    mask = coarse.repeat(grain, 0).repeat(grain, 1)[:height, :width]
    rle = mask_to_rle(mask)
    assert sum(rle['counts']) == mask.size and all(c > 0 for c in rle['counts'][1:])
    assert np.array_equal(mask_utils.decode(mask_utils.frPyObjects(rle, height, width)), mask)
    decoded = np.zeros((height, width), int)
    for polygon in mask_to_polygons(mask):
        decoded += mask_utils.decode(mask_utils.frPyObjects([polygon], height, width))[..., 0]
    assert np.array_equal(decoded, mask)
