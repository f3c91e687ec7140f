"""A small, synthetic segmentation data set in Cityscapes' layout, generated from a seed.

Every image comes from its own random stream, ``default_rng([seed, split, index])``, so neither the order nor the number
of the images matters to its bytes: the first 50 training images of a larger set are those of a smaller one. Equal bytes
need equal versions of numpy and OpenCV, which the data set's README names.
"""

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np

from ..cityscapes import (
    CLASSES,
    COLOR_SUFFIX,
    IGNORED,
    IMAGE_SUFFIX,
    LABEL_IDS_SUFFIX,
    NUM_CLASSES,
    POLYGONS_SUFFIX,
    TRAIN_IDS_SUFFIX,
    to_colors,
    to_train_ids,
)
from .files import STAMP, finished_counts, partial_prefix, progress_bar, remove_partials, write_whole
from .street import MIN_SIDE_IMAGE, render_street

GENERATOR_VERSION = '1.0'  # raise it whenever the bytes of a generated set change
SPLITS = dict(train=0, val=1)
CITIES = dict(train=('birkenau', 'lindenhof', 'steinfurth'), val=('falkenrode',))  # as in Cityscapes, none in both
SNIPPET = 100  # images of a city
DEFAULT_SIZE = (256, 512)  # (height, width): Cityscapes' shape at an eighth of its 1024x2048
MARKER = '.mini_cityscapes.json'  # written first: the parameters, and that the folder is ours
_FOLDERS = ('leftImg8bit', 'gtFine')
_README = """# mini Cityscapes: synthetic data

Generated drawings of streets, not photographs, in the layout of Cityscapes. Figures measured on it say nothing about
Cityscapes: state that the data is synthetic wherever they appear.

| | |
|---|---|
| generator | `tools/make_mini_data.py cityscapes`, version {version} |
| seed | {seed} |
| size | {width}x{height} pixels (width x height) |
| numpy, OpenCV | {numpy}, {opencv} (other versions may give other bytes) |

| | train | val |
|---|---|---|
{table}

Shares are of all pixels. Void is what Cityscapes ignores (train id 255): the bonnet of the camera's car, the border,
parking bays, rails, bins and bags. Beside each `labelIds` there are `labelTrainIds`, `color` and `polygons`, the latter
in painting order with whole-pixel corners, so that what they rasterise to differs from `labelIds` along edges.
"""


def _encode_png(image):
    done, data = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not done:
        raise RuntimeError(f'OpenCV could not encode a PNG of shape {image.shape}')
    return data.tobytes()


def sample_stem(split, index):
    """Folder and beginning of the file names of an image.

    Args:
        split (str): 'train' or 'val'.
        index (int): Number of the image in its split, from 0.

    Returns:
        str: ``<split>/<city>/<city>_SSSSSS_000019``; 19 is the frame that Cityscapes annotates of each snippet.
    """
    cities = CITIES[split]
    city = cities[index // SNIPPET % len(cities)]
    return f'{split}/{city}/{city}_{index:06d}_000019'


def make_sample(seed, split, index, size=DEFAULT_SIZE):
    """One street of the data set, independent of all others.

    Args:
        seed (int): Seed of the data set, not negative.
        split (str): 'train' or 'val'.
        index (int): Number of the image in its split, from 0.
        size (tuple[int, int]): (height, width) in pixels.

    Returns:
        StreetScene: The street. Six in a row hold every class, unless one is hidden by chance.
    """
    rng = np.random.default_rng([seed, SPLITS[split], index])
    return render_street(rng, *size, special=index)


def _write_sample(root, split, index, scene, scratch):
    stem = sample_stem(split, index)
    polygons = dict(
        imgHeight=scene.labels.shape[0],
        imgWidth=scene.labels.shape[1],
        objects=[dict(label=label, polygon=corners) for label, corners in scene.polygons],
    )
    annotations = {
        LABEL_IDS_SUFFIX: _encode_png(scene.labels),
        TRAIN_IDS_SUFFIX: _encode_png(to_train_ids(scene.labels)),
        COLOR_SUFFIX: _encode_png(to_colors(scene.labels)[..., ::-1]),
        POLYGONS_SUFFIX: json.dumps(polygons, separators=(',', ':')),
    }
    for folder in _FOLDERS:
        (root / folder / stem).parent.mkdir(parents=True, exist_ok=True)
    for suffix, data in annotations.items():
        write_whole(root / 'gtFine' / (stem + suffix), data, scratch)
    write_whole(root / 'leftImg8bit' / (stem + IMAGE_SUFFIX), _encode_png(scene.image), scratch)


def _write_split(root, split, count, seed, size, scratch, bar):
    """Images and annotations of one split; returns its counts."""
    pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for index in range(count):
        scene = make_sample(seed, split, index, size)
        _write_sample(root, split, index, scene, scratch)
        own = np.bincount(to_train_ids(scene.labels).ravel(), minlength=256)
        pixels += own
        images += own > 0
        bar.update()
    train_ids = [*range(NUM_CLASSES), IGNORED]
    names = [*CLASSES, 'void']
    return dict(
        images=count,
        pixels={name: int(pixels[i]) for name, i in zip(names, train_ids, strict=True)},
        images_with={name: int(images[i]) for name, i in zip(names, train_ids, strict=True)},
    )


def _is_whole(root, counts):
    """Whether the files that a stamp speaks of are there."""
    wanted = {suffix: 'gtFine' for suffix in (LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX, COLOR_SUFFIX, POLYGONS_SUFFIX)}
    wanted[IMAGE_SUFFIX] = 'leftImg8bit'
    return all(
        (root / folder / (sample_stem(split, index) + suffix)).is_file()
        for split in SPLITS
        for index in range(counts[split]['images'])
        for suffix, folder in wanted.items()
    )


def _readme(parameters, counts):
    rows = [('images', *(counts[split]['images'] for split in SPLITS))]
    for name in (*CLASSES, 'void'):
        shares = [counts[split]['pixels'][name] / sum(counts[split]['pixels'].values()) for split in SPLITS]
        rows.append((name, *(f'{share:.2%}' for share in shares)))
    table = '\n'.join('| {} | {} | {} |'.format(*row) for row in rows)
    return _README.format(table=table, numpy=np.__version__, opencv=cv2.__version__, **parameters)


def generate_mini_cityscapes(
    root, num_train=300, num_val=60, seed=0, size=DEFAULT_SIZE, overwrite=False, progress=True
):
    """Write the data set, or return at once where it is already there.

    Writes ``leftImg8bit/{train,val}/<city>/*_leftImg8bit.png``, ``gtFine/{train,val}/<city>/*_gtFine_*`` (label ids,
    train ids, colours, polygons) and a README. An interrupted run is taken up by calling again: it starts over and
    writes the same bytes. One process at a time may write to a folder.

    Args:
        root (str | Path): Folder of the data set; made if missing.
        num_train (int): Training images, at least 1.
        num_val (int): Validation images, at least 1.
        seed (int): Seed, not negative.
        size (tuple[int, int]): (height, width) of the images in pixels, each at least 64.
        overwrite (bool): Replace a generated data set with other parameters. A folder that this function did not make
            is never touched.
        progress (bool): Show a bar on stderr.

    Returns:
        dict: For 'train' and 'val' the number of ``images``, and by class name (and 'void') ``pixels`` and
        ``images_with``, the number of images in which it occurs.

    Raises:
        ValueError: If a number is out of its range.
        NotADirectoryError: If ``root`` is a file.
        FileExistsError: If ``root`` holds something else, or another data set without overwrite.
    """
    if num_train < 1 or num_val < 1 or seed < 0 or min(size) < MIN_SIDE_IMAGE:
        raise ValueError(
            f'need num_train >= 1, num_val >= 1, seed >= 0 and a size of at least {MIN_SIDE_IMAGE} pixels, '
            f'got {num_train}, {num_val}, {seed} and {tuple(size)}'
        )
    root = Path(root)
    parameters = dict(
        version=GENERATOR_VERSION, seed=seed, num_train=num_train, num_val=num_val, height=size[0], width=size[1]
    )
    counts = finished_counts(root, parameters, overwrite, MARKER, _FOLDERS, _is_whole)
    if counts is not None:
        return counts
    root.mkdir(parents=True, exist_ok=True)
    remove_partials(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=partial_prefix()) as scratch:
        write_whole(root / MARKER, json.dumps(parameters), scratch)
        counts = {}
        with progress_bar(num_train + num_val, progress, 'mini Cityscapes') as bar:
            for split, count in dict(train=num_train, val=num_val).items():
                counts[split] = _write_split(root, split, count, seed, tuple(size), scratch, bar)
        write_whole(root / 'README.md', _readme(parameters, counts), scratch)
        write_whole(root / STAMP, json.dumps(dict(parameters=parameters, counts=counts)), scratch)
    return counts
