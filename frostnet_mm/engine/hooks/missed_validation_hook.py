"""A validation that a killed training did not finish is made up for."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop

from ...models.checkpoints import epoch_length_of, note_validation, validation_of
from ...registry import HOOKS


@HOOKS.register_module()
class MissedValidationHook(Hook):
    """Validate first where a checkpoint that is resumed was written before a validation that was due.

    mmengine saves, then validates; a training that is killed in between would go on without that validation's metrics
    and best checkpoint, and at its end without any.
    """

    priority = 'VERY_HIGH'  # a validation is over before CheckpointHook saves the best weights

    def __init__(self) -> None:
        self._validated: int | None = None
        self._saved: dict | None = None  # of what is resumed: the epoch and iteration that ran last
        self._epoch_length: int | None = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Read where the run of the checkpoint was validated; one without that note is gone on with as it is."""
        noted, validated = validation_of(checkpoint)
        if runner._resume and noted:
            self._validated = validated
            progress = checkpoint.get('message_hub', {}).get('runtime_info', {})
            self._saved = {name: progress[name] for name in ('epoch', 'iter') if name in progress}
            self._epoch_length = epoch_length_of(checkpoint)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Write it down."""
        note_validation(checkpoint, self._validated)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Note that a validation is over."""
        self._validated = runner.iter

    def validate_if_missed(self, runner) -> None:
        """Validate if it is due; a Runner calls it when all its hooks are ready to train."""
        saved, self._saved = self._saved, None
        loop = runner._train_loop
        if saved is None or runner._val_loop is None or self._validated == loop.iter:
            return
        if validation_due(loop, self._epoch_length):
            print_log(
                f'The checkpoint was written before the validation after iteration {loop.iter}: it is done now.',
                logger='current',
            )
            for name, value in saved.items():  # RuntimeInfoHook has put the next ones there
                runner.message_hub.update_info(name, value)
            runner.val_loop.run()


def validation_due(loop: BaseLoop, epoch_length: int | None) -> bool:
    """Whether mmengine's loop would validate where it is.

    Args:
        loop (BaseLoop): Epoch-based or iteration-based.
        epoch_length (int, optional): Iterations of an epoch when the loop got there.
    """
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    if done == 0 or (by_epoch and loop.iter != loop.epoch * (epoch_length or len(loop.dataloader))):
        return False
    loop._decide_current_val_interval()
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)
