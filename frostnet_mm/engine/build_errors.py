"""What mm's registries raise while they build a config's objects, as one message that names the key of the config."""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, NamedTuple

from mmengine.config import Config

from ..errors import UserError
from ..registry import type_message, unknown_type_message
from .errors import ConfigError

PACKAGE = Path(__file__).resolve().parent.parent
INSTALLED = ('site-packages', 'dist-packages')
UNEXPECTED = re.compile(r"(?:(\S+)\(\) )?got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r'missing \d+ required (?:positional|keyword-only) arguments?: (.+)')
NO_STEPS = 'end should be larger than begin'  # of mmengine's schedulers
BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Part(NamedTuple):
    """What was being built: its config, and its class if that was found."""

    cfg: Mapping
    kind: Any


@contextmanager
def building(cfg: Config, everything: bool = False) -> Iterator[None]:
    """Have errors of building objects of a config name the key where they stand.

    Errors of one's own code keep their traceback: those of classes outside the installed packages, and all that is
    raised when nothing is being built.

    Args:
        cfg (Config): The config.
        everything (bool): Whether all that is done within is building. Default: False.

    Raises:
        ConfigError: In place of what a registry, or a class that it builds, has raised.
    """
    try:
        yield
    except UserError:
        raise
    except BUILD_ERRORS as error:
        message = build_message(error, cfg, everything)
        if message is None:
            raise
        raise ConfigError(message) from error


def build_message(error: Exception, cfg: Config | None = None, everything: bool = False) -> str | None:
    """One message for an error of building from a config; None for another one.

    Args:
        error (Exception): With its traceback.
        cfg (Config, optional): Default: the one that a frame of the traceback holds.
        everything (bool): Whether all errors are of building. Default: False.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    cfg = cfg if cfg is not None else next(filter(None, map(_config_in, frames)), None)
    content = {} if cfg is None else cfg._cfg_dict
    part, text = _innermost(frames), str(error.args[0] if error.args else error)
    if unexpected := _found(UNEXPECTED, error, TypeError):
        return _unexpected(unexpected[2], part, content, text)
    if layer := _layer_type(error, frames):
        return _at(_paths(content, lambda node: node.get('type') == layer), type_message(layer, 'model'))
    if message := unknown_type_message(error):
        return _at(_paths(content, lambda node: str(node.get('type')) in _quoted_types(message)), message)
    if (part is None and not everything) or _is_own_code(error):
        return None
    where = '' if part is None else _path(content, part.cfg)
    name = getattr(part and part.kind, '__name__', 'the runner' if part is None else 'what stands there')
    if missing := _found(MISSING, error, TypeError):
        return _at([where], f'{name} needs {missing[1]}, which the config does not give.')
    reason = text if isinstance(error, UserError | ValueError | AssertionError) and text else f'{_kind(error)}: {text}'
    hint = _schedule_hint(content, part) if NO_STEPS in text else ''
    return _at([where], f'{name} cannot be built from the config: {reason} ({_place(error)}){hint}')


def _schedule_hint(content: Mapping, part: Part | None) -> str:
    """The variables of a config that say where a scheduler begins and ends, where there are such."""
    ends = dict(warm='begin', max='end')
    named = [
        f'{name}={value}'
        for word, key in ends.items()
        for name, value in content.items()
        if re.match(f'{word}.*(epochs|iters)', name) and part is not None and value == part.cfg.get(key)
    ]
    return f'. Lower {named[0]}, or raise {named[1]}.' if len(named) == 2 else ''


def _kind(error: Exception) -> str:
    return type(error).__name__


def _found(pattern: re.Pattern, error: Exception, kind: type[Exception]) -> re.Match | None:
    return pattern.search(str(error)) if isinstance(error, kind) else None


def _at(paths: list[str], message: str) -> str:
    named = ', '.join(path for path in paths if path)
    return f'{named}: {message}' if named else message


def _config_in(frame: FrameType) -> Config | None:
    values = frame.f_locals
    found = (values.get('cfg'), getattr(values.get('self'), 'cfg', None))
    return next((value for value in found if isinstance(value, Config)), None)


def _innermost(frames: list[FrameType]) -> Part | None:
    """The object that was being built last, by the frames of mmengine's ``build_from_cfg`` and ``build_dataloader``."""
    for frame in reversed(frames):
        values, name = frame.f_locals, frame.f_code.co_name
        if name == 'build_from_cfg' and isinstance(values.get('cfg'), Mapping):
            return Part(values['cfg'], values.get('obj_cls'))
        if name == 'build_dataloader' and isinstance(values.get('dataloader'), Mapping):
            from torch.utils.data import DataLoader

            return Part(values['dataloader'], DataLoader)
    return None


def _layer_type(error: Exception, frames: list[FrameType]) -> str | None:
    """The type that mmcv's ``build_norm_layer`` and its like do not find; their message says None in its place."""
    if isinstance(error, KeyError) and str(error.args[0]).startswith('Cannot find'):
        return frames[-1].f_locals.get('layer_type')
    return None


def _quoted_types(message: str) -> list[str]:
    return re.findall(r"^type='([^']+)'", message)


def _unexpected(name: str, part: Part | None, content: Mapping, text: str) -> str | None:
    own = part is not None and name in part.cfg
    paths = [_path(content, part.cfg, name)] if own else _paths(content, lambda node: name in node)
    if not own and not paths:
        return None  # no key of the config: a defect of whoever makes the call
    kind = part.kind if own else None
    if kind is None:
        return _at([f'{path}.{name}'.lstrip('.') for path in paths], f'nothing takes this argument: {text}.')
    accepted = sorted(_accepted(kind))
    near = difflib.get_close_matches(name, accepted, n=3)
    hint = f'Did you mean {", ".join(near)}?' if near else f'It takes {", ".join(accepted)}.'
    return _at(paths, f'{kind.__name__} has no argument {name!r}. {hint}')


def _accepted(kind: Any) -> set[str]:
    """Names of the arguments of a class, through the base classes that its ``**kwargs`` go to."""
    names: set[str] = set()
    for base in kind.__mro__ if isinstance(kind, type) else [kind]:
        function = vars(base).get('__init__') if isinstance(base, type) else base
        if function is None or base is object:
            continue
        parameters = inspect.signature(function).parameters.values()
        names.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {'self'}


def _dicts(node: Any, path: str = '') -> Iterator[tuple[str, Mapping]]:
    """All dicts of a config with their dotted paths, through lists."""
    if isinstance(node, Mapping):
        yield path, node
        items = node.items()
    else:
        items = enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in items:
        yield from _dicts(value, f'{path}.{name}'.lstrip('.'))


def _paths(content: Mapping, fits: Any) -> list[str]:
    """Up to three places, each once: base variables that a config keeps come last."""
    found = [path for path, node in _dicts(content) if path and fits(node)]
    return sorted(found, key=lambda path: '.' not in path)[:3] if len(found) > 3 else found


def _path(content: Mapping, part: Mapping, key: str | None = None) -> str:
    """Where a dict stands in a config: the one of its type that has the most values in common."""

    def likeness(node: Mapping) -> int:
        return sum(1 for name, value in node.items() if name in part and part[name] == value)

    found = [
        (likeness(node), '.' in path, path)
        for path, node in _dicts(content)
        if path and node.get('type') == part.get('type') and (key is None or key in node)
    ]
    return max(found, key=lambda row: row[:2])[2] if found else ''


def _is_own_code(error: Exception) -> bool:
    """Whether an error comes from a file that belongs neither to us nor to an installed package or Python."""
    frame = [frame for frame, _ in walk_tb(error.__traceback__)][-1]
    path = Path(frame.f_code.co_filename)
    if not path.is_file():
        return False
    return PACKAGE not in path.parents and not {*INSTALLED} & {*path.parts} and 'lib' not in path.parts


def _place(error: Exception) -> str:
    frame, line = list(walk_tb(error.__traceback__))[-1]
    path = Path(frame.f_code.co_filename)
    return f'{path.parent.name}/{path.name}:{line}'
