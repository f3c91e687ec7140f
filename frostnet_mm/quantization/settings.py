"""All that a quantized network is made with: its arithmetic, how its ranges are found, how it is captured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import QuantizationError
from .scheme import Override, Scheme

NAME = 'quantization'  # of the network in the model; its ranges are ``quantization.<layer>.min_val`` and ``max_val``
EXECUTIONS = ('float', 'simulated', 'converted')  # how a quantized network can be run
# Batch, height and width differ from each other and from usual channel counts, so that no two of them are taken for one
# symbol; large enough that the deepest map of a detector is not 1x1.
EXAMPLE_SHAPE = (2, 3, 544, 736)


@dataclass(frozen=True)
class QuantizationSettings:
    """What decides which graph is computed; a checkpoint holds it and loads into no other.

    Args:
        scheme (Scheme): The arithmetic. Default: the preset 'onnx'.
        learned_scales (bool): Train the scales (LSQ). Default: False.
        averaging_constant (float): Weight of a new batch in the moving average of the ranges. Default: 0.01.
        example_shape (tuple[int, int, int, int]): Shape (N, 3, H, W) of the images that the network is captured with; a
            network of other channels is captured with its own.

    Raises:
        QuantizationError: A value is out of its domain.
    """

    scheme: Scheme = Scheme()
    learned_scales: bool = False
    averaging_constant: float = 0.01
    example_shape: tuple[int, int, int, int] = EXAMPLE_SHAPE

    def __post_init__(self) -> None:
        if not 0 < self.averaging_constant <= 1:
            raise QuantizationError(f'averaging_constant={self.averaging_constant} was given, expected 0 < value <= 1.')
        shape = tuple(int(size) for size in self.example_shape)
        if len(shape) != 4 or min(shape) < 1:
            raise QuantizationError(f'example_shape={shape} was given, expected (N, 3, H, W).')
        object.__setattr__(self, 'example_shape', shape)

    @classmethod
    def of(
        cls,
        numerics: str = 'onnx',
        quantize_outputs: bool = False,
        float_modules: Iterable[str] = (),
        learned_scales: bool = False,
        averaging_constant: float = 0.01,
        example_shape: Sequence[int] | None = None,
        weight_bits: int = 8,
        weights: str = 'channel',
        overrides: Mapping[str, Override] | None = None,
    ) -> 'QuantizationSettings':
        """From the options of :class:`QATHook` and of the tools.

        Args:
            numerics (str): A preset: 'onnx' or 'executorch'. Default: 'onnx'.
            quantize_outputs (bool): Whether the network's outputs are rounded to 8 bits too. Default: False.
            float_modules (Iterable[str]): Names of modules, or beginnings of them, that stay in float.
            learned_scales (bool): Train the scales (LSQ). Default: False.
            averaging_constant (float): Weight of a new batch in the moving average of the ranges. Default: 0.01.
            example_shape (Sequence[int], optional): Shape of the images that the network is captured with.
            weight_bits (int): 8, or 7 for engines on x86 CPUs without VNNI. Default: 8.
            weights (str): 'channel' for a scale an output channel of a weight, 'tensor' for one scale a weight.
                Default: 'channel'.
            overrides (Mapping, optional): Bits by module, see :class:`Scheme`.
        """
        scheme = replace(
            Scheme.preset(numerics),
            quantize_outputs=quantize_outputs,
            weight_bits=weight_bits,
            weight_granularity=weights,
            overrides=overrides or {},
        )
        float_modules = [str(name) for name in float_modules]
        if both := [name for name in float_modules if name in scheme.bit_overrides]:
            raise QuantizationError(
                f'float_modules and overrides were both given for {both[0]!r}: expected one of them, float or bits.'
            )
        scheme = scheme.with_float(float_modules)
        shape = EXAMPLE_SHAPE if example_shape is None else tuple(example_shape)
        return cls(scheme, learned_scales, averaging_constant, shape)

    def with_weights(self, bits: int) -> 'QuantizationSettings':
        """The same settings with weights of other bits."""
        return replace(self, scheme=self.scheme.with_weights(bits=bits))

    def to_dict(self) -> dict[str, Any]:
        """As plain data; the keys are those of checkpoints and deployments since the first version."""
        return self.scheme.to_dict() | dict(
            learned=self.learned_scales,
            averaging_constant=self.averaging_constant,
            example_shape=list(self.example_shape),
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> 'QuantizationSettings':
        """The opposite of :meth:`to_dict`."""
        return cls(
            Scheme.from_dict(content),
            content.get('learned', False),
            content.get('averaging_constant', 0.01),
            tuple(content.get('example_shape', EXAMPLE_SHAPE)),
        )
