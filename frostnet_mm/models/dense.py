"""The seam between the dense network of a model and the rest of it.

The dense network is images in, tensors out: backbone, neck and the convolutions of the head. The rest (anchors, losses,
decoding, NMS, metrics) stays mm's own Python. Whatever runs the dense network (the modules themselves, a simulation of
INT8, an engine) is put at this seam, and the data pipeline, the losses and the metrics stay the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import UserError

Execute = Callable[[Tensor], tuple[Any, list[Tensor]]]


class UnsupportedModelError(UserError, TypeError):
    """The model has no seam that is known, or its dense network cannot be captured as a graph."""


# -- kinds of models


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


def _cascade(model: nn.Module) -> str | None:
    if not isinstance(model.decode_head, nn.ModuleList):
        return None
    return f'has a cascade of {len(model.decode_head)} decode heads; expected one decode head.'


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
        'mmseg', 'EncoderDecoder', 'decode_head', 'segmentation', _features_of_auxiliary_heads, refusal=_cascade
    ),
    ModelFamily('mmpretrain', 'ImageClassifier', 'head', 'classification', refusal=_other_classification_head),
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


# -- the network


class DenseNetwork(nn.Module):
    """Backbone, neck and the head's convolutions of a model, under the names that they have in the model.

    Args:
        model (nn.Module): A model of one of the ``FAMILIES``, such as a detector of mmdet. Its modules are shared, not
            copied.

    Raises:
        UnsupportedModelError: It is of none of them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        family = family_of(model)
        if getattr(model, family.head, None) is None:  # MaskFormer, whose queries predict masks
            raise UnsupportedModelError(
                f'{type(model).__name__} has no {family.head}: expected one, whose outputs are maps.'
            )
        self.head_name = family.head
        self.backbone = model.backbone
        self.has_neck = bool(getattr(model, 'with_neck', False))
        if self.has_neck:
            self.neck = model.neck
        setattr(self, self.head_name, getattr(model, self.head_name))
        self.kept_features = family.features(model)

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


@dataclass(frozen=True)
class OutputLayout:
    """How a dense network's outputs nest, and the flat tuple of tensors that graphs and engines put out for them.

    Args:
        spec (pytree.TreeSpec): How all outputs nest: those of the head, and a list of feature maps.
        all_names (tuple[str, ...]): A name for each: ``bbox_head.0.3`` (the head's first list, fourth tensor),
            ``feature.1``.
        features (tuple[int, ...]): Which of them are feature maps that the rest of the model reads.
        indices (tuple[int, ...]): Which of them the flat tuple holds.
    """

    spec: pytree.TreeSpec
    all_names: tuple[str, ...]
    features: tuple[int, ...]
    indices: tuple[int, ...]

    @classmethod
    def of(cls, outputs: tuple[Any, list[Tensor]], head_name: str) -> 'OutputLayout':
        """The layout of what :meth:`DenseNetwork.forward` returned."""
        return cls.of_spec(pytree.tree_structure(outputs), head_name)

    @classmethod
    def of_spec(cls, spec: pytree.TreeSpec, head_name: str) -> 'OutputLayout':
        """The layout of outputs that nest so."""
        leaves = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
        names, features = {}, []
        for path, leaf in pytree.tree_flatten_with_path(leaves)[0]:
            first, *keys = (str(getattr(key, 'idx', getattr(key, 'key', key))) for key in path)
            if first == '1':
                features.append(leaf)
            names[leaf] = '.'.join(['feature' if first == '1' else head_name, *keys])
        every = tuple(range(spec.num_leaves))
        return cls(spec, tuple(names[index] for index in every), tuple(features), every)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each tensor of the flat tuple."""
        return tuple(self.all_names[index] for index in self.indices)

    def for_inference(self, keep_features: bool) -> 'OutputLayout':
        """The layout for inference, without the feature maps unless they are read then too (two-stage detectors)."""
        return replace(self, indices=tuple(i for i in self.indices if keep_features or i not in self.features))

    def select(self, every: Sequence[Any]) -> tuple[Any, ...]:
        """What the flat tuple holds, of something that there is for each output."""
        return tuple(every[index] for index in self.indices)

    def flatten(self, outputs: tuple[Any, list[Tensor]]) -> tuple[Tensor, ...]:
        """The flat tuple of nested outputs."""
        return self.select(pytree.tree_leaves(outputs))

    def nest(self, values: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """Nest a flat tuple as :meth:`DenseNetwork.forward` does; None stands for what it does not hold.

        Raises:
            ValueError: It has another number of tensors.
        """
        if len(values) != len(self.indices):
            raise ValueError(
                f'{len(values)} tensors were given, expected {len(self.indices)}: {", ".join(self.names)}.'
            )
        every: list[Tensor | None] = [None] * len(self.all_names)
        for index, value in zip(self.indices, values, strict=True):
            every[index] = value
        return pytree.tree_unflatten(every, self.spec)


# -- the seam


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper of distributed training."""
    return model.module if is_model_wrapper(model) else model


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

    def __init__(self, execute: Execute, indices: Sequence[int] | None) -> None:
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
        if not isinstance(features, _Features):
            raise TypeError(
                f'{type(features).__name__} was given to the head of a model that another network is attached to, '
                "expected what the model's extract_feat returned. Run the modules themselves within detached(model)."
            )
        return features.outputs


def attach(model: nn.Module, execute: Execute) -> None:
    """Have a model run its dense network through ``execute``; its losses, decoding and prediction stay as they are.

    For good: :func:`attached` is for a while.

    Args:
        model (nn.Module): The model, wrapped for distributed training or not.
        execute (Callable): Takes images (N, 3, H, W), returns what :meth:`DenseNetwork.forward` returns. It is copied
            with the model where the model is copied (as an exponential moving average does).
    """
    inner = unwrap(model)
    family = family_of(inner)
    inner.__dict__['extract_feat'] = _ExtractFeatures(execute, family.features(inner))
    getattr(inner, family.head).__dict__['forward'] = _HeadOutputs()


def detach(model: nn.Module) -> None:
    """Undo :func:`attach`: the model runs its own modules again. Nothing happens where nothing is attached."""
    for owner, name, stand_in in _places(model):
        if isinstance(owner.__dict__.get(name), stand_in):
            del owner.__dict__[name]


@contextmanager
def attached(model: nn.Module, execute: Execute) -> Iterator[None]:
    """Attach ``execute`` as :func:`attach` does while the context is open; then restore what was there before."""
    with _restored(model):
        attach(model, execute)
        yield


@contextmanager
def detached(model: nn.Module) -> Iterator[None]:
    """Have a model run its own modules while the context is open; then restore what was there before."""
    with _restored(model):
        detach(model)
        yield


def _places(model: nn.Module) -> tuple[tuple[nn.Module, str, type], ...]:
    """The attributes that :func:`attach` sets: their owner, their name and the class of what is put there."""
    inner = unwrap(model)
    head = getattr(inner, family_of(inner).head)
    return (inner, 'extract_feat', _ExtractFeatures), (head, 'forward', _HeadOutputs)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put back what stood at the seam, and nothing where nothing stood."""
    places = _places(model)
    before = [{name: owner.__dict__[name]} if name in owner.__dict__ else {} for owner, name, _ in places]
    try:
        yield
    finally:
        for (owner, name, _), attribute in zip(places, before, strict=True):
            owner.__dict__.pop(name, None)
            owner.__dict__.update(attribute)
