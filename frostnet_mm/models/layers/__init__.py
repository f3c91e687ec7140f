from .eesp import EESP, EESPDown, PyramidPooling
from .esp import ESP
from .norm_act import NormAct, channelwise

__all__ = ['EESP', 'EESPDown', 'ESP', 'NormAct', 'PyramidPooling', 'channelwise']
