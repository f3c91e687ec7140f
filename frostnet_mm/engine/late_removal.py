"""Old checkpoints are removed when the new one is written, not before."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import CheckpointHook, Hook


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
