"""What training runs in: configs, loops, hooks, optimizers."""

from ..lazy import offer

__all__ = offer(
    __name__,
    {
        '.config': ['ConfigError', 'load_config'],
        '.hooks.interrupt_hook': ['InterruptHook'],
        '.loops': ['ResumableEpochTrainLoop'],
        '.optimizers.gradboost': ['GradBoostAdam', 'GradBoostAdamW', 'GradBoostRMSprop', 'GradBoostSGD'],
        '.optimizers.rmsprop_tf': ['RMSpropTF'],
        '..errors': ['TrainingInterrupted'],
    },
)
