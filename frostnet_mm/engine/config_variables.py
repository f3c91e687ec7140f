"""Variables that configs share: what a child config assigns reaches its base files before they are executed.

mmengine executes a base file on its own and merges the child into the result. What the base derives from a variable
(pipelines from ``input_size``, a schedule from ``max_epochs``, paths from ``data_root``) keeps the base's value then,
and the child must say it all again. Here a plain top-level variable of a child takes the place of the base's value
where the base assigns it, so that all that the base derives from it follows.
"""

import ast
import builtins
import copy
import functools
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from traceback import walk_tb
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import RemoveAssignFromAST
from mmengine.logging import print_log
from mmengine.utils import import_modules_from_strings

from ..files import SHIPPED_CONFIGS, require_config
from .config_checks import QAT_HOOK, check_optimizer
from .config_names import Unread, base_names_read, names_read, reads_base_otherwise

UPSTREAM = {'site-packages', 'dist-packages', '.mim'}  # folders of installed packages, whose configs stay mm's own
OWN = 'frostnet_mm::'
COMMAND_LINE = '--cfg-options'
BASE, DEPRECATION, GIVE = '_base_', '_deprecation_', '__given__'
_MISSING = object()
_PURE = {name: getattr(builtins, name) for name in 'abs float int len list max min round str sum tuple'.split()}
_EXPRESSIONS = (
    *(ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Starred, ast.JoinedStr, ast.FormattedValue, ast.Call),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Subscript, ast.Slice),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)


class Given(NamedTuple):
    """The value of a variable, and who gives it: a config file or the command line."""

    value: Any
    source: str


def read_config(path: str, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config as ``Config.fromfile`` does, with the variables of child configs given to their base files.

    - A variable is a name that a file assigns at its top level, with a plain value: str, number, bool, None, or tuples
      and lists of such. The value must be known without the base files: computed from literals, environment variables
      and other variables of the file, not from ``_base_``.
    - It replaces the value in each base file, direct or not, that assigns the name a plain value too. Names that hold
      other things, dicts above all, are merged as always. The command line goes before the child, the child before the
      base. Each replacement is one line in the log.
    - A name that nothing reads is refused if a key of the config may be meant, and logged otherwise.
    - A dict ``qat_hook`` that changes the one of a base file changes ``default_hooks.qat`` too, which is made of it.
    - Configs of other installed packages, JSON, YAML and pure-Python (lazy) configs are read by mmengine alone.

    Args:
        path (str): The config file.
        options (Mapping, optional): Values from the command line. Those with a dotted key, and those that are not
            plain, are not for here.

    Returns:
        Config: The config; ``options`` whose name no file assigns are not in it.
    """
    if not _takes_part(path):
        return Config.fromfile(path)
    given = {k: Given(v, COMMAND_LINE) for k, v in (options or {}).items() if '.' not in k and is_plain(v)}
    unread = Unread()
    cfg_dict, text, env_variables = _read(path, given, unread)
    unread.check(cfg_dict)
    if cfg_dict.get('custom_imports'):
        import_modules_from_strings(**cfg_dict['custom_imports'])
    return Config(cfg_dict, cfg_text=text, filename=path, env_variables=env_variables)


def reading_error(error: Exception) -> str:
    """What went wrong in reading a config, with the line of the config."""
    said = f'{type(error).__name__}: {error}'
    lines = [
        (frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__) if GIVE in frame.f_globals
    ]
    return f'{said} ({_short(lines[-1][0])}, line {lines[-1][1]})' if lines else said


def is_plain(value: Any) -> bool:
    """Whether a value is a str, a number, a bool, None, or a tuple or list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))


def like(value: Any, own: Any) -> Any:
    """``value``, copied: as a tuple where it is a list (``a=1,2`` of the command line) in a tuple's place."""
    return tuple(value) if isinstance(value, list) and isinstance(own, tuple) else copy.deepcopy(value)


def _takes_part(path: str) -> bool:
    path = os.path.abspath(os.path.expanduser(path))
    is_own = SHIPPED_CONFIGS in Path(path).resolve().parents
    if not path.endswith('.py') or (UPSTREAM & set(Path(path).parts) and not is_own):
        return False
    ast.parse(_source(path), path)  # a syntax error names this file; mmengine's does not
    return not _is_lazy(path)


def _is_lazy(path: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return Config._is_lazy_import(_without_mark(path, os.path.join(folder, 'config.py')))


def _source(path: str) -> str:
    """The text of a config, without the byte order mark that some editors write."""
    return Path(path).read_text(encoding='utf-8-sig')


def _without_mark(path: str, copy_path: str) -> str:
    Path(copy_path).write_text(_source(path), encoding='utf-8')
    return copy_path


def _read(
    path: str, given: Mapping[str, Given], unread: Unread, used: frozenset[str] = frozenset()
) -> tuple[dict, str, dict]:
    """The content of a file merged into its bases, their texts, and environment variables: ``Config._file2dict``.

    Args:
        path (str): The file.
        given (Mapping[str, Given]): Variables that configs which inherit it, or the command line, give.
        unread (Unread): Takes down the names that nothing reads.
        used (frozenset[str]): The names that configs which inherit it read of it.
    """
    if not _takes_part(path):
        return Config._file2dict(path)
    path = os.path.abspath(os.path.expanduser(path))
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'config.py')
        Config._substitute_predefined_vars(path, file)
        _without_mark(file, file)
        env_variables = Config._substitute_env_variables(file, file)
        base_names = Config._pre_substitute_base_vars(file, file)  # by the strings that stand for {{_base_.name}}
        tree = ast.parse(Path(file).read_text(encoding='utf-8'), path)
        base_files = Config._get_base_files(file)
    own = {name: Given(value, path) for name, value in _values(tree, given, base_names).items()}
    bases, texts = ConfigDict(), []
    used_of_bases = used | base_names_read(tree, base_names)
    unread.untraced |= reads_base_otherwise(tree)
    for base_file in base_files:
        base_path, scope = _base_path(base_file, path)
        base, base_text, base_env = _read(base_path, {**own, **given}, unread, used_of_bases)
        if repeated := bases.keys() & base.keys():
            raise KeyError(f'Duplicate key is not allowed among bases. Duplicate keys: {repeated}')
        bases.update(Config._dict_to_config_dict(base, scope))
        texts.append(base_text)
        env_variables.update(base_env)
    cfg_dict = _execute(tree, path, bases, base_names, given, unread, names_read(tree) | used)
    _warn_deprecated(cfg_dict, path)
    check_optimizer(*(_optimizer(content) for content in (cfg_dict, bases)), _short(path))
    bases = _change_hook(cfg_dict, bases)
    cfg_dict = Config._substitute_base_vars(cfg_dict, base_names, bases)
    unread.note(_short(path), cfg_dict, bases, names_read(tree) | used | given.keys() | {QAT_HOOK})
    cfg_dict = Config._merge_a_into_b(cfg_dict, bases)
    texts.append(f'{path}\n{_source(path)}')
    return {k: v for k, v in cfg_dict.items() if not k.startswith('__')}, '\n'.join(texts), env_variables


def _base_path(name: str, path: str) -> tuple[str, str | None]:
    """The file of a base config and the scope of its types, as ``Config._get_cfg_path``, which knows no name of ours.

    mmengine asks for a folder in ``package::folder/name`` and for the package in a table of its own.
    """
    if name.startswith(OWN):
        return str(require_config(name)), None
    return Config._get_cfg_path(name, path)


def _execute(
    tree: ast.Module,
    path: str,
    bases: ConfigDict,
    base_names: dict,
    given: Mapping[str, Given],
    unread: Unread,
    used: set[str],
) -> dict:
    """The top-level names of a file, those in ``given`` with the values from there; ``used`` are read of them."""

    def give(name: str, own: Any) -> Any:
        is_reference = isinstance(own, str) and own in base_names  # {{_base_.name}}, not yet substituted
        value = functools.reduce(dict.__getitem__, base_names[own].split('.'), bases) if is_reference else own
        if not is_plain(value):
            return own
        new = like(given[name].value, value)
        if name in used or name == QAT_HOOK:
            unread.taken.add(name)
        elif new != value:
            unread.idle.append((name, _short(given[name].source), value))
        if new != value:
            _log(name, new, value, given[name].source, path)
        return new

    tree = _GiveAfterAssignment(given).visit(RemoveAssignFromAST(BASE).visit(tree))
    names = {BASE: bases, GIVE: give}
    eval(compile(ast.fix_missing_locations(tree), path, mode='exec'), names, names)
    return {
        name: value
        for name, value in names.items()
        if name != BASE and not name.startswith('__') and not isinstance(value, (FunctionType, ModuleType))
    }


def _optimizer(cfg_dict: Mapping) -> Any:
    wrapper = cfg_dict.get('optim_wrapper')
    return wrapper.get('optimizer') if isinstance(wrapper, dict) else None


def _change_hook(own: dict, bases: ConfigDict) -> ConfigDict:
    """``bases`` with a file's changes of ``qat_hook``, also where it was used: in ``{{_base_.qat_hook}}`` and below."""
    change, hook = own.get(QAT_HOOK), bases.get(QAT_HOOK)
    if not isinstance(change, dict) or not isinstance(hook, dict):
        return bases

    def changed(options: dict) -> dict:
        return Config._merge_a_into_b(dict(hook=copy.deepcopy(change)), dict(hook=options))['hook']

    bases = copy.deepcopy(bases)
    bases[QAT_HOOK] = changed(hook)
    hooks = own.get('default_hooks')
    if isinstance(hooks, dict) and hooks.get('qat') is hook:  # _base_.qat_hook, without braces
        hooks['qat'] = bases[QAT_HOOK]
    used = bases.get('default_hooks')
    if isinstance(used, dict) and isinstance(used.get('qat'), dict):
        used['qat'] = changed(used['qat'])
    return bases


def _log(name: str, new: Any, old: Any, source: str, path: str) -> None:
    print_log(f'{_short(path)}: {name} is {new!r} from {_short(source)}, not {old!r}.', logger='current')


def _short(path: str) -> str:
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    return path if relative.startswith('..') else relative


def _warn_deprecated(cfg_dict: dict, path: str) -> None:
    if (info := cfg_dict.pop(DEPRECATION, None)) is not None:
        hints = ''.join(f' {key}: {value}.' for key, value in info.items())
        warnings.warn(f'The config file {path} will be deprecated in the future.{hints}', DeprecationWarning, 2)


class _GiveAfterAssignment(ast.NodeTransformer):
    """Adds ``name = __given__('name', name)`` behind each assignment of a name that is given, outside of functions."""

    def __init__(self, names: Mapping[str, Given]) -> None:
        self.names = names

    def visit_Assign(self, node: ast.stmt) -> list[ast.stmt]:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [name for target in targets for name in _stored(target) if name in self.names]
        lines = [ast.parse(f'{name} = {GIVE}({name!r}, {name})').body[0] for name in names]
        return [node, *(ast.copy_location(line, node) for line in lines)]

    visit_AugAssign = visit_Assign

    def visit_AnnAssign(self, node: ast.AnnAssign) -> list[ast.stmt]:
        return self.visit_Assign(node) if node.value is not None else [node]

    def visit_FunctionDef(self, node: ast.stmt) -> ast.stmt:
        return node  # its names are its own

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef


def _stored(node: ast.AST) -> Iterator[str]:
    return (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, (ast.Store, ast.Del)))


# -- what a file says without its bases


def _values(tree: ast.Module, given: Mapping[str, Given], base_names: dict) -> dict[str, Any]:
    """The plain variables of a file whose values its text alone says, those in ``given`` with the values from there."""
    values: dict[str, Any] = {}

    def assign(target: ast.expr, expression: ast.expr | Any) -> None:
        value = _evaluate(expression, values, base_names) if isinstance(expression, ast.expr) else expression
        if isinstance(target, ast.Name):
            values.pop(target.id, None)
            if value is not _MISSING and target.id != BASE:
                values[target.id] = like(given[target.id].value, value) if target.id in given else value
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts = value
            if isinstance(expression, (ast.Tuple, ast.List)) and not _has_star(expression):
                parts = expression.elts
            if not isinstance(parts, (list, tuple)) or len(parts) != len(target.elts):
                parts = [_MISSING] * len(target.elts)
            for inner, part in zip(target.elts, parts, strict=True):
                assign(inner, part)
        else:
            forget(target)

    def forget(node: ast.AST) -> None:
        for name in [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]:
            if isinstance(values.get(name), list) or name in set(_stored(node)):  # a list may have been changed
                values.pop(name, None)

    for node in tree.body:
        if isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value is not None):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                assign(target, node.value)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            values.pop(node.name, None)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                values.pop((alias.asname or alias.name).split('.')[0], None)
        else:
            forget(node)
    return values


def _has_star(display: ast.Tuple | ast.List) -> bool:
    return any(isinstance(element, ast.Starred) for element in display.elts)


def _evaluate(expression: ast.expr, values: Mapping[str, Any], base_names: dict) -> Any:
    """The value of an expression of literals, known variables and pure functions, if it is plain; else _MISSING."""
    functions = set()
    for node in ast.walk(expression):
        if not isinstance(node, _EXPRESSIONS) or (isinstance(node, ast.Call) and node.keywords):
            return _MISSING
        if isinstance(node, ast.Call):
            functions.add(node.func)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in base_names:
            return _MISSING  # {{_base_.name}}
    for node in ast.walk(expression):
        if isinstance(node, ast.Name) and node.id not in values and not (node in functions and node.id in _PURE):
            return _MISSING
    try:
        code = compile(ast.Expression(expression), '<config>', mode='eval')
        value = eval(code, {'__builtins__': {}, **_PURE, **values})
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return _MISSING  # mm's own reading will say what is wrong
    return value if is_plain(value) else _MISSING
