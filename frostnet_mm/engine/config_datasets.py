"""Data sets of a config, inside wrappers and where some are left out."""

import os
from collections.abc import Iterator, Mapping
from types import NoneType

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ..registry import type_name
from .errors import ConfigError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_WRAPPED = ('dataset', 'datasets')
_PREFIXES = {  # of data sets that take no text in its place
    'CheckedCocoDataset': "dict(img='train2017/')",
    'CheckedSegDataset': "dict(img_path='images/train', seg_map_path='labels/train')",
}


def leaf_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data set configs inside wrappers: ConcatDataset, RepeatDataset, ClassBalancedDataset and their like."""
    inner = [dataset[key] for key in _WRAPPED if dataset.get(key) is not None]
    if not inner or 'ann_file' in dataset:
        yield dataset
        return
    for value in inner:
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, Mapping):
                yield from leaf_datasets(each)


def inner_dataset(dataset: ConfigDict) -> ConfigDict:
    """The data set config inside wrappers; the first of several."""
    return next(leaf_datasets(dataset))


def all_datasets(cfg: Config) -> list[ConfigDict]:
    """All data set configs of a config, those in wrappers too."""
    loaders = [cfg[name] for name in LOADERS if isinstance(cfg.get(name), Mapping)]
    datasets = [loader['dataset'] for loader in loaders if isinstance(loader.get('dataset'), Mapping)]
    return [leaf for dataset in datasets for leaf in leaf_datasets(dataset)]


def parts_of_training(cfg: Config) -> list[ConfigDict]:
    """The data set configs that are trained on together, where there are several."""
    loader = cfg.get('train_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    leaves = list(leaf_datasets(dataset)) if isinstance(dataset, Mapping) else []
    return leaves if len(leaves) > 1 else []


def class_folder_of(dataset: Mapping) -> str:
    """The folder of the classes' folders of a ``frostnet_mm.ImageFolder``'s config."""
    prefix = dataset.get('data_prefix') or ''
    inside = prefix if isinstance(prefix, str) else prefix.get('img_path') or ''
    return os.path.join(dataset.get('data_root') or '', inside)


def require_mappings(cfg: Config) -> None:
    """Refuse data sets whose ``data_root``, ``metainfo`` or ``data_prefix`` is of another kind, before they are read.

    Raises:
        ConfigError: With the value, and what is expected.
    """
    for dataset in all_datasets(cfg):
        root, metainfo, prefix = (dataset.get(key) for key in ('data_root', 'metainfo', 'data_prefix'))
        kind = type_name(dataset)
        if not isinstance(root, (str, os.PathLike, NoneType)):
            raise ConfigError(f'{kind}: data_root={root!r} of the config: expected a path as text.')
        if not isinstance(metainfo, (Mapping, NoneType)):
            raise ConfigError(
                f"{kind}: metainfo={metainfo!r} of the config: expected a dict, such as dict(classes=('cat', 'dog'))."
            )
        if not isinstance(prefix, (str, Mapping, NoneType)) or (isinstance(prefix, str) and kind in _PREFIXES):
            example = _PREFIXES.get(kind, "dict(img_path='train')")
            raise ConfigError(f'{kind}: data_prefix={prefix!r} of the config: expected a dict, such as {example}.')


def dataset_for_testing(cfg: Config) -> ConfigDict:
    """The data set config whose pipeline images are tested with: of ``test_dataloader``, else of ``val_dataloader``.

    Raises:
        ConfigError: The config has neither.
    """
    for name in ('test_dataloader', 'val_dataloader'):
        if (cfg.get(name) or {}).get('dataset'):
            return inner_dataset(cfg[name].dataset)
    raise ConfigError(
        'The config has no test_dataloader and no val_dataloader, whose pipeline says how images are prepared for the '
        "network. Add test_dataloader=dict(dataset=dict(type=..., pipeline=[...])); training's pipeline augments."
    )


def settle_splits(cfg: Config) -> None:
    """Leave out validation or testing where a part of it is missing, in place: mmengine wants all three or none.

    Args:
        cfg (Config): ``<split>_dataloader``, ``<split>_cfg`` and ``<split>_evaluator`` are set to None together.
    """
    for split in ('val', 'test'):
        names = [f'{split}_{part}' for part in ('dataloader', 'cfg', 'evaluator')]
        lacking = [name for name in names if cfg.get(name) is None]
        if lacking == [f'{split}_cfg']:
            cfg[f'{split}_cfg'] = ConfigDict(type=f'{split.capitalize()}Loop')
        elif lacking and len(lacking) < len(names):
            what = 'validation' if split == 'val' else 'test'
            print_log(f'No {what}: the config has no {" and no ".join(lacking)}.', logger='current')
            for name in names:
                cfg[name] = None


def require_parts(cfg: Config, *names: str) -> None:
    """Refuse a config that lacks what a command needs.

    Args:
        cfg (Config): The config.
        names (str): Keys, such as 'model' and 'train_dataloader'.

    Raises:
        ConfigError: With all that is lacking.
    """
    lacking = [name for name in names if not cfg.get(name)]
    if lacking:
        source = f'The config {cfg.filename}' if cfg.filename else 'The config'
        raise ConfigError(
            f'{source} has no {", no ".join(lacking)}: write '
            f'{", ".join(f"{name}=dict(...)" for name in lacking)}, or inherit a config that has (_base_).'
        )
