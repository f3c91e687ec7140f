"""What arithmetic a network is simulated and deployed in, as data: one frozen object, which all that rounds takes.

Neither torch nor torchao is needed to make, compare or store a scheme.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from .errors import QuantizationError

FLOAT = 'float'  # in place of bits: the module is not quantized
#: Of weights: integers of ±127; of ±63, with which a sum of two products fits into 16 bits (``reduce_range``); and so
#: on down to ±1. Engines hold all of them in 8 bits.
WEIGHT_BITS = (8, 7, 6, 5, 4, 3, 2)
GRANULARITIES = ('channel', 'tensor')  # of a weight's scales
DTYPES = {'uint8': (0, 255), 'int8': (-128, 127)}  # of activations: smallest and largest integer
Override = str | int | Mapping[str, int]


def _require(option: str, value: Any, known: Iterable[str]) -> None:
    if value not in tuple(known):
        raise QuantizationError(f'{option}={value!r} was given; expected one of {", ".join(map(repr, known))}.')


def _require_bits(option: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value not in WEIGHT_BITS:
        raise QuantizationError(
            f'{option}={value!r} was given, expected 2 to 8: 8, 7 for engines on x86 CPUs without VNNI, or fewer.'
        )


def _plain_overrides(overrides: Mapping[str, Override] | Iterable) -> tuple[tuple[str, str | int], ...]:
    pairs = list(overrides.items() if isinstance(overrides, Mapping) else overrides)
    if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise QuantizationError(
            f'overrides={overrides!r} was given; expected bits by module, such as '
            "{'backbone.stages.0': dict(bits=8)}."
        )
    plain = {}
    for name, value in pairs:
        if isinstance(value, Mapping):
            if set(value) != {'bits'}:
                raise QuantizationError(
                    f"overrides[{name!r}]={dict(value)!r} was given; expected dict(bits=…), the bits alone, or 'float'."
                )
            value = value['bits']
        if value != FLOAT:
            _require_bits(f'overrides[{name!r}]', value)
        plain[str(name)] = value
    return tuple(plain.items())


@dataclass(frozen=True)
class Scheme:
    """Which numbers a quantized network computes with.

    Args:
        name (str): The preset that it is based on, a key of ``PRESETS``. Default: 'onnx'.
        activation_dtype (str): 'uint8' or 'int8'. Default: 'uint8'.
        activation_symmetric (bool): Whether an activation's zero point is the middle of its type. Default: False.
        weight_bits (int): One of ``WEIGHT_BITS``; weights are signed and symmetric. Default: 8.
        weight_granularity (str): 'channel' for a scale an output channel, 'tensor' for one scale of the weight with
            its batch norm folded in. Default: 'channel'.
        shared_concat (bool): Whether the inputs of a concat share the output's scale, so that it only moves bytes.
            Default: False.
        quantize_outputs (bool): Whether the network's outputs are rounded to 8 bits too. Default: False.
        overrides (Mapping[str, str | int]): By name of a module, or the beginning of one up to a dot, 'float' or the
            bits of its weights; of several that fit, the longest name counts.

    Raises:
        QuantizationError: A value is out of its domain.
    """

    name: str = 'onnx'
    activation_dtype: str = 'uint8'
    activation_symmetric: bool = False
    weight_bits: int = 8
    weight_granularity: str = 'channel'
    shared_concat: bool = False
    quantize_outputs: bool = False
    overrides: tuple[tuple[str, str | int], ...] = ()

    def __post_init__(self) -> None:
        _require('activation_dtype', self.activation_dtype, DTYPES)
        _require('weight_granularity', self.weight_granularity, GRANULARITIES)
        _require_bits('weight_bits', self.weight_bits)
        object.__setattr__(self, 'overrides', _plain_overrides(self.overrides))

    # -- making one

    @classmethod
    def preset(cls, name: str) -> 'Scheme':
        """The scheme of a family of engines.

        Args:
            name (str): A key of ``PRESETS``.

        Raises:
            QuantizationError: There is none of that name.
        """
        if name not in PRESETS:
            known = '; '.join(f'{key!r} for {row.engines}' for key, row in PRESETS.items())
            raise QuantizationError(f'numerics={name!r} is not known; expected {known}.')
        return PRESETS[name].scheme

    def with_weights(self, bits: int | None = None, granularity: str | None = None) -> 'Scheme':
        """The same scheme with other weights; None keeps what is there.

        No module has more bits than all then have: a CPU whose sums saturate needs 7 everywhere.
        """
        scheme = self
        if bits is not None:
            capped = {name: value if value == FLOAT else min(value, bits) for name, value in self.overrides}
            scheme = replace(scheme, weight_bits=bits, overrides=capped)
        return scheme if granularity is None else replace(scheme, weight_granularity=granularity)

    def with_float(self, modules: Iterable[str]) -> 'Scheme':
        """The same scheme with modules, by their names or beginnings of them, left in float."""
        return replace(self, overrides=dict(self.overrides) | {str(name): FLOAT for name in modules})

    def for_constants(self) -> 'Scheme':
        """The scheme of weights that conversion makes itself, of norms and average pools.

        They are depthwise and have one magnitude a channel: ±127 holds it exactly, and engines sum it in 32 bits.
        """
        return replace(self, weight_bits=8, weight_granularity='channel', overrides=())

    # -- asking it

    @property
    def activation_range(self) -> tuple[int, int]:
        """The smallest and the largest integer of an activation.

        A symmetric range has 127 steps on both sides of its zero point. What lies beyond it is clamped to the type's
        own ends, as QuantizeLinear and engines do: to -128, not to -127.
        """
        return DTYPES[self.activation_dtype]

    def largest_weight(self, bits: int | None = None) -> int:
        """The largest integer of a weight; the smallest is its negative.

        Args:
            bits (int, optional): Of a module with an override. Default: ``weight_bits``.
        """
        return 2 ** ((self.weight_bits if bits is None else bits) - 1) - 1

    def override_of(self, names: Sequence[str]) -> str | int | None:
        """What an override says of a module: 'float' or bits; None if none fits it.

        Args:
            names (Sequence[str]): What it is called: its own name, its parents', its weight's.
        """
        fitting = [
            (len(module), value)
            for module, value in self.overrides
            if any(name == module or name.startswith(f'{module}.') for name in names)
        ]
        return max(fitting, key=lambda found: found[0])[1] if fitting else None

    def precision_of(self, names: Sequence[str]) -> str | int:
        """How a module is computed: 'float', or the bits of its weights; names as for :meth:`override_of`."""
        found = self.override_of(names)
        return self.weight_bits if found is None else found

    def stays_float(self, names: Sequence[str]) -> bool:
        """Whether a module of these names is left in float."""
        return self.precision_of(names) == FLOAT

    @property
    def bit_overrides(self) -> dict[str, int]:
        """The overrides that are bits."""
        return {name: value for name, value in self.overrides if value != FLOAT}

    @property
    def most_weight_bits(self) -> int:
        """The most bits that the weights of a module may have."""
        return max(self.weight_bits, *self.bit_overrides.values(), 0)

    @property
    def float_modules(self) -> list[str]:
        """The modules that are left in float, in the order in which they were given."""
        return [name for name, value in self.overrides if value == FLOAT]

    @property
    def identity(self) -> str:
        """What decides which tensors a graph rounds, and to which grid; part of a graph's fingerprint.

        Weights have no state, so their bits are not part of it. Presets of earlier versions keep the text by which
        their checkpoints are known.
        """
        row = PRESETS.get(self.name)
        if row is not None and row.fingerprint and self._rounds_as(row.scheme):
            return f'{row.fingerprint} {self.quantize_outputs}'
        return (
            f'{self.activation_dtype} symmetric={self.activation_symmetric} shared_concat={self.shared_concat} '
            f'{self.quantize_outputs}'
        )

    def _rounds_as(self, other: 'Scheme') -> bool:
        names = ('activation_dtype', 'activation_symmetric', 'shared_concat')
        return all(getattr(self, name) == getattr(other, name) for name in names)

    # -- storing it

    def to_dict(self) -> dict[str, Any]:
        """As plain data, as checkpoints and deployments hold it.

        ``numerics``, ``quantize_outputs``, ``float_modules`` and ``weight_bits`` are always there; anything else only
        where it differs from the preset, so that earlier versions read what they can compute.
        """
        base = PRESETS[self.name].scheme if self.name in PRESETS else Scheme(self.name)
        content: dict[str, Any] = dict(
            numerics=self.name,
            quantize_outputs=self.quantize_outputs,
            float_modules=self.float_modules,
            weight_bits=self.weight_bits,
        )
        if self.bit_overrides:
            content['overrides'] = [list(item) for item in self.overrides]
        for name in _EXTRA:
            if getattr(self, name) != getattr(base, name):
                content[name] = getattr(self, name)
        return content

    @classmethod
    def from_config(cls, content: Mapping[str, Any]) -> 'Scheme':
        """As :meth:`from_dict`, of what a person wrote.

        Raises:
            QuantizationError: As there, or it has a key that means nothing.
        """
        known = ('numerics', 'quantize_outputs', 'weight_bits', 'float_modules', 'overrides', *_EXTRA)
        unknown = [name for name in content if name not in known]
        if unknown:
            said = dict(weights='weight_granularity', bits='weight_bits', name='numerics').get(unknown[0])
            raise QuantizationError(
                f'scheme has {unknown[0]}={content[unknown[0]]!r}, which nothing reads'
                f'{f"; expected {said}=…" if said else ""}. Known are {", ".join(known)}.'
            )
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> 'Scheme':
        """The opposite of :meth:`to_dict`; what a checkpoint does not say is as it was before there was a choice.

        Raises:
            QuantizationError: The preset is unknown here, or a value is out of its domain.
        """
        scheme = cls.preset(content.get('numerics', 'onnx'))
        extra = {name: content[name] for name in _EXTRA if name in content}
        overrides = content.get('overrides') or {name: FLOAT for name in content.get('float_modules') or ()}
        return replace(
            scheme,
            quantize_outputs=content.get('quantize_outputs', False),
            weight_bits=content.get('weight_bits', 8),
            overrides=overrides,
            **extra,
        )


_KEPT = ('name', 'quantize_outputs', 'weight_bits', 'overrides')
_EXTRA = tuple(field.name for field in fields(Scheme) if field.name not in _KEPT)


@dataclass(frozen=True)
class Preset:
    """A row of the table of presets.

    Args:
        scheme (Scheme): The scheme.
        engines (str): Which engines it is for, for people.
        fingerprint (str): What graphs were known by before schemes; '' for a preset that was never without.
    """

    scheme: Scheme
    engines: str
    fingerprint: str = ''


#: All that a preset is. An engine says itself which of them it accepts (``deploy/engines``).
PRESETS: dict[str, Preset] = {
    'onnx': Preset(
        Scheme('onnx'),
        'onnxruntime, openvino, inductor',
        # (names an engine that cannot read such files; a fingerprint does not change)
        "Numerics(name='onnx', activation_dtype=torch.uint8, shared_concat=False, "
        "engines=('onnxruntime', 'openvino', 'tensorrt'))",
    ),
    'executorch': Preset(
        Scheme('executorch', activation_dtype='int8', shared_concat=True),
        'executorch',
        "Numerics(name='executorch', activation_dtype=torch.int8, shared_concat=True, engines=('executorch',))",
    ),
    'tensorrt': Preset(Scheme('tensorrt', activation_dtype='int8', activation_symmetric=True), 'tensorrt'),
}
