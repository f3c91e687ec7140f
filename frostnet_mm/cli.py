"""What all command-line tools share: one clear line for what a user can mend, a traceback for what is our fault."""

import argparse
import errno
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from urllib.error import URLError

from mmengine.config import DictAction

from .commands import PROGRAM, words_for
from .compat import IncompatibleEnvironment
from .device.errors import close_output
from .errors import TrainingInterrupted, UserError
from .quantization.scheme import WEIGHT_BITS

USER_ERRORS = (
    UserError,
    IncompatibleEnvironment,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# mmdet warns so on import, of a metric that is not used here: COCO metrics are computed with pycocotools.
UNTRUE_WARNINGS = (
    'faster_coco_eval is not installed, metrics will not be computed',
    '`isinstance\\(treespec, LeafSpec\\)` is deprecated',  # of torch itself
    'Default ``avg_non_ignore`` is False',  # said where a config sets it, as class weights need it
)

SPACE = '\x1f'  # in the place of a space that stays
BETWEEN_WORDS = re.compile(r'(?<=[^\s,(\[]) +(?=[^\s,)\]])')
# Last names of keys that hold paths: mmengine would split their values at commas.
PATH_KEYS = frozenset('data_root ann_file load_from work_dir checkpoint img img_path seg_map_path'.split())


class ConfigOptions(DictAction):
    """mmengine's ``KEY=VALUE`` options; words keep the spaces between them, and a key that holds a path its value."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add the options to those that are there already, see the base class."""
        options = dict(getattr(namespace, self.dest, None) or {})
        namespace.given_options = [*(getattr(namespace, 'given_options', None) or []), *values]
        for text in values:
            key, equals, value = text.partition('=')
            if not key or not equals:
                parser.error(f'{option_string} {text}: expected KEY=VALUE, such as train_cfg.max_epochs=3')
            is_path = key.rpartition('.')[2] in PATH_KEYS and not value.startswith(('[', '('))
            try:
                options[key] = value if is_path and {' ', ','} & set(value) else _parsed(value)
            except AssertionError as error:
                parser.error(f'{option_string} {text}: {error}')
        setattr(namespace, self.dest, options)


def _parsed(value: str) -> Any:
    """As mmengine parses it, which takes all spaces out: 'traffic light' became 'trafficlight'."""

    def restored(part: Any) -> Any:
        if isinstance(part, (list, tuple)):
            return type(part)(map(restored, part))
        return part.replace(SPACE, ' ') if isinstance(part, str) else part

    return restored(DictAction._parse_iterable(BETWEEN_WORDS.sub(SPACE, value.strip())))


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='replace values of the config, for example data_root=/path train_cfg.max_epochs=3',
    )


def command(*words: object, args: argparse.Namespace | None = None) -> str:
    """A command that can be copied into a shell as it is.

    Args:
        words (object): Its words.
        args (Namespace, optional): Of a tool whose ``--cfg-options`` the command needs too.
    """
    options: Sequence[str] = getattr(args, 'given_options', None) or ()
    return shlex.join([*map(str, words), *(['--cfg-options', *options] if options else [])])


def tool_command(tool: str, *words: object, args: argparse.Namespace | None = None) -> str:
    """The command of another tool, spelled as the present one was: ``frostnet test ...``, ``python tools/test.py ...``.

    Args:
        tool (str): Its name, without .py.
        words (object): Its arguments.
        args (Namespace, optional): Of the present tool, whose ``--cfg-options`` the command needs too.
    """
    return command(*words_for(tool), *words, args=args)


def add_launcher_options(parser: argparse.ArgumentParser) -> None:
    """Add what distributed launchers pass; :func:`set_local_rank` reads it."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')


def set_local_rank(args: argparse.Namespace) -> None:
    """Pass a launcher's ``--local_rank`` on by the environment, where mmengine looks for it."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--float``, ``--simulated`` and ``--converted``, which set ``args.execution``; None without any."""
    group = parser.add_mutually_exclusive_group()
    for name, text in (
        ('float', 'run without quantization, in float'),
        ('simulated', 'run in simulated INT8 (the default for a quantized checkpoint)'),
        ('converted', 'run the integer-exact reference'),
    ):
        group.add_argument(f'--{name}', dest='execution', action='store_const', const=name, help=text)


def add_weight_bits(parser: argparse.ArgumentParser) -> None:
    """Add ``--weight-bits``, for tools that read quantized checkpoints; None without it."""
    parser.add_argument(
        '--weight-bits',
        type=int,
        choices=WEIGHT_BITS,
        help="of INT8 weights; default the checkpoint's. 7 for OpenVINO and inductor on x86 CPUs without VNNI, where 8 "
        'saturate (docs/deployment.md)',
    )


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Add ``--classes``, for tools that read checkpoints; None without it."""
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help="the class names of a checkpoint that notes none, in their order; default the checkpoint's, else the "
        "config's",
    )


def add_example_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--example-shape``, for tools that capture a network; None without it."""
    parser.add_argument(
        '--example-shape',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images that the network is captured with, where its graph depends on them',
    )


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool and exit: 0 done, 1 a defect (with traceback), 2 bad input (one message), 130 interrupted."""
    for message in UNTRUE_WARNINGS:
        warnings.filterwarnings('ignore', message)
    logging.raiseExceptions = False  # a line that no log takes, on a full disk, is no traceback
    try:
        code = main()
        sys.stdout.flush()
    except USER_ERRORS as error:
        print(f'\nerror: {_as_called(_explained(error))}', file=sys.stderr)
        code = 2
    except TrainingInterrupted:
        code = 130
    except KeyboardInterrupt:
        print('\ninterrupted', file=sys.stderr)
        code = 130
    except BrokenPipeError:
        close_output()
        code = 1
    except Exception as error:
        message = worker_message(error) or _of_the_surroundings(error) or _of_the_config(error)
        if message is None:
            raise
        print(f'\nerror: {_as_called(message)}', file=sys.stderr)
        code = 2
    sys.exit(code)


def _as_called(message: str) -> str:
    """A message with its commands spelled as this one was: ``frostnet test`` for ``python tools/test.py``."""
    if not sys.argv[0].startswith(f'{PROGRAM} '):
        return message
    return re.sub(r'python tools/(\w+)\.py', lambda found: ' '.join(words_for(found[1])), message)


def _of_the_surroundings(error: Exception) -> str | None:
    """What a full disk or a missing network has caused."""
    if isinstance(error, URLError):
        return f'A download failed: {error.reason}. Give a local file in place of the address.'
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        name = error.filename2 or error.filename  # of a copy the second
        where = f'{name} ' if name else 'A file '
        return f'{where}cannot be written: {error.strerror}. Make room, or write to another folder.'
    return None


def _of_the_config(error: Exception) -> str | None:
    """What a key of the config has caused, in tools that build and run parts of it themselves."""
    from .engine.build_errors import BUILD_ERRORS, build_message
    from .engine.shape_errors import shape_message

    return shape_message(error) or (build_message(error) if isinstance(error, BUILD_ERRORS) else None)


def _explained(error: Exception) -> str:
    """The message; what mm leaves to the operating system to say gets the way out as well."""
    if isinstance(error, FileNotFoundError) and error.errno is not None and error.filename is not None:
        return (
            f'{error.filename} does not exist. If it belongs to a data set, --cfg-options data_root=PATH says where '
            'that lies, and docs/data.md what it needs.'
        )
    return worker_message(error) or str(error)


def worker_message(error: Exception) -> str | None:
    """What a data loading worker said, of an error of ours that torch has wrapped with the worker's traceback.

    torch makes an error with several arguments a RuntimeError.

    Args:
        error (Exception): What came out of a data loader.

    Returns:
        str | None: The message; None for another error.
    """
    text = str(error.args[0]) if error.args else ''
    found = re.match(
        r'Caught (\w+) in DataLoader worker process \d+\.\nOriginal Traceback.*\n[\w.]*\1: (.*)', text, re.S
    )
    return found[2].strip() if found and found[1] in _names_of(UserError) else None


def _names_of(kind: type) -> set[str]:
    return {kind.__name__}.union(*map(_names_of, kind.__subclasses__()))
