"""A config for classification on data of one's own: FrostNet over configs/frostnet_custom_cls.py."""

import numpy as np

from ...data.classification_own import (
    ClassFolders,
    check_classes,
    find_class_folders,
    read_class_folders,
    set_images_apart,
    sizes_of,
)
from ...data.coco_own import below
from ...data.own_folders import Undecided
from .wishes import STRIDE, Text, Wishes, multiple, say_schedule

BASE, QAT_BASE = 'frostnet_custom_cls.py', 'frostnet_qat_custom_cls.py'
SMALLEST, LARGEST = 2 * STRIDE, 224  # sides of the input where none is asked for
BATCH = 32
LISTED = 30  # classes whose images are counted in the config
RARE = 10  # images of a class, below which it is named


def classification_config(wishes: Wishes) -> tuple[str, list[str]]:
    """Look at images in a folder a class, and say what a config for them has to set.

    Args:
        wishes (Wishes): What is asked for.

    Returns:
        tuple[str, list[str]]: The config's text, and what is worth knowing beside.

    Raises:
        Undecided: The data leave something open; the message names the option that decides.
        DatasetError: The data cannot be used.
    """
    train, val = _parts(wishes)
    classes = check_classes(train, val, wishes.classes)
    notes = []
    rare = [name for name in classes if len(train.images[name]) < RARE]
    if rare:
        notes.append(
            f'{len(rare)} of {len(classes)} classes have fewer than {RARE} training images: {", ".join(rare)}.'
        )
    absent = [name for name in classes if not val.images.get(name)]
    if absent:
        notes.append(f'{len(absent)} of {len(classes)} classes have no image for validation: {", ".join(absent)}.')
    return str(_text(wishes, classes, train, val)), notes


def _parts(wishes: Wishes) -> tuple[ClassFolders, ClassFolders]:
    """The training and the validation images; the latter set apart where they are asked for and not there."""
    train, val = find_class_folders(wishes.root, wishes.images)
    if val is not None and wishes.val_share is not None:
        raise Undecided(
            f"Which images are for validation? '{val}' holds some, and --val-share {wishes.val_share:g} asks for some "
            'of the training images: leave it out.'
        )
    if val is not None:
        return read_class_folders(train), read_class_folders(val)
    if wishes.val_share is None:
        raise Undecided(
            f"Which images are for validation? '{wishes.root}' holds one folder of classes, '{train}'. Give another: "
            '--val-images FOLDER; or have some of its images set apart: --val-share 0.2.'
        )
    own = [wishes.out.with_name(f'{wishes.out.stem}_{part}.txt') for part in ('train', 'val')]
    return set_images_apart(read_class_folders(train), wishes.val_share, *own)


def _text(wishes: Wishes, classes: tuple[str, ...], train: ClassFolders, val: ClassFolders) -> Text:
    width, height = np.median(sizes_of(train), axis=0).astype(int)
    data = (
        f'{len(train.paths)} images for training, half of them of up to {width}x{height}, {len(val.paths)} for '
        f'validation; {len(classes)} classes'
    )
    text, root = wishes.start(data, BASE, QAT_BASE), wishes.root.resolve()
    text.say(
        'Folders below data_root that hold a folder a class.',
        train_images=below(train.folder, root),
        val_images=below(val.folder, root),
    )
    counts = {name: len(train.images[name]) for name in classes}
    shown = (
        ', '.join(f'{name} {count}' for name, count in counts.items())
        if len(classes) <= LISTED
        else f'{min(counts.values())} to {max(counts.values())} a class'
    )
    text.say(f'Images in training: {shown}.', classes=classes)
    if train.list_file and val.list_file:
        text.say(
            'The images of each part, a path below its folder a line.',
            train_dataloader=dict(dataset=dict(ann_file=below(train.list_file, root))),
            val_dataloader=dict(dataset=dict(ann_file=below(val.list_file, root))),
        )
        text.raw('test_dataloader = val_dataloader')
    size = wishes.size or min(LARGEST, max(SMALLEST, multiple(min(width, height))))
    why = 'asked for' if wishes.size else f'as large as half of the images, {SMALLEST} to {LARGEST}'
    text.say(f'Side of the input, {why}.', input_size=size)
    say_schedule(text, wishes.epochs, len(train.paths), BATCH, 'accuracy')
    if wishes.backbone != 'small':
        text.say('', model=dict(backbone=dict(arch=wishes.backbone)))
    return text
