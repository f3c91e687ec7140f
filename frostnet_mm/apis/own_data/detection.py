"""A config for detection on data of one's own: SSDLite over configs/ssdlite_frostnet_custom.py."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.coco_own import Part, below, classes_of, find_parts, read_part, set_apart
from ...data.own_folders import Undecided
from ...models.frostnet_arch import FrostNetArch
from .wishes import Text, Wishes, multiple, say_schedule

SIZE = 320
BASE, QAT_BASE = 'ssdlite_frostnet_custom.py', 'ssdlite_frostnet_qat_custom.py'
EXTRA_CHANNELS = (512, 256, 256, 128)  # of the head's maps above the backbone's, as in the base; 128 from there on
# By the stride of the first map: the side of its smallest anchor; what is smaller than 0.7 of that finds no anchor, as
# the IoU of a square with one of 0.7 of its side is 0.5, which the assigner asks for.
FIRST_ANCHOR = {4: 10, 8: 20, 16: 48}
FITS = 0.7
MANY_SMALL, FEW_SMALL = 0.05, 0.01  # shares of boxes: from here on a finer map pays; up to here a coarser one does
COARSE, LAST = 100, 0.95  # the smallest anchor at stride 32 (three times the stride), and of the last map by the input
BATCH = 8
TOO_SMALL = 32  # images with a shorter side are left out by the base's filter_cfg


def detection_config(wishes: Wishes) -> tuple[str, list[str]]:
    """Look at data in COCO's format, and say what a config for them has to set.

    Args:
        wishes (Wishes): What is asked for.

    Returns:
        tuple[str, list[str]]: The config's text, and what is worth knowing beside.

    Raises:
        Undecided: The data leave something open; the message names the option that decides.
        DatasetError: The data cannot be used.
    """
    train, val = find_parts(wishes.root, wishes.labels, wishes.images)
    if val is not None and wishes.val_share is not None:
        if val.ann_file != train.ann_file:
            raise Undecided(
                f"Which images are for validation? '{wishes.root}' has '{val.ann_file}' for them, and --val-share "
                f'{wishes.val_share:g} asks for some of the training images: leave it out.'
            )
        val = None
    if val is None:
        if wishes.val_share is None:
            raise Undecided(
                f"Which images are for validation? '{wishes.root}' holds one annotation file, '{train.ann_file}'. Give "
                'another: --val-labels FILE; or have some of its images set apart: --val-share 0.2.'
            )
        own = [wishes.out.with_name(f'{wishes.out.stem}_{part}.json') for part in ('train', 'val')]
        train, val = set_apart(train, wishes.val_share, *own)
    classes = wishes.classes or classes_of(train)
    parts = [read_part(split, classes, option) for split, option in ((train, '--train-images'), (val, '--val-images'))]
    return str(_text(wishes, classes, *parts)), [note for part in parts for note in part.notes]


def _text(wishes: Wishes, classes: Sequence[str], train: Part, val: Part) -> Text:
    size = wishes.size or SIZE
    width, height = np.median(train.image_sizes, axis=0).astype(int)
    data = (
        f'{train.images} images for training, half of them of up to {width}x{height}, with '
        f'{sum(train.boxes.values())} boxes of {len(classes)} classes; {val.images} images and '
        f'{sum(val.boxes.values())} boxes for validation'
    )
    text, root = wishes.start(data, BASE, QAT_BASE), wishes.root.resolve()
    absent = [name for name in classes if not train.boxes[name]]
    counts = ', '.join(f'{name} {train.boxes[name]}' for name in classes)
    lacking = f' Without a box in training, so not learned: {", ".join(absent)}.' if absent else ''
    text.say(f'In the order of the annotation file; boxes in training: {counts}.{lacking}', classes=tuple(classes))
    sides = np.sqrt(train.sizes.prod(axis=1)) * size
    text.say(_why_size(wishes, sides, size), input_size=(size, size))
    _levels(text, wishes.backbone, size, sides)
    say_schedule(text, wishes.epochs, train.images, BATCH, 'mAP')
    _data(text, root, train, val)
    return text


def _why_size(wishes: Wishes, sides: np.ndarray, size: int) -> str:
    small, median, large = np.quantile(sides, (0.05, 0.5, 0.95))
    asked = 'asked for' if wishes.size else "the base config's"
    text = (
        f'(width, height) of the input, {asked}. The sides of the boxes in it (root of the area): half are below '
        f'{median:.0f} pixels, one in 20 below {small:.0f}, one in 20 above {large:.0f}.'
    )
    least = least_side(4, size)
    if (sides < least).mean() > MANY_SMALL:
        wanted = multiple(size * least / max(small, 1e-3))
        text += f' Below {least:.0f} pixels little is found: --size {wanted} would make all but one in 20 larger.'
    return text


def first_stride(sides: np.ndarray, size: int) -> int:
    """The stride of the finest map that the boxes need.

    Args:
        sides (np.ndarray): (N, ), root of the area of each box in the input, in pixels.
        size (int): Side of the input.
    """
    if (sides < least_side(8, size)).mean() > MANY_SMALL:
        return 4
    return 16 if (sides < least_side(16, size)).mean() <= FEW_SMALL else 8


def least_side(first: int, size: int) -> float:
    """The side in pixels of the smallest boxes that find an anchor, with a first map of a stride."""
    return FITS * FIRST_ANCHOR[first] * min(1.0, size / SIZE)


def anchors(size: int, first: int) -> tuple[list[int], list[int], list[int]]:
    """Strides of the maps of a square input, and the smallest and largest anchor of each: SSD's rule, in pixels.

    For 320 they are, but for a rounding, those of configs/ssdlite_frostnet_{coco,custom}.py.

    Args:
        size (int): Side of the input, a multiple of 32.
        first (int): Stride of the first map.
    """
    maps = [size // stride for stride in (4, 8, 16, 32) if stride >= first]
    while maps[-1] > 1:
        maps.append(-(-maps[-1] // 2))
    strides = [round(size / side) for side in maps]
    scale = min(1.0, size / SIZE)
    fine = [value * scale for stride, value in FIRST_ANCHOR.items() if stride >= first]
    coarse = np.linspace(COARSE * scale, LAST * size, len(maps) - len(fine))
    smallest = [int(value) for value in (*fine, *coarse)]
    return strides, smallest, [*smallest[1:], size]


def _levels(text: Text, backbone: str, size: int, sides: np.ndarray) -> None:
    first = first_stride(sides, size)
    arch = {} if backbone == 'small' else dict(arch=backbone)
    if first == 8 and size == SIZE:
        if arch:
            text.say('', model=dict(backbone=arch))
        return
    strides, smallest, largest = anchors(size, first)
    table = FrostNetArch.from_config(backbone)
    indices = [index for index in table.default_out_indices if table.strides[index] >= first]
    own = tuple(table.stages[index][-1].channels for index in indices)
    extra = len(strides) - len(own)
    channels = own + (EXTRA_CHANNELS + EXTRA_CHANNELS[-1:] * extra)[:extra]
    head = dict(strides=strides, ratios=[[2, 3]] * len(strides), min_sizes=smallest, max_sizes=largest)
    steps = (2,) * extra, (1,) * extra
    text.say(
        f"{_why_levels(first, sides, size)} Smallest and largest anchors by SSD's rule, in pixels of the input.",
        level_channels=channels,
        model=dict(
            backbone=dict(**arch, out_indices=tuple(indices)),
            neck=dict(in_channels=own, out_channels=channels, level_strides=steps[0], level_paddings=steps[1]),
            bbox_head=dict(in_channels=channels, anchor_generator=head),
        ),
    )


def _why_levels(first: int, sides: np.ndarray, size: int) -> str:
    if first == 8:
        return 'Feature maps and anchors for this size: from stride 8 on, halved until one position is left.'
    if first == 16:
        least = f'{least_side(16, size):.0f} pixels in the input'
        return f'Hardly a box is smaller than {least}: the maps begin at stride 16, as for COCO, which is faster.'
    least = least_side(8, size)
    return (
        f'{(sides < least).mean():.0%} of the boxes are smaller than {least:.0f} pixels in the input, too small for '
        'the anchors of stride 8: a map of stride 4 is added, which costs time.'
    )


def _data(text: Text, root: Path, train: Part, val: Part) -> None:
    found = [
        dict(ann_file=below(p.ann_file, root), data_prefix=dict(img=_folder(p.folder, root))) for p in (train, val)
    ]
    reason = 'Annotations and images, below data_root.'
    if train.image_sizes.min() < TOO_SMALL:
        found[0]['filter_cfg'] = dict(min_size=1)
        reason += f' Images with a side below {TOO_SMALL} pixels are used too.'
    text.say(reason, train_dataloader=dict(dataset=found[0]), val_dataloader=dict(dataset=found[1]))
    text.raw('test_dataloader = val_dataloader')


def _folder(path: Path, root: Path) -> str:
    name = below(path, root)
    return '' if name == '.' else f'{name}/'
