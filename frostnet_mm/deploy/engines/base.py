"""What every engine offers: to write a network, to say what it computes in which precision, and to time it by layer."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from torch import Tensor

from ...device.predictor import ENGINES, DeploymentError, open_network
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
    """One engine.

    Attributes:
        name (str): Name on command lines and in ``deploy.json``.
        numerics (str): The preset of quantization that it is meant for.
        modules (tuple[str, ...]): What else is imported to write for it.
    """

    name = ''
    numerics = 'onnx'
    modules: tuple[str, ...] = ()

    def require(self) -> None:
        """Check that the engine is installed.

        Raises:
            DeploymentError: It is not; the message has the command that installs it.
        """
        module, package = ENGINES[self.name][:2]
        needed = (module.partition('.')[0], *self.modules)
        missing = next((name for name in needed if find_spec(name) is None), None)
        if missing is not None:
            raise DeploymentError(
                f'The engine {self.name} is not installed (module {missing}). Install it: pip install {package}, or '
                f"with all that it needs: pip install 'frostnet-mm[{self.name}]'"
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
        """Write a network that is ONNX already, for engines that read it; as :meth:`write`."""
        raise DeploymentError(f'{self.name} reads no ONNX.')

    @abstractmethod
    def profile(self, folder: Path, images: Sequence[np.ndarray], threads: int | None = None) -> list[LayerTime]:
        """Run a deployment on images and time each operator.

        Args:
            folder (Path): The deployment.
            images (Sequence[ndarray]): Inputs of the network; the median over them is taken.
            threads (int, optional): Threads of the engine.

        Returns:
            list[LayerTime]: In the order in which they run; what takes part in no computation is left out.
        """


def time_whole(folder: Path, images: Sequence[np.ndarray], threads: int | None) -> tuple[str, float]:
    """Time a deployment as a whole, for engines that do not tell their operators apart.

    Args:
        folder (Path): The deployment.
        images (Sequence[ndarray]): Inputs; the first run is left out of the times if there are several.
        threads (int, optional): Threads of the engine.

    Returns:
        tuple[str, float]: The precision that it was deployed in, and the median of its milliseconds.
    """
    network = open_network(folder, threads=threads)
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
