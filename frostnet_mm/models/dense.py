"""The seam between the dense network of a detector or segmenter and the rest of it.

The dense network is images in, tensors out: backbone, neck and the convolutions of the head. The rest (anchors, losses,
decoding, NMS, metrics) stays mm's own Python. Whatever runs the dense network (the modules themselves, a simulation of
INT8, an engine) is put at this seam, and the data pipeline, the losses and the metrics stay the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..errors import UserError


class UnsupportedModelError(UserError, TypeError):
    """The model has no seam that is known, or its dense network cannot be captured as a graph."""


class DenseNetwork(nn.Module):
    """Backbone, neck and the head's convolutions of a model, under the names that they have in the model.

    Args:
        model (nn.Module): An mmdet single-stage or two-stage detector, or an mmseg ``EncoderDecoder``. Its modules are
            shared, not copied.

    Raises:
        UnsupportedModelError: It is none of these.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.head_name = _head_name(model)
        self.backbone = model.backbone
        self.has_neck = bool(getattr(model, 'with_neck', False))
        if self.has_neck:
            self.neck = model.neck
        setattr(self, self.head_name, getattr(model, self.head_name))
        self.kept_features = _features_used_elsewhere(model)

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """Backbone and neck."""
        features = self.backbone(images)
        return self.neck(features) if self.has_neck else features

    def forward(self, images: Tensor) -> tuple[Any, list[Tensor]]:
        """Run the network.

        Args:
            images (Tensor): Preprocessed images of shape (N, 3, H, W).

        Returns:
            tuple: The head's raw outputs, nested as the head nests them, and the feature maps that other parts of the
            model read (RoI head, auxiliary heads), in the order of ``kept_features``.
        """
        features = self.features(images)
        # .forward: a tracer sees the network itself, and no hooks of the surrounding training
        outputs = getattr(self, self.head_name).forward(features)
        kept = [features[index] for index in self.feature_indices(len(features))]
        return outputs, kept

    def feature_indices(self, count: int) -> list[int]:
        """The non-negative indices of ``kept_features`` among ``count`` feature maps."""
        return list(range(count)) if self.kept_features is None else [i % count for i in self.kept_features]


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper of distributed training."""
    return model.module if is_model_wrapper(model) else model


def _is_a(model: nn.Module, name: str) -> bool:
    """Whether a class of mmdet or mmseg is among a model's; neither package needs to be installed for the other."""
    return any(
        kind.__name__ == name and kind.__module__.split('.')[0] in ('mmdet', 'mmseg') for kind in type(model).__mro__
    )


def _head_name(model: nn.Module) -> str:
    if _is_a(model, 'TwoStageDetector'):
        if not model.with_rpn:
            raise UnsupportedModelError(
                f'{type(model).__name__} has no RPN (precomputed proposals): expected rpn_head in the config.'
            )
        return 'rpn_head'
    if _is_a(model, 'SingleStageDetector'):
        return 'bbox_head'
    if _is_a(model, 'EncoderDecoder'):
        if isinstance(model.decode_head, nn.ModuleList):
            raise UnsupportedModelError(
                f'{type(model).__name__} has a cascade of {len(model.decode_head)} decode heads; expected one decode '
                'head.'
            )
        return 'decode_head'
    raise UnsupportedModelError(
        f'{type(model).__name__} has no dense network that is known here; expected a SingleStageDetector or '
        'TwoStageDetector of mmdet, or an EncoderDecoder of mmseg.'
    )


def _features_used_elsewhere(model: nn.Module) -> list[int] | None:
    """Indices of the feature maps that the rest of the model reads; None for all."""
    if _is_a(model, 'TwoStageDetector'):
        return None
    if not (_is_a(model, 'EncoderDecoder') and model.with_auxiliary_head):
        return []
    heads = model.auxiliary_head if isinstance(model.auxiliary_head, nn.ModuleList) else [model.auxiliary_head]
    used: list[int] = []
    for head in heads:
        indices = head.in_index if isinstance(head.in_index, Sequence) else [head.in_index]
        used += [index for index in indices if index not in used]
    return used


class _Features(tuple):
    """The feature maps that the rest of the model reads, under their own indices; carries the head's outputs along."""

    outputs: Any
    indices: Sequence[int] | None

    def __getitem__(self, index):
        if self.indices is not None and isinstance(index, int):
            index = self.indices.index(index)
        return super().__getitem__(index)


class _ExtractFeatures:
    """Stands in for a model's ``extract_feat``: runs the whole dense network."""

    def __init__(self, execute: Callable[[Tensor], tuple[Any, list[Tensor]]], indices: Sequence[int] | None) -> None:
        self.execute = execute
        self.indices = indices

    def __call__(self, images: Tensor) -> _Features:
        outputs, kept = self.execute(images)
        features = _Features(kept)
        features.outputs, features.indices = outputs, self.indices
        return features


class _HeadOutputs:
    """Stands in for a head's ``forward``: hands out what the dense network has computed already."""

    def __call__(self, features: _Features) -> Any:
        return features.outputs


def attach(model: nn.Module, execute: Callable[[Tensor], tuple[Any, list[Tensor]]]) -> None:
    """Have a model run its dense network through ``execute``; its losses, decoding and prediction stay as they are.

    Args:
        model (nn.Module): The model.
        execute (Callable): Takes images (N, 3, H, W), returns what :meth:`DenseNetwork.forward` returns. It is copied
            with the model where the model is copied (as an exponential moving average does).
    """
    head = getattr(model, _head_name(model))
    model.__dict__['extract_feat'] = _ExtractFeatures(execute, _features_used_elsewhere(model))
    head.__dict__['forward'] = _HeadOutputs()


def detach(model: nn.Module) -> None:
    """Undo :func:`attach`."""
    model.__dict__.pop('extract_feat', None)
    getattr(model, _head_name(model)).__dict__.pop('forward', None)
