"""Labels: within the picture, readable on any ground, beside each other, with OpenCV and with Pillow."""

import sys

import numpy as np
import pytest

from frostnet_mm.device.drawing import _Canvas, _draw_boxes, _printable, draw, tint
from frostnet_mm.device.results import Detections, LabelMap

CLASSES = ('cat', 'a class with a rather long name', 'Zähler', '细胞')
PALETTE = ((255, 255, 255), (0, 0, 0), (220, 20, 60), (128, 128, 128))


@pytest.fixture(params=['opencv', 'pillow'])
def library(request, monkeypatch):
    if request.param == 'pillow':
        monkeypatch.setitem(sys.modules, 'cv2', None)


def found(*boxes, labels=None):
    count = len(boxes)
    labels = np.zeros(count, np.int64) if labels is None else np.array(labels)
    return Detections(np.array(boxes, np.float32), np.linspace(0.9, 0.5, count, dtype=np.float32), labels, CLASSES)


EDGES = found((-5, -9, 60, 40), (150, 2, 260, 50), (170, 90, 199, 119), (0, 100, 4, 119), labels=[0, 1, 2, 3])


def labels_of(image, result):
    """Places, ink and ground of the labels, as they are found for an image."""
    canvas = _Canvas(image)
    _draw_boxes(canvas, result, [colour[::-1] for colour in PALETTE])
    return canvas.labels


@pytest.mark.usefixtures('library')
def test_labels_are_whole_and_apart():
    labels = labels_of(np.zeros((120, 300, 3), np.uint8), EDGES)
    assert len(labels) == 4
    for k, ((x1, y1, x2, y2), ink, _) in enumerate(labels):
        assert 0 <= x1 < x2 <= 300 and 0 <= y1 < y2 <= 120 and ink.shape == (y2 - y1, x2 - x1)
        assert ink.max() > 0.9 and ink[[0, -1]].max() < 0.1 and ink[:, [0, -1]].max() < 0.1  # no letter is cut off
        for (a, b, c, d), _, _ in labels[:k]:
            assert x2 <= a or c <= x1 or y2 <= b or d <= y1


@pytest.mark.usefixtures('library')
@pytest.mark.parametrize('value', [0, 128, 255])
def test_text_contrasts_with_its_ground_and_the_ground_is_the_classs_colour(value):
    image = np.full((120, 300, 3), value, np.uint8)
    drawn = draw(image, EDGES, 4, PALETTE)
    for (x1, y1, x2, y2), ink, ground in labels_of(image, EDGES):
        region = drawn[y1:y2, x1:x2].astype(int)
        assert (region[0, 0] == ground).all()
        assert np.abs(region[np.unravel_index(ink.argmax(), ink.shape)] - ground).max() >= 110


@pytest.mark.usefixtures('library')
@pytest.mark.parametrize('size', [(1, 1), (3, 400), (400, 3), (20, 20), (33, 60)])
def test_small_pictures(size):
    drawn = draw(np.full((*size, 3), 9, np.uint8), EDGES, 4, PALETTE)
    assert drawn.shape == (*size, 3) and (drawn != 9).any()
    for (_, _, x2, y2), _, _ in labels_of(np.zeros((*size, 3), np.uint8), EDGES):
        assert x2 <= size[1] and y2 <= size[0]


def test_outlines_can_be_seen_on_their_own_colour():
    for value, label in ((255, 0), (0, 1)):
        drawn = draw(np.full((120, 160, 3), value, np.uint8), found((50, 40, 110, 100), labels=[label]), 4, PALETTE)
        assert (drawn[70, 50] == value).all() and (drawn[70, 51] == 255 - value).all()
        assert (drawn[70, 52:108] == value).all()


def test_boxes_of_no_number_and_outside_are_drawn_at_the_edge():
    drawn = draw(np.zeros((50, 50, 3), np.uint8), found((np.nan, np.inf, 90, -7)), 1, PALETTE)
    assert drawn.shape == (50, 50, 3)


def test_names_in_the_letters_of_the_font():
    assert [_printable(CLASSES, k) for k in range(5)] == ['cat', CLASSES[1], 'Zahler', 'class 3', 'class 4']


@pytest.mark.usefixtures('library')
def test_classes_of_a_label_map_are_named_on_their_pixels():
    labels = np.zeros((120, 160), np.uint8)
    labels[60:] = 2
    labels[0, 0] = 1  # too small to be named
    image = np.full((120, 160, 3), 100, np.uint8)
    drawn, plain = (draw(image, LabelMap(labels, names), 4, PALETTE) for names in (CLASSES, ()))
    assert plain[100, 3].tolist() == [(100 + value) // 2 for value in PALETTE[2][::-1]]
    rows, columns = np.nonzero((drawn != plain).any(axis=2))
    upper, lower = rows[rows < 60], rows[rows >= 60]
    assert abs(np.mean([upper.min(), upper.max()]) - 30) < 4 and abs(np.mean([lower.min(), lower.max()]) - 90) < 4
    assert abs(columns.mean() - 80) < 4


def test_masks_of_objects_are_tinted_the_best_on_top():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2], masks[1, :, :2] = True, True
    image = tint(np.full((4, 4, 3), 100, np.uint8), masks, np.array([0, 1]), 2, PALETTE)
    assert image[3, 3].tolist() == [100] * 3 and image[0, 3].tolist() == [177] * 3 and image[3, 0].tolist() == [50] * 3
    assert image[0, 0].tolist() == [(50 + 255) // 2] * 3
