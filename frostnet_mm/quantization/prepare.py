"""Putting a quantized network into a model."""

from torch import nn

from ..models.dense import DenseNetwork, attach, unwrap
from .capture import without_sync_batchnorm
from .errors import QuantizationError
from .network import QuantizedNetwork
from .quantizer import DenseQuantizer
from .scheme import Scheme
from .settings import NAME, QuantizationSettings


def prepare_model(model: nn.Module, settings: QuantizationSettings | None = None) -> QuantizedNetwork:
    """Put a quantized network in the place of a model's dense network; done once, later calls return it.

    Args:
        model (nn.Module): A detector of mmdet or a segmenter of mmseg, wrapped for distributed training or not.
        settings (QuantizationSettings, optional): Default: those of ``QuantizationSettings()``.

    Returns:
        QuantizedNetwork: Registered as ``model.quantization``. It observes ranges in training, and simulates INT8.

    Raises:
        UnsupportedModelError: The model has no dense network that is known, or it cannot be captured.
        QuantizationError: The scheme names a module that the dense network does not have.
    """
    inner = unwrap(model)
    network = quantized_network(inner)
    if network is not None:
        return network
    settings = settings or QuantizationSettings()
    if inner is model:  # distributed, statistics would no longer be shared: capture refuses
        without_sync_batchnorm(inner)
    dense = DenseNetwork(inner)
    _check_names(dense, settings.scheme)
    quantizer = DenseQuantizer(settings.scheme, settings.averaging_constant, settings.learned_scales)
    network = QuantizedNetwork(dense, quantizer, settings.example_shape)
    network.train(inner.training)
    inner.add_module(NAME, network)
    attach(inner, network)
    return network


def quantized_network(model: nn.Module) -> QuantizedNetwork | None:
    """The quantized network of a model, or None."""
    network = getattr(unwrap(model), NAME, None)
    return network if isinstance(network, QuantizedNetwork) else None


def _check_names(dense: DenseNetwork, scheme: Scheme) -> None:
    known = [name for name, _ in dense.named_modules() if name]
    for name, _ in scheme.overrides:
        if name not in known:
            first = sorted({'.'.join(other.split('.')[:2]) for other in known})
            option = 'float_modules' if name in scheme.float_modules else 'overrides'
            raise QuantizationError(
                f'{option} names {name!r}, which is no module of the dense network; expected names such as '
                f'{", ".join(first[:8])}.'
            )
