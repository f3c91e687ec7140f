"""ExecuTorch with XNNPACK."""

import threading
from typing import Any

import numpy as np

from .base import DeviceEngine, Run


class ExecuTorch(DeviceEngine):
    """ExecuTorch's runtime, of which XNNPACK adds every INT8 product in 32 bits: its sums do not saturate."""

    name = package = 'executorch'
    module = 'executorch.runtime'

    def open(self, path: str, description: dict, threads: int | None = None) -> tuple[Run, Any]:
        """See :meth:`DeviceEngine.open`."""
        import executorch.kernels.quantized  # noqa: F401  registers the kernels, which are looked up at loading
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        if threads is not None:
            portable_lib._unsafe_reset_threadpool(threads)
        program = Runtime.get().load_program(path)
        method, lock = program.load_method('forward'), threading.Lock()

        def run(images: np.ndarray) -> list[np.ndarray]:
            with lock:  # a method has one set of buffers, which the next run overwrites
                return [output.numpy().copy() for output in method.execute([torch.from_numpy(images)])]

        return run, (program, method)


ENGINE = ExecuTorch()
