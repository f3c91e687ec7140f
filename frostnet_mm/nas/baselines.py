"""What found networks are compared with: the FrostNets of the release and MobileNetV2 in the place of the backbone."""

import copy
from collections.abc import Callable, Sequence

import torch
from mmengine.config import Config, ConfigDict

from ..apis.swap.parts import PROBE, Maps, RunError, build, build_model, rewrite_heads, rewrite_necks, run, verify
from ..engine.config import ConfigError
from ..models.frostnet_arch import ARCHS
from ..models.input_channels import input_channels
from .networks import plain_backbone

MOBILENET = 'MobileNetV2'
LEVELS = {4: 1, 8: 2, 16: 4}  # the widest map of MobileNetV2 at each stride but the last, by mm's out_indices
DILATED = {  # mmseg's MobileNetV2 by output stride
    16: dict(strides=(1, 2, 2, 2, 1, 1, 1), dilations=(1, 1, 1, 1, 1, 2, 2)),
    8: dict(strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 2, 2, 4, 4)),
}


def baselines(cfg: Config, say: Callable[[str], None] = print) -> dict[str, ConfigDict]:
    """The config's model with other backbones; those that do not fit its neck or head are left out, and why is said.

    Args:
        cfg (Config): The config; its backbone is a FrostNet.
        say (Callable): Prints a line. Default: print.

    Returns:
        dict[str, ConfigDict]: Models to build by name: 'FrostNet small' and so on, 'MobileNetV2'.
    """
    found = {}
    makers = {f'FrostNet {name}': lambda _, name=name: plain_backbone(cfg.model.backbone, name) for name in ARCHS}
    makers[MOBILENET] = lambda strides: mobilenet(strides, cfg.get('default_scope'))
    for name, backbone in makers.items():
        try:
            found[name] = with_backbone(cfg, backbone)
        except (ConfigError, ValueError) as error:
            say(f'{name} is not compared: {error}')
    return found


def mobilenet(strides: Sequence[int], scope: str | None) -> dict:
    """MobileNetV2 with maps of some strides, as mmdet and mmseg build it.

    Args:
        strides (Sequence[int]): Of the maps that neck and head read.
        scope (str, optional): 'mmdet', 'mmseg', or 'mmengine' for classifiers, which take mmdet's.

    Raises:
        ConfigError: It has no such maps.
    """
    scope = 'mmdet' if scope == 'mmengine' else scope
    last = 7 if scope == 'mmdet' else 6  # mmdet's has the convolution to 1280 channels
    coarsest = max(strides)
    options = {} if scope == 'mmdet' or coarsest == 32 else DILATED.get(coarsest)
    dilated = bool(options)
    levels = {stride: index for stride, index in LEVELS.items() if not dilated or stride != coarsest}
    levels |= {coarsest: last} if dilated or coarsest == 32 else {}
    if scope not in ('mmdet', 'mmseg') or options is None or any(stride not in levels for stride in strides):
        raise ConfigError(f'it has no maps of the strides {", ".join(map(str, strides))} in {scope}')
    indices = [levels[stride] for stride in strides]
    if indices != sorted(set(indices)):
        raise ConfigError(f'it has one map of a stride, and {", ".join(map(str, strides))} are read')
    return dict(type=f'{scope}.{MOBILENET}', out_indices=tuple(indices), **options)


def with_backbone(cfg: Config, backbone: Callable[[list[int]], dict]) -> ConfigDict:
    """A config's model with another backbone, whose channels neck and heads follow.

    Args:
        cfg (Config): The config.
        backbone (Callable): Makes the backbone's entry of the strides of the maps that it is to have.

    Raises:
        ConfigError: It does not fit.
    """
    try:
        return _with_backbone(cfg, backbone, 'meta')
    except RunError:  # also what cannot run without data
        return _with_backbone(cfg, backbone, 'cpu')


def _with_backbone(cfg: Config, backbone: Callable[[list[int]], dict], device: str) -> ConfigDict:
    base, model = build_model(cfg, cfg.model).to(device), copy.deepcopy(cfg.model)
    images = torch.zeros(1, input_channels(base), PROBE, PROBE, device=device)
    old = run(base.backbone, images, 'model.backbone of the config')
    model.backbone = ConfigDict(backbone([round(PROBE / x.shape[-1]) for x in old]))
    model.backbone.pop('init_cfg', None)
    built = build(model.backbone, 'the backbone').to(device)
    built.eval()  # returns nothing in mm's backbones
    new = run(built, images, 'the backbone')
    sizes = [[tuple(x.shape[2:]) for x in maps] for maps in (old, new)]
    if sizes[0] != sizes[1]:
        raise ConfigError(f'its maps have the sizes {sizes[1]} (at {PROBE}x{PROBE}), expected {sizes[0]}')
    maps = Maps(old, new, list(range(len(old))))
    if model.get('neck'):
        maps = rewrite_necks(base.neck, model, maps, device)
    rewrite_heads(model, maps)
    verify(cfg, model, device)
    return model
