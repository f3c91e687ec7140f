"""What the graph rewrites of our deployments gain in onnxruntime.

# depthwise convolutions by number of channels
python tools/studies/benchmark_rewrites.py
# a network as exported, in QDQ ONNX: one rewrite after another
python tools/studies/benchmark_rewrites.py --network deploy/openvino/network.onnx
"""

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import _tools  # noqa: F401
import numpy as np

from frostnet_mm.cli import run_tool
from frostnet_mm.device.engines.onnxruntime import ENGINE
from frostnet_mm.errors import UserError

if TYPE_CHECKING:
    import onnx

DEPTH = 8  # equal convolutions in a row, so that the layout of the first and the last does not count
CALLS = 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='What graph rewrites gain in onnxruntime.')
    parser.add_argument('--channels', nargs='+', type=int, default=[64, 72, 80, 96, 120, 128, 144, 160, 168, 176])
    parser.add_argument('--size', type=int, default=40, help='height and width of the map; default 40')
    parser.add_argument('--kernel', type=int, default=5)
    parser.add_argument('--network', help='an ONNX file of another engine: time it as it is, and rewritten')
    parser.add_argument('--float-network', help='the same network in float: ratios to it are printed too')
    parser.add_argument('--rounds', type=int, default=25, help='interleaved; the median counts. Default 25')
    return parser.parse_args()


def chain(channels: int, size: int, kernel: int, integers: bool) -> bytes:
    """A row of depthwise convolutions, in float or as QLinearConv with u8 activations and s8 weights a channel."""
    from onnx import TensorProto, helper, numpy_helper

    generator, nodes, values = np.random.default_rng(0), [], []

    def constant(name: str, value: np.ndarray) -> str:
        values.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    scale, zero, source = constant('scale', np.float32(0.05)), constant('zero', np.uint8(0)), 'x'
    for index in range(DEPTH):
        weight = generator.integers(-127, 128, (channels, 1, kernel, kernel))
        options = dict(group=channels, pads=[kernel // 2] * 4, kernel_shape=[kernel, kernel])
        if integers:
            scales = constant(f's{index}', np.full(channels, 1e-3, np.float32))
            zeros = constant(f'z{index}', np.zeros(channels, np.int8))
            inputs = [source, scale, zero, constant(f'w{index}', weight.astype(np.int8)), scales, zeros, scale, zero]
            nodes.append(helper.make_node('QLinearConv', inputs, [f'y{index}'], **options))
        else:
            inputs = [source, constant(f'w{index}', weight.astype(np.float32) * 1e-3)]
            nodes.append(helper.make_node('Conv', inputs, [f'y{index}'], **options))
        source = f'y{index}'
    kind, shape = TensorProto.UINT8 if integers else TensorProto.FLOAT, [1, channels, size, size]
    ends = [[helper.make_tensor_value_info(name, kind, shape)] for name in ('x', source)]
    graph = helper.make_graph(nodes, 'depthwise', *ends, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10).SerializeToString()


def measure(models: dict[str, bytes], rounds: int) -> dict[str, float]:
    """Median milliseconds of a call by name, one thread, in turns."""
    import onnx

    calls = {}
    for name, content in models.items():
        run = ENGINE.open_onnx(content, threads=1)
        inputs = random_inputs(onnx.load_from_string(content))
        calls[name] = lambda run=run, inputs=inputs: run(inputs)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            start = perf_counter()
            for _ in range(CALLS):
                call()
            times[name].append((perf_counter() - start) / CALLS * 1000)
    return {name: median(values) for name, values in times.items()}


def random_inputs(model: 'onnx.ModelProto') -> dict[str, np.ndarray]:
    """Inputs of a model by name, of the types and shapes that it says."""
    from onnx import helper

    generator, inputs = np.random.default_rng(0), {}
    for value in model.graph.input:
        about = value.type.tensor_type
        shape = [dim.dim_value for dim in about.shape.dim]
        inputs[value.name] = generator.integers(0, 100, shape).astype(helper.tensor_dtype_to_np_dtype(about.elem_type))
    return inputs


def by_rewrite(path: str, in_float: str | None, rounds: int) -> None:
    """Print the time of a network as it is, and with one rewrite after the other; and of the same one in float."""
    for file in filter(None, (path, in_float)):
        if not Path(file).is_file():
            raise UserError(f'{file} does not exist: expected an ONNX file, such as network.onnx of a deployment.')
    import onnx

    from frostnet_mm.deploy.engines.onnxruntime import REWRITES

    model = onnx.load(path)
    models, counts = {'as it is': model.SerializeToString()}, {}
    for rewrite in REWRITES:
        name = f'+ {rewrite.__name__}'
        counts[name] = len(rewrite(model))
        models[name] = model.SerializeToString()
    if not any(counts.values()):
        raise UserError(
            f'{path} has all rewrites already: expected a file as exported, such as that of --engine openvino.'
        )
    if in_float:
        models['float'] = onnx.load(in_float).SerializeToString()
    times = measure(models, rounds)
    for name, time in times.items():
        ratio = f'  {time / times["float"]:.3f} of float' if in_float else ''
        print(f'{name:24s} {time:6.2f} ms{ratio}' + (f'  ({counts[name]} operators)' if name in counts else ''))


def main() -> None:
    args = parse_args()
    if args.network:
        by_rewrite(args.network, args.float_network, args.rounds)
        return
    print(
        f'depthwise {args.kernel}x{args.kernel}, {args.size}x{args.size}, one thread, ms each\nchannels  float   INT8'
    )
    for channels in args.channels:
        models = {str(i): chain(channels, args.size, args.kernel, bool(i)) for i in (0, 1)}
        times = measure(models, args.rounds)
        print(f'{channels:8d} {times["0"] / DEPTH:6.3f} {times["1"] / DEPTH:6.3f}', flush=True)


if __name__ == '__main__':
    run_tool(main)
