"""Checkpoints in a Runner: evaluated in float, in simulated INT8 and as integers, by mm's own evaluators.

What runs INT8 is imported where it is needed: float models need no torchao.
"""

import time
from collections.abc import Callable

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..models.dense import unwrap
from ..quantization.names import EXECUTIONS
from .inference import load_weights, quantization_of, weight_bits_of


def load_runner_weights(runner: Runner, checkpoint: dict, source: str) -> None:
    """Load a checkpoint as :func:`load_weights` does into a Runner's model, and have the Runner load nothing else.

    Where the Runner has a QATHook, its network is captured first, and must be the one that the ranges belong to.
    """
    hook = qat_hook(runner)
    if hook is not None:
        from ..quantization.prepare import check_quantization

        network = hook.prepare(runner)
        meta = quantization_of(checkpoint)
        if meta is not None:
            check_quantization(meta, network, hook.settings, source)
    load_weights(unwrap(runner.model), checkpoint, source)
    runner._has_loaded = True


def qat_hook(runner: Runner) -> Hook | None:
    """The QATHook of a Runner, or None."""
    return next((hook for hook in runner.hooks if type(hook).__name__ == 'QATHook'), None)


def configure_execution(
    cfg: Config, checkpoint: dict, execution: str, source: str, weight_bits: int | None = None
) -> None:
    """Have a config's Runner evaluate a checkpoint in one arithmetic.

    A config without QATHook gets one with the checkpoint's settings, as a calibrated model needs it.

    Args:
        cfg (Config): Changed in place.
        checkpoint (dict): The checkpoint.
        execution (str): What :func:`choose_execution` returned.
        source (str): Name of the checkpoint, for messages.
        weight_bits (int, optional): 8 or 7. Default: as the checkpoint was made.

    Raises:
        CheckpointError: The weights cannot have that many bits.
    """
    hooks = [*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values()]
    own = [hook for hook in hooks if hook and hook['type'] in ('QATHook', 'frostnet_mm.QATHook')]
    if not own and execution != 'float':
        from ..quantization.hook import hook_options
        from ..quantization.prepare import settings_of

        own = [ConfigDict(type='frostnet_mm.QATHook', **hook_options(settings_of(quantization_of(checkpoint))))]
        cfg.setdefault('default_hooks', ConfigDict())['qat'] = own[0]
    for hook in own:
        hook['execution'] = execution
        if quantization_of(checkpoint) is not None:
            hook['weight_bits'] = weight_bits_of(checkpoint, weight_bits, source)


def evaluate_all(runner: Runner) -> dict[str, dict]:
    """Evaluate a quantized checkpoint in every arithmetic.

    Args:
        runner (Runner): With a QATHook, and weights by :func:`load_runner_weights`.

    Returns:
        dict[str, dict]: The metrics of 'float', 'simulated' and 'converted', each with its 'images/s'.
    """
    hook, results = qat_hook(runner), {}
    for execution in EXECUTIONS:
        hook.execution = execution
        results[execution] = timed_metrics(runner, runner.test if not results else runner.test_loop.run)
    return results


def timed_metrics(runner: Runner, evaluate: Callable[[], dict]) -> dict:
    """Evaluate, and add 'images/s' to the metrics.

    Args:
        runner (Runner): Whose test data are evaluated.
        evaluate (Callable): Returns the metrics.
    """
    start = time.perf_counter()
    metrics = dict(evaluate())
    metrics['images/s'] = len(runner.test_loop.dataloader.dataset) / (time.perf_counter() - start)
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
            line += f'{"-":>12s}' if value is None else f'{value:12.4f}'
            if name != names[0]:
                line += ' ' * 10 if value is None or base is None else f' ({value - base:+.4f})'
        lines.append(line)
    return '\n'.join(lines)
