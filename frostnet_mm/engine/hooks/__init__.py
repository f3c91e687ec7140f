"""Hooks of mmengine's Runner that do not depend on quantization."""

from .data_log_hook import DataLogHook
from .interrupt_hook import InterruptHook, TrainingInterrupted

__all__ = ['DataLogHook', 'InterruptHook', 'TrainingInterrupted']
