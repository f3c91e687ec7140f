"""What training runs in: configs, loops, hooks, optimizers."""

from .config import ConfigError, load_config
from .hooks import InterruptHook, TrainingInterrupted
from .loops import ResumableEpochTrainLoop
from .optimizers import GradBoostAdam, GradBoostAdamW, GradBoostRMSprop, GradBoostSGD

__all__ = [
    'ConfigError',
    'GradBoostAdam',
    'GradBoostAdamW',
    'GradBoostRMSprop',
    'GradBoostSGD',
    'InterruptHook',
    'ResumableEpochTrainLoop',
    'TrainingInterrupted',
    'load_config',
]
