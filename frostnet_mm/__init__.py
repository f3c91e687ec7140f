"""FrostNet backbones and INT8 detectors and segmenters for OpenMMLab.

Importing the package registers everything under the scope ``frostnet_mm``, for the configs of every OpenMMLab package.
"""

from .compat import check_environment

check_environment()

from . import data, engine, models, quantization  # noqa: E402
from .data import *  # noqa: E402,F403
from .engine import *  # noqa: E402,F403
from .models import *  # noqa: E402,F403
from .quantization import *  # noqa: E402,F403
from .version import __version__  # noqa: E402

__all__ = ['__version__', *data.__all__, *engine.__all__, *models.__all__, *quantization.__all__]
