from .frostnet import FrostBottleneck, FrostNet

__all__ = ['FrostBottleneck', 'FrostNet']
