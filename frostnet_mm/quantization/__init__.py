"""INT8 quantization-aware training.

torchao is needed for all but the GradBoost optimizers; without it, float models work, and QATHook is not there.
"""

import logging
from importlib.util import find_spec

from ..engine.optimizers.gradboost import GradBoostAdam, GradBoostAdamW, GradBoostRMSprop, GradBoostSGD
from .errors import QuantizationError, RangeError

__all__ = [
    'GradBoostAdam',
    'GradBoostAdamW',
    'GradBoostRMSprop',
    'GradBoostSGD',
    'QuantizationError',
    'RangeError',
]

if find_spec('torchao') is not None:
    # torchao and torch warn at import about kernels for GPUs that are not there, and about each other.
    _loggers = [logging.getLogger(name) for name in ('torchao', 'torch.utils._pytree')]
    _levels = [logger.level for logger in _loggers]
    for _logger in _loggers:
        _logger.setLevel(logging.ERROR)

    from .checkpoint import Checkpoint  # noqa: F401
    from .convert import ConvertedNetwork, convert  # noqa: F401
    from .hook import QATHook  # noqa: F401
    from .network import QuantizedNetwork  # noqa: F401
    from .prepare import prepare_model  # noqa: F401
    from .quantizer import DenseQuantizer  # noqa: F401
    from .report import FloatOperators, float_operators, int8_share  # noqa: F401
    from .scheme import Scheme  # noqa: F401
    from .settings import QuantizationSettings  # noqa: F401

    for _logger, _level in zip(_loggers, _levels, strict=True):
        _logger.setLevel(_level)

    __all__ += [
        'Checkpoint',
        'ConvertedNetwork',
        'DenseQuantizer',
        'FloatOperators',
        'QATHook',
        'QuantizationSettings',
        'QuantizedNetwork',
        'Scheme',
        'convert',
        'float_operators',
        'int8_share',
        'prepare_model',
    ]
