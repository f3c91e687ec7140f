"""A part of the training images that is held back, so that a search never reads the validation data."""

import copy
import json
import os.path as osp
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from mmengine.registry import DATASETS, init_default_scope

from ..data.classification_own import part_of_each
from ..data.coco_duplicates import first_of_equals
from ..data.coco_json import load_coco_json
from ..data.image_folder import ImageFolder
from ..engine.config_datasets import LOADERS, dataset_for_testing, leaf_datasets, require_parts
from ..files import write_names, write_text
from ..registry import type_name
from .errors import SearchError

LEAST_HELD_OUT = 4  # images: fewer rank nothing
FOLDER = 'split'
PARTS = ('train', 'held_out')


def split_training_data(cfg: Config, fraction: float, seed: int, folder: Path) -> None:
    """Have a config train on a part of its training images, and validate and test on the others, in place.

    The parts are lists of images in ``folder``: annotation files for data in COCO's format, lists of names for
    segmentation and classification, where each class has its part. Images that are equal byte by byte are in one part.
    Lists that are there already are kept, for weights may have been trained on them. What the config names for
    validation and testing is dropped; of it remain the pipeline and the metric.

    Args:
        cfg (Config): The config. Its training data set may be wrapped, but is one.
        fraction (float): The part that is held back.
        seed (int): Of the choice.
        folder (Path): Where the lists are kept.

    Raises:
        SearchError: The data set is too small, joins several, or is of a kind that cannot be split.
        ConfigError: The config lacks a training data set, a test pipeline or a metric.
    """
    require_parts(cfg, 'train_dataloader')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    leaf = _only_leaf(cfg.train_dataloader.dataset)
    dataset = _built(leaf)
    suffix = '.json' if _is_coco(dataset) else '.txt'
    files = {part: folder / f'{part}{suffix}' for part in PARTS}
    if not all(file.is_file() for file in files.values()):
        write = _split_coco if suffix == '.json' else _split_names if _is_segmentation(dataset) else _split_classes
        write(dataset, fraction, seed, files)
    train = leaf | dict(ann_file=str(files['train'].resolve()))
    train.pop('indices', None)
    held_out = {name: value for name, value in train.items() if name not in ('filter_cfg', 'serialize_data')}
    held_out |= dict(
        ann_file=str(files['held_out'].resolve()),
        pipeline=copy.deepcopy(dataset_for_testing(cfg).pipeline),
        test_mode=True,
    )
    leaf.clear()
    leaf.update(train)
    _validate_on(cfg, ConfigDict(held_out))


def _only_leaf(dataset: ConfigDict) -> ConfigDict:
    leaves = list(leaf_datasets(dataset))
    if len(leaves) != 1 or not isinstance(leaves[0].get('ann_file', ''), str):
        kinds = ', '.join(dict.fromkeys(type_name(leaf) for leaf in leaves))
        raise SearchError(
            f'The training data set ({type_name(dataset)}) joins {max(len(leaves), 2)} data sets ({kinds}); the search '
            'holds a part of one back. Join the annotation files into one, or give one of them: '
            'train_dataloader.dataset.'
        )
    return leaves[0]


def _built(leaf: ConfigDict) -> Any:
    """The training data set as it is read; without ``indices`` all its images, those without objects too."""
    own = dict(copy.deepcopy(leaf), lazy_init=False)
    if own.get('indices') is None:
        own.pop('filter_cfg', None)
    dataset = DATASETS.build(own)
    if not _is_coco(dataset) and not _is_segmentation(dataset) and not isinstance(dataset, ImageFolder):
        raise SearchError(
            f'The training data set is a {type(dataset).__name__}; the search can hold a part back of data in '
            "COCO's format (frostnet_mm.CheckedCocoDataset, mmdet's CocoDataset), of segmentation data "
            "(frostnet_mm.CheckedSegDataset, mmseg's BaseSegDataset) and of images in a folder a class "
            '(frostnet_mm.ImageFolder).'
        )
    return dataset


def _is_segmentation(dataset: Any) -> bool:
    return hasattr(dataset, 'seg_map_suffix')


def _is_coco(dataset: Any) -> bool:
    return hasattr(dataset, 'COCOAPI')  # of mmdet's CocoDataset, which detectors' data in other formats lack


def chosen(names: Iterable, fraction: float, seed: int) -> set:
    """A random part of some names, the same whatever their order.

    Args:
        names (Iterable): All of one type.
        fraction (float): How large a part.
        seed (int): Of the choice.

    Raises:
        SearchError: It, or the rest, has too few.
    """
    ordered = sorted(set(names), key=str)
    count = round(len(ordered) * fraction)
    _check_enough(count, len(ordered), fraction)
    return set(random.Random(seed).sample(ordered, count))


def chosen_of_each(classes: Sequence[Collection[str]], fraction: float, seed: int) -> set[str]:
    """A random part of the names of each class, and never all of them; see :func:`part_of_each`.

    Args:
        classes (Sequence[Collection[str]]): Names of each class.
        fraction (float): How large a part.
        seed (int): Of the choice.

    Raises:
        SearchError: It, or the rest, has too few.
    """
    held_out = part_of_each(classes, fraction, seed)
    _check_enough(len(held_out), len(set().union(*classes)), fraction)
    return held_out


def _check_enough(count: int, total: int, fraction: float) -> None:
    if min(count, total - count) < LEAST_HELD_OUT:
        raise SearchError(
            f'val_fraction={fraction:g} of {total} different training images holds {count} back and leaves '
            f'{total - count} to train on; expected at least {LEAST_HELD_OUT} of each. Give another '
            'val_fraction, or more training images.'
        )


def _first_of_equals(images: Mapping[Any, str]) -> dict:
    """For the name of each image, the first name of those that are equal byte by byte: all are in one part.

    Args:
        images (Mapping[Any, str]): Path of each name.
    """
    equal, names = first_of_equals(images.values()), {}
    for name, path in images.items():
        names.setdefault(path, name)
    return {name: names[equal.get(path, path)] for name, path in images.items()}


def _drawn(first: Mapping[Any, Any], held_out: Container) -> set:
    return {name for name in first if first[name] in held_out}


def _split_coco(dataset: Any, fraction: float, seed: int, files: dict[str, Path]) -> None:
    """Two annotation files of the images that the data set finds; it tells of the others."""
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    usable = _first_of_equals({info['img_id']: info['img_path'] for info in infos})
    held_out = _drawn(usable, chosen(usable.values(), fraction, seed))
    with get_local_path(dataset.ann_file, backend_args=getattr(dataset, 'backend_args', None)) as path:
        content, changes = load_coco_json(path, dataset.ann_file)
    for change in changes:
        print_log(change, logger='current')
    for part, ids in (('train', usable.keys() - held_out), ('held_out', held_out)):
        own = content | dict(
            images=[image for image in content['images'] if image['id'] in ids],
            annotations=[entry for entry in content['annotations'] if entry['image_id'] in ids],
        )
        if part == 'held_out' and not own['annotations']:
            raise SearchError(
                f'None of the {len(ids)} images that val_fraction={fraction:g} holds back has an object to compare '
                'networks on: give a larger val_fraction, or another seed.'
            )
        write_text(files[part], json.dumps(own))
    _tell(len(usable) - len(held_out), len(held_out))


def _split_names(dataset: Any, fraction: float, seed: int, files: dict[str, Path]) -> None:
    """Two lists of names, as a segmentation data set reads them: below the image folder, without its suffix."""
    folder, suffix = dataset.data_prefix.get('img_path') or '', dataset.img_suffix
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    names = {(osp.relpath(path, folder) if folder else path).removesuffix(suffix): path for path in paths}
    first = _first_of_equals(names)
    _write_lists(names, _drawn(first, chosen(first.values(), fraction, seed)), files, _write_utf8)


def _split_classes(dataset: ImageFolder, fraction: float, seed: int, files: dict[str, Path]) -> None:
    """Two lists of images, as ``ImageFolder`` reads them: below the folder of the classes."""
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    first = _first_of_equals({osp.relpath(path, dataset.folder): path for path in paths})
    classes = defaultdict(set)
    for name in sorted(first):
        classes[name.split(osp.sep)[0]].add(first[name])
    _write_lists(first, _drawn(first, chosen_of_each(list(classes.values()), fraction, seed)), files, write_names)


def _write_utf8(path: Path, names: Iterable[str]) -> None:
    """As mmengine reads lists."""
    write_text(path, ''.join(f'{name}\n' for name in names))


def _write_lists(
    names: Collection[str], held_out: set[str], files: dict[str, Path], write: Callable[[Path, Iterable[str]], None]
) -> None:
    for part, own in (('train', set(names) - held_out), ('held_out', held_out)):
        write(files[part], sorted(own))
    _tell(len(names) - len(held_out), len(held_out))


def _tell(train: int, held_out: int) -> None:
    print_log(f'{held_out} training images are held back to compare networks on, {train} remain.', logger='current')


def _validate_on(cfg: Config, held_out: ConfigDict) -> None:
    """Put the images that are held back in the place of all validation and test data, in place."""
    _, val, test = LOADERS
    loader, evaluator = cfg.get(val) or cfg.get(test), cfg.get('val_evaluator') or cfg.get('test_evaluator')
    require_parts(cfg, *([] if loader else [val]), *([] if evaluator else ['val_evaluator']))
    loader, evaluator = copy.deepcopy(loader), copy.deepcopy(evaluator)
    loader.dataset = held_out
    for metric in _metrics(evaluator):
        if metric.get('ann_file') is not None or type_name(metric) == 'CocoMetric':
            metric['ann_file'] = held_out.ann_file
        for name in ('format_only', 'outfile_prefix'):
            metric.pop(name, None)
    for split in ('val', 'test'):
        cfg[f'{split}_dataloader'] = copy.deepcopy(loader)
        cfg[f'{split}_evaluator'] = copy.deepcopy(evaluator)
        cfg[f'{split}_cfg'] = cfg.get(f'{split}_cfg') or ConfigDict(type=f'{split.capitalize()}Loop')


def _metrics(evaluator: Any) -> list[dict]:
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator = evaluator['metrics']
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]
