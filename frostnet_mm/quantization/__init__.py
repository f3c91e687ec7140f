"""INT8 quantization-aware training."""

import logging

from ..lazy import offer

__all__ = offer(
    __name__,
    {
        '..engine.optimizers.gradboost': ['GradBoostAdam', 'GradBoostAdamW', 'GradBoostRMSprop', 'GradBoostSGD'],
        '.checkpoint': ['Checkpoint'],
        '.convert': ['ConvertedNetwork', 'convert'],
        '.errors': ['QuantizationError', 'RangeError'],
        '.hook': ['QATHook'],
        '.network': ['QuantizedNetwork'],
        '.prepare': ['prepare_model'],
        '.quantizer': ['DenseQuantizer'],
        '.report': ['FloatOperators', 'float_operators', 'int8_share'],
        '.scheme': ['Scheme'],
        '.settings': ['QuantizationSettings'],
    },
)

# What torchao and torch warn of when torchao is imported: kernels for GPUs that are not there, and each other.
_IMPORT_NOISE = {
    'torchao': 'Failed to load ',
    'torchao.kernel.intmm': 'Warning: Detected no triton',
    'torch.utils._pytree': "<enum 'KernelPreference'>",
}


class _Without(logging.Filter):
    """Drops the messages that begin with a text."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self.beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginning)


for _logger, _beginning in _IMPORT_NOISE.items():
    logging.getLogger(_logger).addFilter(_Without(_beginning))
