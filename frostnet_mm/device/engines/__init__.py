"""The engines, each in a file of its own: ``<name>.py`` here has an object ``ENGINE``, a :class:`~.base.DeviceEngine`.

A new engine is a new file; a plug-in's file is copied into the deployments that are made for it. Within a process
:func:`register` makes one known that has no file here.
"""

import importlib
import os
import pkgutil
import sys

from ..errors import DeploymentError
from .base import DeviceEngine

# No engine calls home, unless the user has said otherwise. onnxruntime from 1.29 and OpenVINO write an identifier of
# the machine into the home folder and send events to their makers: as they are opened, and as they are imported.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
sys.modules.setdefault('openvino_telemetry', None)  # without which OpenVINO gets along

_registered: dict[str, DeviceEngine] = {}


def names() -> tuple[str, ...]:
    """Names of the engines that are known, installed or not."""
    files = {module.name for module in pkgutil.iter_modules(__path__)} - {'base'}
    return tuple(sorted(files | set(_registered)))


def find(name: str) -> DeviceEngine:
    """Look up an engine.

    Args:
        name (str): As ``deploy.json`` says it.

    Raises:
        DeploymentError: None of that name is known, or its file is no engine.
    """
    if name in _registered:
        return _registered[name]
    if name not in names():
        raise DeploymentError(f'The engine {name!r} is not known; expected one of {", ".join(names())}.')
    try:
        return importlib.import_module(f'{__name__}.{name}').ENGINE
    except (ImportError, AttributeError) as error:
        raise DeploymentError(
            f'The file of the engine {name} in {__path__[0]} cannot be used: {error}; expected an object ENGINE in it.'
        ) from error


def register(engine: DeviceEngine) -> None:
    """Make an engine known to this process; it takes the place of one of the same name.

    Args:
        engine (DeviceEngine): The engine.

    Raises:
        DeploymentError: It has no name.
    """
    if not engine.name:
        raise DeploymentError(f'{type(engine).__name__} has no name: expected one, as deploy.json is to say it.')
    _registered[engine.name] = engine
