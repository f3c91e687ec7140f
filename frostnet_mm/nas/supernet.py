"""The training of all networks of a space at once, as a config that ``tools/train.py`` trains as well."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.registry import init_default_scope

from ..deploy.engines import engine_of
from ..engine.checkpoint_runner import CheckpointRunner
from ..engine.config import load_config
from ..engine.config_datasets import require_parts
from ..engine.runner import build_runner, settle_work_dir
from ..files import write_text
from ..registry import is_type
from .errors import SearchError
from .networks import elastic_backbone
from .settings import SearchSettings
from .split import FOLDER, split_training_data
from .supernet_hook import NETWORKS

CONFIG, WORK_DIR = 'supernet.py', 'supernet'
VALIDATIONS = 4  # of a training
LENGTHS = ('begin', 'end', 'T_max', 'total_iters', 'step_size', 'milestones')  # of parameter schedulers
HOOK_LENGTHS = ('num_last_epochs', 'switch_epoch')  # of mmdet's hooks that change the pipeline
WARM_UP = 4  # a warm-up of iterations takes at most this part of a training of epochs


def write_supernet(cfg: Config, settings: SearchSettings, folder: Path) -> Path:
    """Write the config of the supernet's training, and the lists of its images, unless they are there.

    It is the config with an elastic backbone, :class:`SupernetHook`, updates from four networks, a schedule of
    ``settings.epochs``, and the training images split in two.

    Args:
        cfg (Config): The user's, resolved. It is changed.
        settings (SearchSettings): The search.
        folder (Path): Of the search.

    Returns:
        Path: The config, ``supernet.py``.

    Raises:
        SearchError, ConfigError: The config cannot be searched with.
    """
    path = folder / CONFIG
    if path.is_file():
        return path
    require_parts(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    _refuse_hook(cfg)
    with _lists_of_what_works(folder / FOLDER):
        split_training_data(cfg, settings.val_fraction, settings.seed, folder / FOLDER)
        text = _supernet_of(cfg, settings, folder)
    write_text(path, text)
    return path


@contextmanager
def _lists_of_what_works(folder: Path) -> Iterator[None]:
    """Take the lists back that were written in the context, if it fails: the next start may have other data."""
    before = {*folder.glob('*')}
    try:
        yield
    except BaseException:
        for path in {*folder.glob('*')} - before:
            path.unlink()
        raise


def _supernet_of(cfg: Config, settings: SearchSettings, folder: Path) -> str:
    """The text of the supernet's config, of one whose images are split. The config is changed."""
    cfg.model.backbone = ConfigDict(elastic_backbone(cfg.model.backbone, settings.space))
    if settings.batch_size is not None:
        cfg.train_dataloader.batch_size = settings.batch_size
    wrapper = cfg.optim_wrapper
    wrapper['accumulative_counts'] = NETWORKS * wrapper.get('accumulative_counts', 1)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    shorten(cfg, settings.epochs, _iterations(cfg.train_dataloader))
    hook = ConfigDict(type='frostnet_mm.SupernetHook', seed=settings.seed)
    if settings.quantize:
        numerics = engine_of(settings.engine).preset
        hook.update(quantize=True, numerics=numerics, weight_bits=settings.weight_bits or 8)
        hook.update({} if settings.weights == 'channel' else dict(weight_granularity=settings.weights))
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    if cfg.get('load_from'):
        print_log(
            f'load_from={cfg.load_from} is left out: the weights of a whole model do not fit all networks at once. '
            "Those of the backbone do: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...).",
            logger='current',
        )
    cfg.load_from, cfg.resume = None, True
    cfg.work_dir = str((folder / WORK_DIR).resolve())
    cfg.pop('search', None)
    return cfg.pretty_text


def _refuse_hook(cfg: Config) -> None:
    hooks = [*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values()]
    if any(hook and is_type(hook, 'frostnet_mm.QATHook') for hook in hooks):
        raise SearchError(
            'The config trains in simulated INT8 (QATHook), which captures one network. Give its float config: the '
            'search writes a config with QATHook for each network that it finds.'
        )


def _iterations(loader: ConfigDict) -> int:
    """Of an epoch."""
    own = {name: value for name, value in loader.items() if name not in ('persistent_workers', 'prefetch_factor')}
    return max(1, len(CheckpointRunner.build_dataloader(copy.deepcopy(own) | dict(num_workers=0))))


def shorten(cfg: Config, epochs: int, per_epoch: int) -> None:
    """Give a config's training another length, and stretch its schedule to it, in place.

    What is counted as the training itself is, epochs or iterations, is stretched, and a scheduler of which nothing is
    left is taken out. Iterations in a training of epochs are stretched where they reach over half of it; a warm-up of
    iterations stays, or takes a quarter of the training where that is less.

    Args:
        cfg (Config): The config.
        epochs (int): How long to train.
        per_epoch (int): Iterations of an epoch.

    Raises:
        SearchError: The config says neither ``max_epochs`` nor ``max_iters``.
    """
    loop = cfg.train_cfg
    by_epoch = loop.get('max_epochs') is not None
    name = 'max_epochs' if by_epoch else 'max_iters'
    if not isinstance(loop.get(name), int):
        raise SearchError(f'train_cfg={dict(loop)} of the config: expected max_epochs or max_iters.')
    before, length = loop[name], epochs * (1 if by_epoch else per_epoch)
    ratio = length / before
    loop[name] = length
    loop.val_interval = max(1, length // VALIDATIONS)
    loop.pop('dynamic_intervals', None)
    loop.pop('val_begin', None)
    for scheduler in _schedulers(cfg):
        end = scheduler.get('end') or INF
        if scheduler.get('by_epoch', True) == by_epoch or (by_epoch and before * per_epoch / 2 < end < INF):
            _stretch(scheduler, LENGTHS, ratio)
        elif by_epoch and end < INF:
            scheduler['end'] = min(end, max(1, length * per_epoch // WARM_UP))
    if cfg.get('param_scheduler'):
        cfg.param_scheduler = _without_empty(cfg.param_scheduler)
    for hook in cfg.get('custom_hooks') or ():
        if by_epoch and isinstance(hook, dict):
            _stretch(hook, HOOK_LENGTHS, ratio)
    hooks = cfg.get('default_hooks') or ConfigDict()
    checkpoint = dict(hooks.get('checkpoint') or {}, type='CheckpointHook', by_epoch=by_epoch, max_keep_ckpts=1)
    checkpoint |= dict(interval=1 if by_epoch else per_epoch, save_best=None, save_last=True)
    cfg.default_hooks = hooks | dict(checkpoint=ConfigDict(checkpoint))


def _stretch(node: dict, keys: Sequence[str], ratio: float) -> None:
    for key in keys:
        value = node.get(key)
        if isinstance(value, (list, tuple)):
            node[key] = [max(1, round(each * ratio)) for each in value]
        elif value and value < INF:
            node[key] = max(1, round(value * ratio))


def _without_empty(node: Any) -> Any:
    """Schedulers without those that end where they begin."""
    if isinstance(node, (list, tuple)):
        return [_without_empty(item) for item in node if not _is_empty(item)]
    if isinstance(node, dict) and 'type' not in node:
        return type(node)({name: _without_empty(item) for name, item in node.items()})
    return node


def _is_empty(item: Any) -> bool:
    return isinstance(item, dict) and 'type' in item and item.get('end', INF) <= item.get('begin', 0)


def _schedulers(node: object) -> Iterator[dict]:
    """All parameter schedulers of a config, those of several optimizers too."""
    node = node.get('param_scheduler') if isinstance(node, Config) else node
    if isinstance(node, (list, tuple)):
        yield from (each for item in node for each in _schedulers(item))
    elif isinstance(node, dict) and 'type' in node:
        yield node
    elif isinstance(node, dict):
        yield from (each for item in node.values() for each in _schedulers(item))


def trained_weights(folder: Path) -> Path:
    """The checkpoint of a supernet whose training is over, whether it is there or not.

    Args:
        folder (Path): Of the search.

    Raises:
        SearchError: There is no supernet.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise SearchError(f'{path} does not exist: run --stage supernet first.')
    cfg = Config.fromfile(path)
    loop = cfg.train_cfg
    name = f'epoch_{loop.max_epochs}.pth' if loop.get('max_epochs') is not None else f'iter_{loop.max_iters}.pth'
    return Path(cfg.work_dir) / name


def train_supernet(folder: Path) -> Path:
    """Train the supernet, or go on with it, or leave it where it is trained.

    Args:
        folder (Path): Of the search, with ``supernet.py``.

    Returns:
        Path: The checkpoint.
    """
    weights, path = trained_weights(folder), str(folder / CONFIG)
    if not weights.is_file():
        cfg = load_config(path)
        settle_work_dir(cfg, path, None)
        build_runner(cfg).train()
    return weights
