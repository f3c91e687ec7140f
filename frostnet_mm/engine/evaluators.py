"""Evaluators of COCO data: they read the annotation file of their data set."""

import filecmp
import os.path as osp
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmengine.config import Config
from mmengine.logging import print_log

from ..data.coco_paths import sample
from ..data.errors import DatasetError
from ..registry import is_type, type_name

if TYPE_CHECKING:
    from mmengine.runner import Runner

#: What the base configs of mmdet and of this project give evaluators, below the config's data_root.
DEFAULT_ANN_FILE = 'annotations/instances_val2017.json'
CHECKED_DATASET, CHECKED_METRIC = 'frostnet_mm.CheckedCocoDataset', 'frostnet_mm.CocoMetric'


def follow_datasets(cfg: Config) -> None:
    """Have COCO evaluators whose ``ann_file`` was forgotten read that of their data set, in place.

    Forgotten is one that still has the default of the base configs while the data set has another file, and none at all
    for a ``frostnet_mm.CheckedCocoDataset`` (mmdet's metric without ``ann_file`` has a meaning with mmdet's data set).

    Args:
        cfg (Config): Its ``val_evaluator`` and ``test_evaluator`` are changed.
    """
    default = osp.normpath(osp.join(str(cfg.get('data_root') or ''), DEFAULT_ANN_FILE))
    for name, metric, dataset in _coco_metrics(cfg):
        given, wanted = metric.get('ann_file'), _annotation_file(dataset)
        if not given:
            if is_type(dataset, CHECKED_DATASET):
                metric['ann_file'] = wanted
        elif osp.normpath(given) == default and not _is_same_file(wanted, given):
            metric['ann_file'] = wanted
            print_log(f'{name}_evaluator.ann_file is that of the data set, {wanted}, not {given}.', 'current')


def settle_evaluators(cfg: Config) -> None:
    """Have evaluators read what their data set reads, in place: before training, and not after its first epochs.

    Evaluators whose ``ann_file`` was forgotten follow their data set. mmdet's ``CocoMetric`` becomes
    ``frostnet_mm.CocoMetric`` where the data set is ``frostnet_mm.CheckedCocoDataset``.

    Args:
        cfg (Config): A config.

    Raises:
        DatasetError: If an evaluator names another annotation file than its data set, or the data set has several.
    """
    _refuse_several(cfg)
    follow_datasets(cfg)
    for name, metric, dataset in _coco_metrics(cfg):
        own, other = _annotation_file(dataset), metric.get('ann_file')
        if other and not _is_same_file(own, other):
            absent = '' if osp.exists(other) or '://' in other else ', which does not exist,'
            raise DatasetError(
                f"{name}_evaluator.ann_file='{other}'{absent} is not the annotation file of {name}_dataloader, "
                f"'{own}': the metric would compare predictions with the objects of other data. Set "
                f"{name}_evaluator.ann_file='{own}', or {name}_dataloader.dataset.ann_file and data_prefix to the data "
                'that is meant.'
            )
        kind = metric['type']  # classes derived from mmdet's stay as they are
        if is_type(dataset, CHECKED_DATASET) and (
            kind in ('CocoMetric', 'mmdet.CocoMetric') or getattr(kind, '__module__', '').startswith('mmdet.')
        ):
            metric['type'] = CHECKED_METRIC


def refuse_undefined_best(runner: 'Runner') -> None:
    """Keep COCO's -1, which stands for "no object to measure this on", from becoming the best score of a training.

    Args:
        runner (Runner): Its checkpoint hooks are told that a best score is above -1, if its config has a COCO metric.
    """
    from mmengine.hooks import CheckpointHook

    if any(name == 'val' for name, _, _ in _coco_metrics(runner.cfg)):
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.init_value_map = dict(hook.init_value_map, greater=-1.0)


def _coco_metrics(cfg: Config) -> Iterator[tuple[str, dict, dict]]:
    """('val' or 'test', metric config, data set config) of each COCO metric on one COCO data set, bare or wrapped."""
    for name in ('val', 'test'):
        datasets = _coco_datasets((cfg.get(f'{name}_dataloader') or {}).get('dataset'))
        if len(datasets) == 1:
            yield from ((name, metric, datasets[0]) for metric in _metrics_of(cfg, name))


def _metrics_of(cfg: Config, name: str) -> list[dict]:
    """The COCO metrics of 'val' or 'test'."""
    evaluator = cfg.get(f'{name}_evaluator')
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator = evaluator['metrics']
    metrics = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    return [metric for metric in metrics if isinstance(metric, dict) and type_name(metric) == 'CocoMetric']


def _coco_datasets(node: object) -> list[dict]:
    """The COCO data sets of a data set config and of the wrappers in it."""
    if isinstance(node, (list, tuple)):
        return [dataset for part in node for dataset in _coco_datasets(part)]
    if not isinstance(node, dict):
        return []
    if isinstance(node.get('ann_file'), str) and node['ann_file']:
        return [node] if _is_coco(node) else []
    return _coco_datasets([node.get('dataset'), node.get('datasets')])


def _refuse_several(cfg: Config) -> None:
    """Refuse an evaluation of several annotation files at once, whose image ids a metric cannot tell apart."""
    for name in ('val', 'test'):
        files = [
            _annotation_file(dataset)
            for dataset in _coco_datasets((cfg.get(f'{name}_dataloader') or {}).get('dataset'))
        ]
        if len(files) > 1 and any(metric.get('ann_file') for metric in _metrics_of(cfg, name)):
            raise DatasetError(
                f'{name}_dataloader joins {len(files)} annotation files ({sample(files)}), and CocoMetric compares '
                f'with one: image ids of different files are not told apart. Give {name}_dataloader one of them, or '
                'join the files into one json with new ids.'
            )


def _is_coco(dataset: dict) -> bool:
    return is_type(dataset, CHECKED_DATASET) or is_type(dataset, 'mmdet.CocoDataset')


def _annotation_file(dataset: dict) -> str:
    """The annotation file of a data set as mmengine joins it with the data root."""
    root, path = dataset.get('data_root') or '', dataset['ann_file']
    return path if '://' in path or ':' in path.partition('/')[0] else osp.join(root, path)


def _is_same_file(one: str, other: str) -> bool:
    """Whether two paths lead to the same annotations: one file, or copies of it."""
    if osp.realpath(one) == osp.realpath(other):
        return True
    return osp.isfile(one) and osp.isfile(other) and filecmp.cmp(one, other, shallow=False)
