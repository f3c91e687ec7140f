"""Checkpoints in a Runner: evaluated in float, in simulated INT8 and as integers, by mm's own evaluators.

What runs INT8 is imported where it is needed.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from ..models.dense import unwrap
from ..quantization.checkpoint import Checkpoint
from ..quantization.scheme import Scheme
from ..quantization.settings import EXECUTIONS, QuantizationSettings
from .qat_config import qat_hooks

if TYPE_CHECKING:
    from ..quantization.hook import QATHook


NO_OBJECTS = 'n/a'


def load_runner_weights(runner: Runner, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a Runner's model, and have the Runner load nothing else.

    Where the Runner has a QATHook, its network is captured first, and must be the one that the ranges belong to.
    """
    hook = qat_hook(runner)
    if hook is not None:
        network = hook.prepare(runner)
        if checkpoint.quantized:
            checkpoint.check(network, hook.settings)
    checkpoint.load_into(unwrap(runner.model))
    runner._has_loaded = True


def qat_hook(runner: Runner) -> 'QATHook | None':
    """The QATHook of a Runner, or None."""
    from ..quantization.hook import QATHook

    return next((hook for hook in runner.hooks if isinstance(hook, QATHook)), None)


def configure_execution(cfg: Config, checkpoint: Checkpoint, execution: str, weight_bits: int | None = None) -> None:
    """Have a config's Runner evaluate a checkpoint in one arithmetic.

    A config without QATHook gets one with the checkpoint's settings, as a calibrated model needs it.

    Args:
        cfg (Config): Changed in place.
        checkpoint (Checkpoint): The checkpoint.
        execution (str): What :meth:`Checkpoint.execution` returned.
        weight_bits (int, optional): 8 or 7. Default: as the checkpoint was made.

    Raises:
        CheckpointError: The weights cannot have that many bits.
    """
    settings = checkpoint.settings_with(weight_bits)
    own = qat_hooks(cfg)
    if not own and execution != 'float':
        from ..quantization.hook import hook_options

        own = [ConfigDict(type='frostnet_mm.QATHook', **hook_options(settings))]
        cfg.setdefault('default_hooks', ConfigDict())['qat'] = own[0]
    for hook in own:
        _set_execution(hook, execution, settings)


def _set_execution(hook: 'dict | QATHook', execution: str, settings: QuantizationSettings | None) -> None:
    """Have a QATHook, or the one that a config is of, evaluate in an arithmetic, with a checkpoint's bits."""
    if not isinstance(hook, dict):
        hook.execution = execution
        hook.settings = settings or hook.settings
        return
    hook['execution'] = execution
    if settings is not None:
        options = hook['scheme'] if hook.get('scheme') else hook
        options['weight_bits'] = settings.scheme.weight_bits
        own = Scheme(overrides=options.get('overrides') or {})
        overrides = Scheme(overrides=settings.scheme.bit_overrides).with_float(own.float_modules)
        options['overrides'] = dict(overrides.overrides)


def evaluate_all(runner: Runner) -> dict[str, dict]:
    """Evaluate a quantized checkpoint in every arithmetic.

    Args:
        runner (Runner): With a QATHook, and weights by :func:`load_runner_weights`.

    Returns:
        dict[str, dict]: The metrics of 'float', 'simulated' and 'converted', each with its 'evaluation s'.
    """
    hook, results = qat_hook(runner), {}
    for execution in EXECUTIONS:
        hook.execution = execution
        results[execution] = timed_metrics(runner, runner.test if not results else runner.test_loop.run)
    return results


def timed_metrics(runner: Runner, evaluate: Callable[[], dict]) -> dict:
    """Evaluate, and add 'evaluation s' to the metrics, the seconds that it took: with data, decoding and metrics.

    Args:
        runner (Runner): Whose test data are evaluated.
        evaluate (Callable): Returns the metrics.
    """
    start = time.perf_counter()
    metrics = dict(evaluate())
    metrics['evaluation s'] = time.perf_counter() - start
    return metrics


def comparison_table(results: dict[str, dict]) -> str:
    """Metrics beside each other, with the difference to the first column.

    Args:
        results (dict[str, dict]): By arithmetic or engine, as :func:`evaluate_all` returns them.
    """
    names = list(results)
    first = results[names[0]]
    metrics = [
        name
        for name in dict.fromkeys(key for values in results.values() for key in values)
        if any(isinstance(values.get(name), int | float | np.number) for values in results.values())
    ]
    width = max(len(name) for name in metrics)
    lines = [' ' * width + ''.join(f'{name:>12s}{"" if name == names[0] else "   (change)"}' for name in names)]
    for metric in metrics:
        line = f'{metric:{width}s}'
        for name in names:
            value, base = results[name].get(metric), first.get(metric)
            line += f'{_shown(metric, value):>12s}'
            if name != names[0]:
                known = not {'-', NO_OBJECTS} & {_shown(metric, value), _shown(metric, base)}
                line += f' ({value - base:+.4f})' if known else ' ' * 10
        lines.append(line)
    if any(NO_OBJECTS in line for line in lines):
        lines.append(f'{NO_OBJECTS}: the data has no such objects.')
    return '\n'.join(lines)


def _shown(metric: str, value: float | None) -> str:
    """A number for the table; COCO's -1 stands for "no object to measure this on"."""
    if value is None:
        return '-'
    return NO_OBJECTS if value == -1 and ('mAP' in metric or 'AR@' in metric) else f'{value:.4f}'
