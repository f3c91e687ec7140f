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
TOO_SMALL = re.compile(
    r"Output size is too small|Kernel size can't be greater than actual input size|"
    'Padding size should be less than the corresponding input|Input and output sizes should be greater than 0'
)
MISFIT = re.compile(
    r'expected input\[.*\] to have (?P<conv>\d+) channels, but got (?P<maps>\d+)|'
    r'mat1 and mat2 shapes cannot be multiplied \(\d+x(?P<values>\d+) and (?P<linear>\d+)x'
)


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
        if TOO_SMALL.search(str(error)):
            raise ConfigError(too_small_message(error, _layer(runner, _frames(error)))) from error
        if misfit := MISFIT.search(str(error)):
            layer = _layer(runner, _frames(error))
            raise ConfigError(_other_channels(misfit, layer, layer == _first_convolution(runner))) from error
        if not _is_loss_of_a_process(error):
            raise
        raise ProcessLostError(
            f'Iteration {runner.iter + 1}: process {get_rank()} of {get_world_size()} stops, as another one has ended '
            f'or does not answer ({str(error).splitlines()[0]}). What that one printed says why; the checkpoints '
            f'written so far are kept in {runner.work_dir}. Go on with --resume.'
        ) from error


def too_small_message(error: Exception, layer: str = 'a layer') -> str | None:
    """What to say of a map that is too small for a layer; None for another error.

    Args:
        error (Exception): What torch has raised.
        layer (str): Name of the layer.
    """
    if not isinstance(error, RuntimeError) or not TOO_SMALL.search(str(error)):
        return None
    return (
        f'The images are too small for the network: {layer} cannot work on its map '
        f'({str(error).splitlines()[0].rstrip(".")}). Give it a larger input: input_size or the scale of Resize, where '
        'the config has it.'
    )


def _other_channels(found: re.Match, layer: str, first: bool) -> str:
    """What to say of a layer that gets other channels than it reads; the first reads the images."""
    reads, gets = (found['conv'], found['maps']) if found['conv'] else (found['linear'], found['values'])
    if first:
        return (
            f'{layer} reads images of {reads} channels and gets {gets}: give the backbone in_channels={gets}, or it '
            f"images of {reads} (of grey ones, 1: LoadImageFromFile with color_type='grayscale', and one mean and std)."
        )
    part = f'model.{layer.partition(".")[0]}' if layer != 'a layer' else 'that part of the model'
    return (
        f'{layer} reads {reads} channels and gets {gets}: give {part} the in_channels of what lies before it (the '
        "backbone's out_indices choose maps); a dense layer for images of one size needs images of that size."
    )


def _first_convolution(runner: Runner) -> str:
    named = unwrap(runner.model).named_modules()
    return next((name for name, module in named if isinstance(module, nn.Conv2d)), '')


def _is_loss_of_a_process(error: RuntimeError) -> bool:
    known = isinstance(error, torch.distributed.DistError) or LOST.search(str(error)) is not None
    return known and not isinstance(error, UserError) and get_world_size() > 1


def _frames(error: Exception) -> list[FrameType]:
    return [frame for frame, _ in walk_tb(error.__traceback__)]


def _layer(runner: Runner, frames: list[FrameType]) -> str:
    """The name of the innermost module that was at work; 'a layer' if none is known, as in a captured graph."""
    modules = [frame.f_locals.get('self') for frame in frames]
    modules = [module for module in modules if isinstance(module, nn.Module)]
    names = {id(module): name for name, module in unwrap(runner.model).named_modules()}
    inner = next((module for module in reversed(modules) if id(module) in names), None)
    return names[id(inner)] if inner is not None and next(inner.children(), None) is None else 'a layer'


def _one_value(runner: Runner, frames: list[FrameType], said: str) -> str:
    name, shape = _layer(runner, frames), said.rpartition('size ')[2]
    size = runner.cfg.get('train_dataloader', {}).get('batch_size')
    return (
        f'The batch norm {"of " * (name == "a layer")}{name} cannot be trained: it sees one value per channel '
        f'({shape}), as the batch has one image and its feature map one position. Train with batches of two images or '
        f'more (train_dataloader.batch_size, now {size}) and train_dataloader.drop_last=True, without which the last '
        'batch of an epoch may have one; or with a larger input.'
    )
