"""Hooks of mmengine's Runner that do not depend on quantization."""

from .data_log_hook import DataLogHook
from .degenerate_boxes_hook import DegenerateBoxesHook
from .finite_checkpoint_hook import FiniteCheckpointHook
from .finite_loss_hook import FiniteLossHook
from .interrupt_hook import InterruptHook, TrainingInterrupted
from .segmentation_data_hook import SegmentationDataHook
from .shared_images_hook import SharedImagesHook
from .visualization_hook import VisualizationHook

__all__ = [
    'DataLogHook',
    'DegenerateBoxesHook',
    'FiniteCheckpointHook',
    'FiniteLossHook',
    'InterruptHook',
    'SegmentationDataHook',
    'SharedImagesHook',
    'TrainingInterrupted',
    'VisualizationHook',
]
