from ...compat import check_operators

check_operators()  # before mm's packages are imported

from .ssdlite_head import SSDLiteHead
from .tdsod_head import TDSODHead

__all__ = ['SSDLiteHead', 'TDSODHead']
