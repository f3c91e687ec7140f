"""Top-level names of one's own configs that nothing reads: new ones, and variables that were used already."""

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import WARNING
from typing import Any

from mmengine.logging import print_log

from .config_checks import RUNNER_KEYS, SYNONYMS, dotted, ending_in
from .errors import ConfigError

_SIZES = ('scale', 'crop_size', 'img_scale', 'size')  # of images, whatever their variable is called


@dataclass
class Unread:
    """Top-level names that no text of a config reads.

    Args:
        new (list[tuple[str, str]]): Names that no base file has, with the file that assigns them.
        kept (list[tuple[str, str, object]]): Names of base files, with the file that assigns them anew and the value of
            the base file, which it has made something of.
        taken (set[str]): Names whose value a base file has taken from a config that inherits it.
        idle (list[tuple[str, str, object]]): Names of files that read them nowhere, with who gives another value, and
            the file's own: of the copy in a work dir, where all that was made of a variable is written out.
        untraced (bool): A file reads its base files in a way that does not tell which names.
    """

    new: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str, Any]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    idle: list[tuple[str, str, Any]] = field(default_factory=list)
    untraced: bool = False

    def note(self, path: str, own: Mapping[str, Any], bases: Mapping[str, Any], used: Iterable[str]) -> None:
        """Take down the names of a file that has base files.

        Args:
            path (str): The file.
            own (Mapping): What it assigns at its top level.
            bases (Mapping): The content of its base files.
            used (Iterable[str]): Names that its text, or that of a config that inherits it, reads.
        """
        if not bases:
            return  # the copy of a work dir, which has all the variables of what it was made of
        for name in own.keys() - RUNNER_KEYS - set(used) - self.taken:
            if name.startswith('_'):
                continue
            if name not in bases:
                self.new.append((name, path))
            elif bases[name] != own[name]:
                self.kept.append((name, path, bases[name]))

    def check(self, content: Mapping[str, Any]) -> None:
        """Refuse names that were meant for something; log the others.

        Args:
            content (Mapping): The whole config.

        Raises:
            ConfigError: A base file has used its variable of that name; or a key of the config is named so, or nearly.
        """
        for name, path, old in self.kept:
            if places := _made_of(name, old, content):
                raise ConfigError(
                    f'{path}: {name} has no effect: the base files have used theirs already, in '
                    f'{", ".join(sorted(places)[:3])}. Set {"these" if len(places) > 1 else "this"} too, '
                    f'such as {_nested(min(places, key=len), name)}.'
                )
        for name, source, old in self.idle:
            if name in self.taken or name in RUNNER_KEYS or self.untraced:
                continue
            said = f'{source}: {name} has no effect: nothing in the config reads it.'
            if places := _made_of(name, old, content):
                raise ConfigError(
                    f'{said} It is written out, as in the copy in a work dir, and {old!r} stands in '
                    f'{", ".join(sorted(places)[:3])}. Set {"these" if len(places) > 1 else "this"}, or use the config '
                    'that the copy was made of.'
                )
            print_log(said, 'current', WARNING)
        for name, path in sorted(self.new):
            said = f'{path}: {name} is new to the config, and nothing reads it.'
            meant = [SYNONYMS[name]] if name in SYNONYMS else ending_in(name, content) or _near(name, content)
            if meant:
                raise ConfigError(f'{said} Did you mean {", ".join(meant[:6])}?')
            print_log(said, 'current', WARNING)


def _near(name: str, content: Mapping[str, Any]) -> list[str]:
    names = [key for key in {*content, *RUNNER_KEYS} if key != name]
    return difflib.get_close_matches(name, names, n=3, cutoff=0.8)


def _made_of(name: str, old: Any, content: Mapping[str, Any]) -> list[str]:
    """The places that were made of a variable: dicts and lists of some size, sizes, and what is named as it is.

    Those in other variables, of which copies are read, are left out where there are better ones.
    """
    places = [key for key, value in dotted(content) if '.' in key and _same(key, value, name, old)]
    return [key for key in places if key.partition('.')[0] in RUNNER_KEYS] or places


def _same(key: str, value: Any, name: str, old: Any) -> bool:
    last = key.rpartition('.')[2]
    if last in _SIZES and isinstance(value, (list, tuple)) and isinstance(old, (int, float)):
        return len(value) > 0 and all(side == old for side in value)
    return value == old and (last in (name, *_SIZES) or (isinstance(old, (dict, list, tuple)) and len(old) > 1))


def _nested(key: str, name: str) -> str:
    first, *rest = key.split('.')
    if not rest or any(part.isdigit() for part in rest):
        return f'{key} = {name}'
    text = f'{rest[-1]}={name}'
    for part in reversed(rest[:-1]):
        text = f'{part}=dict({text})'
    return f'{first} = dict({text})'


def names_read(tree: ast.AST) -> set[str]:
    """The names that a file reads of its own."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def base_names_read(tree: ast.AST, base_names: Mapping[str, str]) -> set[str]:
    """The names that a file reads of its base files.

    Args:
        tree (AST): The file.
        base_names (Mapping[str, str]): What stands in its double braces, by the string that stands for it.
    """
    found = {name.split('.')[0] for name in base_names.values()}
    for node in ast.walk(tree):
        value = getattr(node, 'value', None)
        if isinstance(value, ast.Name) and value.id == '_base_':
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                found.add(str(node.slice.value))
    return found


def reads_base_otherwise(tree: ast.AST) -> bool:
    """Whether a file reads its base files other than by ``_base_.name`` and ``_base_['name']``."""
    traced, total = 0, 0
    for node in ast.walk(tree):
        total += isinstance(node, ast.Name) and node.id == '_base_' and isinstance(node.ctx, ast.Load)
        value = getattr(node, 'value', None)
        if isinstance(value, ast.Name) and value.id == '_base_':
            named = isinstance(node, ast.Attribute) and not hasattr(dict, node.attr)
            traced += named or (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant))
    return total > traced
