"""Errors in a step of training that a setting of the config causes, as one message."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import FrameType

import torch.distributed
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner
from torch import nn

from ..errors import ProcessLostError, UserError
from ..models.dense import unwrap
from .errors import ConfigError

LOST = re.compile(r'gloo/transport|onnection (closed|reset) by peer|Timed out waiting|NCCL|Broken pipe')
ONE_VALUE = 'Expected more than 1 value per channel when training'


@contextmanager
def step_errors(runner: Runner) -> Iterator[None]:
    """Explain a batch norm that sees one value, a best score that no metric has, and a process that is lost.

    All else is passed on.

    Args:
        runner (Runner): What runs within.

    Raises:
        ConfigError, ProcessLostError: In place of the three.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(ONE_VALUE):
            raise
        raise ConfigError(_one_value(runner, _frames(error), str(error))) from error
    except KeyError as error:
        frame = _frames(error)[-1]
        if frame.f_code.co_name != '_save_best_checkpoint':
            raise
        key, metrics = frame.f_locals.get('key_indicator'), list(frame.f_locals.get('metrics', ()))
        near = difflib.get_close_matches(str(key), metrics, n=2, cutoff=0.5)
        raise ConfigError(
            f'default_hooks.checkpoint.save_best={key!r}: the metrics are {", ".join(metrics)}.'
            + (f' Did you mean {" or ".join(near)}?' if near else '')
            + ' The epochs so far are saved: go on with --resume.'
        ) from error
    except RuntimeError as error:
        if not _is_loss_of_a_process(error):
            raise
        raise ProcessLostError(
            f'Iteration {runner.iter + 1}: process {get_rank()} of {get_world_size()} stops, as another one has ended '
            f'or does not answer ({str(error).splitlines()[0]}). What that one printed says why; the checkpoints '
            f'written so far are kept in {runner.work_dir}. Go on with --resume.'
        ) from error


def _is_loss_of_a_process(error: RuntimeError) -> bool:
    known = isinstance(error, torch.distributed.DistError) or LOST.search(str(error)) is not None
    return known and not isinstance(error, UserError) and get_world_size() > 1


def _frames(error: Exception) -> list[FrameType]:
    return [frame for frame, _ in walk_tb(error.__traceback__)]


def _one_value(runner: Runner, frames: list[FrameType], said: str) -> str:
    modules = [frame.f_locals.get('self') for frame in frames]
    modules = [module for module in modules if isinstance(module, nn.Module)]
    names = {id(module): name for name, module in unwrap(runner.model).named_modules()}
    name = next((names[id(module)] for module in reversed(modules) if id(module) in names), '')
    shape = said.rpartition('size ')[2]
    size = runner.cfg.get('train_dataloader', {}).get('batch_size')
    return (
        f'The batch norm {name or "of a layer"} cannot be trained: it sees one value per channel ({shape}), as the '
        f'batch has one image and its feature map one position. Train with batches of two images or more '
        f'(train_dataloader.batch_size, now {size}) and train_dataloader.drop_last=True, without which the last batch '
        'of an epoch may have one; or with a larger input.'
    )
