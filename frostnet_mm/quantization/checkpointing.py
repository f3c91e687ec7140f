"""Gradient checkpointing, which a captured graph does not have."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch.utils.checkpoint

OWN_OPTIONS = ('context_fn', 'determinism_check', 'debug', 'early_stop', 'preserve_rng_state')


@contextmanager
def without_checkpointing() -> Iterator[list]:
    """Have ``torch.utils.checkpoint.checkpoint`` call its function, under whatever names modules have imported it.

    Exported, a checkpointed region runs without gradients, and nothing in it or before it would be trained.

    Yields:
        list: The functions that were called.
    """
    called = []

    def call(function: Callable, *args: Any, use_reentrant: bool | None = None, **kwargs: Any) -> Any:
        called.append(function)
        return function(*args, **{name: value for name, value in kwargs.items() if name not in OWN_OPTIONS})

    original = torch.utils.checkpoint.checkpoint
    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            for name in [name for name, value in getattr(module, '__dict__', {}).items() if value is original]:
                stack.enter_context(patch.object(module, name, call))
        yield called
