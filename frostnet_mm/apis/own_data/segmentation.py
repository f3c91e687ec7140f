"""A config for segmentation on data of one's own: ESPNetv2 over configs/espnetv2_frostnet_custom_seg.py."""

import math

import numpy as np

from ...data.coco_own import below
from ...data.segmentation_own import Labelled, Pairing, find_pairs, image_sizes, read_classes
from .wishes import STRIDE, Text, Wishes, multiple

BASE, QAT_BASE = 'espnetv2_frostnet_custom_seg.py', 'espnetv2_frostnet_qat_custom_seg.py'
LARGEST = 512  # side of the input where none is asked for
CROP = 0.75  # of that, as in the base
BATCH = 4
EPOCHS, ITERS = 40, (4000, 40000)  # of training from scratch, within these numbers of steps
WARMUP = 100
BALANCED = 4  # the most frequent class has at most so many times the pixels of the rarest: no weights then


def segmentation_config(wishes: Wishes) -> tuple[str, list[str]]:
    """Look at images and labels, and say what a config for them has to set.

    Args:
        wishes (Wishes): What is asked for.

    Returns:
        tuple[str, list[str]]: The config's text, and what is worth knowing beside.

    Raises:
        Undecided: The data leave something open; the message names the option that decides.
        DatasetError: The data cannot be used.
    """
    train, val = find_pairs(wishes.root, wishes.images, wishes.labels)
    labelled = read_classes(wishes.root, train, wishes.classes)
    notes = []
    if labelled.source == 'nothing':
        notes.append(f'The classes have no names: {", ".join(labelled.classes)}. Name them: --classes NAME NAME ...')
    return str(_text(wishes, train, val, labelled)), notes


def _text(wishes: Wishes, train: Pairing, val: Pairing, labelled: Labelled) -> Text:
    width, height = np.median(image_sizes(train), axis=0).astype(int)
    data = (
        f'{len(train.names)} images for training, half of them of up to {width}x{height}, {len(val.names)} for '
        f'validation; {len(labelled.classes)} classes'
    )
    text, root = wishes.start(data, BASE, QAT_BASE), wishes.root.resolve()
    text.say(
        'Folders below data_root, and how the names of images and of labels end.',
        train_images=below(train.images, root),
        train_labels=below(train.labels, root),
        val_images=below(val.images, root),
        val_labels=below(val.labels, root),
        img_suffix=train.suffixes[0],
        seg_map_suffix=train.suffixes[1],
    )
    own = (
        dict(zip(('img_suffix', 'seg_map_suffix'), val.suffixes, strict=True)) if val.suffixes != train.suffixes else {}
    )
    _classes(text, labelled, own)
    _size(text, wishes.size, int(max(width, height)))
    _schedule(text, wishes.epochs, len(train.names))
    if wishes.backbone != 'small':
        text.say('', model=dict(backbone=dict(arch=wishes.backbone)))
    return text


def _classes(text: Text, labelled: Labelled, own_of_val: dict) -> None:
    shares = labelled.shares
    counts = ', '.join(f'{name} {share:.1%}' for name, share in zip(labelled.classes, shares, strict=True) if share)
    absent = [name for name, share in zip(labelled.classes, shares, strict=True) if not share]
    lacking = f' Not found in these labels: {", ".join(absent)}.' if absent else ''
    source = 'without names' if labelled.source == 'nothing' else f'by {labelled.source}'
    text.say(
        f'Of the values 0, 1, ... of the labels, {source}; pixels of {labelled.read} labels: {counts}; ignored (255) '
        f'{labelled.ignored:.1%}.{lacking}',
        classes=labelled.classes,
    )
    palette = dict(metainfo=dict(palette=labelled.palette)) if labelled.palette else {}
    if palette:
        text.say("The labels' own colours, for pictures.", train_dataloader=dict(dataset=palette))
    if palette or own_of_val:
        text.say('', val_dataloader=dict(dataset={**palette, **own_of_val}))
        text.raw('test_dataloader = val_dataloader')
    present = shares[shares > 0]
    if present.max() <= BALANCED * present.min():
        text.say('The classes are of like frequency.', class_weight=None)
    else:
        text.say(
            "1 / ln(1.1 + share of the pixels), ENet's weights: more for rare classes.", class_weight=weights(shares)
        )


def weights(shares: np.ndarray) -> tuple[float, ...]:
    """A weight for each class by its share of the pixels (Paszke et al., ENet, arXiv 1606.02147, without its 1.02)."""
    return tuple(round(1 / math.log(1.1 + share), 2) for share in shares)


def _size(text: Text, asked: int | None, longest: int) -> None:
    size = asked or min(LARGEST, multiple(longest))
    crop = max(3 * STRIDE, int(CROP * size) // STRIDE * STRIDE)
    why = 'asked for' if asked else f'as large as the images, at most {LARGEST}'
    text.say(
        f'(width, height) that images are resized to fit into, {why}; and (height, width) of what is trained on.',
        scale=(size, size),
        crop_size=(crop, crop),
    )


def _schedule(text: Text, epochs: int | None, images: int) -> None:
    batch = max(1, min(BATCH, images // 2))
    asked = epochs is not None
    iters = (epochs or EPOCHS) * images // batch
    iters = max(2, iters) if asked else min(max(iters, ITERS[0]), ITERS[1])
    interval = max(1, iters // 10)
    iters = iters // interval * interval
    why = 'asked for' if asked else f'{EPOCHS} epochs, but {ITERS[0]} to {ITERS[1]} steps'
    text.say(
        f'Steps; an epoch has {max(1, images // batch)}: {why}. If mIoU still rises at the end, train longer.',
        batch_size=batch,
        max_iters=iters,
        warmup_iters=max(1, min(WARMUP, iters // 4)),
        val_interval=interval,
    )
