"""LoadImage: parity with mmcv on sound files, one clear reason for every other file."""

import io
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image

import frostnet_mm.data  # noqa: F401, registers
from frostnet_mm.data import BadImageError, LoadImage
from frostnet_mm.data.loading import MEAN_GREY, lacks_end, pillow_error

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def pixels():
    """A smooth RGB image that is the same in no direction."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def write(path, pixels, image_format, mode='RGB', **options):
    Image.fromarray(pixels).convert(mode).save(path, image_format, **options)
    return path


def load(path, **kwargs):
    return LoadImage(**kwargs)(dict(img_path=str(path)))


def reason_for(path):
    with pytest.raises(BadImageError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    'image_format, mode, options',
    [
        ('JPEG', 'RGB', {}),
        ('JPEG', 'RGB', dict(progressive=True)),
        ('JPEG', 'L', {}),
        ('JPEG', 'CMYK', {}),
        ('PNG', 'RGB', {}),
        ('PNG', 'L', {}),
        ('PNG', 'RGBA', {}),
        ('PNG', 'LA', {}),
        ('PNG', 'P', {}),
        ('PNG', '1', {}),
        ('BMP', 'RGB', {}),
        ('WEBP', 'RGB', {}),
        ('TIFF', 'RGB', {}),
    ],
)
def test_equals_mmcv_bitwise(tmp_path, pixels, image_format, mode, options):
    path = str(write(tmp_path / 'image', pixels, image_format, mode, **options))
    expected = LoadImageFromFile()(dict(img_path=path))
    result = load(path)
    assert result.keys() == expected.keys()
    assert result['img'].dtype == np.uint8 and result['img'].shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(result['img'], expected['img'])
    assert result['img_shape'] == expected['img_shape'] == result['ori_shape'] == expected['ori_shape']
    assert np.array_equal(load(path, to_float32=True)['img'], expected['img'].astype(np.float32))


@pytest.mark.parametrize(
    'image_format, mode, tolerance',
    [
        ('PNG', 'RGB', 0),
        ('BMP', 'RGB', 0),
        ('TIFF', 'RGB', 0),
        ('PNG', 'L', 0),
        ('PNG', 'P', 0),
        ('GIF', 'P', 0),
        ('JPEG', 'RGB', 2),
        ('JPEG', 'CMYK', 4),
        ('WEBP', 'RGB', 2),
    ],
)
def test_equals_pillow(tmp_path, pixels, image_format, mode, tolerance):
    path = write(tmp_path / 'image', pixels, image_format, mode)
    expected = np.asarray(Image.open(path).convert('RGB'))[..., ::-1]
    assert np.abs(load(path)['img'].astype(int) - expected).max() <= tolerance


def test_alpha_is_dropped(tmp_path, pixels):
    path = tmp_path / 'image.png'
    Image.fromarray(np.dstack([pixels, np.zeros((HEIGHT, WIDTH), np.uint8)])).save(path)
    assert np.array_equal(load(path)['img'], pixels[..., ::-1])


@pytest.mark.parametrize('shape', [(4, 5), (4, 5, 3)])
def test_16_bit_keeps_the_upper_8_bits(tmp_path, shape):
    values = np.random.default_rng(1).integers(0, 65536, shape, dtype=np.uint16)
    path = tmp_path / 'image.png'
    assert cv2.imwrite(str(path), values)
    expected = np.broadcast_to((values >> 8).reshape(4, 5, -1), (4, 5, 3))
    assert np.array_equal(load(path)['img'], expected)


def test_exif_rotation_is_applied_unless_ignored(tmp_path, pixels):
    path = tmp_path / 'image.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be shown rotated by 90 degrees clockwise
    Image.fromarray(pixels).save(path, exif=exif)
    upright, stored = load(path), load(path, color_type='color_ignore_orientation')
    assert upright['ori_shape'] == (WIDTH, HEIGHT) and stored['ori_shape'] == (HEIGHT, WIDTH)
    assert np.array_equal(upright['img'], np.rot90(stored['img'], -1))


@pytest.mark.parametrize(
    'image_format, options',
    [('JPEG', {}), ('JPEG', dict(progressive=True)), ('PNG', {}), ('GIF', {}), ('WEBP', {}), ('BMP', {})],
)
@pytest.mark.parametrize('fraction', [0.5, 0.9])
def test_truncated_files(tmp_path, pixels, image_format, options, fraction):
    path = write(tmp_path / 'image', pixels, image_format, **options)
    content = path.read_bytes()
    assert not lacks_end(content) and pillow_error(content) is None
    path.write_bytes(content[: int(fraction * len(content))])
    assert lacks_end(path.read_bytes())
    reason = reason_for(path)
    assert 'truncated' in reason and f'{path.stat().st_size:,} bytes' in reason and 'Pillow says' in reason


@pytest.mark.parametrize('image_format', ['TIFF', 'PPM'])
def test_truncated_files_of_formats_without_an_end_marker(tmp_path, pixels, image_format):
    path = write(tmp_path / 'image', pixels, image_format)
    path.write_bytes(path.read_bytes()[:-2000])
    assert 'truncated' in reason_for(path)


def test_a_decoder_that_fills_up_with_grey_is_not_believed(tmp_path, pixels, monkeypatch):
    """What some versions of OpenCV do with a truncated JPEG: a whole image, the rest of it grey."""
    path = write(tmp_path / 'image.jpg', pixels, 'JPEG')
    path.write_bytes(path.read_bytes()[:-300])
    monkeypatch.setattr(cv2, 'imdecode', lambda *args: np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
    assert 'truncated' in reason_for(path)


def test_bytes_behind_the_end_of_a_jpeg_are_allowed(tmp_path, pixels):
    path = write(tmp_path / 'image.jpg', pixels, 'JPEG')
    expected = load(path)['img']
    path.write_bytes(path.read_bytes() + bytes(5000))  # a camera's trailer: the end marker is out of sight
    assert lacks_end(path.read_bytes())
    assert np.array_equal(load(path)['img'], expected)


def test_png_that_lacks_only_its_last_chunk_is_read_by_pillow(tmp_path, pixels):
    path = write(tmp_path / 'image.png', pixels, 'PNG')
    path.write_bytes(path.read_bytes()[:-12])
    assert np.array_equal(load(path)['img'], pixels[..., ::-1])


def test_16_bit_that_only_pillow_reads_keeps_the_upper_8_bits_too(tmp_path):
    path, values = tmp_path / 'image.png', np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 255
    assert cv2.imwrite(str(path), values)
    path.write_bytes(path.read_bytes()[:-12])
    assert np.array_equal(load(path)['img'], np.dstack([(values >> 8).astype(np.uint8)] * 3))


def test_missing_empty_folder_and_non_image_files(tmp_path):
    assert reason_for(tmp_path / 'none.jpg') == 'the file does not exist'
    (tmp_path / 'empty.jpg').touch()
    assert reason_for(tmp_path / 'empty.jpg') == 'the file is empty (0 bytes)'
    assert 'the file cannot be read' in reason_for(tmp_path)
    (tmp_path / 'page.jpg').write_text('<html>404</html>')
    reason = reason_for(tmp_path / 'page.jpg')
    assert 'no image' in reason and '16 bytes' in reason and '<html>' in reason
    (tmp_path / 'zeros.jpg').write_bytes(bytes(1000))
    assert 'no image' in reason_for(tmp_path / 'zeros.jpg')
    (tmp_path / 'head.jpg').write_bytes(b'\xff\xd8\xff\xd9')
    assert 'no image' in reason_for(tmp_path / 'head.jpg')


def test_image_without_pixels(tmp_path):
    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    path = tmp_path / 'image.png'
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', 0, 0, 8, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(b''))
        + chunk(b'IEND', b'')
    )
    assert 'image' in reason_for(path)


def test_image_of_one_pixel(tmp_path):
    Image.new('RGB', (1, 1), (10, 20, 30)).save(tmp_path / 'image.png')
    result = load(tmp_path / 'image.png')
    assert result['img'].tolist() == [[[30, 20, 10]]] and result['ori_shape'] == (1, 1)


def test_placeholder_replaces_the_file(tmp_path):
    results = dict(img_path=str(tmp_path / 'none.jpg'), img_placeholder=(3, 4))
    result = LoadImage()(results)
    assert result['img'].shape == (3, 4, 3) and result['ori_shape'] == (3, 4)
    assert (result['img'] == MEAN_GREY).all() and 'img_placeholder' not in result


def test_ignore_empty_returns_none(tmp_path):
    assert load(tmp_path / 'none.jpg', ignore_empty=True) is None


def test_arguments_it_cannot_honour_are_refused():
    with pytest.raises(ValueError, match="color_type='unchanged', expected one of"):
        LoadImage(color_type='unchanged')
    with pytest.raises(ValueError, match="imdecode_backend='pillow', expected 'cv2'"):
        LoadImage(imdecode_backend='pillow')


def test_both_names_are_registered():
    for name in ('frostnet_mm.LoadImage', 'frostnet_mm.LoadImageFromFile'):
        assert type(TRANSFORMS.build(dict(type=name))) is LoadImage
    assert type(TRANSFORMS.build(dict(type='LoadImageFromFile'))) is not LoadImage


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BadImageError('a/b.jpg', 'why')))
    assert (error.path, error.reason, str(error)) == ('a/b.jpg', 'why', "cannot use the image 'a/b.jpg': why")


def test_mmdets_inferencer_finds_the_loading_transform():
    det_inferencer = pytest.importorskip('mmdet.apis').DetInferencer
    pipeline = [dict(type='frostnet_mm.LoadImageFromFile')]
    # what DetInferencer._init_pipeline looks for
    assert det_inferencer._get_transform_idx(None, pipeline, ('LoadImageFromFile', LoadImageFromFile)) == 0


def test_lacks_end_of_unknown_formats_is_no_suspicion():
    assert not any(map(lacks_end, (b'P6 1 1 255 abc', b'II*\x00', b'', b'BM', io.BytesIO().getvalue())))
