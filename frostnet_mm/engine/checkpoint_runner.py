"""mmengine's Runner, which reads checkpoints as everything else here does: without running code, and each once."""

import os
from collections.abc import Callable

from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from ..models.checkpoints import read_checkpoint
from ..models.dense import unwrap


class CheckpointRunner(Runner):
    """A Runner whose checkpoints are read by :func:`frostnet_mm.models.read_checkpoint`.

    Attributes:
        opened (dict[str, dict]): By path what has been read already; taken from there once.
    """

    def __init__(self, *args, **kwargs) -> None:
        self.opened: dict[str, dict] = {}
        super().__init__(*args, **kwargs)

    def load_checkpoint(
        self,
        filename: str | os.PathLike,
        map_location: str | Callable = 'cpu',
        strict: bool = False,
        revise_keys: list | None = None,
    ) -> dict:
        """See mmengine's Runner; the content stays on the CPU until it is copied into the model."""
        content = self.opened.pop(str(filename), None)
        checkpoint = read_checkpoint(filename) if content is None else content
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        keys = [(r'^module\.', '')] if revise_keys is None else revise_keys
        checkpoint = _load_checkpoint_to_model(unwrap(self.model), checkpoint, strict, revise_keys=keys)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint
