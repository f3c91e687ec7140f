"""Old checkpoints are removed when the new one is written, not before, and not forgotten by a run that is killed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MessageHub

LAST = 'last_checkpoint'  # the file of a work dir that names one
NOTED = 'removed_checkpoints'  # in a checkpoint: names of files that go when it is there


class LateRemoval:
    """A file backend that removes files later; all else is the backend's own.

    ``CheckpointHook`` removes the oldest checkpoint, or the last best one, before it writes the new one; on a full disk
    neither would be left.

    Args:
        backend: One of mmengine's file backends.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._kept: list[tuple[str, str]] = []
        self.held = False

    def remove(self, path: str) -> None:
        """Note a file to be removed."""
        self._kept.append(('remove', path))

    def rmtree(self, path: str) -> None:
        """Note a folder to be removed."""
        self._kept.append(('rmtree', path))

    @property
    def noted(self) -> list[str]:
        """Names of what is to be removed."""
        return [PurePath(path).name for _, path in self._kept]

    def remove_kept(self) -> None:
        """Remove what was noted and is still there, unless removal is held."""
        if self.held:
            return
        kept, self._kept = self._kept, []
        for name, path in kept:
            if self._backend.exists(path):
                getattr(self._backend, name)(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def keep_until_saved(hooks: Iterable[Hook]) -> None:
    """Have checkpoint hooks remove files when the next one is written."""
    for hook in hooks:
        backend = getattr(hook, 'file_backend', None) if isinstance(hook, CheckpointHook) else None
        if backend is not None and not isinstance(backend, LateRemoval):
            hook.file_backend = LateRemoval(backend)


def remove_kept(hooks: Iterable[Hook]) -> None:
    """Remove what checkpoint hooks have noted."""
    for hook in hooks:
        backend = getattr(hook, 'file_backend', None)
        if isinstance(backend, LateRemoval):
            backend.remove_kept()


def write_noted(hooks: Iterable[Hook], hub: MessageHub) -> None:
    """Have the next checkpoint name what is removed behind it: a run that is killed before resumes from it."""
    backends = (getattr(hook, 'file_backend', None) for hook in hooks)
    hub.update_info(NOTED, [name for own in backends if isinstance(own, LateRemoval) for name in own.noted])


def remove_noted(hook: CheckpointHook, hub: MessageHub) -> None:
    """Remove what the checkpoint that is resumed from names, and is still there.

    Nothing is removed where that checkpoint is of another folder, and nothing but files beside it with its suffix.

    Args:
        hook (CheckpointHook): Of the folder.
        hub (MessageHub): As the checkpoint has left it.
    """
    last = PurePath(str(hub.runtime_info.get('last_ckpt')))
    if last.parent != PurePath(hook.out_dir):
        return
    for name in hub.runtime_info.get(NOTED, []):
        own = PurePath(str(name))
        if own.name != name or own.suffix != last.suffix or own.name == last.name:
            continue
        path = hook.file_backend.join_path(hook.out_dir, name)
        if hook.file_backend.isfile(path):
            hook.file_backend.remove(path)
        elif hook.file_backend.isdir(path):  # of DeepSpeed
            hook.file_backend.rmtree(path)


@contextmanager
def removal_held(hook: Hook) -> Iterator[None]:
    """Have a checkpoint hook keep what it has noted while the context is open, whatever is saved."""
    backend = hook.file_backend
    if isinstance(backend, LateRemoval):
        backend.held = True
    try:
        yield
    finally:
        if isinstance(backend, LateRemoval):
            backend.held = False
