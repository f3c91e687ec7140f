"""Networks that torch has compiled ahead of time."""

import threading
from typing import Any

import numpy as np

from .. import saturation
from .base import DeviceEngine, Run


class Inductor(DeviceEngine):
    """torch, which runs what its compiler has made."""

    name = 'inductor'
    module, package = 'torch._inductor', 'torch'

    def open(self, path: str, description: dict, threads: int | None = None) -> tuple[Run, Any]:
        """See :meth:`DeviceEngine.open`."""
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        model, lock = torch._inductor.aoti_load_package(path), threading.Lock()

        def run(images: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad(), lock:
                outputs = model(torch.from_numpy(images))
            return [output.numpy() for output in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]

        return run, model

    def saturates(self, weight_bits: int | None) -> bool:
        """See :meth:`DeviceEngine.saturates`; its sums of two products have 16 bits on x86 without VNNI."""
        return saturation.sums_saturate(weight_bits)


ENGINE = Inductor()
