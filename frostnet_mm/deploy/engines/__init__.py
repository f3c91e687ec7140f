"""The engines: a registry, and one file each.

An engine is a class that registers itself in :data:`frostnet_mm.registry.ENGINES`; a file beside this one is imported
with it. One of another package is found by its entry point in the group ``frostnet_mm.engines``, or is imported by the
``custom_imports`` of a config.
"""

import pkgutil
import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from ...device import DeploymentError
from ...device import engines as device_engines
from ...registry import ENGINES
from .base import Engine, LayerTime, count_operators
from .onnx_engine import OnnxEngine

GROUP = 'frostnet_mm.engines'
FIRST = ('onnxruntime', 'openvino')  # in lists and tables; the others follow by name

__all__ = [
    'ENGINES',
    'Engine',
    'LayerTime',
    'OnnxEngine',
    'count_operators',
    'engine_names',
    'engine_of',
    'running_engines',
]


for _name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    import_module(f'.{_name}', __name__)


def engine_names() -> tuple[str, ...]:
    """Names of all engines that are registered, installed or not.

    Raises:
        DeploymentError: Two engines have the same name.
    """
    return tuple(_engines())


def running_engines() -> tuple[str, ...]:
    """Names of those that this project runs, installed or not; the others are only written for."""
    return tuple(name for name, kind in _engines().items() if not kind.stand_in)


def engine_of(name: str) -> Engine:
    """Look up an engine.

    Args:
        name (str): As on command lines and in ``deploy.json``.

    Raises:
        DeploymentError: There is none of that name, or its device is called otherwise.
    """
    engines = _engines()
    if name not in engines:
        reason = _load_plugins().get(name, '')
        raise DeploymentError(
            f'The engine {name!r} is not known; expected one of {", ".join(engines)}. '
            + (reason or f"One of another package needs an entry point '{GROUP}', or custom_imports in the config.")
        )
    engine = engines[name]()
    if engine.device.name != name:
        raise DeploymentError(
            f'The engine {name!r} has a device called {engine.device.name!r}: expected the same name, as deploy.json '
            'says one.'
        )
    if engine.device_file is not None:
        device_engines.register(engine.device)
    return engine


def _engines() -> dict[str, type[Engine]]:
    _load_plugins()
    engines: dict[str, type[Engine]] = {}
    kinds = sorted(ENGINES.module_dict.values(), key=_place)
    for kind in kinds:
        other = engines.setdefault(kind.name, kind)
        if other is not kind:
            raise DeploymentError(
                f'Two engines are called {kind.name!r}: {other.__module__}.{other.__name__} and '
                f'{kind.__module__}.{kind.__name__}. Give one of them another name.'
            )
    return engines


def _place(kind: type[Engine]) -> tuple[bool, int, str]:
    """Our own before those of other packages, the first of them first."""
    foreign = not kind.__module__.startswith(f'{__name__}.')
    return foreign, FIRST.index(kind.name) if kind.name in FIRST else len(FIRST), kind.name


@cache
def _load_plugins() -> dict[str, str]:
    """Import the engines of other packages, once; return by name why one cannot be imported."""
    failed = {}
    for entry in entry_points(group=GROUP):
        try:
            found = entry.load()
        except Exception as error:  # whatever the module of another package does; the other engines are as good as ever
            failed[entry.name] = (
                f'The engine {entry.name} of another package ({entry.value}) cannot be imported: '
                f'{type(error).__name__}: {error}. Update or uninstall that package.'
            )
            warnings.warn(failed[entry.name], stacklevel=2)
            continue
        if isinstance(found, type) and issubclass(found, Engine) and found not in ENGINES.module_dict.values():
            ENGINES.register_module(module=found)
    return failed
