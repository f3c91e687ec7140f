"""onnxruntime: QDQ ONNX on CPUs of any kind."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from ...device import read_deployment, saturation_free_session
from ...registry import ENGINES
from ..onnx.rewrites.float_weights import keep_float_weights
from ..onnx.rewrites.global_pooling import use_global_pools
from ..onnx.rewrites.integer_matmul import integer_matmul
from ..onnx.rewrites.pad_depthwise import pad_depthwise
from ..onnx.rewrites.saturate_softmax import saturate_softmax
from ..onnx.rewrites.space_to_depth import space_to_depth
from ..onnx.rewrites.untie_weights import untie_weights
from .base import PRECISIONS, LayerTime
from .onnx_engine import OnnxEngine

REWRITES = (
    use_global_pools,
    untie_weights,
    saturate_softmax,
    pad_depthwise,
    space_to_depth,
    integer_matmul,
    keep_float_weights,
)


@ENGINES.register_module()
class OnnxRuntimeEngine(OnnxEngine):
    """QDQ ONNX, which onnxruntime fuses into integer operators when it opens the file."""

    name = extra = 'onnxruntime'
    profiles_operators = True
    rewrites = REWRITES

    def run_onnx(self, model: bytes, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """See :meth:`Engine.run_onnx`."""
        import onnxruntime

        options = saturation_free_session(onnxruntime.SessionOptions())
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
        return session.run(list(names), {session.get_inputs()[0].name: images})

    def profile(self, folder: Path, images: Sequence[np.ndarray], threads: int | None = None) -> list[LayerTime]:
        """See :meth:`Engine.profile`."""
        path = Path(folder) / read_deployment(folder)['network']
        return profile_model(str(path), images, threads)


def profile_model(model: str | bytes, images: Sequence[np.ndarray], threads: int | None = None) -> list[LayerTime]:
    """Time each operator of an ONNX model in onnxruntime.

    Args:
        model (str | bytes): A file or its content.
        images (Sequence[ndarray]): Inputs; the first run is left out of the times if there are several.
        threads (int, optional): Threads. Default: onnxruntime's.

    Returns:
        list[LayerTime]: In the order in which they run.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        options = saturation_free_session(onnxruntime.SessionOptions())
        options.intra_op_num_threads = threads or 0
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / 'profile')
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
        for image in images:
            session.run(None, {name: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = {}
    described: dict[str, tuple[str, str]] = {}
    for event in events:
        arguments = event.get('args', {})
        if event.get('cat') != 'Node' or not event['name'].endswith('_kernel_time'):
            continue
        node = event['name'].removesuffix('_kernel_time')
        times.setdefault(node, []).append(event['dur'] / 1000)
        described[node] = arguments['op_name'], _precision(arguments)
    skip = 1 if len(images) > 1 else 0
    return [LayerTime(node, *described[node], median(values[skip:])) for node, values in times.items()]


def _precision(arguments: dict) -> str:
    """The type that an operator reads; its first input is the feature map."""
    types = [next(iter(entry)) for entry in arguments.get('input_type_shape', []) if entry]
    if arguments['op_name'] in ('QuantizeLinear', 'DequantizeLinear'):
        return 'conversion'
    if arguments['op_name'].startswith('QLinearConcat'):  # scale and zero point of the output come first
        types = types[2:]
    return PRECISIONS.get(types[0], types[0]) if types else 'none'
