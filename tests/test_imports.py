"""The direction of imports in the package, read from its source: no arrow up, no circle, a device without torch.

Imports inside functions and under TYPE_CHECKING count. A name that a package offers lazily counts as imported from the
module that defines it.
"""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

import frostnet_mm

PACKAGE = 'frostnet_mm'
BASE = ('errors', 'files', 'lazy', 'registry', 'version', 'compat', 'commands')  # below all; they may import each other
# Each may import those of the lines above its own; those of one line do not import each other.
ROOMS = (
    ('device', 'models', 'data'),
    ('engine',),
    ('quantization',),
    ('apis',),
    ('deploy',),
    ('benchmark',),
    ('nas',),
    ('cli',),  # what the tools share, which only they import
    ('',),  # the package's own __init__
)
ALLOWED = {  # defined there, because device is copied into deployments
    ('errors', 'device.errors'),
    ('data.loading', 'device.errors'),
    ('data.loading', 'device.image_files'),  # training and deployments read images by one function
    ('data.download_checks', 'device.orientation'),
    ('data.imagenet', 'device.image_search'),
    ('data.image_folder', 'device.image_search'),  # and find them by one function
    ('data.image_lists', 'device.image_search'),
    ('data.own_folders', 'device.image_search'),
    ('data.crops', 'device.image_search'),  # what it would not find again
}
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
NOT_ON_DEVICES = {'torch', 'torchvision', 'torchao', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}
TORCH_ENGINES = ('device.engines.inductor', 'device.engines.executorch')  # are torch themselves, or read by it


def modules_of(root: Path) -> dict[str, Path]:
    """The files of a package by the names of their modules below it; '' is the package itself."""
    names = {}
    for file in sorted(root.rglob('*.py')):
        parts = file.relative_to(root).with_suffix('').parts
        names['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = file
    return names


def offered_names(tree: ast.Module) -> dict[str, str]:
    """What a package offers lazily: name to relative module, from the dicts of its ``offer(__name__, {...})``."""
    if not any(isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'offer' for node in ast.walk(tree)):
        return {}
    offered = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.List):
                    offered |= {element.value: key.value for element in value.elts}
    return offered


class Imports:
    """All imports of a package.

    Attributes:
        inner (dict[str, set[str]]): By module the modules of the package that it imports, as names below the package.
        outer (dict[str, set[str]]): By module the other packages that it imports.
    """

    def __init__(self, root: Path) -> None:
        self.package = root.name
        self.files = modules_of(root)
        self.trees = {name: ast.parse(file.read_text()) for name, file in self.files.items()}
        self.offered = {name: offered_names(tree) for name, tree in self.trees.items()}
        self.inner: dict[str, set[str]] = {name: set() for name in self.files}
        self.outer: dict[str, set[str]] = {name: set() for name in self.files}
        for name, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        self._add(name, alias.name, None)
                elif isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        self._add(name, self._absolute(name, node.level, node.module), alias.name)

    def _absolute(self, importer: str, level: int, module: str | None) -> str:
        if not level:
            return module or ''
        parts = [self.package, *filter(None, importer.split('.'))]
        if self.files[importer].name != '__init__.py':
            parts.pop()
        parts = parts[: len(parts) - level + 1]
        return '.'.join([*parts, *([module] if module else [])])

    def _add(self, importer: str, source: str, name: str | None) -> None:
        first, _, below = source.partition('.')
        if first != self.package:
            self.outer[importer].add(first)
            return
        if name is not None:
            inside = f'{below}.{name}'.strip('.')
            if inside in self.files:
                below = inside
            elif name in self.offered.get(below, {}):
                below = self._offering(below, name)
        if below != importer:
            self.inner[importer].add(below)

    def _offering(self, package: str, name: str) -> str:
        """The module below the package that defines an offered name."""
        relative = self.offered[package][name]
        level = len(relative) - len(relative.lstrip('.'))
        target = self._absolute(package, level, relative.lstrip('.')).partition('.')[2]
        return self._offering(target, name) if name in self.offered.get(target, {}) else target


def room_of(module: str) -> str:
    """The folder, or the single module, that a module belongs to."""
    return module.split('.')[0]


def wrong_arrows(imports: Imports) -> list[str]:
    """Imports against the stated direction, as 'importer -> imported'."""
    found = []
    for importer, targets in imports.inner.items():
        for target in sorted(targets):
            one, other = room_of(importer), room_of(target)
            if one == other or (importer, target) in ALLOWED:
                continue
            if other in BASE and one != 'device':
                continue
            if one in BASE or one not in RANK or other not in RANK or RANK[other] >= RANK[one]:
                found.append(f'{importer} -> {target}')
    return found


def circles(imports: Imports) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (strongly connected components, Tarjan)."""
    index, low, stack, groups = {}, {}, [], []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(imports.inner.get(module, ())):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in imports.inner:
        if module not in index:
            visit(module)
    return groups


def device_imports(imports: Imports) -> list[str]:
    """What the device package imports of torch and mm, as 'importer -> package'."""
    return [
        f'{importer} -> {package}'
        for importer, packages in imports.outer.items()
        for package in sorted(packages & NOT_ON_DEVICES)
        if room_of(importer) == 'device' and importer not in TORCH_ENGINES
    ]


@pytest.fixture(scope='module')
def imports():
    return Imports(ROOT / PACKAGE)


def test_no_import_runs_against_the_direction(imports):
    assert wrong_arrows(imports) == []


def test_no_modules_import_each_other(imports):
    assert circles(imports) == []


def test_the_device_package_does_without_torch_and_mm(imports):
    assert device_imports(imports) == []


def test_every_room_is_in_the_order(imports):
    assert {room_of(module) for module in imports.files} <= {*RANK, *BASE}


def test_offered_names_are_read_from_the_source(imports):
    """As Python has them: what the packages offer at work is what was read from their source."""
    for name in ('data', 'engine', 'models', 'quantization'):
        package = getattr(frostnet_mm, name)
        assert imports.offered[name] == package._offered, name


# -- that the checks find what they look for


def tree(root, **files):
    """Write a package; its modules by their paths, with / as __ in the keyword."""
    package = root / PACKAGE
    for name, text in files.items():
        file = package / f'{name.replace("__", "/")}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        for folder in file.relative_to(package).parents:
            (package / folder / '__init__.py').touch()
    return Imports(package)


SOUND = dict(
    errors='from .device.errors import UserError',
    device__errors='class UserError(Exception): pass',
    models__net='import torch\nfrom ..errors import UserError',
    engine__runner='from ..models.net import Net\nfrom .. import files\nfrom . import loops',
    engine__loops='import mmengine.runner',
    files='',
    cli='from .quantization.scheme import BITS',
    quantization__scheme='from frostnet_mm.engine import loops',
)


def test_a_sound_tree_passes(tmp_path):
    imports = tree(tmp_path, **SOUND)
    assert imports.inner['engine.runner'] == {'models.net', 'files', 'engine.loops'}
    assert imports.inner['quantization.scheme'] == {'engine.loops'}
    assert imports.outer['engine.loops'] == {'mmengine'}
    assert wrong_arrows(imports) == circles(imports) == device_imports(imports) == []


@pytest.mark.parametrize(
    ('module', 'text', 'arrow'),
    [
        ('models__bad', 'from ..engine import loops', 'models.bad -> engine.loops'),
        ('models__bad', 'def f():\n    from ..quantization.scheme import BITS', 'models.bad -> quantization.scheme'),
        ('models__bad', 'if TYPE_CHECKING:\n    import frostnet_mm.engine.loops', 'models.bad -> engine.loops'),
        ('data__bad', 'from ..models.net import Net', 'data.bad -> models.net'),
        ('device__bad', 'from ..files import write_text', 'device.bad -> files'),
        ('files', 'from .models.net import Net', 'files -> models.net'),
        ('engine__bad', 'from ..cli import run_tool', 'engine.bad -> cli'),
        ('engine__bad', 'from frostnet_mm import FrostNet', 'engine.bad -> '),
        ('engine__bad', 'from ..newroom import thing', 'engine.bad -> newroom'),
    ],
)
def test_an_arrow_against_the_direction_is_found(tmp_path, module, text, arrow):
    assert wrong_arrows(tree(tmp_path, **(SOUND | dict(newroom__x='') | {module: text}))) == [arrow]


@pytest.mark.parametrize('late', ['from .runner import run', 'def f():\n    from .runner import run'])
def test_a_circle_is_found(tmp_path, late):
    imports = tree(
        tmp_path, **(SOUND | dict(engine__loops='from .middle import x', engine__middle=late, engine__other=''))
    )
    assert circles(imports) == [['engine.loops', 'engine.middle', 'engine.runner']]
    assert wrong_arrows(imports) == []


def test_a_circle_through_a_lazily_offered_name_is_found(tmp_path):
    offers = "__all__ = offer(__name__, {'.loops': ['Loop'], **({'.runner': ['run']} if find_spec('mmdet') else {})})"
    imports = tree(tmp_path, **(SOUND | dict(engine__loops='from . import run', engine__other='from . import Loop')))
    assert circles(imports) == []  # `run` is not offered yet: nothing is known of it
    (tmp_path / PACKAGE / 'engine/__init__.py').write_text(offers)
    imports = Imports(tmp_path / PACKAGE)
    assert imports.inner['engine.other'] == {'engine.loops'}
    assert circles(imports) == [['engine.loops', 'engine.runner']]


@pytest.mark.parametrize('text', ['import torch', 'def f():\n    from mmcv.ops import nms'])
def test_torch_and_mm_on_the_device_are_found(tmp_path, text):
    package = 'torch' if 'torch' in text else 'mmcv'
    assert device_imports(tree(tmp_path, **(SOUND | dict(device__bad=text)))) == [f'device.bad -> {package}']
    assert device_imports(tree(tmp_path, **(SOUND | dict(device__bad='import numpy')))) == []
