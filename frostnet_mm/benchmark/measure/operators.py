"""What an operator costs in float and in INT8 on an engine: small ONNX models, with and without it, timed in turns.

Both models compute the same sources (1x1 convolutions that make inputs of the wanted shape, in the layout that the
engine likes). One applies the operator to each source; the other does not. Their difference, divided by the number of
sources, is the operator alone: no quantization of the input, no conversion of the output and no call is counted.
Every result ends in a pooling that reads four pixels, without which an engine would leave the operator out.
An operator that engines fuse with its neighbour (an add with the convolution before it) costs less in a network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from . import loading, machine, timing

if TYPE_CHECKING:
    import onnx

COPIES = 6  # of the operator in a model
SOURCE_CHANNELS = 16
SCALE, WEIGHT_SCALE = 0.02, 0.01
OPSET = 21
KINDS = ('conv', 'depthwise', 'add', 'concat', 'max pool', 'average pool', 'resize')


@dataclass(frozen=True)
class OperatorCase:
    """An operator with its shape.

    Args:
        kind (str): Of ``KINDS``; 'resize' is bilinear, to twice the size.
        channels (int): Of the input; of each of the two inputs of 'add' and 'concat'.
        outputs (int): Channels of the output.
        size (int): Height and width of the input in pixels.
        kernel (int): Height and width of the window. Default: 1.
        stride (int): Default: 1.
        zero_point (int): Of all activations. Default: 0, as after a ReLU.
    """

    kind: str
    channels: int
    outputs: int
    size: int
    kernel: int = 1
    stride: int = 1
    zero_point: int = 0

    @property
    def out_size(self) -> int:
        """Height and width of the output, with a padding of half the window."""
        if self.kind == 'resize':
            return 2 * self.size
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 for what is no convolution."""
        if self.kind not in ('conv', 'depthwise'):
            return 0
        inputs = 1 if self.kind == 'depthwise' else self.channels
        return self.outputs * self.out_size**2 * inputs * self.kernel**2

    @property
    def name(self) -> str:
        """Kind and window, such as 'conv 3x3 /2'."""
        zero = f', zero point {self.zero_point}' if self.zero_point else ''
        window = f' {self.kernel}x{self.kernel}' if self.kernel > 1 or self.kind == 'conv' else ''
        return f'{self.kind}{window}{f" /{self.stride}" if self.stride > 1 else ""}{zero}'

    @property
    def shape(self) -> str:
        """Channels and sizes, such as '96 → 288, 20 × 20'."""
        channels = f'{self.channels} + {self.channels}' if self.kind in ('add', 'concat') else f'{self.channels}'
        arrow = f' → {self.outputs}' if self.outputs != self.channels else ''
        return f'{channels}{arrow}, {self.size} × {self.size}'


# Shapes of FrostNet and SSDLite at 320x320 pixels, from the stem to the last stage.
CASES = (
    OperatorCase('conv', 3, 32, 320, 3, 2),
    OperatorCase('conv', 24, 72, 80),
    OperatorCase('conv', 40, 120, 40),
    OperatorCase('conv', 96, 288, 20),
    OperatorCase('conv', 288, 96, 20),
    OperatorCase('conv', 320, 1280, 10),
    OperatorCase('conv', 64, 64, 40, 3),
    OperatorCase('depthwise', 32, 32, 160, 3),
    OperatorCase('depthwise', 96, 96, 80, 3, 2),
    OperatorCase('depthwise', 288, 288, 20, 3),
    OperatorCase('depthwise', 96, 96, 80, 5, 2),
    OperatorCase('depthwise', 120, 120, 40, 5),
    OperatorCase('depthwise', 288, 288, 20, 5),
    OperatorCase('depthwise', 288, 288, 20, 5, 2),
    OperatorCase('add', 40, 40, 40),
    OperatorCase('add', 96, 96, 20),
    OperatorCase('concat', 40, 80, 40),
    OperatorCase('concat', 96, 192, 20),
    OperatorCase('max pool', 96, 96, 40, 3, 2),
    OperatorCase('average pool', 96, 96, 40, 3, 2),
    OperatorCase('resize', 96, 96, 20),
)


class _Builder:
    """Adds nodes to a graph, in INT8 each between Q and DQ.

    Args:
        int8 (bool): QDQ form: u8 activations, s8 weights with a scale for each channel.
        zero_point (int): Of all activations.
    """

    def __init__(self, int8: bool, zero_point: int = 0) -> None:
        from onnx import helper, numpy_helper

        self.helper, self.numpy_helper = helper, numpy_helper
        self.int8 = int8
        self.nodes: list = []
        self.constants: list = []
        self.generator = np.random.default_rng(0)
        if int8:
            self.scale = self.constant('scale', np.float32(SCALE))
            self.zero = self.constant('zero', np.uint8(zero_point))

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(self.numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes) -> str:
        self.nodes.append(self.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def quantized(self, name: str) -> str:
        """A tensor as others read it: through Q and DQ in INT8."""
        if not self.int8:
            return name
        integers = self.node('QuantizeLinear', [name, self.scale, self.zero], f'{name}_q')
        return self.node('DequantizeLinear', [integers, self.scale, self.zero], f'{name}_dq')

    def convolution(self, source: str, name: str, shape: tuple[int, ...], groups: int, stride: int) -> str:
        """A convolution with bias; the weight's shape is (outputs, inputs / groups, kernel, kernel)."""
        outputs, kernel = shape[0], shape[-1]
        weight = self.generator.integers(-127, 128, shape)
        bias = np.zeros(outputs)
        if self.int8:
            scales = self.constant(f'{name}_ws', np.full(outputs, WEIGHT_SCALE, np.float32))
            zeros = self.constant(f'{name}_wz', np.zeros(outputs, np.int8))
            stored = self.constant(f'{name}_w', weight.astype(np.int8))
            parameters = [self.node('DequantizeLinear', [stored, scales, zeros], f'{name}_wdq', axis=0)]
            scales = self.constant(f'{name}_bs', np.full(outputs, SCALE * WEIGHT_SCALE, np.float32))
            stored = self.constant(f'{name}_b', bias.astype(np.int32))
            zeros = self.constant(f'{name}_bz', np.zeros(outputs, np.int32))
            parameters.append(self.node('DequantizeLinear', [stored, scales, zeros], f'{name}_bdq', axis=0))
        else:
            parameters = [
                self.constant(f'{name}_w', (WEIGHT_SCALE * weight).astype(np.float32)),
                self.constant(f'{name}_b', bias.astype(np.float32)),
            ]
        pads, window = [kernel // 2] * 4, [kernel, kernel]
        options = dict(group=groups, strides=[stride] * 2, pads=pads, kernel_shape=window)
        return self.quantized(self.node('Conv', [source, *parameters], name, **options))

    def apply(self, case: OperatorCase, sources: Sequence[str], index: int) -> str:
        """The operator of a case on one of the sources, and for two inputs on the next too."""
        name, first, second = f'op{index}', sources[index], sources[(index + 1) % len(sources)]
        window = dict(kernel_shape=[case.kernel] * 2, strides=[case.stride] * 2, pads=[case.kernel // 2] * 4)
        if case.kind in ('conv', 'depthwise'):
            groups = case.channels if case.kind == 'depthwise' else 1
            shape = (case.outputs, case.channels // groups, case.kernel, case.kernel)
            return self.convolution(first, name, shape, groups, case.stride)
        makers: dict[str, Callable[[], str]] = {
            'add': lambda: self.node('Add', [first, second], name),
            'concat': lambda: self.node('Concat', [first, second], name, axis=1),
            'max pool': lambda: self.node('MaxPool', [first], name, **window),
            'average pool': lambda: self.node('AveragePool', [first], name, count_include_pad=1, **window),
            'resize': lambda: self.node('Resize', [first, '', self._factors()], name, mode='linear'),
        }
        return self.quantized(makers[case.kind]())

    def _factors(self) -> str:
        if not any(constant.name == 'factors' for constant in self.constants):
            self.constant('factors', np.array([1, 1, 2, 2], np.float32))
        return 'factors'

    def sink(self, source: str, name: str, stride: int) -> str:
        """Four pixels' maximum, (N, C, 1, 1); the stride must be at least the size of the source."""
        return self.quantized(self.node('MaxPool', [source], name, kernel_shape=[2, 2], strides=[stride] * 2))


def build_model(case: OperatorCase, int8: bool, with_operator: bool) -> 'onnx.ModelProto':
    """The ONNX model of a case.

    Args:
        case (OperatorCase): The operator.
        int8 (bool): In QDQ form.
        with_operator (bool): Apply it to the sources, else end at them.

    Returns:
        onnx.ModelProto: One input ``images`` of shape (1, 16, size, size), one output.

    Raises:
        ValueError: The kind is unknown, or the output has less than two pixels a side.
    """
    if case.kind not in KINDS or min(case.size, case.out_size) < 2:
        raise ValueError(f'{case} was given, expected a kind of {", ".join(KINDS)} and sizes of at least 2 pixels.')
    from onnx import TensorProto, helper

    builder = _Builder(int8, case.zero_point)
    images = builder.quantized('images')
    shape = (case.channels, SOURCE_CHANNELS, 1, 1)
    sources = [builder.convolution(images, f'source{index}', shape, 1, 1) for index in range(COPIES)]
    far = 2 * case.size  # at least the size of any output
    ends = [builder.sink(source, f'end{index}', far) for index, source in enumerate(sources)]
    for index, source in enumerate(sources):
        # Without the operator its source is read a second time, by another pooling: as many small operators in both.
        result = builder.apply(case, sources, index) if with_operator else source
        ends.append(builder.sink(result, f'result{index}', far + 1))
    builder.node('Concat', ends, 'output', axis=1)
    channels = COPIES * (case.channels + (case.outputs if with_operator else case.channels))
    size = [1, SOURCE_CHANNELS, case.size, case.size]
    graph = helper.make_graph(
        builder.nodes,
        'operator',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info('output', TensorProto.FLOAT, [1, channels, 1, 1])],
        builder.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=10)


def measure(
    case: dict,
    engine: str,
    threads: int,
    cpus: Sequence[int],
    rounds: int,
    seconds: float,
    engine_file: str | None = None,
) -> dict:
    """Time an operator in this process.

    Args:
        case (dict): Fields of an :class:`OperatorCase`.
        engine (str): Name of an engine that reads ONNX.
        threads (int): Of the engine.
        cpus (Sequence[int]): To which the process is bound.
        rounds (int): How often the models take turns.
        seconds (float): Length of a turn.
        engine_file (str, optional): Of an engine of another package; see :func:`loading.register_engine`.

    Returns:
        dict: ``float`` and ``int8``: by round the seconds of one operator; ``others``: cores that others used.
    """
    machine.pin(cpus)
    if engine_file is not None:
        loading.register_engine(engine, engine_file)
    about = OperatorCase(**case)
    images = np.random.default_rng(0).random((1, SOURCE_CHANNELS, about.size, about.size), np.float32)
    calls = {}
    for int8 in (False, True):
        for applied in (False, True):
            content = build_model(about, int8, applied).SerializeToString()
            run = loading.onnx_session(content, engine, threads)
            calls[int8, applied] = lambda run=run: run({'images': images})
    for call in calls.values():
        timing.time_calls(call, seconds, 3)
    found: dict[str, list[float]] = {'float': [], 'int8': []}
    with timing.OtherWork() as others:
        for _ in range(rounds):
            times = {key: median(timing.time_calls(call, seconds)) for key, call in calls.items()}
            for name, int8 in (('float', False), ('int8', True)):
                found[name].append((times[int8, True] - times[int8, False]) / COPIES)
    return dict(found, others=others.cores)
