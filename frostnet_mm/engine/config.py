"""Reading configs: clear errors, one data root for all of a config, classes taken from the annotations."""

import os
from collections.abc import Sequence

from mmengine.config import Config, ConfigDict

from ..errors import UserError
from ..files import require_config
from ..registry import is_type, reads_checkpoint
from .config_checks import QAT_HOOK, check_keys, check_optimizer
from .config_datasets import (
    all_datasets,
    class_folder_of,
    dataset_for_testing,
    inner_dataset,
    leaf_datasets,
    parts_of_training,
    require_mappings,
    require_parts,
)
from .config_variables import COMMAND_LINE, like, read_config, reading_error
from .errors import ConfigError
from .evaluators import follow_datasets

__all__ = [
    'CLASSES_FROM_ANNOTATIONS',
    'ConfigError',
    'dataset_for_testing',
    'fill_classes',
    'inner_dataset',
    'load_config',
    'move_data_root',
    'named_classes',
]

CLASSES_FROM_ANNOTATIONS = 'from_annotations'
IMAGE_FOLDER = 'frostnet_mm.ImageFolder'
WITH_CLASSES = ('frostnet_mm.CheckedCocoDataset', IMAGE_FOLDER)  # data sets that say which classes they have


def load_config(
    path: str | os.PathLike, cfg_options: dict | None = None, classes: Sequence[str] | None = None
) -> Config:
    """Read a config, and settle the variables that it shares with its base files and what depends on the user's data.

    - A plain variable that a config and one of its base files assign (``input_size``, ``max_epochs``), or a top-level
      key of ``cfg_options``, is given to the base files before they are executed: see :func:`read_config`.
    - ``data_root`` given in ``cfg_options`` moves every path of the config that lies under the config's own
      ``data_root``, so that one option is enough.
    - ``classes = 'from_annotations'`` in the config reads the class names from the training annotations (of a
      ``frostnet_mm.ImageFolder`` from its folders), and puts them and their number into data sets and heads. Classes
      that the config names itself, as ``classes`` or in a data set's ``metainfo``, are taken in their place: a subset
      leaves out the others' objects.
    - COCO evaluators whose ``ann_file`` was forgotten get that of their data set.

    Args:
        path (str | PathLike): The config file, or the name of one of an installed package such as
            ``mmdet::ssd/ssd300_coco.py``.
        cfg_options (dict, optional): Values that replace those of the config; keys may be dotted.
        classes (Sequence[str], optional): Class names for a config with ``classes = 'from_annotations'``, such as those
            that a checkpoint was trained with; without them the training annotations are read.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: There is no such config.
        ConfigError: The config cannot be parsed; or an option does not fit it; or nothing would read an option or a
            top-level name.
    """
    path = require_config(path)
    options = dict(cfg_options or {})
    data_root = options.pop('data_root', None)
    try:
        cfg = read_config(str(path), options)
    except UnicodeDecodeError as error:
        byte, line = error.object[error.start], error.object[: error.start].count(b'\n') + 1
        raise ConfigError(
            f'Config {path}, or a base file of it, is not UTF-8: byte 0x{byte:02x} in line {line}. '
            'Save it as UTF-8 (editors call the other encoding ANSI, cp1252 or Latin-1).'
        ) from error
    except UserError:
        raise
    except FileNotFoundError as error:
        if str(error.filename).endswith(('.py', '.json', '.yaml', '.yml')):
            require_config(error.filename)  # a base file: this names those that are there
        raise
    except Exception as error:  # a config is a program: it may fail in any way
        raise ConfigError(f'Config {path} cannot be read: {reading_error(error)}') from error
    if data_root is not None:
        move_data_root(cfg, str(data_root))
    _settle_options(options, cfg, str(path))
    try:
        cfg.merge_from_dict({key: like(value, cfg.get(key)) for key, value in options.items()})
    except (KeyError, TypeError, AssertionError, AttributeError, IndexError) as error:
        raise ConfigError(
            f'--cfg-options {options} does not fit {path}: {error}. Keys are dotted paths into the '
            'config, for example train_dataloader.batch_size=8.'
        ) from error
    if isinstance(cfg.get('classes'), str) and cfg.classes != CLASSES_FROM_ANNOTATIONS and _reads_classes(cfg):
        raise ConfigError(
            f'classes={cfg.classes!r} of the config: expected {CLASSES_FROM_ANNOTATIONS!r} or a tuple of names, such '
            "as ('cat', 'dog'); of one class ('cat',), with the comma."
        )
    require_mappings(cfg)
    named = named_classes(cfg) if cfg.get('classes') == CLASSES_FROM_ANNOTATIONS else None
    if cfg.get('classes') == CLASSES_FROM_ANNOTATIONS:
        fill_classes(cfg, classes if classes is not None else named)
    elif _are_names(cfg.get('classes')) and _reads_classes(cfg) and named_classes(cfg) is None:
        named = cfg.classes  # instead of those of the annotations, in a config that inherits that
        same = classes is not None and len(classes) == len(named) and set(classes) == set(named)
        fill_classes(cfg, classes if same else named)  # a checkpoint's outputs are in its own order
    if named is not None:  # by the config: it may leave some out
        for dataset in all_datasets(cfg):
            if is_type(dataset, IMAGE_FOLDER):
                dataset.setdefault('leave_out_others', True)
    for dataset in parts_of_training(cfg):
        if is_type(dataset, IMAGE_FOLDER):
            dataset.setdefault('is_part', True)
    follow_datasets(cfg)
    return cfg


def model_config(cfg: Config) -> ConfigDict:
    """The model of a config, to be built without mm's Runner.

    Args:
        cfg (Config): The config.

    Returns:
        ConfigDict: ``cfg.model`` with the ``data_preprocessor`` that stands beside it, as in all configs of mmpretrain,
        unless it has its own. The config stays as it is.
    """
    beside = {} if cfg.get('data_preprocessor') is None else dict(data_preprocessor=cfg.data_preprocessor)
    return ConfigDict({**beside, **cfg.model})


def _settle_options(options: dict, cfg: Config, path: str) -> None:
    """Refuse options that would have no effect, and have those for ``qat_hook`` reach the hook, in place."""
    check_keys(options, cfg._cfg_dict, path)
    prefix = 'optim_wrapper.optimizer.'
    own = {key[len(prefix) :]: value for key, value in options.items() if key.startswith(prefix)}
    check_optimizer(own, (cfg.get('optim_wrapper') or {}).get('optimizer'), COMMAND_LINE)
    if (cfg.get('default_hooks') or {}).get('qat'):
        for key in [key for key in options if key.startswith(f'{QAT_HOOK}.')]:
            options.setdefault(f'default_hooks.qat{key[len(QAT_HOOK) :]}', options[key])


def move_data_root(cfg: Config, new_root: str) -> None:
    """Replace the config's ``data_root`` by another folder in every path that starts with it, in place."""
    old_root = cfg.get('data_root')
    if not isinstance(old_root, str) or not old_root.strip('/'):
        raise ConfigError(
            '--cfg-options data_root=... needs a config that defines data_root at its top level; set '
            'train_dataloader.dataset.data_root and its like one by one instead.'
        )
    old, new = old_root.rstrip('/'), new_root.rstrip('/') or '/'

    def moved(value):
        if isinstance(value, str) and (value == old or value.startswith(old + '/')):
            return new + value[len(old) :]
        if isinstance(value, dict):
            for key in value:
                value[key] = moved(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(moved(item) for item in value)
        return value

    moved(cfg._cfg_dict)


def without_pretrained(node: object) -> None:
    """Remove initializations from checkpoints, which need not be reachable, from a model config in place."""
    if isinstance(node, dict):
        if reads_checkpoint(node.get('init_cfg')):
            node['init_cfg'] = None
        if node.get('pretrained') is not None:
            node['pretrained'] = None
        for value in node.values():
            without_pretrained(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            without_pretrained(value)


def _are_names(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(name, str) for name in value)


def _reads_classes(cfg: Config) -> bool:
    datasets = all_datasets(cfg)
    return bool(datasets) and all(any(is_type(dataset, name) for name in WITH_CLASSES) for dataset in datasets)


def named_classes(cfg: Config) -> tuple[str, ...] | None:
    """The classes that the data sets of a config name themselves (``metainfo=dict(classes=...)``), or None.

    Raises:
        ConfigError: Two data sets name others, or a text stands in the place of names.
    """
    named = [(dataset.get('metainfo') or {}).get('classes') for dataset in all_datasets(cfg)]
    named = [classes for classes in named if classes is not None]
    for classes in named:
        if not _are_names(classes):
            raise ConfigError(f"metainfo=dict(classes={classes!r}): expected a tuple of names, such as ('cat', 'dog').")
        if tuple(classes) != tuple(named[0]):
            raise ConfigError(
                f'The data sets of the config name different classes: {tuple(named[0])} and {tuple(classes)}. Name the '
                'same ones in all, or in the training data set alone.'
            )
    return tuple(named[0]) if named else None


def fill_classes(cfg: Config, classes: Sequence[str] | None = None) -> None:
    """Put class names, those of the training annotations by default, into data sets and heads, in place."""
    from ..data import palette_for

    if classes is None:
        classes = _annotated_classes(cfg)
    classes = tuple(classes)
    cfg.classes = classes
    for dataset in all_datasets(cfg):
        own = dataset.get('metainfo') or {}
        palette = own.get('palette')
        if palette is None or len(palette) != len(classes):
            palette = palette_for(len(classes))
        dataset['metainfo'] = {**own, 'classes': classes, 'palette': palette}
    backbone = cfg.model.get('backbone') or {}
    if is_type(cfg.model.get('head'), 'frostnet_mm.LogitsHead') and 'num_classes' in backbone:
        backbone['num_classes'] = len(classes)  # its logits are the model's
    if not _set_num_classes(cfg.model, len(classes)):
        raise ConfigError('classes = "from_annotations" found no num_classes in the model of this config to set.')


def _annotated_classes(cfg: Config) -> tuple[str, ...]:
    """The classes of the training data, which must be the same in all parts of a ConcatDataset."""
    require_parts(cfg, 'train_dataloader')
    leaves = list(leaf_datasets(cfg.train_dataloader.get('dataset') or ConfigDict()))
    found = dict(place for leaf in leaves if (place := _classes_of(leaf)))
    if not found:
        raise ConfigError(
            "classes = 'from_annotations' needs train_dataloader.dataset.ann_file, one file in COCO format for each "
            'data set of a ConcatDataset, or a frostnet_mm.ImageFolder.'
        )
    first, classes = next(iter(found.items()))
    for path, own in found.items():
        if set(own) != set(classes):
            every = dict.fromkeys(name for names in found.values() for name in names)
            raise ConfigError(
                f'The training annotations name different classes: {", ".join(classes)} in {first}; '
                f'{", ".join(own)} in {path}. Say which are meant: classes = ({", ".join(map(repr, every))}).'
            )
    return classes


def _classes_of(dataset: ConfigDict) -> tuple[str, tuple[str, ...]] | None:
    """The annotation file or folder of a data set, and the classes that it names; None for one that has neither."""
    from ..data import read_coco_classes
    from ..data.image_folder import class_folders

    root = dataset.get('data_root') or ''
    if is_type(dataset, IMAGE_FOLDER):
        folder = class_folder_of(dataset)
        return folder, class_folders(folder)
    if isinstance(dataset.get('ann_file'), str):
        path = os.path.join(root, dataset['ann_file'])
        return path, tuple(read_coco_classes(path))
    return None


def _set_num_classes(node, num_classes: int) -> int:
    """Set every ``num_classes`` below a model config but backbones', which is pretraining's; return how many."""
    count = 0
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'num_classes' and not isinstance(value, dict):
                node[key] = num_classes
                count += 1
            elif key != 'backbone':
                count += _set_num_classes(value, num_classes)
    elif isinstance(node, (list, tuple)):
        count += sum(_set_num_classes(item, num_classes) for item in node)
    return count
