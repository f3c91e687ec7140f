"""Hooks of mmengine's Runner that do not depend on quantization."""

from .accumulated_gradients_hook import AccumulatedGradientsHook
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .class_folders_hook import ClassFoldersHook
from .data_log_hook import DataLogHook
from .degenerate_boxes_hook import DegenerateBoxesHook
from .finite_checkpoint_hook import FiniteCheckpointHook
from .finite_loss_hook import FiniteLossHook
from .interrupt_hook import InterruptHook, TrainingInterrupted
from .missed_validation_hook import MissedValidationHook
from .segmentation_data_hook import SegmentationDataHook
from .shared_images_hook import SharedImagesHook
from .visualization_hook import VisualizationHook

__all__ = [
    'AccumulatedGradientsHook',
    'AtomicCheckpointHook',
    'ClassFoldersHook',
    'DataLogHook',
    'DegenerateBoxesHook',
    'FiniteCheckpointHook',
    'FiniteLossHook',
    'InterruptHook',
    'MissedValidationHook',
    'SegmentationDataHook',
    'SharedImagesHook',
    'TrainingInterrupted',
    'VisualizationHook',
]
