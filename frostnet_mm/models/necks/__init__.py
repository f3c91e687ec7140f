from .dfpn import DFPN

__all__ = ['DFPN']
