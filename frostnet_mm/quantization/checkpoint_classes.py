"""The classes of a checkpoint against those of the config that it is used with."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from ..engine.config import named_classes
from ..engine.config_datasets import all_datasets
from ..models.checkpoints import CheckpointError


def meta_of_config(cfg: Config) -> dict[str, Any] | None:
    """Classes and colours that the data sets of a config name, or that its class of data sets has."""
    names = named_classes(cfg)
    for dataset in all_datasets(cfg):
        own = dict(dataset.get('metainfo') or {})
        if names is None and own.get('classes') is None:
            built = (
                DATASETS.get(str(dataset.get('type'))) if isinstance(dataset.get('type'), str) else dataset.get('type')
            )
            own = dict(getattr(built, 'METAINFO', None) or {})
        if own.get('classes') is not None:
            return own | dict(classes=tuple(own['classes']))
    return None


def check_count(cfg: Config, classes: Sequence[str], who: str) -> None:
    """Refuse more or fewer names than the model of a config has classes; ``who`` begins the message."""
    counts = set(_numbers_of_classes(cfg.model))
    if counts and len(classes) not in counts:
        expected = ' or '.join(map(str, sorted(counts)))
        raise CheckpointError(
            f'{who} {len(classes)} classes ({", ".join(map(str, classes[:5]))}{", …" if len(classes) > 5 else ""}), '
            f'the model of the config has num_classes={expected}. Give the names of all, in their order: --classes cat '
            'dog …'
        )


def check_given(given: Sequence[str], noted: Sequence[str] | None, source: str) -> None:
    """Refuse names of classes that cannot be those of a checkpoint, and say it where others take their place.

    Args:
        given (Sequence[str]): As ``--classes`` has them.
        noted (Sequence[str], optional): As the checkpoint notes them.
        source (str): The checkpoint's name.

    Raises:
        CheckpointError: Two have one name, or they are those of the checkpoint in another order.
    """
    if twice := [name for name, count in Counter(given).items() if count > 1]:
        raise CheckpointError(f'--classes names {twice[0]!r} twice: results could not tell these classes apart.')
    if noted is None or tuple(given) == tuple(noted):
        return
    first = next((pair for pair in zip(noted, given, strict=False) if pair[0] != pair[1]), None)
    if set(given) == set(noted):
        raise CheckpointError(
            f'--classes has the classes that {source} notes in another order, such as {first[1]!r} in the place of '
            f'{first[0]!r}: leave it out.'
        )
    if first:
        text = f'{source}: its classes are called as --classes says, such as {first[1]!r} where it notes {first[0]!r}.'
        print_log(text, logger='current', level=logging.WARNING)


def check_names(cfg: Config, classes: Sequence[str], source: str) -> None:
    """Refuse other names of as many classes, under which outputs would be counted; other numbers, weights refuse."""
    named = named_classes(cfg)
    if named is None or len(named) != len(classes) or tuple(named) == tuple(classes):
        return
    first = next(index for index, pair in enumerate(zip(named, classes, strict=True)) if pair[0] != pair[1])
    raise CheckpointError(
        f'{source} was trained on other classes than the config names: class {first} is {classes[first]!r} there and '
        f'{named[first]!r} in the config. Name those of the checkpoint, in its order. If they are the same under other '
        'names: --classes with all names of the config, in the order of the checkpoint.'
    )


def _numbers_of_classes(node: Any) -> Iterator[int]:
    if isinstance(node, Mapping):
        if isinstance(node.get('num_classes'), int):
            yield node['num_classes']
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from _numbers_of_classes(value)
