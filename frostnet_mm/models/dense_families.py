"""The kinds of models whose dense network is known: where it ends, and what else the rest of the model reads of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import UserError


class UnsupportedModelError(UserError, TypeError):
    """The model has no seam that is known, or its dense network cannot be captured as a graph."""


def _no_features(model: nn.Module) -> tuple[int, ...]:
    return ()


def _all_features(model: nn.Module) -> None:
    return None


def _features_of_auxiliary_heads(model: nn.Module) -> tuple[int, ...]:
    if not model.with_auxiliary_head:
        return ()
    heads = model.auxiliary_head if isinstance(model.auxiliary_head, nn.ModuleList) else [model.auxiliary_head]
    indices = (head.in_index if isinstance(head.in_index, Sequence) else [head.in_index] for head in heads)
    return tuple(dict.fromkeys(index for several in indices for index in several))


def _nothing_refused(model: nn.Module) -> None:
    return None


def _always(model: nn.Module) -> bool:
    return True


def _has_boxes(model: nn.Module) -> bool:
    return getattr(model, 'bbox_head', None) is not None


def _has_masks_alone(model: nn.Module) -> bool:
    return not _has_boxes(model)


def _without_rpn(model: nn.Module) -> str | None:
    if not model.with_rpn:
        return 'has no RPN (precomputed proposals): expected rpn_head in the config.'
    rpn = getattr(model, 'rpn_head', None)
    if rpn is not None and type(rpn).forward is nn.Module.forward:
        return (
            f'has the RPN {type(rpn).__name__}, which has no forward pass of its own: its proposals are learned (as in '
            'Sparse R-CNN) or made in stages (as in Cascade RPN). Expected one with convolutions.'
        )
    return None


def _other_cascade(model: nn.Module) -> str | None:
    """Of a cascade, a head behind the first whose losses and predictions are no function of what it puts out."""
    heads = list(model.decode_head)[1:] if isinstance(model.decode_head, nn.ModuleList) else ()
    for kind in map(type, heads):
        base = next((one for one in kind.__mro__ if one.__name__ == 'BaseCascadeDecodeHead'), None)
        if base is None or any(getattr(kind, name) is not getattr(base, name) for name in ('loss', 'predict')):
            return (
                f'has the decode head {kind.__name__} behind another one, whose own loss and predict choose what its '
                'forward pass reads (PointRend: points of the maps); expected one whose forward pass reads the '
                'feature maps and the output of the head before it, such as OCRHead.'
            )
    return None


#: Heads of mmpretrain whose losses are no function of what ``head.forward(features)`` returns.
_OTHER_CLASSIFICATION_HEADS = {
    'ArcFaceClsHead': 'which reads the labels to compute its logits in training',
    'MultiTaskHead': 'whose heads each read the features by themselves',
}


def _other_classification_head(model: nn.Module) -> str | None:
    if getattr(model, 'head', None) is None:
        return 'has no head: expected head in the config.'
    for kind in type(model.head).__mro__:
        if kind.__name__ in _OTHER_CLASSIFICATION_HEADS:
            name, reason = type(model.head).__name__, _OTHER_CLASSIFICATION_HEADS[kind.__name__]
            return f'has a {name}, {reason}; expected a head such as LinearClsHead.'
    return None


@dataclass(frozen=True)
class ModelFamily:
    """A kind of model: where its dense head is, and what the rest of the model reads of the dense network.

    Args:
        package (str): Where its base class comes from.
        base (str): Name of the base class, looked for among a model's: no package needs to be installed for another.
        head (str): Attribute of the model that holds the dense head.
        task (str): 'detection', 'segmentation' or 'classification'.
        features (Callable): Of a model, the indices of the feature maps that its other heads read; None for all.
        features_at_inference (bool): Whether they are read at inference too, not in training alone. Default: False.
        refusal (Callable): Of a model, why its dense network cannot be separated from the rest; None if it can.
        applies (Callable): Whether a model of the base class is of this kind. Default: each is.
    """

    package: str
    base: str
    head: str
    task: str
    features: Callable[[nn.Module], tuple[int, ...] | None] = _no_features
    features_at_inference: bool = False
    refusal: Callable[[nn.Module], str | None] = _nothing_refused
    applies: Callable[[nn.Module], bool] = _always

    def includes(self, model: nn.Module) -> bool:
        """Whether a model is of this kind."""
        return any(
            kind.__name__ == self.base and kind.__module__.split('.')[0] == self.package for kind in type(model).__mro__
        ) and self.applies(model)


FAMILIES = (
    ModelFamily('mmdet', 'TwoStageDetector', 'rpn_head', 'detection', _all_features, True, _without_rpn),
    ModelFamily('mmdet', 'SingleStageDetector', 'bbox_head', 'detection'),
    ModelFamily(  # YOLACT, CondInst: their mask head reads feature maps and what the box head has found
        'mmdet', 'SingleStageInstanceSegmentor', 'bbox_head', 'detection', _all_features, True, applies=_has_boxes
    ),
    ModelFamily('mmdet', 'SingleStageInstanceSegmentor', 'mask_head', 'detection', applies=_has_masks_alone),  # SOLO
    ModelFamily(
        'mmseg', 'EncoderDecoder', 'decode_head', 'segmentation', _features_of_auxiliary_heads, refusal=_other_cascade
    ),
    ModelFamily('mmpretrain', 'ImageClassifier', 'head', 'classification', refusal=_other_classification_head),
    ModelFamily('frostnet_mm', 'ImageClassifier', 'head', 'classification'),
)


def family_of(model: nn.Module) -> ModelFamily:
    """The family of a model.

    Raises:
        UnsupportedModelError: It is of none, or one whose dense network cannot be separated; the message says which.
    """
    name = type(model).__name__
    for family in FAMILIES:
        if family.includes(model):
            reason = family.refusal(model)
            if reason is not None:
                raise UnsupportedModelError(f'{name} {reason}')
            return family
    known = ', '.join(dict.fromkeys(f'{family.package}.{family.base}' for family in FAMILIES))
    raise UnsupportedModelError(f'{name} has no dense network that is known here; expected one of {known}.')
