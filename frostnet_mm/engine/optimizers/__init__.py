"""GradBoost optimizers."""

from .gradboost import GradBoostAdam, GradBoostAdamW, GradBoostMixin, GradBoostRMSprop, GradBoostSGD

__all__ = ['GradBoostAdam', 'GradBoostAdamW', 'GradBoostMixin', 'GradBoostRMSprop', 'GradBoostSGD']
