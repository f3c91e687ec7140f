"""Ctrl-C leaves a checkpoint that resumes."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log

from ...errors import TrainingInterrupted
from ...files import write_text
from ...models.checkpoints import epoch_length_of, note_epoch_length
from ...registry import HOOKS
from ..loops import ResumableEpochTrainLoop

DATA_BATCH = dict | tuple | list | None


@HOOKS.register_module()
class InterruptHook(Hook):
    """Save the whole training state when a signal arrives, then stop.

    The first signal lets the current iteration finish, writes ``interrupted_iter_N.pth`` and names it in
    ``last_checkpoint``, so that ``--resume`` goes on from there; a second one stops at once. During validation nothing
    is lost either: the state after the last training iteration is saved.

    Args:
        signals (Sequence[str]): Names of the signals. Default: ('SIGINT', 'SIGTERM').

    Raises:
        TrainingInterrupted: In the training loop, after the checkpoint was written.
    """

    priority = 'LOWEST'  # optimizer, schedulers and EMA have finished the iteration

    def __init__(self, signals: Sequence[str] = ('SIGINT', 'SIGTERM')) -> None:
        self.signals = [signal.Signals[name] for name in signals]
        self._previous: dict[int, object] = {}
        self._received: int | None = None
        self._process = os.getpid()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _handle_in_child(signum)
            return
        if self._received is not None:
            self.restore_signals()
            raise KeyboardInterrupt
        self._received = signum

    def restore_signals(self) -> None:
        """Put the earlier handlers back; a Runner calls it however training ends."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def before_train(self, runner) -> None:
        """Install the handlers; Python allows that in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            self._received, self._process = None, os.getpid()
            self.restore_signals()
            self._previous = {signum: signal.signal(signum, self._handle) for signum in self.signals}

    def after_train(self, runner) -> None:
        """Put the earlier handlers back."""
        self.restore_signals()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Stop after this iteration if a signal came."""
        if self._received is not None:
            self._save_and_stop(runner, runner.epoch, runner.iter + 1)

    def after_val_iter(
        self, runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: Sequence | None = None
    ) -> None:
        """Stop during the validation if a signal came."""
        if self._received is not None:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # validation runs on the averaged weights: swap them back
            self._save_and_stop(runner, runner.epoch, runner.iter)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Note the length of an epoch, without which its middle cannot be found again."""
        note_epoch_length(checkpoint, len(runner.train_dataloader))

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Tell the loop how long an epoch was."""
        loop = runner._train_loop
        if isinstance(loop, ResumableEpochTrainLoop):
            loop.saved_epoch_length = epoch_length_of(checkpoint)

    def _save_and_stop(self, runner, epoch: int, iteration: int) -> None:
        self.restore_signals()
        name = f'interrupted_iter_{iteration}.pth'
        runner.save_checkpoint(runner.work_dir, name, meta=dict(epoch=epoch, iter=iteration), by_epoch=False)
        if is_main_process():
            write_text(Path(runner.work_dir) / 'last_checkpoint', str(Path(runner.work_dir) / name))
        print_log(
            f'{signal.Signals(self._received).name}: stopped after iteration {iteration}. The state is in '
            f'{runner.work_dir}/{name}; the same command with --resume goes on from there.',
            logger='current',
        )
        raise TrainingInterrupted


def _handle_in_child(signum: int) -> None:
    """In a process that was forked during training and has inherited the handler.

    A Ctrl-C in the terminal reaches data loading workers too, which are needed until the iteration is done: ignored.
    Other signals, such as the one by which a pool ends its workers, do what they do by default.
    """
    if signum != signal.SIGINT:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
