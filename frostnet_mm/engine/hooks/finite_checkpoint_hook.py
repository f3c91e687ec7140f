"""No checkpoint is written whose weights are NaN or infinite."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import CheckpointHook, EMAHook, Hook
from torch import Tensor

from ...errors import NonFiniteError
from ...models.dense import unwrap
from ...registry import HOOKS
from ..non_finite import infinite_entries, non_finite_entries

DATA_BATCH = dict | tuple | list | None


@HOOKS.register_module()
class FiniteCheckpointHook(Hook):
    """Refuse to save weights, statistics, ranges or averages of weights that are not finite, and stop.

    ``CheckpointHook`` removes the oldest or the last best checkpoint before it writes a new one. The weights are
    therefore looked at before it acts, and before each validation, as well as when any hook saves. Infinities that a
    buffer has had since the start of training are in order: ranges are infinite until an image has been seen.

    Raises:
        NonFiniteError: In place of the checkpoint.
    """

    priority = 'LOW'  # after EMAHook (NORMAL), which adds its averages; before CheckpointHook (VERY_LOW)

    def __init__(self) -> None:
        self._training = False
        self._known: dict[str, Tensor] = {}

    def before_train(self, runner) -> None:
        """Note which buffers are infinite before training."""
        self._training = True
        model = unwrap(runner.model)
        buffers = {name for name, _ in model.named_buffers()}
        self._known = infinite_entries({name: value for name, value in model.state_dict().items() if name in buffers})

    def after_train(self, runner) -> None:
        """Training is over."""
        self._training = False

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Look at the weights if a checkpoint is about to be written at this iteration."""
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and not hook.by_epoch:
                due = self.every_n_train_iters(runner, hook.interval, hook.save_begin)
                if due or (hook.save_last and self.is_last_train_iter(runner)):
                    self._check_model(runner, runner.iter + 1)
                    return

    def after_train_epoch(self, runner) -> None:
        """Look at the weights once an epoch."""
        self._check_model(runner)

    def before_val_epoch(self, runner) -> None:
        """Look at the weights before a validation during training, which may write a best checkpoint."""
        if self._training:
            self._check_model(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Look at what is to be saved, whoever saves it."""
        self._check(runner, checkpoint['state_dict'])
        self._check(runner, checkpoint.get('ema_state_dict', {}))

    def _check_model(self, runner, iteration: int | None = None) -> None:
        self._check(runner, unwrap(runner.model).state_dict(), iteration)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model'):
                self._check(runner, hook.ema_model.state_dict(), iteration)

    def _check(self, runner, state: Mapping[str, Any], iteration: int | None = None) -> None:
        known = {prefix + name: value for name, value in self._known.items() for prefix in ('', 'module.')}
        found = non_finite_entries(state, known)
        if found:
            more = f' and {len(found) - 3} more' if len(found) > 3 else ''
            raise NonFiniteError(
                f'After iteration {iteration or runner.iter}, {len(found)} of {len(state)} entries of the weights are '
                f'NaN or infinite: {", ".join(found[:3])}{more}. They are not saved, and training stopped; the '
                f'checkpoints written so far are kept in {runner.work_dir}. {_advice(found)}'
            )


def _advice(found: Sequence[str]) -> str:
    if all(name.endswith('.running_var') for name in found):
        return (
            'They are variances of batch norms, and one value has none: a batch had one image where a feature map has '
            'one position. Train with train_dataloader.drop_last=True, without which the last batch of an epoch may '
            'have one image, and with train_dataloader.batch_size of two or more; or with a larger input.'
        )
    return (
        'The loss was finite: it was a gradient, or the values in a layer for statistics and ranges. Lower the '
        'learning rate or clip the gradients (optim_wrapper.clip_grad.max_norm=10), and go on from the last checkpoint '
        'with --resume.'
    )
