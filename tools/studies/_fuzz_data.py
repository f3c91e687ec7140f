"""Inputs for the fuzzer: images, COCO annotations, label maps."""

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from _fuzz_mutations import Generator, chance, pick, spoil_bytes, spoil_data, with_checksums
from PIL import Image

CLASSES = ('cat', 'dog', 'owl')
HEIGHT, WIDTH = 30, 40
COUNT = 6  # images of a data set


class Kind:
    """Inputs of one kind.

    Attributes:
        name (str): On the command line.
        share (float): Of all inputs.
        alone (bool): Whether each input gets a process of its own.
    """

    name = ''
    share = 0.0
    alone = False

    def prepare(self, base: Path) -> None:
        """Write what inputs are made of, once."""

    def load(self, base: Path) -> None:
        """Import what is tried, and read what was prepared."""

    def write(self, rng: Generator, folder: Path) -> str:
        """Write an input; returns what it is, in words."""
        raise NotImplementedError

    def run(self, rng: Generator, folder: Path, out: Path) -> str:
        """Take it as a user's file; returns what came of it, in words. Only ``out`` may be written to."""
        raise NotImplementedError


def _pixels(rng: Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Something between a picture and noise (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    noise = rng.integers(0, 64, (height, width, 3))
    return ((np.stack([x * 5, y * 7, x + y], 2) + noise) % 256).astype(np.uint8)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _jpeg(rng: Generator, image: Image.Image) -> bytes:
    image = image.convert(pick(rng, ('RGB', 'RGB', 'L', 'CMYK')))
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 10))
    options = dict(exif=exif) if chance(rng, 0.5) else {}
    return _saved(image, 'JPEG', quality=int(rng.integers(1, 101)), progressive=chance(rng, 0.3), **options)


def _png(rng: Generator, image: Image.Image) -> bytes:
    mode = pick(rng, ('RGB', 'RGBA', 'L', 'LA', 'P', '1', 'I;16'))
    if mode == 'I;16':
        return _saved(Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257), 'PNG')
    image = image.convert(mode)
    if chance(rng, 0.1):
        return _saved(image, 'PNG', save_all=True, append_images=[image.transpose(0)])
    return _saved(image, 'PNG', compress_level=int(rng.integers(10)))


def _webp(rng: Generator, image: Image.Image) -> bytes:
    image = image.convert(pick(rng, ('RGB', 'RGBA')))
    more = dict(save_all=True, append_images=[image.transpose(0)]) if chance(rng, 0.2) else {}
    return _saved(image, 'WEBP', lossless=chance(rng, 0.4), method=0, **more)


def _tiff(rng: Generator, image: Image.Image) -> bytes:
    mode = pick(rng, ('RGB', 'RGBA', 'L', 'P', '1', 'CMYK', 'I;16', 'F', 'I'))
    if mode in ('I;16', 'F', 'I'):
        kind = {'I;16': np.uint16, 'F': np.float32, 'I': np.int32}[mode]
        values = np.asarray(image.convert('L')) / (255 if chance(rng, 0.5) else 1)
        return _saved(Image.fromarray(values.astype(kind)), 'TIFF')
    packed = pick(rng, (None, None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'tiff_deflate'))
    packed = 'jpeg' if mode in ('RGB', 'L') and chance(rng, 0.1) else packed
    more = dict(save_all=True, append_images=[image.convert(mode)]) if chance(rng, 0.2) else {}
    return _saved(image.convert(mode), 'TIFF', compression=packed, **more)


def _other(rng: Generator, image: Image.Image) -> bytes:
    kind = pick(rng, ('GIF', 'BMP', 'PPM', 'JPEG2000', 'AVIF', 'ICO', 'TGA'))
    return _saved(image if kind != 'GIF' else image.convert('P'), kind)


FORMATS = dict(jpg=_jpeg, png=_png, webp=_webp, tif=_tiff, other=_other)


def _image(rng: Generator) -> tuple[str, bytes]:
    suffix = pick(rng, ('jpg', 'png', 'webp', 'tif', 'jpg', 'png', 'webp', 'tif', 'other'))
    size = (int(rng.integers(1, 100)), int(rng.integers(1, 100))) if chance(rng, 0.5) else (HEIGHT, WIDTH)
    return suffix, FORMATS[suffix](rng, Image.fromarray(_pixels(rng, *size)))


def _spoilt(rng: Generator, content: bytes) -> bytes:
    content = spoil_bytes(rng, content)
    return with_checksums(content) if chance(rng, 0.6) else content


class Images(Kind):
    """Image files, read by the one reader of training, tools and deployments."""

    name, share = 'images', 0.4

    def load(self, base: Path) -> None:
        """See the base class."""
        from frostnet_mm.data.loading import LoadImage
        from frostnet_mm.device import image_files

        self.files, self.loader = image_files, LoadImage
        self.optional = image_files.optional

    def write(self, rng: Generator, folder: Path) -> str:
        """See the base class."""
        suffix, content = _image(rng)
        content = content if chance(rng, 0.05) else _spoilt(rng, content)
        wrong = pick(rng, ('png', 'jpg', 'tif', 'webp', 'gif', 'txt')) if chance(rng, 0.1) else suffix
        (folder / f'image.{wrong}').write_bytes(content)
        return f'{suffix}, {len(content)} bytes'

    def run(self, rng: Generator, folder: Path, out: Path) -> str:
        """See the base class."""
        path, ignore = next(folder.glob('image.*')), chance(rng, 0.3)
        lacking = pick(rng, ('cv2', 'PIL.Image')) if chance(rng, 0.3) else None  # what a device may have none of
        self.files.optional = lambda name: None if name == lacking else self.optional(name)
        try:
            image, note = self.files.read_decoded(path, ignore)
        finally:
            self.files.optional = self.optional
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
        assert isinstance(note, str)
        if lacking is None:
            results = self.loader(color_type='color_ignore_orientation' if ignore else 'color')(
                dict(img_path=str(path))
            )
            assert np.array_equal(results['img'], image)
        return f'{image.shape}'


def _coco_data() -> dict:
    """Sound annotations, with what exporters add."""
    images = [dict(id=i, file_name=f'{i:04d}.jpg', width=WIDTH, height=HEIGHT, license=1) for i in range(1, COUNT + 1)]
    entries = [
        dict(
            id=2 * i + j,
            image_id=i,
            category_id=(7, 3, 12)[i % 3],
            bbox=[3.0 * j, 4, 10 + i, 12.5],
            area=120.5,
            iscrowd=int(i == 3 and j == 1),
            segmentation=[[3.0, 4.0, 13.0, 4.0, 13.0, 16.5]],
        )
        for i in range(1, COUNT + 1)
        for j in range(2)
    ]
    categories = [dict(id=i, name=n, supercategory='animal') for i, n in zip((7, 3, 12), CLASSES, strict=True)]
    return dict(info=dict(year=2020), licenses=[], images=images, annotations=entries, categories=categories)


class Coco(Kind):
    """COCO annotations, read for training and for evaluation."""

    name, share = 'coco', 0.2

    def prepare(self, base: Path) -> None:
        """See the base class."""
        (base / 'images').mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for image in _coco_data()['images']:
            Image.fromarray(_pixels(rng)).save(base / 'images' / image['file_name'])

    def load(self, base: Path) -> None:
        """See the base class."""
        from frostnet_mm.data import CheckedCocoDataset
        from frostnet_mm.data.coco_json import read_coco_classes
        from frostnet_mm.data.ground_truth import read_ground_truth, settle_ground_truth

        self.images, self.dataset, self.classes = base / 'images', CheckedCocoDataset, read_coco_classes
        self.read, self.settle = read_ground_truth, settle_ground_truth

    def write(self, rng: Generator, folder: Path) -> str:
        """See the base class."""
        data, what = _coco_data(), 'values'
        if chance(rng, 0.8):
            data = spoil_data(rng, data)
        content = json.dumps(data, ensure_ascii=chance(rng, 0.8)).encode('utf-8', 'surrogatepass')
        if chance(rng, 0.25):
            content, what = spoil_bytes(rng, content), 'values and bytes'
        if chance(rng, 0.02):
            key = pick(rng, (b'"images": [', b'"bbox": [', b'"info": {'))
            content, what = content.replace(key, key[:-1] + b'[' * 100_000, 1), 'nested without end'
        (folder / 'train.json').write_bytes(content)
        return what

    def run(self, rng: Generator, folder: Path, out: Path) -> str:
        """See the base class."""
        path, test = str(folder / 'train.json'), chance(rng, 0.4)
        classes = CLASSES if chance(rng, 0.7) else self.classes(path)
        steps = [dict(type='frostnet_mm.LoadImage'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
        dataset = self.dataset(
            ann_file=path,
            data_prefix=dict(img=str(self.images)),
            metainfo=dict(classes=classes),
            pipeline=[*steps, dict(type='mmdet.PackDetInputs')],
            test_mode=test,
            filter_cfg=None if test else dict(filter_empty_gt=True, min_size=4),
            max_bad_fraction=0.5,
        )
        for index in range(min(len(dataset), 3)):
            dataset[index]
        if test:
            sizes = {
                info['img_id']: (info['height'], info['width'])
                for info in map(dataset.get_data_info, range(len(dataset)))
            }
            self.settle(self.read(path), dataset.metainfo['classes'], sizes, path)
        return f'{len(dataset)} images'


class Labels(Kind):
    """Label maps of semantic segmentation, for training, evaluation, and as Cityscapes' label ids."""

    name, share = 'labels', 0.15

    def prepare(self, base: Path) -> None:
        """See the base class."""
        (base / 'images').mkdir(parents=True, exist_ok=True)
        (base / 'labels').mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for index in range(3):
            Image.fromarray(_pixels(rng)).save(base / 'images' / f'{index}.png')
            Image.fromarray(self._values(rng)).save(base / 'labels' / f'{index}.png')

    @staticmethod
    def _values(rng: Generator) -> np.ndarray:
        values = rng.integers(0, len(CLASSES), (HEIGHT // 5, WIDTH // 5), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
        values[-1] = 255
        return values

    def load(self, base: Path) -> None:
        """See the base class."""
        from frostnet_mm.data import CheckedSegDataset
        from frostnet_mm.data.cityscapes_checks import check_cityscapes
        from frostnet_mm.data.segmentation_labels import read_labels

        self.base, self.dataset, self.check, self.read = base, CheckedSegDataset, check_cityscapes, read_labels

    def write(self, rng: Generator, folder: Path) -> str:
        """See the base class."""
        import cv2

        values = self._values(rng)
        if chance(rng, 0.4):  # values that mean nothing, or are label ids
            values = (
                values + pick(rng, (1, 3, 7, 20, 100, 250)).__int__() if chance(rng, 0.5) else _spoilt_map(rng, values)
            )
            values = values.astype(np.uint8)
        if chance(rng, 0.15):
            values = values[: int(rng.integers(1, HEIGHT + 1)), : int(rng.integers(1, WIDTH + 1))]
        grey = Image.fromarray(values)
        form = pick(rng, ('L', 'L', 'P', 'RGB', 'RGBA', 'LA', 'I;16', 'I', '1', 'tif', 'jpg', 'webp', 'deep', 'float'))
        if form == 'P':
            grey.putpalette(list(rng.bytes(768)))
            content = _saved(grey, 'PNG')
        elif form in ('I;16', 'I'):
            content = _saved(Image.fromarray(values.astype(np.uint16 if form == 'I;16' else np.int32)), 'PNG')
        elif form == 'deep':
            content = cv2.imencode('.png', np.repeat(values[..., None].astype(np.uint16), 3, 2))[1].tobytes()
        elif form == 'float':
            content = _saved(Image.fromarray(values.astype(np.float32) / pick(rng, (1, 2))), 'TIFF')
        else:
            kind = dict(tif='TIFF', jpg='JPEG', webp='WEBP').get(form, 'PNG')
            content = _saved(grey.convert(form) if kind == 'PNG' else grey, kind)
        content = _spoilt(rng, content) if chance(rng, 0.7) else content
        (folder / '1.png').write_bytes(content)
        return form

    def run(self, rng: Generator, folder: Path, out: Path) -> str:
        """See the base class."""
        if chance(rng, 0.2):
            return self._cityscapes(folder, out)
        labels = out / 'labels'
        labels.mkdir()
        for index in range(3):
            source = folder if index == 1 else self.base / 'labels'
            (labels / f'{index}.png').symlink_to(source / f'{index}.png')
        dataset = self.dataset(
            data_prefix=dict(img_path=str(self.base / 'images'), seg_map_path=str(labels)),
            img_suffix='.png',
            seg_map_suffix='.png',
            metainfo=dict(classes=CLASSES),
            pipeline=[
                dict(type='frostnet_mm.LoadImage'),
                dict(type='frostnet_mm.LoadSegAnnotations'),
                dict(type='mmseg.PackSegInputs'),
            ],
            reduce_zero_label=chance(rng, 0.2),
            test_mode=chance(rng, 0.4),
            max_bad_fraction=0.5,
        )
        for index in range(len(dataset)):
            dataset[index]
        return f'{self.read(folder / "1.png").values.shape}'

    def _cityscapes(self, folder: Path, out: Path) -> str:
        """A download of Cityscapes with one label of ours."""
        for kind, name in (('leftImg8bit', 'a_leftImg8bit.png'), ('gtFine', 'a_gtFine_labelIds.png')):
            place = out / kind / 'train' / 'city'
            place.mkdir(parents=True)
            source = folder / '1.png' if kind == 'gtFine' else self.base / 'images/1.png'
            (place / name).write_bytes(source.read_bytes())
        report = self.check(out)
        return f'{len(report.problems)} problems' if hasattr(report, 'problems') else 'checked'


def _spoilt_map(rng: Generator, values: np.ndarray) -> np.ndarray:
    values = values.copy()
    for _ in range(int(rng.integers(1, 6))):
        values[rng.integers(values.shape[0]), rng.integers(values.shape[1])] = rng.integers(256)
    return values


def seed_everything(seed: int) -> None:
    """What data sets draw their random samples with."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
