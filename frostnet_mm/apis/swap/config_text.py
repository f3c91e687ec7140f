"""Configs as text: what differs between two, and a file that inherits one and sets only that."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import SHIPPED_CONFIGS, require_config

LINE = 120


def differences(old: Any, new: Any, name: str = '') -> list[tuple[str, Any, Any]]:
    """Dotted key, old value and new value of all that differs between two configs; None for what is not there."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(f'{name}.{key}' if name else key, old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, (list, tuple)) and type(old) is type(new) and len(old) == len(new) and _has_dict(old):
        pairs = [(f'{name}[{i}]', one, two) for i, (one, two) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new and type(old) is type(new) else [(name, old, new)]
    return [change for key, one, two in pairs for change in differences(one, two, key)]


def inherit(old: dict, new: dict) -> dict[str, Any]:
    """What a config must set that inherits ``old`` and shall be ``new``; lists are set as a whole, as mm asks."""
    result = {}
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            if inner := inherit(old[key], value):
                result[key] = inner
        elif differences(old.get(key), value) or key not in old:
            result[key] = value
    return result


def assignments(base: str, out: Path, imports: Sequence[str], model: dict) -> str:
    """The text of a config file that inherits another and sets parts of its model.

    Args:
        base (str): Path or name of the base config.
        out (Path): The file that the text is for.
        imports (Sequence[str]): Modules that register the config's types.
        model (dict): What to set in ``model``.
    """
    return f'{heading(base, out, imports)}model = {format_value(model, start=8)}\n'


def heading(base: str, out: Path, imports: Sequence[str]) -> str:
    """The first lines of a config file, which inherit another.

    An installed config is named as mm names it where mm finds it ('mmdet::...'). mmengine looks for 'mmseg::...' under
    the name 'mmsegmentation', which the maintained fork does not have, so that config is found by its package.

    Args:
        base (str): Path or name of the base config.
        out (Path): The file that the text is for; the path of the base is relative to it.
        imports (Sequence[str]): Modules that register the config's types.
    """
    if '::' not in base and not Path(base).is_file():  # one of this package, by its name alone
        base = f'frostnet_mm::{require_config(base).relative_to(SHIPPED_CONFIGS).as_posix()}'
    package, found, name = base.partition('::')
    name = name if name.endswith('.py') else f'{name}.py'
    if not found:
        source = repr(Path(os.path.relpath(base, out.parent)).as_posix())
    elif package in ('mmdet', 'frostnet_mm'):
        source = repr(f'{package}::{name}')
    else:
        source = f"__import__('{package}').__path__[0] + (\n    '/.mim/configs/{name}'\n)"
    imported = format_value(dict(imports=list(dict.fromkeys(imports)), allow_failed_imports=False))
    return f'_base_ = {source}\n\ncustom_imports = {imported}\n'


def format_value(value: Any, indent: int = 0, start: int = 0) -> str:
    """A value as the configs of mm write it: ``dict(...)``, single quotes, broken into lines where it must be.

    Args:
        value (Any): Dicts, sequences and plain values.
        indent (int): Columns that the lines after the first are indented by.
        start (int): Columns of the first line that are taken already.
    """
    if isinstance(value, dict):
        plain = all(isinstance(key, str) and key.isidentifier() for key in value)
        pairs = [(f'{key}=' if plain else f'{key!r}: ', item) for key, item in value.items()]
        opening, closing = ('dict(', ')') if plain else ('{', '}')
    elif isinstance(value, (list, tuple)):
        pairs = [('', item) for item in value]
        opening, closing = ('[', ']') if isinstance(value, list) else ('(', ')')
    else:
        return repr(value)
    comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    line = opening + ', '.join(key + format_value(item) for key, item in pairs) + comma + closing
    if max(indent, start) + len(line) < LINE and not (indent == 0 and start and _has_dict(pairs)):
        if '\n' not in line:
            return line
    inner = indent + 4
    lines = [f'{" " * inner}{key}{format_value(item, inner, inner + len(key))},\n' for key, item in pairs]
    return f'{opening}\n{"".join(lines)}{" " * indent}{closing}'


def _has_dict(items: Sequence) -> bool:
    return any(isinstance(item, dict) or (isinstance(item, tuple) and _has_dict(item)) for item in items)
