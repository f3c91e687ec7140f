"""Checkpoints in a Runner: evaluated in float, in simulated INT8 and as integers, by mm's own evaluators.

What runs INT8 is imported where it is needed: float models need no torchao.
"""

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..models.dense import unwrap
from ..quantization.names import EXECUTIONS
from .inference import load_weights, quantization_of


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


def configure_execution(cfg: Config, checkpoint: dict, execution: str) -> None:
    """Have a config's Runner evaluate a checkpoint in one arithmetic.

    A config without QATHook gets one with the checkpoint's settings, as a calibrated model needs it.

    Args:
        cfg (Config): Changed in place.
        checkpoint (dict): The checkpoint.
        execution (str): What :func:`choose_execution` returned.
    """
    hooks = [*cfg.get('custom_hooks', []), *(hook for hook in cfg.get('default_hooks', {}).values() if hook)]
    own = [hook for hook in hooks if hook['type'] in ('QATHook', 'frostnet_mm.QATHook')]
    if not own and execution != 'float':
        from ..quantization.hook import hook_options
        from ..quantization.prepare import settings_of

        own = [ConfigDict(type='frostnet_mm.QATHook', **hook_options(settings_of(quantization_of(checkpoint))))]
        cfg.setdefault('default_hooks', ConfigDict())['qat'] = own[0]
    for hook in own:
        hook['execution'] = execution


def evaluate_all(runner: Runner) -> dict[str, dict]:
    """Evaluate a quantized checkpoint in every arithmetic.

    Args:
        runner (Runner): With a QATHook, and weights by :func:`load_runner_weights`.

    Returns:
        dict[str, dict]: The metrics of 'float', 'simulated' and 'converted'.
    """
    hook, results = qat_hook(runner), {}
    for execution in EXECUTIONS:
        hook.execution = execution
        results[execution] = runner.test() if not results else runner.test_loop.run()
    return results


def comparison_table(results: dict[str, dict]) -> str:
    """The metrics of :func:`evaluate_all` beside each other, with the difference to float."""
    metrics = [name for name, value in results['float'].items() if isinstance(value, int | float | np.number)]
    width = max(len(name) for name in metrics)
    lines = [' ' * width + ''.join(f'{name:>12s}{"" if name == "float" else "   (change)"}' for name in EXECUTIONS)]
    for name in metrics:
        base = results['float'][name]
        others = (results[execution][name] for execution in EXECUTIONS[1:])
        lines.append(f'{name:{width}s}{base:12.4f}' + ''.join(f'{v:12.4f} ({v - base:+.4f})' for v in others))
    return '\n'.join(lines)
