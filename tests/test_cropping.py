"""The random crop against mmdet's: the same crops as often, and boxes that fit them."""

import numpy as np
import pytest
from mmdet.datasets.transforms import MinIoURandomCrop as MmdetMinIoURandomCrop

from frostnet_mm.data import MinIoURandomCrop

HEIGHT, WIDTH = 60, 80
ONE_LARGE = [[4, 6, 72, 56]]  # 3400 of 4800 pixels
LARGE_AND_SMALL = [[4, 6, 72, 56], [30, 20, 35, 25]]  # the small one rules every smallest IoU out
MIDDLE = [[10, 10, 50, 40]]  # 1200 pixels: IoU of 0.1, 0.3 and 0.5 can be had, 0.9 cannot


def crops(cls, boxes: list, draws: int) -> np.ndarray:
    """(draws, 3): whether there was a crop, its part of the image, and how many boxes are left."""
    transform = cls(min_crop_size=0.3)
    np.random.seed(0)
    found = []
    for _ in range(draws):
        results = transform(
            dict(
                img=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
                img_shape=(HEIGHT, WIDTH),
                gt_bboxes=np.array(boxes, np.float32).reshape(-1, 4),
                gt_bboxes_labels=np.arange(len(boxes)),
            )
        )
        height, width = results['img_shape']
        assert results['img'].shape == (height, width, 3)
        assert len(results['gt_bboxes']) == len(results['gt_bboxes_labels'])
        found.append(((height, width) != (HEIGHT, WIDTH), height * width / (HEIGHT * WIDTH), len(results['gt_bboxes'])))
    return np.array(found, float)


@pytest.mark.parametrize('boxes', [ONE_LARGE, LARGE_AND_SMALL, MIDDLE, []])
def test_crops_have_the_distribution_of_mmdet(boxes):
    draws = 600
    ours, theirs = crops(MinIoURandomCrop, boxes, draws), crops(MmdetMinIoURandomCrop, boxes, draws)
    noise = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / draws)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 3.5 * noise + 1e-9).all()
    together = np.sort(np.concatenate([ours[:, 1], theirs[:, 1]]))  # two samples after Kolmogorov and Smirnov
    steps = [np.searchsorted(np.sort(part[:, 1]), together, side='right') / draws for part in (ours, theirs)]
    assert np.abs(steps[0] - steps[1]).max() < 1.95 * np.sqrt(2 / draws)  # 0.1 % of equal distributions go beyond
    assert 0.05 < theirs[:, 0].mean() < 0.999  # the comparison saw crops, and images without


def test_hopeless_overlaps_are_not_drawn(monkeypatch):
    drawn = []
    choice = np.random.choice
    monkeypatch.setattr(np.random, 'choice', lambda modes: drawn.append(set(modes)) or choice(modes))
    crops(MinIoURandomCrop, LARGE_AND_SMALL, 20)
    assert drawn and all(modes == {0, 1} for modes in drawn)
    drawn.clear()
    crops(MinIoURandomCrop, ONE_LARGE, 20)
    assert all(modes == {0, 0.1, 0.3, 0.5, 0.7, 0.9, 1} for modes in drawn)


@pytest.mark.parametrize('boxes', [ONE_LARGE, MIDDLE, LARGE_AND_SMALL])
def test_no_patch_overlaps_more_than_the_bound(boxes):
    transform = MinIoURandomCrop(min_crop_size=0.3)
    boxes = np.array(boxes, float)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    bound = transform.largest_overlap(areas, (HEIGHT, WIDTH))
    random = np.random.default_rng(0)
    size = random.uniform(0.3, 1, (20000, 2)) * (WIDTH, HEIGHT)
    corner = random.uniform(0, 1, (20000, 2)) * ((WIDTH, HEIGHT) - size)
    patch = np.concatenate([corner, corner + size], axis=1).astype(int)
    low, high = np.maximum(patch[:, None, :2], boxes[:, :2]), np.minimum(patch[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    ious = shared / ((patch[:, 2:] - patch[:, :2]).prod(axis=1)[:, None] + areas - shared)
    assert ious.min(axis=1).max() <= bound
