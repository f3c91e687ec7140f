"""From a config to mmengine's Runner, on GPU and CPU, for detectors and segmenters alike."""

import ctypes
import difflib
import inspect
import os
import platform
import tempfile
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS, RUNNERS
from mmengine.runner import Runner

from ..compat import check_operators
from ..models.dense import unwrap
from ..registry import is_type, type_message, type_name
from .build_errors import building
from .checkpoint_runner import CheckpointRunner
from .config import ConfigError
from .config_datasets import require_parts, settle_splits
from .config_values import check_values
from .evaluators import refuse_undefined_best, settle_evaluators
from .segmentation_settings import check_segmentation

LOOP = 'frostnet_mm.ResumableEpochTrainLoop'
CHECKPOINT_HOOK = 'frostnet_mm.AtomicCheckpointHook'
ADDED_HOOKS = (
    'frostnet_mm.DegenerateBoxesHook',
    'frostnet_mm.SegmentationDataHook',
    'frostnet_mm.FiniteLossHook',
    'frostnet_mm.FiniteCheckpointHook',
    'frostnet_mm.InterruptHook',
    'frostnet_mm.AccumulatedGradientsHook',
    'frostnet_mm.MissedValidationHook',
    'frostnet_mm.DataLogHook',
    'frostnet_mm.SharedImagesHook',
    'frostnet_mm.ClassFoldersHook',
)
MMENGINE_HOOKS = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}


def build_runner(cfg: Config, launcher: str = 'none', opened: dict[str, dict] | None = None) -> Runner:
    """Build the Runner of a config.

    Beyond ``Runner.from_cfg``: plain epoch-based loops become resumable in mid-epoch, Ctrl-C saves a checkpoint in
    upstream configs too, the log says which data are used, a loss or weights that are not finite stop training, hooks
    set to None are left out, launchers work without a GPU (gloo), and ``channels_last = True`` in the config stores
    weights and activations as NHWC. COCO evaluators read the annotations as the data set does, and pictures are drawn
    on the images as the pipeline loads them. On a CPU, freed memory is kept for the next step.

    Args:
        cfg (Config): A config with ``work_dir`` set.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
        opened (dict[str, dict], optional): By path the content of checkpoints that were read already.

    Returns:
        Runner: Ready to train or test.

    Raises:
        ConfigError: Something cannot be built from the config, or a value is not what it must be.
        DatasetError: An evaluator names another annotation file than its data set.
        ConfigError: Classes, heads and class weights of a segmenter do not fit each other.
    """
    check_operators()  # before mm's packages are imported, which would fail deep inside
    from .hooks.visualization_hook import settle_drawing

    cfg.launcher = launcher
    require_parts(cfg, 'model', 'work_dir')
    settle_splits(cfg)
    check_values(cfg)
    settle_evaluators(cfg)
    check_segmentation(cfg)
    train_cfg = cfg.get('train_cfg')
    if train_cfg and (type_name(train_cfg) == 'EpochBasedTrainLoop' or train_cfg.get('by_epoch')):
        train_cfg.pop('by_epoch', None)
        train_cfg['type'] = LOOP
    hooks = _leave_out_hooks(cfg)
    _settle_checkpoint_hooks(cfg, hooks)
    settle_drawing([*(cfg.get('default_hooks') or {}).values(), *hooks])
    for name in ADDED_HOOKS:
        if not any(is_type(hook, name) for hook in hooks):
            hooks.append(ConfigDict(type=name))
    if launcher == 'pytorch' and not torch.cuda.is_available():
        _init_cpu_group(cfg)
    if not torch.cuda.is_available():
        _limit_workers(cfg)
        keep_freed_memory()
    _settle_workers(cfg)
    _check_optimizer_type(cfg)
    runner_type = RUNNERS.get(cfg.runner_type) if 'runner_type' in cfg else CheckpointRunner
    with building(cfg, everything=True):
        runner = runner_type.from_cfg(cfg)
    _check_checkpoint_hooks(runner)
    _allow_shared_parameters(runner)
    refuse_undefined_best(runner)
    if isinstance(runner, CheckpointRunner):
        runner.opened.update(opened or {})
    if cfg.get('channels_last'):
        runner.model.to(memory_format=torch.channels_last)  # activations follow the weights' layout
    return runner


def _leave_out_hooks(cfg: Config) -> list:
    """Take hooks that are set to None (``default_hooks.qat=None`` on the command line) out of a config, in place.

    mmengine would add its own default hooks (timer, logger and so on) again, unless it finds their None; it refuses any
    other.

    Returns:
        list: The config's custom hooks.
    """
    default_hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in default_hooks.items() if hook is None and name not in MMENGINE_HOOKS]:
        del default_hooks[name]
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook is not None]
    return cfg.custom_hooks


def _settle_checkpoint_hooks(cfg: Config, custom_hooks: list) -> None:
    """Put our ``CheckpointHook`` in the place of mmengine's, in place; mmengine adds its own where there is none."""
    if cfg.get('default_hooks') is None:
        cfg.default_hooks = ConfigDict()
    hooks = cfg.default_hooks
    hooks.setdefault('checkpoint', ConfigDict(type='CheckpointHook', interval=1))
    for hook in (*hooks.values(), *custom_hooks):
        if isinstance(hook, dict) and hook.get('type') in ('CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook):
            hook['type'] = CHECKPOINT_HOOK


def _init_cpu_group(cfg: Config) -> None:
    """Start the gloo process group and wrap the model without device ids; mmengine assumes GPUs in both places."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.setdefault('env_cfg', {}).setdefault('dist_cfg', {})['backend'] = 'gloo'
    cfg.setdefault(
        'model_wrapper_cfg',
        ConfigDict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        ),
    )


def _limit_workers(cfg: Config) -> None:
    """Cap the data loading workers at the cores that are there: each one also takes time from a CPU's training."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader and loader.get('num_workers', 0) > cores:
            print_log(
                f'{name}.num_workers: {loader.num_workers} lowered to the {cores} cores of this machine.',
                logger='current',
            )
            loader.num_workers = cores


def _check_optimizer_type(cfg: Config) -> None:
    """Refuse an unknown optimizer, of which mmengine says "None is not a callable object"."""
    kind = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('type')
    if isinstance(kind, str):
        with OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope', 'mmengine')) as registry:
            if registry.get(kind) is None:
                raise ConfigError(type_message(kind, 'optimizer'))


def _check_checkpoint_hooks(runner: Runner) -> None:
    """Refuse arguments that ``CheckpointHook`` passes on to whom does not know them, when the first epoch is over."""
    known = inspect.signature(Runner.save_checkpoint).parameters
    own = inspect.signature(CheckpointHook.__init__).parameters
    for hook in runner.hooks:
        for name in getattr(hook, 'args', ()) if isinstance(hook, CheckpointHook) else ():
            if name not in known:
                near = difflib.get_close_matches(name, {*known, *own} - {'self', 'kwargs'}, n=3)
                raise ConfigError(
                    f'default_hooks.checkpoint: CheckpointHook has no argument {name!r}.'
                    + (f' Did you mean {", ".join(near)}?' if near else '')
                )


def _allow_shared_parameters(runner: Runner) -> None:
    """Have ``paramwise_cfg`` take each parameter once, also where two modules share it, as some heads' convolutions."""
    options = runner.cfg.get('optim_wrapper', {}).get('paramwise_cfg')
    if not options or 'bypass_duplicate' in options or not isinstance(runner.optim_wrapper, dict):
        return
    model = unwrap(runner.model)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    shared = sorted(names - {name for name, _ in model.named_parameters()})
    if shared:
        for wrapper in (runner.optim_wrapper, runner.cfg.optim_wrapper):
            wrapper['paramwise_cfg']['bypass_duplicate'] = True
        print_log(
            f'optim_wrapper.paramwise_cfg.bypass_duplicate=True: modules share {len(shared)} parameters, such as '
            f'{shared[0]}; each is trained once, with the options of its first place.',
            logger='current',
        )


def _settle_workers(cfg: Config) -> None:
    """Without workers nothing can persist: torch refuses the combination that ``num_workers=0`` alone makes."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if not loader or loader.get('num_workers', 0):
            continue
        for key in ('persistent_workers', 'prefetch_factor'):
            if loader.get(key):
                print_log(f'{name}.{key} is left out: num_workers is 0.', logger='current')
                loader.pop(key)


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that tensors free, in place of returning it to the system at once.

    By default each large activation is mapped anew in every step, and the kernel zeroes its pages, which takes a sixth
    to a fifth of a training step on a CPU (docs/training.md). Left alone where the user has set ``MALLOC_...``
    variables or uses another allocator.

    Returns:
        bool: Whether the allocator was set.
    """
    if any(name.startswith('MALLOC_') for name in os.environ) or platform.libc_ver()[0] != 'glibc':
        return False
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    return all((mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, -1), mallopt(m_top_pad, 256 << 20)))


def settle_work_dir(cfg: Config, config_path: str, work_dir: str | None) -> None:
    """Set ``cfg.work_dir``: the argument, else the config's own, else ``work_dirs/<config name>``.

    Raises:
        ConfigError: It is a file, or lies below one, or cannot be written to.
    """
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(config_path).stem)
    path = Path(cfg.work_dir).expanduser()
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is not None:
        raise ConfigError(f'The work dir {path} cannot be made: {file} is a file. Give another with --work-dir.')
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f'The work dir {path} cannot be written to: {error.strerror}. Give another with --work-dir.'
        ) from error


def enable_amp(cfg: Config) -> None:
    """Train with automatic mixed precision: fp16 with dynamic loss scaling."""
    if not torch.cuda.is_available():
        raise ConfigError('--amp needs a GPU: mmengine refuses mixed precision on a CPU. Leave it out.')
    wrapper = cfg.optim_wrapper
    name = type_name(wrapper) or 'OptimWrapper'
    if name not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(f'--amp does not know optim_wrapper.type={name!r}; expected OptimWrapper.')
    wrapper.type = 'AmpOptimWrapper'
    wrapper.loss_scale = 'dynamic'


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate to the batch size of this run, from the config's ``auto_scale_lr.base_batch_size``."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ConfigError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config: the batch size '
            'that its learning rate is meant for.'
        )
    cfg.auto_scale_lr.enable = True
