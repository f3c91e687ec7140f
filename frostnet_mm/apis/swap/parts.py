"""The parts of a model around its backbone: built, run, and made to follow the channels of another backbone."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ...compat import check_operators
from ...engine.config import ConfigError, without_pretrained
from ...models.dense import DenseNetwork
from ...models.input_channels import input_channels
from ...registry import type_name

POOLED = (4, 2)  # dimensions of what a neck makes: maps, or one value a channel
PROBE = 512  # pixels: the maps show strides up to 64, and fill the 49x49 window of mmseg's LRASPPHead at stride 8

check_operators()  # before models of mm are built, which would fail deep inside
_BUILD_ERRORS = (AssertionError, AttributeError, ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError)
_RUN_ERRORS = (AssertionError, AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)


class RunError(ConfigError):
    """A part of the model fails at work."""


# -- building and running


def build_model(cfg: Config, model: ConfigDict) -> nn.Module:
    """Build a model of a config in eval mode, without pretrained weights and without its data preprocessor."""
    model = copy.deepcopy(model)
    without_pretrained(model)
    model.pop('data_preprocessor', None)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return build(model, 'the model').eval()


def _guard(work: Callable[[], Any], name: str) -> Any:
    try:
        return work()
    except _RUN_ERRORS as error:
        raise RunError(f'{name} does not work: {type(error).__name__}: {error}') from error


def run(module: nn.Module, inputs: Any, name: str, dims: tuple[int, ...] = (4,)) -> list[Tensor]:
    """The maps that a backbone or neck makes of images or of other maps; where ``dims`` has 2, pooled ones (N, C) too.

    Raises:
        ConfigError: It fails, or returns something else than maps of shape (N, C, H, W).
    """
    with torch.no_grad():
        outputs = _guard(lambda: module(inputs), name)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not outputs or any(not isinstance(x, Tensor) or x.dim() not in dims for x in outputs):
        raise ConfigError(f'{name} ({type(module).__name__}) returns something else than maps of shape (N, C, H, W).')
    return outputs


def build(cfg: dict | list, name: str) -> nn.Module:
    """Build a part of a model from a copy of its config; a ConfigError names it where that fails."""
    try:
        return MODELS.build(copy.deepcopy(cfg))
    except _BUILD_ERRORS as error:
        raise ConfigError(f'{name} ({_kind(cfg)}) cannot be built: {type(error).__name__}: {error}') from error


def _kind(cfg: Any) -> str:
    return ' + '.join(map(_kind, cfg)) if isinstance(cfg, (list, tuple)) else type_name(cfg) or 'no type'


def verify(cfg: Config, model: ConfigDict, device: str) -> None:
    """Build the new model and run each of its parts; the RoI head runs on the CPU, on the boxes of its own RPN."""
    built = build_model(cfg, model)
    wrapper = copy.deepcopy(cfg.get('optim_wrapper') or {})
    if 'constructor' in wrapper:  # those with a rate for each layer know the layers of certain backbones only
        plain = {key: wrapper[key] for key in ('constructor', 'paramwise_cfg', 'optimizer') if key in wrapper}
        _guard(lambda: build_optim_wrapper(built, plain), f'optim_wrapper.constructor={wrapper["constructor"]}')
    if getattr(built, 'roi_head', None) is not None:
        from mmdet.structures import DetDataSample

        side = PROBE // 2
        shape = (side, side)
        meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
        samples = [DetDataSample(metainfo=meta)]
        with torch.no_grad():
            _guard(
                lambda: built(torch.zeros(1, input_channels(built), *shape), samples, mode='tensor'), 'model.roi_head'
            )
    built.to(device)
    images = torch.zeros(2, input_channels(built), PROBE, PROBE, device=device)
    for training in (True, False):  # some heads read other maps in training
        _run_heads(built.train(training), images)
    with torch.no_grad():
        _guard(lambda: DenseNetwork(built)(images), 'the dense network')


@torch.no_grad()
def _run_heads(model: nn.Module, images: Tensor) -> None:
    features = model.extract_feat(images)
    for key in ('rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head'):
        head = getattr(model, key, None)
        several = isinstance(head, nn.ModuleList)
        for i, one in enumerate(head if several else [head] if head is not None else []):
            name = f'model.{key}[{i}]' if several else f'model.{key}'
            described = f'{name} ({type(one).__name__}, in_channels={getattr(one, "in_channels", None)})'
            _guard(lambda one=one: one.forward(features), described)


# -- what reads the maps


@dataclass
class Maps:
    """What the parts of the model read: the maps of the base model, and those in their places."""

    old: list[Tensor]
    new: list[Tensor]
    places: list[int]  # where the map that replaces each old one stands among the new ones
    source: str = 'backbone'

    @property
    def channels(self) -> tuple[list[int], list[int]]:
        """Channels of the old maps, and of those in their places."""
        return [x.shape[1] for x in self.old], [self.new[place].shape[1] for place in self.places]

    @property
    def in_order(self) -> bool:
        """Whether each new map has the place of the old one."""
        return self.places == list(range(len(self.old)))


def rewrite_necks(neck: nn.Module, model: ConfigDict, maps: Maps, device: str) -> Maps:
    """Let the necks' channels follow; return the maps behind them."""
    if not maps.in_order:
        raise ConfigError(
            f'model.neck.in_channels: {_kind(model.neck)} reads one map after the other, but maps of FrostNet would '
            f'take the places {maps.places}: name a stage for each in ascending order with --out-indices.'
        )
    several = isinstance(model.neck, (list, tuple))
    for i, cfg in enumerate(model.neck if several else [model.neck]):
        name = f'model.neck[{i}]' if several else 'model.neck'
        old, new = maps.channels
        if old != new and not _takes_any(cfg, maps.new, device):
            before = cfg.get('in_channels')
            cfg.in_channels = _follow(before, old, new, f'{name}.in_channels', cfg)
            out = cfg.get('out_channels')
            if isinstance(out, Sequence) and list(out[: len(old)]) == old == list(before):  # SSDNeck hands them on
                cfg.out_channels = type(out)([*new, *out[len(old) :]])
        after = run(neck[i] if several else neck, tuple(maps.old), f'{name} of the base config', POOLED)
        built = build(cfg, name).eval().to(device)
        found = run(built, tuple(maps.new), f'{name} ({_kind(cfg)}, in_channels={cfg.get("in_channels")})', POOLED)
        maps = Maps(after, found, list(range(len(after))), name)
    return maps


def is_classifier(model: ConfigDict) -> bool:
    """Whether the head of a model takes in whole images, by pooling, and thus maps of any size."""
    return bool(model.get('head')) and not any(model.get(key) for key in ('bbox_head', 'decode_head', 'rpn_head'))


def reads_last_map(model: ConfigDict) -> bool:
    """Whether a model reads the last of its backbone's maps alone: a classifier without a neck, or with a pooling."""
    necks = model.get('neck') or []
    necks = necks if isinstance(necks, (list, tuple)) else [necks]
    return is_classifier(model) and not any('in_channels' in neck for neck in necks)


def _takes_any(cfg: ConfigDict, maps: list[Tensor], device: str) -> bool:
    """Whether a neck that names no channels, such as a global pooling, reads maps of any."""
    if 'in_channels' in cfg:
        return False
    try:
        run(build(cfg, 'a neck').eval().to(device), tuple(maps), 'a neck', POOLED)
    except RunError:
        return False
    return True


def rewrite_heads(model: ConfigDict, maps: Maps) -> None:
    """Let the heads' channels follow what comes out of backbone and necks."""
    if model.get('decode_head'):
        for key in ('decode_head', 'auxiliary_head'):
            heads = model.get(key) or []
            several = isinstance(heads, (list, tuple))
            for i, head in enumerate(heads if several else [heads]):
                _rewrite_decode_head(head, f'model.{key}[{i}]' if several else f'model.{key}', maps)
        return
    sizes = [[tuple(x.shape[2:]) for x in xs] for xs in (maps.old, [maps.new[place] for place in maps.places])]
    if not is_classifier(model) and (sizes[0] != sizes[1] or not maps.in_order):
        raise ConfigError(
            f"The detector's heads would read maps of the sizes {sizes[1]} (at {PROBE}x{PROBE}) from {maps.source}, "
            f'expected {sizes[0]}, for which their priors are: choose other stages with --out-indices.'
        )
    old, new = maps.channels
    if old == new:
        return
    for key in [key for key in model if (key == 'head' or key.endswith('_head')) and model[key]]:
        if 'shared_head' in model[key]:
            raise ConfigError(
                f'model.{key}.shared_head ({_kind(model[key].shared_head)}) continues the base backbone and has no '
                'channels of its own to change: take a config with a neck instead.'
            )
        if not _rewrite_detection_head(model[key], f'model.{key}', old, new):
            raise ConfigError(
                f'model.{key} ({_kind(model[key])}) names no in_channels to change, but the channels that it reads '
                f'from {maps.source} change from {old} to {new}.'
            )


def _rewrite_decode_head(head: ConfigDict, name: str, maps: Maps) -> None:
    old, new = maps.channels
    index, several = head.get('in_index', -1), isinstance(head.get('in_channels'), Sequence)
    indices = [i % len(old) for i in (index if isinstance(index, Sequence) else [index])]
    reads, gets = [old[i] for i in indices], [new[i] for i in indices]
    value = head.get('in_channels')
    if value is None or list(value if several else [value]) != reads:
        raise ConfigError(
            f'{name}.in_channels={value} ({_kind(head)}): expected {reads}, the channels of the maps in_index={index} '
            f'from {maps.source}.'
        )
    if reads != gets:
        head.in_channels = type(value)(gets) if several else gets[0]
    if not maps.in_order:
        places = [maps.places[i] for i in indices]
        head.in_index = type(index)(places) if isinstance(index, Sequence) else places[0]
    for key in [key for key in head if key.endswith('_in_channels')]:  # c1_in_channels of DeepLabV3+: the first map
        if head[key] == old[0] and maps.places[0] == 0:
            head[key] = new[0]


def _rewrite_detection_head(node: Any, name: str, old: list[int], new: list[int]) -> int:
    """Replace every ``in_channels`` below a head, and the channels of RoI extractors; return how many there were."""
    if isinstance(node, (list, tuple)):
        return sum(_rewrite_detection_head(item, f'{name}[{i}]', old, new) for i, item in enumerate(node))
    if not isinstance(node, dict):
        return 0
    count = 0
    for key in list(node):
        if key == 'in_channels' or (key == 'out_channels' and type_name(node).endswith('RoIExtractor')):
            node[key] = _follow(node[key], old, new, f'{name}.{key}', node)
            count += 1
        else:
            count += _rewrite_detection_head(node[key], f'{name}.{key}', old, new)
    return count


def _follow(value: Any, old: list[int], new: list[int], name: str, cfg: dict) -> Any:
    """The channels ``value`` of a part that reads ``old``, for one that reads ``new``."""
    if isinstance(value, Sequence) and list(value) == old:
        return type(value)(new)
    if isinstance(value, Sequence) and list(value) == old[::-1]:  # YOLOV3Neck reads the coarsest map first
        return type(value)(new[::-1])
    if isinstance(value, int) and value == old[-1]:
        return new[-1]
    raise ConfigError(f'{name}={value} ({_kind(cfg)}): expected {old}, the channels of the maps that it reads.')
