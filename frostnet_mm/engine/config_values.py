"""Values of a config that end deep in mm if they are wrong, or only after hours: checked when a runner is built."""

import logging
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from mmengine.config import Config

from ..registry import is_type, type_name
from .config_datasets import LOADERS, leaf_datasets
from .errors import ConfigError


class Rule(NamedTuple):
    """What a value must be."""

    fits: Callable[[Any], bool]
    expected: str


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any, least: float = float('-inf')) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least


def _is_pair(value: Any) -> bool:
    pair = value if isinstance(value, (list, tuple)) else [value]
    return len(pair) in (1, 2) and all(_is_number(number, 1) for number in pair)


def _is_size(value: Any) -> bool:
    sizes = value if isinstance(value, (list, tuple)) else [value]
    return bool(sizes) and all(_is_size(v) if isinstance(v, (list, tuple)) else _is_number(v, 1) for v in sizes)


COUNT = Rule(lambda value: _is_int(value, 1), 'an integer of at least 1')
COUNT_OR_ZERO = Rule(lambda value: _is_int(value, 0), 'an integer of at least 0')
RATE = Rule(lambda value: _is_number(value, 0), 'a number of at least 0')
NUMBER = Rule(_is_number, 'a number')
SIZE = Rule(_is_pair, 'a positive number, or a pair of them such as (320, 320)')
SIZES = Rule(_is_size, 'a positive number, a pair of them such as (320, 320), or a list of such pairs')
TEXT = Rule(lambda value: isinstance(value, str), 'a path as text')
FLAG = Rule(lambda value: isinstance(value, (bool, int)), 'True or False')
LEVEL = Rule(
    lambda value: _is_int(value, 0) or isinstance(logging.getLevelName(value), int), "a level of logging such as 'INFO'"
)
RULES = {
    **{f'train_cfg.{name}': COUNT for name in ('max_epochs', 'max_iters', 'val_interval')},
    **{f'{name}.batch_size': COUNT for name in LOADERS},
    **{f'{name}.num_workers': COUNT_OR_ZERO for name in LOADERS},
    **{f'{name}.{key}': FLAG for name in LOADERS for key in ('persistent_workers', 'drop_last', 'pin_memory')},
    **{f'optim_wrapper.optimizer.{name}': RATE for name in ('lr', 'weight_decay', 'momentum')},
    'optim_wrapper.accumulative_counts': COUNT,
    'optim_wrapper.clip_grad.max_norm': RATE,
    'default_hooks.logger.interval': COUNT,
    'default_hooks.checkpoint.interval': Rule(
        lambda value: _is_int(value, 1) or value == -1, 'an integer of at least 1, or -1 for none'
    ),
    'default_hooks.checkpoint.max_keep_ckpts': Rule(
        lambda value: _is_int(value, 1) or value == -1, 'an integer of at least 1, or -1 for all'
    ),
    'randomness.seed': COUNT_OR_ZERO,
    'model.bbox_head.num_classes': COUNT,
    'model.decode_head.num_classes': COUNT,
    'log_level': LEVEL,
    'load_from': TEXT,
    'work_dir': TEXT,
}
NEVER_NONE = ('train_cfg.', 'optim_wrapper.optimizer.lr', '.batch_size', 'log_level')
FILTERS = {'filter_empty_gt', 'min_size'}
_SIZES = {'Resize': ('scale', SIZE), 'RandomResize': ('scale', SIZES), 'Pad': ('size', SIZE)}
_SIZES |= dict.fromkeys(('RandomCrop', 'CenterCrop'), ('crop_size', SIZE))


def check_values(cfg: Config) -> None:
    """Refuse values of the wrong type or sign.

    Args:
        cfg (Config): A config; keys that it lacks are not looked at.

    Raises:
        ConfigError: With the key, the value, and what is expected.
    """
    _check_scope(cfg.get('default_scope'))
    for key, rule in RULES.items():
        found, value = _get(cfg, key)
        if found and (value is not None or any(name in key for name in NEVER_NONE)):
            _require(key, value, rule)
    for name, loader in _loaders(cfg):
        for dataset in leaf_datasets(loader['dataset']):
            _check_dataset(name, dataset)
    for split in ('val', 'test'):
        evaluator = cfg.get(f'{split}_evaluator')
        _check_evaluator(f'{split}_evaluator', evaluator)
        loader = cfg.get(f'{split}_dataloader')
        if loader and _is_coco_metric(evaluator):
            _check_single(f'{split}_dataloader', loader['dataset'])


def _check_scope(scope: Any) -> None:
    """An unknown scope is taken for mmengine's own, which knows no type of mmdet or mmseg."""
    if scope not in (None, 'mmengine') and not (isinstance(scope, str) and scope.isidentifier() and find_spec(scope)):
        raise ConfigError(
            f'default_scope={scope!r} of the config: no such package is installed; expected mmdet or mmseg.'
        )


def _get(cfg: Config, key: str) -> tuple[bool, Any]:
    node: Any = cfg._cfg_dict
    for name in key.split('.'):
        if not isinstance(node, Mapping) or name not in node:
            return False, None
        node = node[name]
    return True, node


def _require(key: str, value: Any, rule: Rule) -> None:
    if not rule.fits(value):
        raise ConfigError(f'{key}={value!r} of the config: expected {rule.expected}.')


def _loaders(cfg: Config) -> Iterator[tuple[str, Mapping]]:
    for name in LOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        if not isinstance(loader, Mapping) or not isinstance(loader.get('dataset'), Mapping):
            raise ConfigError(
                f'{name} of the config has no dataset: expected {name}=dict(dataset=dict(type=...), ...).'
            )
        yield name, loader


def _check_dataset(name: str, dataset: Mapping) -> None:
    if isinstance(dataset.get('ann_file'), (list, tuple)):
        raise ConfigError(
            f'{name}: ann_file={list(dataset["ann_file"])} of the config: expected one file. Several are several data '
            f"sets: {name}=dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[dict(...), dict(...)]))."
        )
    unknown = sorted(set(dataset.get('filter_cfg') or ()) - FILTERS)
    if unknown and is_type(dataset, 'frostnet_mm.CheckedCocoDataset'):
        raise ConfigError(
            f'{name}: filter_cfg of the config has {", ".join(unknown)}; expected {", ".join(sorted(FILTERS))}.'
        )
    for step in dataset.get('pipeline') or ():
        key, rule = _SIZES.get(type_name(step), (None, SIZE)) if isinstance(step, Mapping) else (None, SIZE)
        relative = str(step.get('crop_type', '')).startswith('relative') if isinstance(step, Mapping) else False
        if key is not None and step.get(key) is not None and not relative:  # parts of an image, to mmdet's RandomCrop
            _require(f'{name}, {type_name(step)}.{key}', step[key], rule)


def _check_evaluator(name: str, evaluator: Any) -> None:
    """``metrics`` is the argument of an Evaluator; in a metric it is a slip for ``metric``."""
    if isinstance(evaluator, Mapping) and 'metrics' in evaluator and type_name(evaluator) not in ('', 'Evaluator'):
        if not isinstance(evaluator['metrics'], Mapping):
            kind = type_name(evaluator)
            raise ConfigError(
                f"{name}: {kind} has no argument 'metrics'. Did you mean metric={evaluator['metrics']!r}?"
            )


def _is_coco_metric(evaluator: Any) -> bool:
    if isinstance(evaluator, Mapping):
        evaluator = evaluator.get('metrics') or [evaluator]
    return any(type_name(metric) == 'CocoMetric' for metric in evaluator or () if isinstance(metric, Mapping))


def _check_single(name: str, dataset: Mapping) -> None:
    """A COCO metric compares with one annotation file, in which each image is once."""
    several = len(list(leaf_datasets(dataset))) > 1
    if several or dataset.get('times', 1) != 1 or type_name(dataset) == 'ClassBalancedDataset':
        what = 'several annotation files' if several else 'images more than once'
        raise ConfigError(
            f"{name}: {type_name(dataset)} has {what}, and COCO's metrics compare with one file that has each image "
            'once. Merge the files into one, or evaluate them one by one; in train_dataloader the wrapper works.'
        )
