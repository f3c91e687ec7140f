"""torch's own compiler: INT8 on x86 through oneDNN, for users who deploy with torch."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...files import write_bytes
from ...models.dense import UnsupportedModelError
from ...registry import ENGINES
from ..flat_network import FlatNetwork, Normalization, traceable
from ..onnx.export import exported_program
from .base import Engine, LayerTime, time_whole

FILE = 'network.pt2'


@ENGINES.register_module()
class InductorEngine(Engine):
    """A package that torch has compiled ahead of time for this kind of CPU."""

    name = 'inductor'
    presets = ('onnx', 'executorch')
    formats = ('.pt2',)

    def write(
        self,
        network: FlatNetwork,
        example: Tensor,
        folder: Path,
        dynamic: bool = False,
        baked: Normalization | None = None,
    ) -> list[str]:
        """See :meth:`Engine.write`."""
        self.require()
        from torch._inductor import config

        program = exported_program(traceable(network, baked), example, dynamic)
        freezing, config.freezing = config.freezing, True  # the lowering to INT8 is part of it
        try:
            with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
                path = str(Path(scratch) / FILE)
                torch._inductor.aoti_compile_and_package(program, package_path=path)
                write_bytes(folder / FILE, Path(path).read_bytes())
        except Exception as error:  # many types; each is passed on
            raise UnsupportedModelError(f'The network cannot be compiled by inductor: {error}') from error
        finally:
            config.freezing = freezing
        return [FILE]

    def profile(self, folder: Path, images: Sequence[np.ndarray], threads: int | None = None) -> list[LayerTime]:
        """The network as a whole, as compiled code keeps no operators; as :meth:`Engine.profile`."""
        precision, milliseconds = time_whole(folder, images, threads)
        return [LayerTime('network', 'compiled', precision, milliseconds)]
