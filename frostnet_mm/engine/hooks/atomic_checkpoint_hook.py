"""``last_checkpoint`` names a checkpoint that is there, whenever a training is killed."""

import os
import shutil
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub

from ...errors import CheckpointWriteError
from ...registry import HOOKS
from ..late_removal import LAST, removal_held, remove_kept, remove_noted

UNFINISHED = '.unfinished'  # ends the names of what is being written


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, in whose place runners put it, for trainings that are killed at any moment.

    mmengine removes the oldest checkpoint before ``last_checkpoint`` names the new one, and empties that file in order
    to write it. Here a new checkpoint is written, ``last_checkpoint`` is replaced by a new file, and then the oldest
    checkpoint is removed. What a killed run has left half written, or was about to remove, is removed by the next one.

    Args:
        args, kwargs: As for mmengine's ``CheckpointHook``.

    Raises:
        CheckpointWriteError: ``last_checkpoint`` cannot be written, such as on a full disk.
    """

    def before_train(self, runner) -> None:
        """See mmengine's hook."""
        super().before_train(runner)
        self._stay_in_folder(runner.message_hub)
        # mmengine saves the state again behind a new best one only where this process has saved it before.
        self.last_ckpt = runner.message_hub.runtime_info.get('last_ckpt', self.last_ckpt)
        if is_main_process():
            for folder in {runner.work_dir, self.out_dir}:
                remove_unfinished(Path(folder))
            remove_noted(self, runner.message_hub)

    def _stay_in_folder(self, hub: MessageHub) -> None:
        """Take a best checkpoint of this folder alone for one to be removed: of a run that goes on elsewhere, or in a
        copy of its folder, the state names that of the first folder.
        """
        if getattr(self, 'best_ckpt_path', None) is not None:
            self.best_ckpt_path = self._here(hub, 'best_ckpt', self.best_ckpt_path)
        for name, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[name] = self._here(hub, f'best_ckpt_{name}', path)

    def _here(self, hub: MessageHub, key: str, path: str | None) -> str | None:
        if path is None or os.path.realpath(os.path.dirname(path)) == os.path.realpath(self.out_dir):
            return path
        own = self.file_backend.join_path(self.out_dir, os.path.basename(path))
        if not self.file_backend.exists(own):
            return None
        hub.update_info(key, own)
        return own

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        path = Path(runner.work_dir) / LAST
        folder = Path(runner.work_dir) / f'.{LAST}{UNFINISHED}'
        try:
            folder.mkdir(exist_ok=True)
            with removal_held(self):
                super()._save_checkpoint_with_step(_WithWorkDir(runner, str(folder)), step, meta)
            if is_main_process():
                os.replace(folder / LAST, path)
        except OSError as error:
            raise CheckpointWriteError(
                f'{path} cannot be written: {error.strerror or error}. Training stopped; the checkpoints written so '
                'far are kept. Make room and go on with --resume.'
            ) from error
        finally:
            if is_main_process():
                shutil.rmtree(folder, ignore_errors=True)
        remove_kept([self])


class _WithWorkDir:
    """A Runner with another work dir, into which mmengine's hook writes ``last_checkpoint`` and nothing else."""

    def __init__(self, runner: Any, work_dir: str) -> None:
        self._runner = runner
        self.work_dir = work_dir

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def remove_unfinished(folder: Path) -> None:
    """Remove what a run that was killed has left half written.

    Args:
        folder (Path): Of its checkpoints.
    """
    for path in folder.glob(f'.*{UNFINISHED}'):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
