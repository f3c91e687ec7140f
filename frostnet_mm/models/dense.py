"""The seam between the dense network of a model and the rest of it.

The dense network is images in, tensors out: backbone, neck and the convolutions of the head. The rest (anchors, losses,
decoding, NMS, metrics) stays mm's own Python. Whatever runs the dense network (the modules themselves, a simulation of
INT8, an engine) is put at this seam, and the data pipeline, the losses and the metrics stay the same.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .dense_families import FAMILIES, ModelFamily, UnsupportedModelError, family_of

__all__ = [
    'FAMILIES',
    'DenseNetwork',
    'Execute',
    'ModelFamily',
    'OutputLayout',
    'UnsupportedModelError',
    'attach',
    'attached',
    'detach',
    'detached',
    'family_of',
    'unwrap',
]

Execute = Callable[[Tensor], tuple[Any, list[Tensor]]]


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
        _check_heads(model, family)
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
            tuple: The raw outputs of the head (the last one of a cascade), nested as it nests them; and what other
            parts of the model read: feature maps (RoI head, auxiliary heads) in the order of ``kept_features``, then
            the outputs of the first heads of a cascade.
        """
        features = self.features(images)
        first, *later = _heads(self, self.head_name)
        # .forward: a tracer sees the network itself, and no hooks of the surrounding training
        outputs = [first.forward(features)]
        for head in later:
            outputs.append(head.forward(features, outputs[-1]))
        maps = [features] if isinstance(features, Tensor) else features  # whose length would be its batch
        kept = [maps[index] for index in self.feature_indices(len(maps))]
        return outputs[-1], kept + outputs[:-1]

    def feature_indices(self, count: int) -> list[int]:
        """The non-negative indices of ``kept_features`` among ``count`` feature maps."""
        return list(range(count)) if self.kept_features is None else [i % count for i in self.kept_features]


def _heads(owner: nn.Module, name: str) -> list[nn.Module]:
    """The head of a model, or those of a cascade: each reads the feature maps, and what the one before it put out."""
    head = getattr(owner, name)
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def _check_heads(model: nn.Module, family: ModelFamily) -> None:
    """Refuse heads that are there no more, or that read more than maps, such as those of queries."""
    name = type(model).__name__
    if getattr(model, family.head, None) is None:
        others = [f'{key} ({type(child).__name__})' for key, child in model.named_children() if key.endswith('_head')]
        instead = f', but {", ".join(others)}' if others else ''
        raise UnsupportedModelError(f'{name} has no {family.head}{instead}: expected one, whose outputs are maps.')
    for index, head in enumerate(_heads(model, family.head)):
        known = 2 + bool(index)  # self, the feature maps, the outputs of the head before
        more = [
            key
            for key, parameter in list(inspect.signature(type(head).forward).parameters.items())[known:]
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        if more:
            raise UnsupportedModelError(
                f'{name} has the {family.head} {type(head).__name__}, whose forward pass reads {", ".join(more)} too: '
                'expected one that computes maps from feature maps alone.'
            )


@dataclass(frozen=True)
class OutputLayout:
    """How a dense network's outputs nest, and the flat tuple of tensors that graphs and engines put out for them.

    Args:
        spec (pytree.TreeSpec): How all outputs nest: those of the head, and a list of feature maps.
        all_names (tuple[str, ...]): A name for each: ``bbox_head.0.3`` (the head's first list, fourth tensor),
            ``feature.1``.
        features (tuple[int, ...]): Which of them are what the rest of the model reads: feature maps, and the outputs of
            the first heads of a cascade.
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
    """The feature maps that the rest of the model reads, under their own indices; carries the heads' outputs along."""

    outputs: list[Any]
    indices: Sequence[int] | None

    def __getitem__(self, index):
        if self.indices is not None and isinstance(index, int):
            index = self.indices.index(index)
        return super().__getitem__(index)


class _ExtractFeatures:
    """Stands in for a model's ``extract_feat``: runs the whole dense network, of so many heads."""

    def __init__(self, execute: Execute, indices: Sequence[int] | None, heads: int) -> None:
        self.execute = execute
        self.indices = indices
        self.heads = heads

    def __call__(self, images: Tensor) -> _Features:
        outputs, kept = self.execute(images)
        count = len(kept) - (self.heads - 1)
        features = _Features(kept[:count])
        features.outputs, features.indices = [*kept[count:], outputs], self.indices
        return features


class _HeadOutputs:
    """Stands in for the ``forward`` of the head of an index: hands out what the dense network has computed already."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __call__(self, features: _Features, previous: Any = None) -> Any:
        if not isinstance(features, _Features):
            raise TypeError(
                f'{type(features).__name__} was given to the head of a model that another network is attached to, '
                "expected what the model's extract_feat returned. Run the modules themselves within detached(model)."
            )
        return features.outputs[self.index]


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
    heads = _heads(inner, family.head)
    inner.__dict__['extract_feat'] = _ExtractFeatures(execute, family.features(inner), len(heads))
    for index, head in enumerate(heads):
        head.__dict__['forward'] = _HeadOutputs(index)


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
    heads = _heads(inner, family_of(inner).head)
    return (inner, 'extract_feat', _ExtractFeatures), *((head, 'forward', _HeadOutputs) for head in heads)


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
