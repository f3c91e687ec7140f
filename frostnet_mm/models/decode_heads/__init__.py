from ...compat import check_operators

check_operators()  # before mm's packages are imported

from .espnet_head import ESPNetHead
from .espnetv2_head import ESPNetv2Head
from .lraspp_head import LRASPPHead

__all__ = ['ESPNetHead', 'ESPNetv2Head', 'LRASPPHead']
