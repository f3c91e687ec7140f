"""What of mmengine's log goes to the screen: what a user follows. The log file has all of it."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

FILE_ONLY = (
    'Config:\n',
    'Hooks will be executed in the following order:',
    '\n------------------------------------------------------------\nSystem environment:',
    'Distributed training is not used, all SyncBatchNorm',
)
# mmengine's CheckpointHook asks for both itself in every run; a user can do nothing about them.
USELESS = ('"FileClient" will be deprecated in future.', '"HardDiskBackend" is the alias of "LocalBackend"')
PARAMWISE = 'paramwise_options -- '


def _is_for_screen(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(FILE_ONLY)


def _is_useful(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(USELESS)


def quiet_console(logger: logging.Logger) -> None:
    """Keep the whole config, the environment and the order of the hooks in the log file, and say where that is.

    Args:
        logger (Logger): mmengine's.
    """
    if _is_useful in logger.filters:
        return
    logger.addFilter(_is_useful)
    files = [handler.baseFilename for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler and handler.stream in (sys.stdout, sys.stderr):
            handler.addFilter(_is_for_screen)
    if files:
        logger.info(f'Config, environment and hooks are in {files[0]}.')


class _Count(logging.Filter):
    """Keeps the lines of single parameters, counted by their options."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if not text.startswith(PARAMWISE):
            return True
        self.counts[text.rpartition(':')[2]] += 1
        return False


@contextmanager
def summed_up(logger: logging.Logger) -> Iterator[None]:
    """Log the options of ``paramwise_cfg`` with their number of parameters, not once for each parameter.

    Args:
        logger (Logger): mmengine's.
    """
    count = _Count()
    logger.addFilter(count)
    try:
        yield
    finally:
        logger.removeFilter(count)
        for options, number in count.counts.items():
            logger.info(f'optim_wrapper.paramwise_cfg: {options} for {number} parameters.')
