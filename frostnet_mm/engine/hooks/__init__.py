"""Hooks of mmengine's Runner that do not depend on quantization."""

from .interrupt_hook import InterruptHook, TrainingInterrupted

__all__ = ['InterruptHook', 'TrainingInterrupted']
