"""onnxruntime."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import saturation
from .base import DeviceEngine, Run

#: onnxruntime's key for INT8 products that cannot saturate on x86 CPUs without VNNI.
SATURATION_FREE = 'session.x64quantprecision'


class OnnxRuntime(DeviceEngine):
    """ONNX on CPUs of any kind. Its sums never saturate: see :func:`saturation_free_session`."""

    name = module = package = 'onnxruntime'
    minimum = '1.23.2'  # the oldest that was tried
    options = ('session_options', 'providers')

    def open(
        self,
        path: str,
        description: dict,
        threads: int | None = None,
        session_options: Any = None,
        providers: Sequence[str] = ('CPUExecutionProvider',),
    ) -> tuple[Run, Any]:
        """See :meth:`DeviceEngine.open`.

        Args:
            path (str): The file.
            description (dict): ``deploy.json``.
            threads (int, optional): Threads of one run.
            session_options (onnxruntime.SessionOptions, optional): Default: onnxruntime's own.
            providers (Sequence[str]): Where it computes. Default: on the CPU.
        """
        import onnxruntime

        settings = saturation_free_session(session_options or onnxruntime.SessionOptions())
        if threads is not None:
            settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, settings, providers=list(providers))
        names, name = [output['name'] for output in description['outputs']], description['input']['name']
        inputs = (name, description.get('geometry_input'))
        return lambda *values: session.run(names, dict(zip(inputs, values, strict=False))), session

    def open_onnx(
        self, source: str | bytes, threads: int, precision: str = 'float'
    ) -> Callable[[dict[str, np.ndarray]], Any]:
        """See :meth:`DeviceEngine.open_onnx`."""
        import onnxruntime

        self.precision_options(precision)
        settings = saturation_free_session(onnxruntime.SessionOptions())
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.log_severity_level = 3
        session = onnxruntime.InferenceSession(source, settings, providers=['CPUExecutionProvider'])
        return lambda inputs: session.run(None, inputs)


def saturation_free_session(settings: Any) -> Any:
    """Have onnxruntime take INT8 products that cannot saturate, on CPUs whose fast ones do.

    It then makes weights of more than 7 bits unsigned and multiplies in 16 bits. That is slower, also where nothing can
    saturate, so such CPUs are left alone. Where the system does not tell (Windows, macOS on Intel), being right comes
    first.

    Args:
        settings (onnxruntime.SessionOptions): Changed in place, unless they say themselves which products to take.

    Returns:
        onnxruntime.SessionOptions: The same.
    """
    if saturation.cpu_saturates() is not False:
        try:
            settings.get_session_config_entry(SATURATION_FREE)
        except RuntimeError:  # not set
            settings.add_session_config_entry(SATURATION_FREE, '1')
    return settings


ENGINE = OnnxRuntime()
