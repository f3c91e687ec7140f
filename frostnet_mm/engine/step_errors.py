"""Errors in a step of training that a setting of the config causes, as one message."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import Runner

from ..errors import ProcessLostError, UserError
from .errors import ConfigError
from .shape_errors import frames_of, layer_at_work, shape_message

LOST = re.compile(r'gloo/transport|onnection (closed|reset) by peer|Timed out waiting|NCCL|Broken pipe')
ONE_VALUE = 'Expected more than 1 value per channel when training'


@contextmanager
def step_errors(runner: Runner) -> Iterator[None]:
    """Explain a batch norm that sees one value, a map that is too small for a layer or has other channels, a best score
    that no metric has, and a process that is lost.

    All else is passed on.

    Args:
        runner (Runner): What runs within.

    Raises:
        ConfigError, ProcessLostError: In place of the five.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(ONE_VALUE):
            raise
        raise ConfigError(_one_value(runner, error)) from error
    except KeyError as error:
        frame = frames_of(error)[-1]
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
        if message := shape_message(error):
            raise ConfigError(message) from error
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


def _one_value(runner: Runner, error: Exception) -> str:
    name, shape = layer_at_work(error)[0], str(error).rpartition('size ')[2]
    size = runner.cfg.get('train_dataloader', {}).get('batch_size')
    return (
        f'The batch norm {"of " * (name == "a layer")}{name} cannot be trained: it sees one value per channel '
        f'({shape}), as the batch has one image and its feature map one position. Train with batches of two images or '
        f'more (train_dataloader.batch_size, now {size}) and train_dataloader.drop_last=True, without which the last '
        'batch of an epoch may have one; or with a larger input.'
    )
