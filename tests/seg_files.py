"""A small segmentation data set, and the kinds of labels that people have."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from frostnet_mm.data import CheckedSegDataset

CLASSES = ('sky', 'road', 'car')
LOAD = [dict(type='frostnet_mm.LoadImage'), dict(type='frostnet_mm.LoadSegAnnotations')]
PACK = [*LOAD, dict(type='mmseg.PackSegInputs')]
HEIGHT, WIDTH = 24, 36


def labels_of(index, classes=3, size=(HEIGHT, WIDTH)):
    """Labels with every class and ignored pixels, other ones for each index."""
    labels = np.random.default_rng(index).integers(0, classes, size, dtype=np.uint8)
    labels[0, :3], labels[-1] = range(3), 255
    return labels


def write(root, count=10, split='train', labels=labels_of, size=(HEIGHT, WIDTH), image='.jpg'):
    """``images/<split>/<index><image>`` and ``labels/<split>/<index>.png``; returns the folder."""
    for index in range(count):
        for folder in ('images', 'labels'):
            (Path(root) / folder / split).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(root) / 'images' / split / f'{index:03d}{image}')
        Image.fromarray(labels(index)).save(label_path(root, index, split))
    return root


def label_path(root, index, split='train'):
    return Path(root) / 'labels' / split / f'{index:03d}.png'


def image_path(root, index, split='train'):
    return Path(root) / 'images' / split / f'{index:03d}.jpg'


def build(root, cls=CheckedSegDataset, split='train', classes=CLASSES, pipeline=LOAD, **kwargs):
    prefix = dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}')
    metainfo = dict(classes=classes) if classes else None
    given = dict(
        data_root=str(root), data_prefix=prefix, metainfo=metainfo, pipeline=pipeline, test_mode=split == 'val'
    )
    return cls(**(given | kwargs))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-60])


def change(path, edit):
    """Edit the pixels of a label."""
    labels = np.array(Image.open(path))
    edit(labels)
    Image.fromarray(labels).save(path)


# -- forms of labels


def save_grey_bits(labels, path, bits):
    """A PNG of 1, 2 or 4 bits grey, as pypng writes it; written by hand, as Pillow and OpenCV cannot."""
    height, width = labels.shape
    rows = b''
    for row in labels:
        unpacked = np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()
        rows += b'\0' + np.packbits(unpacked).tobytes()

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    head = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)
    parts = (b'IHDR', head), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')
    Path(path).write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts))


def save_palette(labels, path):
    image = Image.fromarray(labels).convert('L')
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tolist())
    assert image.mode == 'P'
    image.save(path)


def stacked(labels, channels=3):
    return np.stack([labels] * channels, -1)


FORMS = {
    '8 bit grey': lambda labels, path: Image.fromarray(labels).save(path),
    'palette': save_palette,
    '16 bit': lambda labels, path: cv2.imwrite(str(path), labels.astype(np.uint16)),
    '32 bit': lambda labels, path: Image.fromarray(labels.astype(np.int32)).save(path, format='TIFF'),
    'floating point': lambda labels, path: Image.fromarray(labels.astype(np.float32)).save(path, format='TIFF'),
    'RGB': lambda labels, path: Image.fromarray(stacked(labels)).save(path),
    'RGBA': lambda labels, path: Image.fromarray(np.dstack([stacked(labels), 99 + 0 * labels])).save(path),
    'grey and alpha': lambda labels, path: Image.merge('LA', [Image.fromarray(labels)] * 2).save(path),
    'RGB of 16 bits': lambda labels, path: cv2.imwrite(str(path), stacked(labels.astype(np.uint16))),
    'RGBA of 16 bits': lambda labels, path: cv2.imwrite(str(path), stacked(labels.astype(np.uint16), 4)),
    'BMP': lambda labels, path: Image.fromarray(labels).save(path, format='BMP'),
}
