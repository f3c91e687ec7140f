"""The command ``frostnet``: tools by short names, ``frostnet train CONFIG`` for ``python tools/train.py CONFIG``.

A command is a row of :data:`COMMANDS`; everything it does, its help included, is its tool's.
"""

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .files import SHIPPED_CONFIGS, SHIPPED_TOOLS
from .version import __version__

PROGRAM = 'frostnet'


class Command(NamedTuple):
    """One command.

    Args:
        tool (str): Name of the tool, without .py.
        text (str): What it does, for the list.
    """

    tool: str
    text: str


#: By name; a name of two words is a command with a kind.
COMMANDS = {
    'new': Command('new_config', 'write a config for data of your own, which it looks at'),
    'prepare coco': Command('prepare_coco', "check data in COCO's format, mend the annotations"),
    'prepare cityscapes': Command('prepare_cityscapes', 'check Cityscapes, make its train ids'),
    'prepare imagenet': Command('prepare_imagenet', 'check ImageNet, link its validation images by class'),
    'prepare cifar': Command('prepare_cifar', 'write the images of CIFAR-10 or CIFAR-100, a folder a class'),
    'prepare crops': Command('prepare_crops', 'make a classification data set of the objects of a detection data set'),
    'train': Command('train', 'train a detector, a segmenter or a classifier'),
    'test': Command('test', 'evaluate a checkpoint: float, INT8, engines'),
    'infer': Command('infer', 'predict images with a checkpoint'),
    'calibrate': Command('calibrate', 'give a float checkpoint the ranges of INT8 (post-training quantization)'),
    'analyze': Command('analyze_quant', 'say which layers lose by INT8'),
    'allocate': Command('allocate_bits', "choose each layer's bits within a budget"),
    'deploy': Command('deploy', 'write a model for an engine, verify it there'),
    'benchmark': Command('benchmark', 'time float and INT8 in engines'),
    'swap': Command('swap_backbone', "put another backbone into a detector's or segmenter's config"),
    'search': Command('search', "search a network for an engine's time"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what its tool ends with is what this ends with.

    Args:
        arguments (Sequence[str], optional): Default: those of the command line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ('-h', '--help', 'help'):
        print(overview())
    elif given[0] in ('-V', '--version'):
        print(f'{PROGRAM} {__version__}')
    else:
        name = next((name for name in (' '.join(given[:2]), given[0]) if name in COMMANDS), None)
        if name is None:
            print(f'\nerror: {_unknown(given)}', file=sys.stderr)
            sys.exit(2)
        run(COMMANDS[name].tool, f'{PROGRAM} {name}', given[len(name.split()) :])


def overview() -> str:
    """The help: all commands, each with a line."""
    width = max(map(len, COMMANDS))
    rows = '\n'.join(f'  {name:{width}s}  {command.text}' for name, command in COMMANDS.items())
    return (
        f'usage: {PROGRAM} COMMAND ...\n\n{rows}\n\n`{PROGRAM} COMMAND --help` lists the options of one. A config is a '
        f"file, or the name of one of\n{SHIPPED_CONFIGS} (such as ssdlite_frostnet_coco.py; in a config of one's own:\n"
        "_base_ = 'frostnet_mm::ssdlite_frostnet_coco.py')."
    )


def run(tool: str, name: str, arguments: Sequence[str]) -> None:
    """Run a tool as Python runs a script, in this process, so that exit status and signals are its own.

    Args:
        tool (str): Its name, without .py.
        name (str): What its help and messages call it.
        arguments (Sequence[str]): Of its command line.
    """
    path = SHIPPED_TOOLS / f'{tool}.py'
    sys.argv = [name, *arguments]
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location('__main__', path)
    module = sys.modules['__main__'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def words_for(tool: str) -> list[str]:
    """The words that run a tool as the present one was run: ``frostnet test``, ``python tools/test.py``.

    Args:
        tool (str): Its name, without .py.
    """
    own = sys.argv[0]
    if own.startswith(f'{PROGRAM} '):
        names = {command.tool: name for name, command in COMMANDS.items()}
        if tool in names:
            return [PROGRAM, *names[tool].split()]
    if (SHIPPED_TOOLS / Path(own).name).is_file():
        path = Path(own).with_name(f'{tool}.py')
        return ['python', str(path.relative_to(Path.cwd()) if Path.cwd() in path.parents else path)]
    return ['python', f'tools/{tool}.py']


def _unknown(given: Sequence[str]) -> str:
    kinds = [name.split()[1] for name in COMMANDS if name.startswith(f'{given[0]} ')]
    if kinds:
        return f'{PROGRAM} {given[0]} needs a kind: {", ".join(kinds)}, such as `{PROGRAM} {given[0]} {kinds[0]}`.'
    near = difflib.get_close_matches(given[0], [name.split()[0] for name in COMMANDS], n=1)
    hint = f'Did you mean {near[0]}? ' if near else ''
    return f'{PROGRAM} has no command {given[0]!r}. {hint}`{PROGRAM} --help` lists them.'


if __name__ == '__main__':
    main()
