"""TensorRT: QDQ ONNX by its rules, to be built on the device; here onnxruntime stands in for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...device import DeploymentError
from ...registry import ENGINES
from ..onnx.tensorrt_rules import violations
from .base import LayerTime
from .onnx_engine import OnnxEngine
from .onnxruntime import OnnxRuntimeEngine

NAMED = 5  # violations in a message


@ENGINES.register_module()
class TensorRTEngine(OnnxEngine):
    """A file for ``trtexec --onnx=network.onnx``, checked by rule and verified on onnxruntime."""

    name = 'tensorrt'
    extra = 'onnxruntime'
    presets = ('tensorrt',)
    stand_in = 'onnxruntime'

    def write_onnx(self, content: bytes, folder: Path) -> list[str]:
        """See :meth:`Engine.write_onnx`.

        Raises:
            DeploymentError: The file is against one of TensorRT's rules.
        """
        import onnx

        found = violations(onnx.load_from_string(content))
        if found:
            more = f'; and {len(found) - NAMED} more' if len(found) > NAMED else ''
            raise DeploymentError(
                f'The network cannot be written for TensorRT: {"; ".join(found[:NAMED])}{more}. Leave these modules in '
                'float (QATHook(float_modules=[…])), or deploy to another engine.'
            )
        return super().write_onnx(content, folder)

    def run_onnx(self, model: bytes, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """See :meth:`Engine.run_onnx`; on onnxruntime."""
        return OnnxRuntimeEngine().run_onnx(model, images, names)

    def profile(
        self, folder: Path, images: Sequence[np.ndarray], threads: int | None = None, **options: object
    ) -> list[LayerTime]:
        """None: what onnxruntime takes on a CPU says nothing of TensorRT."""
        return []
