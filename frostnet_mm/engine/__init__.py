"""What the tools are made of: configs, loops, hooks."""

from .config import ConfigError, load_config
from .interrupt_hook import InterruptHook, TrainingInterrupted
from .loops import ResumableEpochTrainLoop

__all__ = ['ConfigError', 'InterruptHook', 'ResumableEpochTrainLoop', 'TrainingInterrupted', 'load_config']
