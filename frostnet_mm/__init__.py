"""FrostNet backbones and INT8 detectors and segmenters for OpenMMLab.

Importing the package makes everything known under the scope ``frostnet_mm``, for the configs of every OpenMMLab
package. torch and mm's packages are imported when something of it is first used.
"""

from .compat import check_environment

check_environment()

from . import data, engine, models, quantization, registry  # noqa: F401
from .lazy import offer
from .models.upstream import mend_upstream
from .version import __version__

mend_upstream()
_PACKAGES = {'.data': data, '.engine': engine, '.models': models, '.quantization': quantization}
__all__ = ['__version__', *offer(__name__, {name: package.__all__ for name, package in _PACKAGES.items()})]
