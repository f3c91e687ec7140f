"""What a segmenter's config says of its classes in several places: it must be the same, before training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..registry import type_name
from .errors import ConfigError

_VOID = ('unlabeled', 'unlabelled', 'void', 'ignore', 'ignored', 'other')  # last of a data set's, without an output
#: Tells borders from the rest; matches queries with text, one of which is of no class.
_OTHER_CLASSES = ('STDCHead', 'SideAdapterCLIPHead')
_MEND = "docs/data.md ('Own classes in segmentation') has a config to begin with"


def check_segmentation(cfg: Config) -> None:
    """Hold the classes of data sets, heads and losses of a segmenter's config against each other.

    Args:
        cfg (Config): A config; one of another task passes.

    Raises:
        ConfigError: The number of outputs is not that of the classes, class weights are not one a class, or classes are
            named that a data set of mmseg does not have.
    """
    if not isinstance(cfg.get('model'), Mapping) or 'decode_head' not in cfg.model:
        return
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in _datasets((cfg.get(name) or {}).get('dataset')):
            classes, is_own = _classes(dataset, cfg.get('default_scope'), name)
            if classes:
                _check_heads(cfg.model, classes, is_own, f'{name}.dataset')
                _check_variable(cfg.get('classes'), classes, f'{name}.dataset')
    for key, head in _heads(cfg.model):
        _check_weights(key, head)


def _check_variable(variable: Any, classes: Sequence[str], where: str) -> None:
    """A top-level ``classes`` that no data set has taken would be without effect."""
    if isinstance(variable, (list, tuple)) and tuple(variable) != tuple(classes):
        raise ConfigError(
            f'classes = {tuple(variable)} at the top level of the config has no effect: {where} has {_sample(classes)}.'
            f' Set metainfo=dict(classes=...) of the data sets and num_classes of the heads; {_MEND}.'
        )


def _datasets(node: Any) -> Iterator[Mapping]:
    """The data set configs inside wrappers."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _datasets(item)
    elif isinstance(node, Mapping):
        inner = node.get('datasets', node.get('dataset'))
        if inner is None:
            yield node
        else:
            yield from _datasets(inner)


def _classes(dataset: Mapping, scope: str | None, name: str) -> tuple[tuple[str, ...] | None, bool]:
    """The classes of a data set, and whether the config itself names them."""
    own = (dataset.get('metainfo') or {}).get('classes')
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(scope or 'mmengine') as registry:
            kind = registry.get(kind)
    known = (getattr(kind, 'METAINFO', None) or {}).get('classes')
    if own is None or isinstance(own, str):
        return known, False
    unknown = [label for label in own if known and label not in known]
    if unknown:
        raise ConfigError(
            f'{name}.dataset.metainfo names the classes {_sample(own)}; {type_name(dataset)} knows {_sample(known)}, '
            "of which a config may name some. For classes of your own set type='frostnet_mm.CheckedSegDataset', "
            'img_suffix '
            f'and seg_map_suffix; {_MEND}.'
        )
    return tuple(own), True


def _heads(model: Mapping) -> Iterator[tuple[str, Mapping]]:
    """The heads whose outputs are the classes, by their keys."""
    for name in ('decode_head', 'auxiliary_head'):
        heads = model.get(name)
        keyed = (
            [(f'model.{name}.{i}', head) for i, head in enumerate(heads)] if isinstance(heads, (list, tuple)) else []
        )
        for key, head in keyed or [(f'model.{name}', heads)]:
            if isinstance(head, Mapping) and type_name(head) not in _OTHER_CLASSES:
                yield key, head


def _check_heads(model: Mapping, classes: Sequence[str], is_own: bool, where: str) -> None:
    for key, head in _heads(model):
        outputs = head.get('num_classes')
        if outputs is None or outputs == len(classes):
            continue
        if not is_own and outputs == len(classes) - 1 and classes[-1].lower() in _VOID:
            continue
        raise ConfigError(
            f'{key}.num_classes is {outputs}, {where} has {len(classes)} classes ({_sample(classes)}). Set '
            'num_classes of '
            f'the heads and metainfo=dict(classes=...) of the data sets to the same classes; {_MEND}.'
        )


def _check_weights(key: str, head: Mapping) -> None:
    losses, outputs = head.get('loss_decode'), head.get('num_classes')
    for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
        weights = loss.get('class_weight') if isinstance(loss, Mapping) else None
        if not isinstance(weights, (list, tuple)) or outputs is None or type_name(loss) != 'CrossEntropyLoss':
            continue
        if len(weights) != (head.get('out_channels') or outputs):
            raise ConfigError(
                f'{key}.loss_decode.class_weight has {len(weights)} weights for {outputs} classes: give one a class, '
                f'or class_weight=None; {_MEND}.'
            )
        if loss.get('avg_non_ignore') and type_name(loss) == 'CrossEntropyLoss' and not loss.get('use_sigmoid'):
            raise ConfigError(
                f'{key}.loss_decode has class_weight and avg_non_ignore=True, which mmseg cannot compute together: set '
                'avg_non_ignore=False; the mean is the same.'
            )


def _sample(names: Sequence[str]) -> str:
    return ', '.join(map(str, names[:4])) + (f', ... ({len(names)})' if len(names) > 4 else '')
