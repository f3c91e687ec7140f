"""What all command-line tools share: one clear line for what a user can mend, a traceback for what is our fault."""

import sys
from collections.abc import Callable

from ..models.checkpoints import CheckpointError
from .config import ConfigError
from .interrupt_hook import TrainingInterrupted

USER_ERRORS = (CheckpointError, ConfigError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool and exit: 0 done, 1 a defect (with traceback), 2 bad input (one message), 130 interrupted."""
    from ..data import DatasetError

    try:
        code = main()
    except (*USER_ERRORS, DatasetError) as error:
        print(f'\nerror: {error}', file=sys.stderr)
        code = 2
    except TrainingInterrupted:
        code = 130
    except KeyboardInterrupt:
        print('\ninterrupted', file=sys.stderr)
        code = 130
    sys.exit(code)
