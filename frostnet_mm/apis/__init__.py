"""Trained models: loaded, run on images, evaluated, drawn; backbones swapped."""

from importlib.util import find_spec

if find_spec('mmseg') is not None:  # a user of mmdet alone need not have mmseg
    from .iou_metric import IoUMetric  # noqa: F401
