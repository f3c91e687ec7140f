"""What an engine offers on a device."""

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DeploymentError

Run = Callable[..., list[np.ndarray]]


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version; none where it begins with no number."""
    found = re.match(r'\d+(\.\d+){0,2}', version)
    return tuple(int(part) for part in found.group().split('.')) if found else ()


class DeviceEngine(ABC):
    """One engine, as it runs what was deployed. Its packages are imported when they are needed, not with this file.

    Attributes:
        name (str): Name in ``deploy.json``; the file is called ``<name>.py``.
        module (str): Module that is imported to run it.
        package (str): What pip installs for it.
        minimum (str): The oldest version that is known to run what deployments hold; '' if none is known.
        options (tuple[str, ...]): Keyword arguments of :meth:`open` beside ``threads``.
        precisions (dict[str, dict]): What it computes in: 'float' and 'int8' as it was deployed, others such as 'bf16';
            with the options of :meth:`open` that make it do so.
    """

    name = ''
    module = ''
    package = ''
    minimum = ''
    options: tuple[str, ...] = ()
    precisions: dict[str, dict] = {'float': {}, 'int8': {}}

    def require(self) -> None:
        """Import the engine.

        Raises:
            DeploymentError: It is not installed; the message has the command that installs it.
        """
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            raise DeploymentError(
                f'This deployment needs {self.name}, which cannot be imported ({error}): pip install {self.package}'
            ) from error

    def check_version(self, minimum: str | None = None) -> None:
        """Refuse an engine that is too old.

        Args:
            minimum (str, optional): The oldest version that does. Default: :attr:`minimum`.

        Raises:
            DeploymentError: It is older; the message has the command that updates it.
        """
        minimum = self.minimum if minimum is None else minimum
        found = getattr(importlib.import_module(self.module), '__version__', '')
        if minimum and _numbers(found) and _numbers(found) < _numbers(minimum):
            raise DeploymentError(
                f'This deployment needs {self.package} {minimum} or newer, {found} is installed: '
                f"pip install -U '{self.package}>={minimum}'"
            )

    def companions(self, network: str) -> tuple[str, ...]:
        """Names of the files that the engine reads by itself where it is given a network's. Default: none.

        Args:
            network (str): The file that :meth:`open` is given, relative to the deployment.
        """
        return ()

    @abstractmethod
    def open(self, path: str, description: dict, threads: int | None = None, **options: Any) -> tuple[Run, Any]:
        """Load a network.

        Args:
            path (str): The file.
            description (dict): ``deploy.json``; ``input`` and ``outputs`` have the names.
            threads (int, optional): Threads of one run. Default: the engine's own choice.
            options: Those of ``options``.

        Returns:
            tuple[Callable, Any]: A function from images to the outputs in the order of the description, arrays of the
            caller's own, which may be called from several threads at once; and the engine's own object. Where the
            description has ``geometry_input`` (engines that read ONNX), that input follows the images.
        """

    def saturates(self, weight_bits: int | None) -> bool:
        """Whether its INT8 sums may saturate on this CPU, so that its results are wrong. Default: never.

        Args:
            weight_bits (int, optional): Bits of the weights; None for a network in float.
        """
        return False

    def open_onnx(
        self, source: str | bytes, threads: int, precision: str = 'float'
    ) -> Callable[[dict[str, np.ndarray]], Any] | None:
        """Load an ONNX model that was not deployed, such as a single operator that is timed.

        Args:
            source (str | bytes): A file or its content.
            threads (int): Of the engine.
            precision (str): Of ``precisions``. Default: 'float', which leaves INT8 operators as they are.

        Returns:
            Callable | None: Runs the model on its inputs by name; its result may be overwritten by the next run. None
            where the engine reads no ONNX.
        """
        return None

    def precision_options(self, precision: str) -> dict:
        """Options of :meth:`open` that make the engine compute in a precision.

        Raises:
            DeploymentError: It does not compute in it.
        """
        if precision not in self.precisions:
            raise DeploymentError(
                f'{self.name} does not compute in {precision!r}; expected one of {", ".join(self.precisions)}.'
            )
        return dict(self.precisions[precision])
