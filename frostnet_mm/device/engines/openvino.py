"""OpenVINO."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import saturation
from ..signal_stack import signal_stack_kept
from .base import DeviceEngine, Run


class OpenVINO(DeviceEngine):
    """OpenVINO on the CPU."""

    name = module = package = 'openvino'
    options = ('precision_hint', 'config')
    precisions = {'float': {}, 'int8': {}, 'bf16': {'precision_hint': 'bf16'}}

    def companions(self, network: str) -> tuple[str, ...]:
        """See :meth:`DeviceEngine.companions`; the weights of its own format lie in a file of the same name."""
        return (f'{network.removesuffix(".xml")}.bin',) if network.endswith('.xml') else ()

    def open(
        self,
        path: str,
        description: dict,
        threads: int | None = None,
        precision_hint: str = 'f32',
        config: dict | None = None,
    ) -> tuple[Run, Any]:
        """See :meth:`DeviceEngine.open`.

        Args:
            path (str): The file.
            description (dict): ``deploy.json``.
            threads (int, optional): Threads of one run.
            precision_hint (str): 'f32' or 'bf16', of what is not INT8. Default: 'f32'.
            config (dict, optional): OpenVINO's properties.
        """
        import openvino

        settings = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision_hint}
        if threads is not None:
            settings['INFERENCE_NUM_THREADS'] = threads
        _fill_tables()
        compiled = compile_model(openvino.Core(), path, settings | (config or {}))
        names = [output['name'] for output in description['outputs']]
        local = threading.local()  # an infer request belongs to one run at a time

        inputs = (description['input']['name'], description.get('geometry_input'))

        def run(*values: np.ndarray) -> list[np.ndarray]:
            if not hasattr(local, 'request'):
                local.request = compiled.create_infer_request()
            local.request.infer(dict(zip(inputs, values, strict=False)), share_inputs=True)
            return [np.array(local.request.get_tensor(name).data) for name in names]

        return run, compiled

    def saturates(self, weight_bits: int | None) -> bool:
        """See :meth:`DeviceEngine.saturates`; its sums of two products have 16 bits on x86 without VNNI."""
        return saturation.sums_saturate(weight_bits)

    def open_onnx(
        self, source: str | bytes, threads: int, precision: str = 'float'
    ) -> Callable[[dict[str, np.ndarray]], Any]:
        """See :meth:`DeviceEngine.open_onnx`."""
        import openvino

        core = openvino.Core()
        model = core.read_model(source) if isinstance(source, str) else core.read_model(model=source)
        settings = dict(INFERENCE_NUM_THREADS=threads, NUM_STREAMS=1)
        settings['INFERENCE_PRECISION_HINT'] = self.precision_options(precision).get('precision_hint', 'f32')
        request = compile_model(core, model, settings).create_infer_request()
        return lambda inputs: request.infer(inputs, share_inputs=True, share_outputs=True)


def compile_model(core: Any, model: Any, settings: dict) -> Any:
    """Compile a model for the CPU; signals arrive afterwards as before.

    Args:
        core (openvino.Core): OpenVINO.
        model (str | openvino.Model): A model or its file.
        settings (dict): OpenVINO's properties.

    Returns:
        openvino.CompiledModel: The compiled model.
    """
    with signal_stack_kept():
        return core.compile_model(model, 'CPU', settings)


_tables = threading.Lock()


def _fill_tables() -> None:
    """Have OpenVINO fill its table of NumPy's types, which it does at the first use.

    Two threads that use it first wait for each other without end (seen in 2026.4): one fills the table and waits for
    the interpreter's lock, which the other one holds while it waits for the table.
    """
    import openvino

    with _tables:
        np.array(openvino.Tensor(np.zeros(1, np.float32)).data)
        openvino.Type.f32.to_dtype()


ENGINE = OpenVINO()
