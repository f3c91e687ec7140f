"""What the tools are made of: configs, loops, hooks."""

from importlib.util import find_spec

from .config import ConfigError, load_config
from .interrupt_hook import InterruptHook, TrainingInterrupted
from .loops import ResumableEpochTrainLoop

__all__ = ['ConfigError', 'InterruptHook', 'ResumableEpochTrainLoop', 'TrainingInterrupted', 'load_config']

if find_spec('mmseg') is not None:  # a user of mmdet alone need not have mmseg
    from .iou_metric import IoUMetric  # noqa: F401

    __all__ += ['IoUMetric']
