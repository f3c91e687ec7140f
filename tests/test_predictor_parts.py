"""The predictor's parts against mmcv, mmdet and torch: suppression, boxes, resizing, reading images, normalization."""

import io
import sys

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms
from mmcv.ops import nms as mmcv_nms
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from PIL import Image

from frostnet_mm.data import BadImageError, LoadImage
from frostnet_mm.device import ImageError, as_bgr, nms, preprocess, read_image, resize_plane, resized
from frostnet_mm.device.decoding import _decode_deltas
from frostnet_mm.device.suppression import suppress

# -- suppression and boxes


def random_boxes(count, seed):
    """Boxes in clusters, so that many overlap; some without area, scores without ties."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 300, (max(count // 8, 1), 2))[rng.integers(0, max(count // 8, 1), count)]
    centres = centres + rng.normal(0, 6, (count, 2))
    sizes = rng.uniform(10, 60, (count, 2))
    sizes[::17] = 0
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1).astype(np.float32)
    return boxes, (rng.permutation(count) / count).astype(np.float32), rng.integers(0, 4, count)


@pytest.mark.parametrize('threshold', [0.1, 0.45, 0.65])
@pytest.mark.parametrize('count', [1, 40, 700])
def test_nms_equals_mmcv(count, threshold):
    for seed in range(5):
        boxes, scores, _ = random_boxes(count, seed)
        _, expected = mmcv_nms(boxes, scores, threshold)
        assert len(expected) < count or count == 1
        assert np.array_equal(nms(boxes, scores, threshold), expected)
        assert np.array_equal(nms(boxes, scores, threshold, limit=30), expected[:30])


@pytest.mark.parametrize('agnostic', [False, True])
def test_suppression_by_class_equals_mmcv(agnostic):
    boxes, scores, labels = random_boxes(500, 7)
    decoding = dict(class_agnostic=agnostic, iou_threshold=0.5, max_per_image=None)
    config = dict(type='nms', iou_threshold=0.5, class_agnostic=agnostic)
    _, kept = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), config)
    found = suppress(boxes, scores, labels, decoding)
    for value, expected in zip(found, (boxes, scores, labels), strict=True):
        assert np.array_equal(value, expected[kept.numpy()])


def test_of_equal_scores_the_first_box_stays():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 1, 10, 11]], np.float32)
    assert nms(boxes, np.full(4, 0.5, np.float32), 0.5).tolist() == [0, 2]
    assert nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5).tolist() == []


@pytest.mark.parametrize('clamp', [None, 32])
def test_deltas_equal_those_of_mmdet(clamp):
    rng = np.random.default_rng(0)
    priors = random_boxes(400, 1)[0]
    deltas = rng.normal(0, 12, (400, 4)).astype(np.float32)  # many beyond the clips
    means, stds = (0.1, 0.0, -0.1, 0.2), (0.1, 0.2, 0.3, 0.4)
    coder = DeltaXYWHBBoxCoder(means, stds, add_ctr_clamp=clamp is not None, ctr_clamp=clamp or 32)
    with torch.no_grad():
        expected = coder.decode(torch.from_numpy(priors), torch.from_numpy(deltas), max_shape=None).numpy()
    settings = dict(means=means, stds=stds, wh_ratio_clip=16 / 1000, ctr_clamp=clamp)
    np.testing.assert_allclose(_decode_deltas(priors, deltas, settings), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('opencv', [False, True])
def test_resizing_equals_torch(monkeypatch, align_corners, opencv):
    if not opencv:
        monkeypatch.setitem(sys.modules, 'cv2', None)
    rng = np.random.default_rng(0)
    for given, wanted in [((7, 9), (56, 40)), ((40, 30), (13, 20)), ((1, 5), (4, 1)), ((33, 33), (33, 33))]:
        plane = rng.normal(size=given).astype(np.float32)
        tensor = torch.from_numpy(plane)[None, None]
        expected = torch.nn.functional.interpolate(tensor, wanted, mode='bilinear', align_corners=align_corners)
        np.testing.assert_allclose(resize_plane(plane, wanted, align_corners), expected[0, 0].numpy(), atol=1e-5)


def test_sizes_that_keep_the_ratio_equal_mmcv():
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 3000, (300, 2)).tolist():
        for scale in ((1333, 800), (640, 640), (200, 500)):
            expected = mmcv.rescale_size((width, height), scale)
            found = resized((height, width), dict(width=scale[0], height=scale[1], keep_ratio=True))
            assert found == expected[::-1]
    assert resized((5, 9), None) == (5, 9)
    assert resized((5, 9), dict(width=320, height=200, keep_ratio=False)) == (200, 320)


# -- images


@pytest.fixture
def pixels():
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (64, 48), interpolation=cv2.INTER_LINEAR)


def encoded(pixels, image_format, mode='RGB', **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, image_format, **options)
    return file.getvalue()


def oriented():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return exif


FILES = {
    'jpeg': lambda p: encoded(p, 'JPEG', quality=95),
    'jpeg_exif': lambda p: encoded(p, 'JPEG', quality=95, exif=oriented()),
    'jpeg_grey': lambda p: encoded(p, 'JPEG', 'L', quality=95),
    'png': lambda p: encoded(p, 'PNG'),
    'png_grey': lambda p: encoded(p, 'PNG', 'L'),
    'png_rgba': lambda p: encoded(p, 'PNG', 'RGBA'),
    'png_palette': lambda p: encoded(p, 'PNG', 'P'),
    'png_16_grey': lambda p: cv2.imencode('.png', p[..., 0].astype(np.uint16) * 256 + 77)[1].tobytes(),
    'webp': lambda p: encoded(p, 'WEBP', lossless=True),
    'bmp': lambda p: encoded(p, 'BMP'),
}


@pytest.mark.parametrize('kind', FILES)
def test_files_are_read_as_by_the_pipeline(tmp_path, monkeypatch, pixels, kind):
    path = tmp_path / 'image'
    path.write_bytes(FILES[kind](pixels))
    expected = LoadImage()(dict(img_path=str(path)))['img']
    assert expected.shape[:2] == ((64, 48) if 'exif' in kind else (48, 64)) and expected.std() > 20
    assert np.array_equal(read_image(path), expected)
    monkeypatch.setitem(sys.modules, 'cv2', None)
    found = read_image(path)
    assert found.dtype == np.uint8 and found.flags['C_CONTIGUOUS']
    assert np.abs(found.astype(int) - expected).max() <= (2 if 'jpeg' in kind else 0)


@pytest.mark.parametrize('opencv', [False, True])
def test_files_that_are_no_whole_image_are_refused(tmp_path, monkeypatch, pixels, opencv):
    if not opencv:
        monkeypatch.setitem(sys.modules, 'cv2', None)
    jpeg, png = encoded(pixels, 'JPEG'), encoded(pixels, 'PNG')
    for content, message in [
        (b'', r'empty \(0 bytes\)'),
        (b'no image', 'no image that OpenCV or Pillow can read'),
        (jpeg[: len(jpeg) // 2], 'truncated'),
        (png[: len(png) // 2], 'truncated'),
    ]:
        path = tmp_path / 'image.jpg'
        path.write_bytes(content)
        with pytest.raises(ImageError, match=message) as error:
            read_image(path)
        assert str(path) in str(error.value)
        with pytest.raises(BadImageError):
            LoadImage()(dict(img_path=str(path)))
    with pytest.raises(ImageError, match='No such file'):
        read_image(tmp_path / 'absent.jpg')


def test_arrays_of_other_kinds(pixels):
    grey, alpha = pixels[..., 0], np.dstack([pixels, pixels[..., :1]])
    assert np.array_equal(as_bgr(pixels), pixels)
    assert np.array_equal(as_bgr(grey), np.dstack([grey] * 3)) and np.array_equal(as_bgr(grey[..., None]), as_bgr(grey))
    assert np.array_equal(as_bgr(alpha), pixels)
    assert np.array_equal(as_bgr(pixels.astype(np.uint16) * 256 + 200), pixels)
    for bad in (pixels / 255, pixels.astype(bool), pixels[:0], pixels[:, :0], pixels[..., :2], pixels[None], [1]):
        with pytest.raises(ImageError, match=r'expected uint8 or uint16 of shape \(height, width\)'):
            as_bgr(bad)


def test_normalization_by_hand():
    image = np.zeros((2, 3, 3), np.uint8)
    image[:] = (10, 20, 30)
    settings = dict(resize=None, size_divisor=4, pad_value=-7, bgr_to_rgb=True, mean=[1, 2, 3], std=[2, 4, 5])
    settings |= dict(pad=dict(width=3, height=3, value=[1, 2, 3]), baked=False)
    description = dict(preprocessing=settings, input=dict(shape=[1, 3, None, None]))
    images, geometry = preprocess(image, description)
    assert images.shape == (1, 3, 4, 4) and geometry == ((2, 3), (3, 3), (4, 4), (1, 1))
    assert images[0, :, 0, 0].tolist() == pytest.approx([14.5, 4.5, 1.4])
    assert images[0, :, 2, 2].tolist() == pytest.approx([1, 0, -0.4])  # padded before normalization
    assert (images[0, :, 3] == -7).all() and (images[0, :, :, 3] == -7).all()
    description = dict(preprocessing=settings | dict(baked=True), input=dict(shape=[1, None, None, 3]))
    images, _ = preprocess(image, description)
    assert images.dtype == np.float32 and images.shape == (1, 4, 4, 3)  # -7 * std + mean are no pixels of 8 bits
    assert images[0, 0, 0].tolist() == [10, 20, 30] and images[0, 3, 3].tolist() == [-32, -26, -13]
    description['preprocessing']['pad_value'] = 2
    images, _ = preprocess(image, description)
    assert images.dtype == np.uint8 and images[0, 3, 3].tolist() == [13, 10, 5]
