"""Image files of every format: read alike by training, by the tools, by deployments with and without OpenCV."""

import io
import struct
import sys

import cv2
import numpy as np
import pytest
from image_formats import DEEP, FORMATS, by_pillow, encoded, logluv, saved, scene, write_formats
from mmengine.dataset import Compose
from PIL import Image

from frostnet_mm.data import BadImageError, LoadImage
from frostnet_mm.data.download_checks import image_size
from frostnet_mm.data.loading import loaded_image
from frostnet_mm.device import ImageError, read_image
from frostnet_mm.device.image_files import FLOAT_VALUES, SEVERAL_FRAMES, has_frames, read_decoded
from frostnet_mm.device.orientation import orientation_of


def load(path, **options):
    return LoadImage(**options)(dict(img_path=str(path)))['img']


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """The folder, and the pixels expected by file name."""
    folder = tmp_path_factory.mktemp('formats')
    return folder, write_formats(folder)


@pytest.mark.parametrize('name', [*FORMATS, *DEEP])
def test_every_reader_gives_pillows_pixels(files, name):
    folder, expected = files[0], files[1][name]
    found = load(folder / name)
    assert found.dtype == np.uint8 and found.shape == expected.shape and found.std() > 20
    assert found.shape == ((64, 48, 3) if 'turned' in name else (48, 64, 3))
    assert np.abs(found.astype(int) - expected).max() <= (FORMATS | DEEP)[name][-1]
    assert np.array_equal(read_image(folder / name), found)  # the predictor of deployments
    assert image_size(folder / name, oriented=True) == found.shape[:2]
    if name in FORMATS:
        assert image_size(folder / name, fast=True, oriented=True) == found.shape[:2]


@pytest.mark.parametrize(
    'name', [*FORMATS, *(name for name in DEEP if name not in ('float.tif', 'logluv.tif', 'double.tif'))]
)
def test_without_opencv_pillow_reads_the_same(files, name, monkeypatch):
    folder, expected = files[0], files[1][name]
    monkeypatch.setitem(sys.modules, 'cv2', None)
    found = read_image(folder / name)
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize('image_format', ['JPEG', 'PNG', 'WEBP', 'TIFF', 'AVIF', 'MPO'])
@pytest.mark.parametrize('opencv', [True, False])
def test_all_orientations(tmp_path, monkeypatch, image_format, opencv):
    if not opencv:
        monkeypatch.setitem(sys.modules, 'cv2', None)
    options = dict(WEBP=dict(lossless=True), AVIF=dict(quality=100)).get(image_format, {})
    path, stored = tmp_path / 'image', by_pillow(saved(image_format, **options))
    for orientation in range(1, 9):
        path.write_bytes(saved(image_format, orientation=orientation, **options))
        expected = by_pillow(path.read_bytes())
        assert orientation_of(path.read_bytes()) == orientation
        found = read_image(path)
        assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 2
        found = read_image(path, ignore_orientation=True)
        assert found.shape == stored.shape and np.abs(found.astype(int) - stored).max() <= 2
        for fast in (True, False):
            assert image_size(path, fast, oriented=True) == expected.shape[:2]
            assert image_size(path, fast, oriented=False) == (48, 64)
        if opencv:
            assert np.array_equal(load(path, color_type='color_ignore_orientation'), found)


def test_orientation_of_other_byte_orders_and_of_damaged_blocks(tmp_path):
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0'
    jpeg = saved('JPEG')
    turned = jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + jpeg[2:]
    assert orientation_of(turned) == 8
    assert orientation_of(turned[:20]) == orientation_of(turned[:2]) == orientation_of(b'') == 1
    assert orientation_of(turned.replace(b'\0\x01\0\x08', b'\0\x01\0\x09')) == 1  # there is no ninth
    (tmp_path / 'image').write_bytes(turned)
    assert np.array_equal(load(tmp_path / 'image'), np.rot90(cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)))


def test_other_numbers_of_tiffs_are_refused(tmp_path):
    path = tmp_path / 'image.tif'
    path.write_bytes(encoded('.tif', scene().astype(np.int16) - 100))
    with pytest.raises(BadImageError, match='int16 from -9[0-9] to 1[0-9]*; expected floats from 0 to 1, or unsigned'):
        load(path)
    content = bytearray(encoded('.tif', (scene() / 255).astype(np.float32)))
    tag = content.index(struct.pack('<HHIHH', 284, 3, 1, 1, 0))  # one plane a channel, of which OpenCV makes noise
    content[tag + 8] = 2
    path.write_bytes(content)
    with pytest.raises(BadImageError, match='float planes|of a kind that is not decoded'):
        load(path)


@pytest.mark.parametrize('high', [2, 255, 65535])
@pytest.mark.parametrize('channels', [1, 3])
def test_floats_of_no_known_range_are_refused_with_the_way_out(tmp_path, high, channels):
    values = (scene()[..., :channels].squeeze() / 255 * high).astype(np.float32)
    path = tmp_path / 'image.tif'
    path.write_bytes(encoded('.tif', values))
    with pytest.raises(BadImageError) as error:
        load(path)
    bounds = f'float32 from {values.min():g} to {values.max():g}'
    assert bounds in str(error.value) and 'expected floats from 0 to 1' in str(error.value)
    with pytest.raises(ImageError, match='cv2.imwrite'):
        read_image(path)


def test_white_and_black_survive_what_opencv_makes_of_floats(tmp_path):
    for value in (0, 1):
        (tmp_path / 'image.tif').write_bytes(logluv(np.full((4, 5, 3), value)))
        assert np.abs(load(tmp_path / 'image.tif').astype(int) - 255 * value).max() <= 4  # of 255


def test_what_is_not_a_number_is_refused(tmp_path):
    values = (scene() / 255).astype(np.float32)
    values[3, 4] = np.nan
    (tmp_path / 'image.tif').write_bytes(encoded('.tif', values))
    with pytest.raises(BadImageError, match='float32 from nan to nan'):
        load(tmp_path / 'image.tif')


def test_what_is_read_in_part_is_said_once(files, monkeypatch):
    said = []
    monkeypatch.setattr('frostnet_mm.data.loading._SAID', set())
    monkeypatch.setattr('frostnet_mm.data.loading.print_log', lambda text, logger: said.append(text))
    names = sorted(path.name for path in files[0].iterdir() if has_frames(path.read_bytes()))
    assert names == ['animated.gif', 'animated.png', 'animated.webp', 'pages.tif']
    for name in (*names, 'float.tif', 'double.tif', 'plain.gif'):
        load(files[0] / name)
    assert len(said) == 2 and f"animated.gif' {SEVERAL_FRAMES}" in said[0] and f"float.tif' {FLOAT_VALUES}" in said[1]
    assert read_decoded(files[0] / 'animated.gif').note == SEVERAL_FRAMES
    assert read_decoded(files[0] / 'plain.gif').note == ''


@pytest.mark.parametrize('image_format', ['JPEG2000', 'AVIF', 'TIFF', 'GIF', 'WEBP', 'BMP', 'PNG', 'JPEG', 'PPM'])
@pytest.mark.parametrize('opencv', [True, False])
def test_truncated_files_are_refused(tmp_path, monkeypatch, image_format, opencv):
    if not opencv:
        monkeypatch.setitem(sys.modules, 'cv2', None)
    content, path = saved(image_format), tmp_path / 'image'
    for share in (0.5, 0.8):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ImageError, match='truncated|no image|damaged'):
            read_image(path)
        if opencv:
            with pytest.raises(BadImageError):
                load(path)


def test_more_pixels_than_are_decoded(tmp_path):
    header = struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)
    content = bytearray(saved('PNG'))
    content[16:29] = header
    content[29:33] = struct.pack('>I', __import__('zlib').crc32(b'IHDR' + header))
    (tmp_path / 'image.png').write_bytes(content)
    with pytest.raises(BadImageError, match='more pixels than are decoded: shrink it or cut it into tiles'):
        load(tmp_path / 'image.png')


def test_heic_is_named(tmp_path):
    (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(100))
    with pytest.raises(BadImageError, match='HEIC photograph.*convert it to JPEG or PNG'):
        load(tmp_path / 'a.heic')


class Wrapped:
    """Like one of mm's wrappers around data sets."""

    def __init__(self, *transforms):
        self.dataset = type('Dataset', (), dict(pipeline=Compose(list(transforms))))()


def test_drawing_takes_the_pixels_of_the_data_sets_loader(files):
    folder, expected = files
    path = str(folder / 'turned.webp')
    assert np.array_equal(loaded_image(Wrapped(LoadImage()), path), expected['turned.webp'])
    stored = loaded_image(Wrapped(LoadImage(color_type='color_ignore_orientation', to_float32=True)), path)
    assert stored.dtype == np.uint8 and np.array_equal(np.rot90(stored, -1), expected['turned.webp'])
    plain = dict(type='LoadImageFromFile', color_type='grayscale')
    grey = loaded_image(Wrapped(plain), str(folder / 'plain.png'))
    assert grey.shape == (48, 64, 3) and np.ptp(grey, axis=2).max() == 0
    in_memory = loaded_image(Wrapped(dict(type='mmdet.LoadImageFromNDArray')), path)
    assert np.array_equal(in_memory, expected['turned.webp'])
    with pytest.raises(BadImageError, match='leaves it out'):
        loaded_image(Wrapped(LoadImage(ignore_empty=True)), str(folder / 'absent.png'))


def test_a_mask_of_two_bytes_a_pixel_keeps_its_values(tmp_path):
    from frostnet_mm.device.pictures import write_image

    labels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    write_image(tmp_path / 'a/mask.png', labels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO((tmp_path / 'a/mask.png').read_bytes()))), labels)
