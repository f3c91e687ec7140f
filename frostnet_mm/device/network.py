"""A deployment's network in its engine."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import engines
from .description import deployed_weight_bits, read_deployment
from .errors import DeploymentError, SaturationWarning
from .results import Geometry, geometry_values
from .saturation import SATURATION

_LONGEST = 1000  # characters of what an engine says


class Network:
    """A network that an engine runs; calls from several threads are safe.

    Args:
        description (dict): What :func:`~.description.read_deployment` returned.
        run (Callable): Takes the images, returns the outputs in the order of the description.
        handle: The engine's own object, for what an engine's user may want of it.
    """

    def __init__(self, description: dict, run: Callable[[np.ndarray], list[np.ndarray]], handle: Any) -> None:
        self.description = description
        self.handle = handle
        self._run = run

    def __call__(self, images: np.ndarray, geometry: np.ndarray | None = None) -> list[np.ndarray]:
        """Run the network.

        Args:
            images (np.ndarray): Of the shape and dtype that the description's ``input`` has.
            geometry (np.ndarray, optional): For a network that decodes, see :func:`~.results.geometry_values`. Default:
                an image as large as the network's input, which was not resized.

        Returns:
            list[np.ndarray]: In the order of the description's ``outputs``; arrays of the caller's own.

        Raises:
            DeploymentError: The shape or the dtype is another one, the network is closed, or the engine fails.
        """
        run = self._run
        if run is None:
            raise DeploymentError('The network is closed: open it again with open_network().')
        shape, dtype = self.description['input']['shape'], self.description['input']['dtype']
        fits = len(images.shape) == len(shape) and all(e in (None, s) for s, e in zip(images.shape, shape, strict=True))
        if not fits or images.dtype != dtype:
            raise DeploymentError(
                f'The network was given {images.dtype} of shape {tuple(images.shape)}, it expects {dtype} of shape '
                f'{tuple("any" if size is None else size for size in shape)}.'
            )
        values = [np.ascontiguousarray(images)]
        if 'geometry_input' in self.description:
            if geometry is None:
                size = images.shape[1:3] if self.description['preprocessing']['baked'] else images.shape[2:4]
                geometry = geometry_values(Geometry(size, size, size, (1.0, 1.0)))
            values.append(geometry)
        try:
            outputs = run(*values)
        except Exception as error:  # the engines' own classes, which have no base in common
            engine = self.description['engine']
            raise DeploymentError(f'{engine} cannot run the network: {str(error)[:_LONGEST]}') from error
        expected = [output['name'] for output in self.description['outputs']]
        if len(outputs) != len(expected) or not all(isinstance(value, np.ndarray) for value in outputs):
            raise DeploymentError(f'The network puts out {len(outputs)} values, expected arrays for {expected}.')
        return outputs

    def close(self) -> None:
        """Let go of the engine; calls after it raise."""
        self._run = self.handle = None


def open_network(
    folder: str | os.PathLike, description: dict | None = None, threads: int | None = None, **engine_options
) -> Network:
    """Load the network of a deployment into its engine.

    Args:
        folder (str | PathLike): The deployment.
        description (dict, optional): What :func:`~.description.read_deployment` returned. Default: read and verify it.
        threads (int, optional): Threads of one run. Default: the engine's own choice.
        engine_options: Of the engine, see its file in ``engines/``. onnxruntime: ``session_options``
            (onnxruntime.SessionOptions), ``providers`` (list[str]). openvino: ``precision_hint`` ('f32' by default, or
            'bf16', of what is not INT8), ``config`` (dict of properties). The others take none.

    Returns:
        Network: Ready to be called.

    Raises:
        DeploymentError: The engine is not installed, does not know an option, or cannot load the network.
    """
    description = read_deployment(folder) if description is None else description
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise DeploymentError(f'threads={threads!r}, expected None or a whole number from 1.')
    engine = engines.find(description['engine'])
    unknown = sorted(set(engine_options) - set(engine.options))
    if unknown:
        raise DeploymentError(f'{engine.name} has no option {unknown}, expected one of {list(engine.options)}.')
    engine.require()
    engine.check_version(description.get('requires', {}).get(engine.name))
    warn_of_saturation(description, stacklevel=3)
    path = str(Path(folder) / description['network'])
    try:
        run, handle = engine.open(path, description, threads, **engine_options)
    except Exception as error:  # the engines' own classes, which have no base in common
        raise DeploymentError(f'{engine.name} cannot load {path}: {str(error)[:_LONGEST]}') from error
    return Network(description, run, handle)


def may_saturate(description: dict) -> bool:
    """Whether a deployment's INT8 sums may saturate on this CPU, so that its results are wrong.

    Args:
        description (dict): What :func:`~.description.read_deployment` returned.
    """
    return engines.find(description['engine']).saturates(deployed_weight_bits(description))


def warn_of_saturation(description: dict, stacklevel: int = 2) -> None:
    """Issue a :class:`~.errors.SaturationWarning` if a deployment's INT8 sums may saturate on this CPU.

    Args:
        description (dict): What :func:`~.description.read_deployment` returned.
        stacklevel (int): Which caller is named: 2, the next one, by default.
    """
    if may_saturate(description):
        warnings.warn(
            f'Results of {description["engine"]} may be wrong. {SATURATION} Or deploy it to onnxruntime, which has '
            'saturation-free sums for such CPUs.',
            SaturationWarning,
            stacklevel=stacklevel,
        )
