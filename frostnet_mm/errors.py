"""What tools print in one message, without a traceback: ``UserError``, the base of all our own errors.

It is defined in ``device``, which is copied into deployments and needs no other package. An error keeps a built-in base
beside it (``class ConfigError(UserError, ValueError)``), for those who catch that.
"""

from .device.errors import UserError

__all__ = ['CheckpointWriteError', 'NonFiniteError', 'ProcessLostError', 'TrainingInterrupted', 'UserError']


class CheckpointWriteError(UserError, RuntimeError):
    """A checkpoint cannot be written; training has stopped."""


class NonFiniteError(UserError, ArithmeticError):
    """A loss, or weights that were to be saved, are NaN or infinite; training has stopped."""


class ProcessLostError(UserError, RuntimeError):
    """Another process of a distributed training has ended or does not answer; this one has stopped."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after its state was saved."""
