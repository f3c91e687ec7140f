"""A small, synthetic detection data set in COCO's layout, generated from a seed.

Every image comes from its own random stream, ``default_rng([seed, split, index])``, so neither the
order nor the number of the images matters to its bytes: the first 200 training images of a larger
set are those of a smaller one. Equal bytes need equal versions of numpy and OpenCV, which the data
set's README names.
"""

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np

from .files import STAMP, finished_counts, partial_prefix, progress_bar, remove_partials, write_whole
from .masks import mask_to_bbox, mask_to_polygons, mask_to_rle
from .scenes import CLASSES, MIN_SIDE, MIN_VISIBLE, render_scene

GENERATOR_VERSION = '1.0'  # raise it whenever the bytes of a generated set change
# Ids with gaps, not from 0, as in COCO: code that takes them for indices fails on them.
CATEGORY_IDS = dict(zip(CLASSES, (1, 2, 4, 7, 8, 11), strict=True))
SUPERCATEGORIES = dict(
    disc='round', square='polygon', triangle='polygon', star='pointed', ring='round', cross='pointed'
)
SPLITS = dict(train=0, val=1)
IMAGE_SIZES = ((192, 256), (256, 192), (256, 256), (240, 320))  # (height, width)
EMPTY_EVERY = 20  # one image in 20 has no objects: 5 %
CROWD_EVERY = 12
MAX_JPEG_BYTES = 32 * 1024
MARKER = '.mini_coco.json'  # written first: the parameters, and that the folder is ours
_FOLDERS = ('train2017', 'val2017', 'annotations')
_README = """# mini COCO: synthetic data

Generated images of drawn shapes, not photographs, in the layout of COCO 2017. Figures measured on
it say nothing about COCO: state that the data is synthetic wherever they appear.

| | |
|---|---|
| generator | `tools/make_mini_data.py coco`, version {version} |
| seed | {seed} |
| numpy, OpenCV | {numpy}, {opencv} (other versions may give other bytes) |
| classes | {classes} |

| | train | val |
|---|---|---|
{table}

Areas are those of the visible masks, with COCO's limits of 32x32 and 96x96 pixels. Objects of which
less than {visible:.0%} is visible, or whose visible box is under {side} pixels on a side, are drawn
but not annotated. Polygons run along pixel edges and decode to the exact visible mask. Crowds are
clusters of one class with `iscrowd` 1 and run lengths, as in COCO.
"""


def _encode_jpeg(image, quality):
    """JPEG bytes, at a lower quality where the wanted one is over `MAX_JPEG_BYTES`."""
    for step in range(quality, 4, -8):
        done, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, step])
        if not done:
            raise RuntimeError(f'OpenCV could not encode a JPEG of shape {image.shape}')
        if data.size <= MAX_JPEG_BYTES:
            break
    return data.tobytes()


def _annotate(item, annotation_id, image_id):
    """COCO annotation of one visible object."""
    segmentation = mask_to_rle(item.mask) if item.iscrowd else mask_to_polygons(item.mask)
    return dict(
        segmentation=segmentation,
        area=int(np.count_nonzero(item.mask)),
        iscrowd=int(item.iscrowd),
        image_id=image_id,
        bbox=mask_to_bbox(item.mask),
        category_id=CATEGORY_IDS[item.category],
        id=annotation_id,
    )


def make_sample(seed, split, index):
    """One image of the data set, independent of all others.

    Args:
        seed (int): Seed of the data set, not negative.
        split (str): 'train' or 'val'.
        index (int): Number of the image in its split, from 0.

    Returns:
        tuple[bytes, dict, list[dict]]: The JPEG file, COCO's image entry and its annotations.
    """
    rng = np.random.default_rng([seed, SPLITS[split], index])
    height, width = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    # Empty and crowded images come at fixed numbers, so that every set of 20 or more has both.
    scene = render_scene(rng, height, width, empty=index % EMPTY_EVERY == 13, crowd=index % CROWD_EVERY == 5)
    data = _encode_jpeg(scene.image, int(rng.integers(55, 93)))
    image_id = 2 * index + 1 + SPLITS[split]  # odd: train, even: val; no id in both
    entry = dict(license=1, file_name=f'{image_id:012d}.jpg', height=height, width=width, id=image_id)
    annotations = [
        _annotate(item, image_id * 100 + number, image_id) for number, item in enumerate(scene.annotated(), start=1)
    ]
    return data, entry, annotations


def _coco_header(seed):
    """Everything of the json but the images and annotations."""
    return dict(
        info=dict(
            description=f'mini COCO, synthetic (generated with seed {seed})',
            url='',
            version=GENERATOR_VERSION,
            year=2025,
            contributor='FrostNet-MM',
            date_created='2025/01/01',
        ),
        licenses=[dict(id=1, name='MIT License', url='https://opensource.org/licenses/MIT')],
        categories=[
            dict(supercategory=SUPERCATEGORIES[name], id=number, name=name) for name, number in CATEGORY_IDS.items()
        ],
    )


def count_coco(coco):
    """Figures of a COCO json.

    Args:
        coco (dict): The loaded json.

    Returns:
        dict: ``images``, ``empty`` (images without any annotation), ``objects`` and ``crowds``
        (annotations by ``iscrowd``), ``small``, ``medium`` and ``large`` (objects by COCO's area
        limits) and ``per_class`` (objects by class name).
    """
    names = {c['id']: c['name'] for c in coco['categories']}
    single = [a for a in coco['annotations'] if not a['iscrowd']]
    areas = np.array([a['area'] for a in single])
    per_class = dict.fromkeys(names.values(), 0)
    for annotation in single:
        per_class[names[annotation['category_id']]] += 1
    used = {a['image_id'] for a in coco['annotations']}
    return dict(
        images=len(coco['images']),
        empty=sum(i['id'] not in used for i in coco['images']),
        objects=len(single),
        crowds=len(coco['annotations']) - len(single),
        small=int((areas < 32**2).sum()),
        medium=int(((areas >= 32**2) & (areas < 96**2)).sum()),
        large=int((areas >= 96**2).sum()),
        per_class=per_class,
    )


def _write_split(root, split, count, seed, scratch, bar):
    """Images and json of one split; returns its counts."""
    images, annotations = [], []
    for index in range(count):
        data, entry, own = make_sample(seed, split, index)
        write_whole(root / f'{split}2017' / entry['file_name'], data, scratch)
        images.append(entry)
        annotations += own
        bar.update()
    coco = dict(_coco_header(seed), images=images, annotations=annotations)
    write_whole(root / 'annotations' / f'instances_{split}2017.json', json.dumps(coco, separators=(',', ':')), scratch)
    return count_coco(coco)


def _is_whole(root, counts):
    """Whether the files that a stamp speaks of are there."""
    return all(
        (root / 'annotations' / f'instances_{split}2017.json').is_file()
        and len(list((root / f'{split}2017').glob('*.jpg'))) == counts[split]['images']
        for split in SPLITS
    )


def _readme(parameters, counts):
    keys = [key for key in counts['train'] if key != 'per_class']
    rows = [(key, *(counts[split][key] for split in SPLITS)) for key in keys]
    rows += [(name, *(counts[split]['per_class'][name] for split in SPLITS)) for name in CLASSES]
    table = '\n'.join('| {} | {} | {} |'.format(*row) for row in rows)
    classes = ', '.join(f'{name} ({number})' for name, number in CATEGORY_IDS.items())
    return _README.format(
        version=parameters['version'],
        seed=parameters['seed'],
        table=table,
        numpy=np.__version__,
        opencv=cv2.__version__,
        classes=classes,
        visible=MIN_VISIBLE,
        side=MIN_SIDE,
    )


def generate_mini_coco(root, num_train=800, num_val=200, seed=0, overwrite=False, progress=True):
    """Write the data set, or return at once where it is already there.

    Writes ``train2017/``, ``val2017/``, ``annotations/instances_{train,val}2017.json`` and a
    README. An interrupted run is taken up by calling again: rendering is cheap, so it starts over
    and writes the same bytes. One process at a time may write to a folder.

    Args:
        root (str | Path): Folder of the data set; made if missing.
        num_train (int): Training images, at least 1.
        num_val (int): Validation images, at least 1.
        seed (int): Seed, not negative.
        overwrite (bool): Replace a generated data set with other parameters. A folder that this
            function did not make is never touched.
        progress (bool): Show a bar on stderr.

    Returns:
        dict: The counts of 'train' and 'val', see `count_coco`.

    Raises:
        ValueError: If a number is out of its range.
        NotADirectoryError: If ``root`` is a file.
        FileExistsError: If ``root`` holds something else, or another data set without overwrite.
    """
    if num_train < 1 or num_val < 1 or seed < 0:
        raise ValueError(f'need num_train >= 1, num_val >= 1 and seed >= 0, got {num_train}, {num_val} and {seed}')
    root = Path(root)
    parameters = dict(version=GENERATOR_VERSION, seed=seed, num_train=num_train, num_val=num_val)
    counts = finished_counts(root, parameters, overwrite, MARKER, _FOLDERS, _is_whole)
    if counts is not None:
        return counts
    root.mkdir(parents=True, exist_ok=True)
    remove_partials(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=partial_prefix()) as scratch:
        write_whole(root / MARKER, json.dumps(parameters), scratch)
        for name in _FOLDERS:
            (root / name).mkdir(exist_ok=True)
        counts = {}
        with progress_bar(num_train + num_val, progress, 'mini COCO') as bar:
            for split, count in dict(train=num_train, val=num_val).items():
                counts[split] = _write_split(root, split, count, seed, scratch, bar)
        write_whole(root / 'README.md', _readme(parameters, counts), scratch)
        write_whole(root / STAMP, json.dumps(dict(parameters=parameters, counts=counts)), scratch)
    return counts
