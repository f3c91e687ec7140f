"""OpenVINO: the same QDQ ONNX, read and written as its own format."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from ...device import read_deployment
from ...device.engines.openvino import compile_model
from ...files import write_bytes
from ...registry import ENGINES
from ..onnx.rewrites.separation import separate_concats, separate_constants, separate_grids, separate_reductions
from .base import PRECISIONS, LayerTime
from .onnx_engine import FILE as SOURCE
from .onnx_engine import OnnxEngine

FILE, WEIGHTS = 'network.xml', 'network.bin'
_NO_WORK = ('Input', 'Output', 'Const', 'Parameter', 'Result', 'Constant')


@ENGINES.register_module()
class OpenVINOEngine(OnnxEngine):
    """OpenVINO's IR; the ONNX that it comes from lies beside it."""

    name = extra = 'openvino'
    formats = ('.xml', '.bin', '.onnx')
    profiles_operators = True
    rewrites = (separate_constants, separate_reductions, separate_concats, separate_grids)
    layer_share = 1e-2  # where it takes one grid for two that are nearly equal: measured at most 0.005

    def write_onnx(self, content: bytes, folder: Path) -> list[str]:
        """See :meth:`Engine.write_onnx`."""
        import openvino

        content = self.rewritten(content)
        write_bytes(folder / SOURCE, content)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / FILE
            model = openvino.Core().read_model(content)
            # compress_to_fp16: scales would lose digits, and the float weights of a float deployment too
            openvino.save_model(model, path, compress_to_fp16=False)
            write_bytes(folder / WEIGHTS, path.with_suffix('.bin').read_bytes())
            write_bytes(folder / FILE, path.read_bytes())
        return [FILE, WEIGHTS, SOURCE]

    def run_onnx(self, model: bytes, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """See :meth:`Engine.run_onnx`; with what it fuses where every quantized tensor is to be seen."""
        import openvino

        core = openvino.Core()
        compiled = compile_model(core, core.read_model(model), {'INFERENCE_PRECISION_HINT': 'f32'})
        results = compiled(images)
        positions = {name: index for index, output in enumerate(compiled.outputs) for name in output.get_names()}
        return [np.asarray(results[positions[name]]) for name in names]

    def profile(
        self,
        folder: Path,
        images: Sequence[np.ndarray],
        threads: int | None = None,
        precision_hint: str = 'f32',
    ) -> list[LayerTime]:
        """See :meth:`Engine.profile`."""
        path = Path(folder) / read_deployment(folder)['network']
        return profile_model(str(path), images, threads, precision_hint)


def profile_model(
    model: str | bytes, images: Sequence[np.ndarray], threads: int | None = None, precision_hint: str = 'f32'
) -> list[LayerTime]:
    """Time each operator of a model in OpenVINO.

    Args:
        model (str | bytes): A file that OpenVINO reads, or the content of an ONNX file.
        images (Sequence[ndarray]): Inputs; the first run is left out of the times if there are several.
        threads (int, optional): Threads. Default: OpenVINO's.
        precision_hint (str): 'f32' or 'bf16' for what is not quantized. Default: 'f32'.

    Returns:
        list[LayerTime]: In the order in which they run.
    """
    import openvino

    core = openvino.Core()
    options = {'PERF_COUNT': True, 'INFERENCE_PRECISION_HINT': precision_hint}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    compiled = compile_model(core, core.read_model(model), options)
    precisions = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        precisions[node.get_friendly_name()] = _text(info['layerType']), _text(info['runtimePrecision'])
    request = compiled.create_infer_request()
    times: dict[str, list[float]] = {}
    for image in images:
        request.infer([image])
        for entry in request.get_profiling_info():
            times.setdefault(entry.node_name, []).append(entry.real_time.total_seconds() * 1000)
    skip = 1 if len(images) > 1 else 0
    layers = []
    for name, values in times.items():
        kind, precision = precisions.get(name, ('Const', ''))  # not there: fused into another, or folded
        if kind not in _NO_WORK and not (kind == 'Reshape' and median(values) == 0):
            layers.append(LayerTime(name, kind, PRECISIONS.get(precision, precision), median(values[skip:])))
    return layers


def _text(value: object) -> str:
    """A runtime attribute, which is an object with a value in some versions."""
    return str(getattr(value, 'value', value))
