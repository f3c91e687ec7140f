"""What an engine says about itself, and does: write a network, run it, time it by layer."""

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from ...device import DeploymentError, open_network
from ...device import engines as device_engines
from ...device.engines.base import DeviceEngine
from ..flat_network import FlatNetwork, Normalization

PRECISIONS = {
    'u8': 'int8',
    'i8': 'int8',
    'uint8': 'int8',
    'int8': 'int8',
    'f32': 'float32',
    'float': 'float32',
    'f16': 'float16',
    'float16': 'float16',
    'bf16': 'bfloat16',
    'bfloat16': 'bfloat16',
}


@dataclass(frozen=True)
class LayerTime:
    """One operator as an engine runs it.

    Args:
        name (str): Name of the node; ``<module>/<operator>`` where the engine keeps it.
        kind (str): The engine's operator, such as 'Convolution' or 'QLinearConv'.
        precision (str): 'int8', 'float32', 'bfloat16' or another type that it computes in.
        milliseconds (float): Median time of one run.
    """

    name: str
    kind: str
    precision: str
    milliseconds: float


class Engine(ABC):
    """One engine. A class of its own registers itself with ``@ENGINES.register_module()``.

    Attributes:
        name (str): Name on command lines and in ``deploy.json``.
        presets (tuple[str, ...]): Presets of quantization that it runs, the best first.
        formats (tuple[str, ...]): Endings of the files that :meth:`write` makes; that of the one to open comes first.
        reads_onnx (bool): Whether it runs ONNX, so that each layer can be compared (:meth:`run_onnx`), decoding can be
            appended (:meth:`write_onnx`), and single operators be timed (:meth:`open_onnx`). Default: False.
        profiles_operators (bool): Whether :meth:`profile` tells operators apart. Default: False.
        layer_share (float): Share of a layer's elements that may be one step off, see :mod:`..verification.verify`.
            Default: 0.001; measured at most 0.0003.
        dynamic_shapes (bool): Whether batch size, height and width may stay open. Default: True.
        modules (tuple[str, ...]): What is imported to write for it, beside its own package.
        extra (str): The extra of this package that installs all that it needs; '' if there is none.
        stand_in (str): The engine that verifies its files where it is not run itself, so that there are no times and
            no metrics of it; '' for one that runs. ``deploy.json`` says it.
    """

    name = ''
    presets: tuple[str, ...] = ('onnx',)
    formats: tuple[str, ...] = ()
    reads_onnx = False
    profiles_operators = False
    layer_share = 1e-3
    dynamic_shapes = True
    modules: tuple[str, ...] = ()
    extra = ''
    stand_in = ''

    @property
    def device(self) -> DeviceEngine:
        """How it runs on a device. An engine of another package has an object in the place of this property."""
        return device_engines.find(self.name)

    @property
    def device_file(self) -> Path | None:
        """The file of :attr:`device`, which deployments need a copy of; None for an engine of this package.

        It defines ``ENGINE``, and imports neither torch nor this package where that is not installed.

        Raises:
            DeploymentError: It was not defined in a file.
        """
        module = sys.modules[type(self.device).__module__]
        if module.__name__.startswith(f'{device_engines.__name__}.'):
            return None
        if getattr(module, '__file__', None) is None:
            raise DeploymentError(f'{type(self.device).__name__} lies in no file, which deployments need a copy of.')
        return Path(module.__file__)

    @property
    def preset(self) -> str:
        """The preset of quantization that it is meant for."""
        return self.presets[0]

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it computes in: of 'float', 'int8' and 'bf16'."""
        return tuple(self.device.precisions)

    def precision_options(self, precision: str) -> dict:
        """Options of ``open_network`` and :meth:`profile` that make it compute in a precision.

        Raises:
            DeploymentError: It does not compute in it.
        """
        return self.device.precision_options(precision)

    def saturates(self, weight_bits: int | None) -> bool:
        """Whether its INT8 sums may saturate on this CPU, for weights of so many bits; None for float."""
        return self.device.saturates(weight_bits)

    def accepts(self, preset: str) -> bool:
        """Whether it runs networks of a preset of quantization."""
        return preset in self.presets

    def check_preset(self, preset: str, source: str) -> None:
        """Refuse a preset of quantization that the engine does not run.

        Args:
            preset (str): The preset.
            source (str): What was quantized with it, for the message.

        Raises:
            DeploymentError: It does not run it; the message says how to quantize for it.
        """
        if not self.accepts(preset):
            raise DeploymentError(
                f'{source} was quantized with numerics={preset!r}, which {self.name} does not run; expected '
                f'numerics={" or ".join(map(repr, self.presets))}. Calibrate it: python tools/calibrate.py CONFIG '
                f'CHECKPOINT --numerics {self.preset}, or train with default_hooks.qat.numerics={self.preset}.'
            )

    def require_running(self, purpose: str) -> None:
        """Refuse an engine that is written for but not run.

        Args:
            purpose (str): What it is to be run for, such as 'timed'.

        Raises:
            DeploymentError: It is not run.
        """
        if self.stand_in:
            raise DeploymentError(
                f'{self.name} is not run by this project, so it cannot be {purpose}: tools/deploy.py writes for it, '
                f'checked by rule and verified on {self.stand_in}. For values of the same integers take '
                f'{self.stand_in}.'
            )

    def require(self) -> None:
        """Check that the engine is installed.

        Raises:
            DeploymentError: It is not; the message has the command that installs it.
        """
        missing = next((name for name in self._needed() if find_spec(name) is None), None)
        if missing is not None:
            raise DeploymentError(
                f'The engine {self.name} is not installed (module {missing}). Install it: pip install '
                f'{self.device.package}'
                + (f", or with all that it needs: pip install 'frostnet-mm[{self.extra}]'" if self.extra else '')
            )
        if self.device.minimum:
            self.device.check_version()

    def _needed(self) -> tuple[str, ...]:
        return (self.device.module.partition('.')[0], *self.modules)

    def describe(self) -> dict[str, Any]:
        """What the engine is, as plain data; ``version`` is None where it is not installed."""
        try:
            found = version(self.device.package)
        except PackageNotFoundError:
            found = None
        return dict(
            name=self.name,
            version=found,
            installed=all(find_spec(name) is not None for name in self._needed()),
            presets=list(self.presets),
            formats=list(self.formats),
            precisions=list(self.precisions),
            options=list(self.device.options),
            reads_onnx=self.reads_onnx,
            profiles_operators=self.profiles_operators,
            dynamic_shapes=self.dynamic_shapes,
        )

    @abstractmethod
    def write(
        self,
        network: FlatNetwork,
        example: Tensor,
        folder: Path,
        dynamic: bool = False,
        baked: Normalization | None = None,
    ) -> list[str]:
        """Write a network.

        Args:
            network (FlatNetwork): The network.
            example (Tensor): Images of the shape that it is for.
            folder (Path): Where to.
            dynamic (bool): Leave batch size, height and width open. Default: False.
            baked (Normalization, optional): Put the normalization in front.

        Returns:
            list[str]: Names of the files in the folder; the one to open comes first.
        """

    def write_onnx(self, content: bytes, folder: Path) -> list[str]:
        """Write a network that is ONNX already, as :meth:`write`.

        Args:
            content (bytes): The ONNX file.
            folder (Path): Where to.

        Raises:
            DeploymentError: The engine reads no ONNX.
        """
        raise DeploymentError(f'{self.name} reads no ONNX.')

    def run_onnx(self, model: bytes, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Run an ONNX file with all that the engine fuses, as deployments do.

        Args:
            model (bytes): The file.
            images (ndarray): Its input.
            names (Sequence[str]): Outputs of the file.

        Returns:
            list[ndarray]: Those outputs.

        Raises:
            DeploymentError: The engine reads no ONNX.
        """
        raise DeploymentError(f'{self.name} reads no ONNX.')

    def open_onnx(
        self, source: str | bytes, threads: int, precision: str = 'float'
    ) -> Callable[[dict[str, np.ndarray]], Any]:
        """Load an ONNX model as a function of its inputs by name, to time it.

        Args:
            source (str | bytes): A file or its content.
            threads (int): Of the engine.
            precision (str): Of :attr:`precisions`. Default: 'float', which leaves INT8 operators as they are.

        Raises:
            DeploymentError: The engine reads no ONNX, or does not compute in the precision.
        """
        run = self.device.open_onnx(source, threads, precision)
        if run is None:
            raise DeploymentError(f'{self.name} reads no ONNX.')
        return run

    def profile(
        self, folder: Path, images: Sequence[np.ndarray], threads: int | None = None, **options: Any
    ) -> list[LayerTime]:
        """Run a deployment on images and time each operator; the network as a whole if the engine does not tell.

        Args:
            folder (Path): The deployment.
            images (Sequence[ndarray]): Inputs of the network; the median over them is taken.
            threads (int, optional): Threads of the engine.
            options: As for ``open_network``.

        Returns:
            list[LayerTime]: In the order in which they run; what takes part in no computation is left out.
        """
        precision, milliseconds = time_whole(folder, images, threads, **options)
        return [LayerTime('network', 'network', precision, milliseconds)]


def time_whole(folder: Path, images: Sequence[np.ndarray], threads: int | None, **options: Any) -> tuple[str, float]:
    """Time a deployment as a whole, for engines that do not tell their operators apart.

    Args:
        folder (Path): The deployment.
        images (Sequence[ndarray]): Inputs; the first run is left out of the times if there are several.
        threads (int, optional): Threads of the engine.
        options: As for ``open_network``.

    Returns:
        tuple[str, float]: The precision that it was deployed in, and the median of its milliseconds.
    """
    network = open_network(folder, threads=threads, **options)
    times = []
    for image in images:
        start = perf_counter()
        network(image)
        times.append((perf_counter() - start) * 1000)
    precision = 'int8' if network.description['precision'] == 'int8' else 'float32'
    network.close()
    return precision, median(times[1:] or times)


def count_operators(layers: Sequence[LayerTime]) -> dict[str, int]:
    """How many operators of which kind run in which precision, such as {'Convolution int8': 85}."""
    counts = Counter(f'{layer.kind} {layer.precision}' for layer in layers)
    return dict(counts.most_common())
