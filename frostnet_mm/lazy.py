"""Packages that offer names without importing what defines them: start-up costs only what a command needs."""

import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A package whose offered names are imported when they are first asked for."""

    _offered: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get('_offered', {}):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        value = getattr(import_module(self._offered[name], self.__name__), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Once a submodule is imported, Python sets it in its package; an offered name (the function `convert` of the
        # module `convert`) stays what it is offered as.
        if not (isinstance(value, ModuleType) and name in self._offered):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._offered})


def offer(package: str, names: Mapping[str, Iterable[str]]) -> list[str]:
    """Have a package offer names of other modules, as ``from .module import name`` would, but lazily.

    Args:
        package (str): ``__name__`` of the package that calls.
        names (Mapping[str, Iterable[str]]): What is offered, by the module that defines it, such as ``'.config'``.

    Returns:
        list[str]: All names, sorted: the package's ``__all__``.
    """
    module = sys.modules[package]
    module.__dict__['_offered'] = {name: source for source, offered in names.items() for name in offered}
    module.__class__ = _LazyPackage
    return sorted(module._offered)
