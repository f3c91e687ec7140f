"""Putting a quantized network into a model, and what a checkpoint says about it."""

from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from torch import nn

from ..models.checkpoints import CheckpointError
from ..models.dense import DenseNetwork, attach, unwrap
from .capture import EXAMPLE_SHAPE, without_sync_batchnorm
from .errors import QuantizationError
from .names import NAME, WEIGHT_BITS
from .network import QuantizedNetwork
from .quantizer import DenseQuantizer, numerics_of


@dataclass
class QuantizationSettings:
    """What decides which graph is computed; a checkpoint holds it and loads into no other.

    Args:
        numerics (str): 'onnx' or 'executorch', see :class:`DenseQuantizer`. Default: 'onnx'.
        quantize_outputs (bool): Whether the network's outputs are rounded to 8 bits too. Default: False.
        float_modules (list[str]): Names of modules, or beginnings of them, that stay in float.
        learned (bool): Train the scales (LSQ). Default: False.
        averaging_constant (float): Weight of a new batch in the moving average of the ranges. Default: 0.01.
        example_shape (tuple[int, int, int, int]): Shape of the images that the network is captured with.
        weight_bits (int): 8, or 7 for x86 CPUs without VNNI. Weights have no state unless their scales are learned: a
            checkpoint of one loads into the other. Default: 8.

    Raises:
        QuantizationError: A value is out of its domain.
    """

    numerics: str = 'onnx'
    quantize_outputs: bool = False
    float_modules: list[str] = field(default_factory=list)
    learned: bool = False
    averaging_constant: float = 0.01
    example_shape: tuple[int, int, int, int] = EXAMPLE_SHAPE
    weight_bits: int = 8

    def __post_init__(self) -> None:
        numerics_of(self.numerics)
        self.float_modules = [str(name) for name in self.float_modules]
        if not 0 < self.averaging_constant <= 1:
            raise QuantizationError(f'averaging_constant={self.averaging_constant} was given, expected 0 < value <= 1.')
        self.example_shape = tuple(int(size) for size in self.example_shape)
        if len(self.example_shape) != 4 or self.example_shape[1] != 3 or min(self.example_shape) < 1:
            raise QuantizationError(f'example_shape={self.example_shape} was given, expected (N, 3, H, W).')
        if self.weight_bits not in WEIGHT_BITS:
            raise QuantizationError(
                f'weight_bits={self.weight_bits!r} was given, expected 8, or 7 for engines on x86 CPUs without VNNI.'
            )


def prepare_model(model: nn.Module, settings: QuantizationSettings | None = None) -> QuantizedNetwork:
    """Put a quantized network in the place of a model's dense network; done once, later calls return it.

    Args:
        model (nn.Module): A detector of mmdet or a segmenter of mmseg, wrapped for distributed training or not.
        settings (QuantizationSettings, optional): Default: those of ``QuantizationSettings()``.

    Returns:
        QuantizedNetwork: Registered as ``model.quantization``. It observes ranges in training, and simulates INT8.

    Raises:
        UnsupportedModelError: The model has no dense network that is known, or it cannot be captured.
        QuantizationError: A name of ``float_modules`` is no module of the dense network.
    """
    inner = unwrap(model)
    network = quantized_network(inner)
    if network is not None:
        return network
    settings = settings or QuantizationSettings()
    if inner is model:  # distributed, statistics would no longer be shared: capture refuses
        without_sync_batchnorm(inner)
    dense = DenseNetwork(inner)
    _check_float_modules(dense, settings.float_modules)
    quantizer = DenseQuantizer(
        settings.numerics,
        settings.quantize_outputs,
        settings.float_modules,
        settings.averaging_constant,
        settings.learned,
        settings.weight_bits,
    )
    network = QuantizedNetwork(dense, quantizer, settings.example_shape)
    network.train(inner.training)
    inner.add_module(NAME, network)
    attach(inner, network)
    return network


def quantized_network(model: nn.Module) -> QuantizedNetwork | None:
    """The quantized network of a model, or None."""
    network = getattr(unwrap(model), NAME, None)
    return network if isinstance(network, QuantizedNetwork) else None


def _check_float_modules(dense: DenseNetwork, names: list[str]) -> None:
    known = [name for name, _ in dense.named_modules() if name]
    for name in names:
        if name not in known:
            first = sorted({'.'.join(other.split('.')[:2]) for other in known})
            raise QuantizationError(
                f'float_modules names {name!r}, which is no module of the dense network; expected names such as '
                f'{", ".join(first[:8])}.'
            )


def describe_quantization(network: QuantizedNetwork, settings: QuantizationSettings, phase: str) -> dict[str, Any]:
    """What a checkpoint says about its quantized network, as plain data."""
    return dict(
        settings=asdict(settings) | dict(example_shape=list(settings.example_shape)),
        phase=phase,
        graph=network.program.fingerprint,
        torchao=version('torchao'),
    )


def settings_of(meta: dict[str, Any]) -> QuantizationSettings:
    """The settings that a checkpoint's quantized network was made with."""
    return QuantizationSettings(**meta['settings'])


def check_quantization(
    meta: dict[str, Any], network: QuantizedNetwork, settings: QuantizationSettings, source: str
) -> None:
    """Refuse a checkpoint that was made with another graph.

    Args:
        meta (dict): What :func:`describe_quantization` wrote.
        network (QuantizedNetwork): The network that the checkpoint is meant for.
        settings (QuantizationSettings): Its settings.
        source (str): Name of the checkpoint, for messages.

    Raises:
        CheckpointError: Settings, graph or torchao differ; the message says which.
    """
    saved = meta['settings']
    bits = saved.get('weight_bits', 8)
    if settings.learned and bits != settings.weight_bits:
        raise CheckpointError(
            f'{source} was made with QATHook(weight_bits={bits}) and trained scales, this config has '
            f'weight_bits={settings.weight_bits}: the scales belong to that many bits. Set weight_bits={bits}.'
        )
    for name in ('numerics', 'quantize_outputs', 'float_modules', 'learned'):
        own = getattr(settings, name)
        if saved.get(name) != own:
            option = 'learned_scales' if name == 'learned' else name
            raise CheckpointError(
                f'{source} was made with QATHook({option}={saved.get(name)!r}), this config has {option}={own!r}: the '
                f'ranges would belong to other tensors. Set {option}={saved.get(name)!r}, or give the weights new '
                'ranges: python tools/calibrate.py CONFIG CHECKPOINT.'
            )
    own_torchao = version('torchao')
    if _minor(meta['torchao']) != _minor(own_torchao):
        raise CheckpointError(
            f'{source} was made with torchao {meta["torchao"]}, installed is {own_torchao}, which may quantize another '
            f'way. Install it: pip install --no-deps torchao=={meta["torchao"]}'
        )
    if meta['graph'] != network.program.fingerprint:
        raise CheckpointError(
            f'{source} was made with another graph ({meta["graph"]}) than this model has '
            f'({network.program.fingerprint}): '
            'the model of the config, or a package that it comes from, has changed. Use the config and the versions '
            'that the checkpoint was trained with.'
        )


def _minor(text: str) -> tuple[str, ...]:
    return tuple(text.split('.')[:2])
