"""What the engines that read ONNX share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ...files import write_bytes
from ..flat_network import FlatNetwork, Normalization
from ..onnx.export import onnx_of
from .base import Engine

FILE = 'network.onnx'


class OnnxEngine(Engine):
    """An engine that is given QDQ ONNX; of several, one export serves all.

    Attributes:
        rewrites (tuple[Callable, ...]): Each rewrites a part of an ``onnx.ModelProto`` so that the engine computes it
            fast, or right, and returns the names of the nodes.
    """

    presets = ('onnx', 'executorch', 'tensorrt')
    formats = ('.onnx',)
    reads_onnx = True
    modules = ('onnx', 'onnxscript', 'onnxruntime')
    rewrites: tuple[Callable[[Any], list[str]], ...] = ()

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
        """See :meth:`Engine.write_onnx`; the file with :attr:`rewrites`."""
        write_bytes(folder / FILE, self.rewritten(content))
        return [FILE]

    def rewritten(self, content: bytes) -> bytes:
        """An ONNX file with :attr:`rewrites`; as it is if they change nothing."""
        if not self.rewrites:
            return content
        import onnx

        model = onnx.load_from_string(content)
        return model.SerializeToString() if [name for rewrite in self.rewrites for name in rewrite(model)] else content
