"""INT8 quantization-aware training."""

from .gradboost import GradBoostAdam, GradBoostAdamW, GradBoostRMSprop, GradBoostSGD

__all__ = ['GradBoostAdam', 'GradBoostAdamW', 'GradBoostRMSprop', 'GradBoostSGD']
