"""What the engines that read ONNX share."""

from pathlib import Path

from torch import Tensor

from ...files import write_bytes
from ..flat_network import FlatNetwork, Normalization
from ..onnx.export import onnx_of
from .base import Engine

FILE = 'network.onnx'


class OnnxEngine(Engine):
    """An engine that is given QDQ ONNX; of several, one export serves all."""

    presets = ('onnx', 'executorch', 'tensorrt')
    formats = ('.onnx',)
    reads_onnx = True
    modules = ('onnx', 'onnxscript', 'onnxruntime')

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
        return self.write_onnx(onnx_of(network, example, dynamic, baked), folder)

    def write_onnx(self, content: bytes, folder: Path) -> list[str]:
        """See :meth:`Engine.write_onnx`; the file as it is."""
        write_bytes(folder / FILE, content)
        return [FILE]
