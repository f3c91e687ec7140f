"""Gradients that were accumulated, but not used yet, are part of a checkpoint."""

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper

from ...models.dense import unwrap
from ...registry import HOOKS

GRADIENTS = 'accumulated_gradients'  # in a checkpoint: by the names of parameters


@HOOKS.register_module()
class AccumulatedGradientsHook(Hook):
    """Save and restore the gradients of an update that is not complete (``optim_wrapper.accumulative_counts``).

    mmengine loses them, and warns of it. In distributed training each process has its own, of which a checkpoint holds
    none: there that stays so.
    """

    priority = 'VERY_HIGH'

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add them to a checkpoint that can be resumed."""
        wrapper = runner.optim_wrapper
        if 'optimizer' not in checkpoint or not isinstance(wrapper, OptimWrapper) or get_world_size() > 1:
            return
        if wrapper._inner_count % wrapper._accumulative_counts:
            named = unwrap(runner.model).named_parameters()
            checkpoint[GRADIENTS] = {name: p.grad.cpu() for name, p in named if p.grad is not None}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put them back."""
        saved = checkpoint.get(GRADIENTS)
        if not saved or not runner._resume or get_world_size() > 1:
            return
        for name, parameter in unwrap(runner.model).named_parameters():
            if name in saved:
                parameter.grad = saved[name].to(parameter.device)
        print_log(
            f'The gradients of the update that was under way are there too: none of its {len(saved)} tensors is lost.',
            logger='current',
        )
