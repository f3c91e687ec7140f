"""Networks whose ranges lag behind their activations in QAT from the first step."""

import logging

from mmengine.logging import print_log

from ..registry import reads_checkpoint
from .network import QuantizedNetwork
from .settings import QuantizationSettings

FAST = 0.1  # an averaging constant with which AlexNet's ranges have followed


def warn_of_lagging_ranges(runner, network: QuantizedNetwork, settings: QuantizationSettings) -> None:
    """Say how to begin where nothing holds the activations of a network in place while it learns from scratch.

    Without norms they grow by a multiple in the first epochs; what lies beyond a range that takes up a hundredth of
    each batch has no gradient (docs/results/classification.md). Weights that were trained before do not grow like that.

    Args:
        runner (Runner): Before its first step.
        network (QuantizedNetwork): Rounds from that step on.
        settings (QuantizationSettings): Its.
    """
    if settings.learned_scales or settings.averaging_constant >= FAST or runner._load_from is not None:
        return
    targets = {str(node.target) for node in network.program.copy_graph().nodes if node.op == 'call_function'}
    pretrained = any(reads_checkpoint(getattr(module, 'init_cfg', None)) for module in runner.model.modules())
    if pretrained or any('_norm' in target for target in targets):
        return
    print_log(
        'The network has no normalization and rounds from the first step: ranges that take up '
        f'{settings.averaging_constant:g} of each batch can lag behind activations that grow, and cost accuracy. '
        f'Expected QATHook(warmup="1 epoch") or averaging_constant={FAST}.',
        logger='current',
        level=logging.WARNING,
    )
