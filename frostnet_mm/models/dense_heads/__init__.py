from .ssdlite_head import SSDLiteHead
from .tdsod_head import TDSODHead

__all__ = ['SSDLiteHead', 'TDSODHead']
