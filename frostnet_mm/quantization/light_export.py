"""What torch.export does beside the graph, made light: a fifth of the time of a capture."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import FrameSummary, StackSummary
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch._dynamo.config
import torch.fx.proxy


@contextmanager
def light_export() -> Iterator[None]:
    """Spare torch.export what takes longer than it helps, while the context is open; the graph is the same.

    Each node's line in the model is still recorded, but lines of the some hundred other frames are not read. Outputs of
    operators are not kept for the next of the same kind: with open sizes, a key and an entry cost more than the shape.
    """
    with (
        patch.object(torch.fx.proxy, 'CapturedTraceback', _Stack),
        torch._dynamo.config.patch(fake_tensor_cache_enabled=False),
    ):
        yield


class _Stack:
    """The frames that led here, of which torch keeps few: only of those the lines are read."""

    @classmethod
    def extract(cls, **options: Any) -> '_Stack':
        return cls()

    def summary(self) -> StackSummary:
        frame: FrameType | None = sys._getframe(1)
        frames = []
        while frame is not None:
            code = frame.f_code
            frames.append(FrameSummary(code.co_filename, frame.f_lineno, code.co_name, lookup_line=False))
            frame = frame.f_back
        return StackSummary(reversed(frames))


@contextmanager
def quiet_export() -> Iterator[None]:
    """Keep the tracebacks that torch logs of an attempt that fails off the screen: the error has it."""
    loggers = [logging.getLogger(f'torch.{name}') for name in ('_subclasses.fake_tensor', 'export._trace')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
