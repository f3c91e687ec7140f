"""The config that a checkpoint was trained with, as it notes it, against the one that it is used with."""

import ast
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, TRANSFORMS, Registry

from ..models.backbones.efficientnet_lite import RELEASED, RELEASED_COLORS
from ..models.checkpoints import CheckpointError, config_text_of, read_checkpoint
from ..registry import reads_checkpoint, type_name
from .config_datasets import LOADERS, inner_dataset
from .errors import ConfigError

MOST_TEXT = 2_000_000  # characters of a config that is read
_NAMED = 4  # differences in a message
# What training alone asks for, what shapes of weights tell, and what is set for each evaluation.
_IGNORED = {
    'auxiliary_head', 'backend_args', 'bn_eval', 'bn_frozen', 'cal_acc', 'class_weight', 'dn_cfg',
    'file_client_args', 'frozen_stages', 'ignore_index', 'init_cfg', 'label_smoothing', 'momentum', 'norm_eval',
    'num_classes', 'pretrained', 'reg_decoded_bbox', 'requires_grad', 'sampler', '_scope_', 'test_cfg', 'topk',
    'train_cfg', 'with_cp',
}  # fmt: skip
_IGNORED_BEGINNINGS = ('loss', 'drop')
_COLORS = ('mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')  # of a data_preprocessor
_LOADING = ('Load', 'Pack', 'Collect', 'DefaultFormat', 'ImageToTensor')  # steps that change no pixel
_ALIKE = {'SyncBN': 'BN', 'MMSyncBN': 'BN', 'BN2d': 'BN'}


class Difference(NamedTuple):
    """A value that differs.

    Args:
        key (str): Where it stands, dotted.
        there (Any): In the config of the training; None where it is not there.
        here (Any): In the config of now.
    """

    key: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f'{self.key} was {_short(self.there)}, is {_short(self.here)}'


class _Unknown:
    """A value that is no plain data, and may be anything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


UNKNOWN = _Unknown()


def read_plain(text: str) -> dict[str, Any]:
    """The values that the text of a config assigns, without running it.

    Args:
        text (str): As mmengine writes it into checkpoints: assignments of plain data and ``dict(...)``.

    Returns:
        dict[str, Any]: By name; what is no plain data is :data:`UNKNOWN`, which equals everything. Empty where the text
        is no Python.
    """
    if len(text) > MOST_TEXT:
        return {}
    try:
        body = ast.parse(text).body
        return {
            target.id: _plain(node.value)
            for node in body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what ast raises on a text that is none
        return {}


def _plain(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict' and not node.args:
        return {word.arg: _plain(word.value) for word in node.keywords if word.arg is not None}
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {key.value: _plain(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_plain(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def differences(trained: Mapping[str, Any], cfg: Config) -> list[Difference]:
    """What predictions depend on and two configs say otherwise: the model, colours, and what test images go through.

    Args:
        trained (Mapping): The values of the config of a training.
        cfg (Config): The config of now.
    """
    found: list[Difference] = []
    there, here = trained.get('model'), cfg.get('model')
    if isinstance(there, dict) and here:
        own = [_with_preprocessor(model, beside) for model, beside in ((there, trained), (here, cfg))]
        colors = list(map(_colors, own))
        if all(each.get('mean') for each in colors):
            found += _compared('data_preprocessor', *colors, None)
        for model in own:
            del model['data_preprocessor']
        found += _compared('model', *own, MODELS)
    steps = [_steps(each) for each in (trained, cfg)]
    if all(each is not None for each in steps):
        found += _compared('test pipeline', *steps, TRANSFORMS)
    return found


def other_config_message(source: str, text: str | None, cfg: Config) -> str | None:
    """Say how a config differs from that of a checkpoint's training in what predictions depend on.

    Args:
        source (str): Name of the checkpoint.
        text (str, optional): The config of its training, as it notes it.
        cfg (Config): The config that it is used with.

    Returns:
        str | None: None where nothing differs, or nothing is noted.
    """
    trained = read_plain(text) if text else {}
    found = differences(trained, cfg)
    if not found:
        return None
    more = f' and {len(found) - _NAMED} more' if len(found) > _NAMED else ''
    options = ' '.join(f'{name}={_short(value)}' for name, value in _variables(trained, cfg, found))
    mend = f'--cfg-options {options.replace(" ", "")}' if options else 'the config in the folder of its training'
    return (
        f'{source} was trained with another config: {"; ".join(map(str, found[:_NAMED]))}{more}. Predictions depend on '
        f'it. Unless that is meant, give what it was trained with: {mend}.'
    )


def other_colors_messages(cfg: Config) -> Iterator[str]:
    """Say which pretrained weights of a model's parts are of images with another mean, deviation or order of colours.

    Args:
        cfg (Config): Files of its ``init_cfg`` that are not on this machine, or note no config, are passed over.
    """
    model = cfg.get('model') or {}
    own = _colors(_with_preprocessor(model, cfg))
    for key, checkpoint in _pretrained(model, 'model'):
        there = _noted_colors(checkpoint)
        if there.get('mean') and own.get('mean') and (found := list(_compared('data_preprocessor', there, own, None))):
            yield (
                f'{key}: the weights of {checkpoint} are of other images: {"; ".join(map(str, found))}. Training gets '
                'used to it, at some cost: give model.data_preprocessor those of the weights.'
            )


def _colors(model: Mapping) -> dict[str, Any]:
    own = {key: value for key, value in model['data_preprocessor'].items() if key in _COLORS}
    if 'to_rgb' in own:  # as mmpretrain calls it
        own['bgr_to_rgb'] = own.pop('to_rgb') or own.get('bgr_to_rgb')
    return own


def _pretrained(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """The checkpoints that parts of a model begin with, and where they are named."""
    if isinstance(node, Mapping):
        init = node.get('init_cfg')
        if isinstance(init, Mapping) and reads_checkpoint(init) and isinstance(init.get('checkpoint'), str):
            yield f'{key}.init_cfg', init['checkpoint']
        for name, value in node.items():
            yield from _pretrained(value, f'{key}.{name}')


def _noted_colors(checkpoint: str) -> dict[str, Any]:
    if checkpoint == RELEASED:
        return RELEASED_COLORS
    if not os.path.isfile(checkpoint):
        return {}
    try:
        content = read_checkpoint(checkpoint)
    except CheckpointError:  # which the part that it is for has read in a way of its own
        return {}
    trained = read_plain(config_text_of(content) or '')
    model = trained.get('model')
    return _colors(_with_preprocessor(model, trained)) if isinstance(model, Mapping) else {}


def _variables(trained: Mapping[str, Any], cfg: Config, found: list[Difference]) -> Iterator[tuple[str, Any]]:
    """The top-level variables that account for differences, with the values of the training."""
    for name, own in cfg.items():
        was = trained.get(name)
        plain = isinstance(own, (int, float, str)) and isinstance(was, (int, float, str)) and own != was
        if plain and any(_holds(each.here, own) and _holds(each.there, was) for each in found):
            yield name, was


def _holds(value: Any, part: Any) -> bool:
    return value == part or (isinstance(value, (list, tuple)) and any(_holds(item, part) for item in value))


def _with_preprocessor(model: Mapping, beside: Mapping | Config) -> dict:
    """A model with the preprocessor that stands in it or beside it."""
    own = model.get('data_preprocessor') or beside.get('data_preprocessor') or {}
    return dict(model, data_preprocessor=own if isinstance(own, Mapping) else {})


def _steps(cfg: Mapping | Config) -> list | None:
    """What a config's test images go through, or None where it has no such pipeline."""
    for name in reversed(LOADERS[1:]):
        loader = cfg.get(name)
        dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
        if isinstance(dataset, Mapping):
            steps = inner_dataset(ConfigDict(dataset)).get('pipeline')
            if not isinstance(steps, (list, tuple)) or not all(isinstance(step, Mapping) for step in steps):
                return None
            return [step for step in steps if not type_name(step).startswith(_LOADING)]
    return None


def _compared(key: str, there: Any, here: Any, registry: Registry | None) -> Iterator[Difference]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        kinds = [_ALIKE.get(name, name) for name in map(type_name, (there, here))]
        if kinds[0] != kinds[1]:
            yield Difference(f'{key}.type', *kinds)
            return
        names = [name for name in {**there, **here} if name != 'type' and not _is_ignored(name)]
        defaults = _defaults(here.get('type'), registry)
        for name in names:
            pair = [each.get(name, defaults.get(name)) for each in (there, here)]
            where = f'{kinds[0]}.{name}' if key == 'test pipeline' else f'{key}.{name}'
            yield from _compared(where, *pair, registry)
    elif isinstance(there, (list, tuple)) and isinstance(here, (list, tuple)):
        steps = any(isinstance(item, Mapping) for item in (*there, *here))
        if len(there) == len(here) and steps:
            for index, pair in enumerate(zip(there, here, strict=True)):
                yield from _compared(key if key == 'test pipeline' else f'{key}[{index}]', *pair, registry)
        elif not _same(there, here):
            pair = [[type_name(item) for item in each] if steps else list(each) for each in (there, here)]
            yield Difference(key, *pair)
    elif not _same(there, here):
        yield Difference(key, there, here)


def _same(there: Any, here: Any) -> bool:
    """Whether two values are alike; what is False, empty or not there is."""
    if isinstance(there, (list, tuple)) and isinstance(here, (list, tuple)):
        return len(there) == len(here) and all(map(_same, there, here))
    if isinstance(here, type):  # of a config in pure Python, whose text has the name
        return type_name(there) == type_name(here)
    return there == here or (not there and not here)


def _is_ignored(name: object) -> bool:
    return name in _IGNORED or str(name).startswith(_IGNORED_BEGINNINGS)


def _defaults(kind: Any, registry: Registry | None) -> dict[str, Any]:
    """What the arguments of a class are that a config does not give."""
    try:
        built = registry.get(kind) if isinstance(kind, str) and registry is not None else kind
        parameters = inspect.signature(built).parameters if isinstance(built, type) else {}
    except (ConfigError, ImportError, KeyError, TypeError, ValueError):  # an unknown type is for building to refuse
        return {}
    return {name: own.default for name, own in parameters.items() if own.default is not own.empty}


def _short(value: Any) -> str:
    text = repr(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= 80 else f'{text[:77]}...'
