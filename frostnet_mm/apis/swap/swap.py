"""FrostNet in place of the backbone of any mmdet or mmseg config: stages, channels of neck and heads, a new config.

Nothing is looked up by model: the base model's backbone and necks are run, and what reads their channels follows.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from ...data.errors import DatasetNotFoundError
from ...engine.config import ConfigError, inner_dataset, load_config, model_config
from ...engine.image_sizes import image_sizes
from ...files import require_checkpoint, write_text
from ...models.backbones.frostnet import NUM_STAGES, FrostNet
from ...models.dense import DenseNetwork
from ...models.input_channels import input_channels
from ...registry import type_name
from .config_text import assignments, differences, inherit
from .parts import (
    PROBE,
    Maps,
    RunError,
    build,
    build_model,
    reads_last_map,
    rewrite_heads,
    rewrite_necks,
    run,
    verify,
)

TYPE = 'frostnet_mm.FrostNet'
STRIDES = (4, 8, 16, 32, 32)  # of the stages, before output_stride
LEVELS = (0, 1, 2, 4)  # the widest stage at each stride; stage 3 is for a further map
STAND_IN_CLASSES = ('a', 'b')
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


@dataclass(frozen=True)
class SwapOptions:
    """What to put in the backbone's place.

    Args:
        arch (str): A name, as for :class:`~frostnet_mm.FrostNet`. Default: 'small'.
        widen_factor (float): Width multiplier. Default: 1.0.
        output_stride (int, optional): 8, 16 or 32; by default that of the base backbone's coarsest map.
        out_indices (Sequence[int], optional): The stage, 0 to 4, for each map of the base backbone, in their order; by
            default those of the same strides.
        checkpoint (str, optional): FrostNet weights to start from.
    """

    arch: str = 'small'
    widen_factor: float = 1.0
    output_stride: int | None = None
    out_indices: Sequence[int] | None = None
    checkpoint: str | None = None


@dataclass
class Swap:
    """A swapped config.

    Args:
        base (Config): The base config.
        model (ConfigDict): The new model.
        changes (list[tuple]): Key, old value and new value of all that differs; None for what is not there.
        notes (list[str]): What the user should know.
        classes (tuple[str, ...], optional): What stands for the classes of data that are not there. Default: nothing.
    """

    base: Config
    model: ConfigDict
    changes: list[tuple[str, Any, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: tuple[str, ...] | None = None

    def write(self, base: str | os.PathLike, out: str | os.PathLike) -> None:
        """Write the config that inherits ``base``, the path or the name that it was made from."""
        if Path(out).resolve() == Path(base).resolve():
            raise ConfigError(f'{out} is the base config itself, which the new one inherits; write to another file.')
        imports = list((self.base.get('custom_imports') or {}).get('imports', []))
        overrides = inherit(self.base.model, self.model)
        overrides['backbone'] = dict(_delete_=True) | self.model.backbone.to_dict()
        write_text(out, assignments(str(base), Path(out), [*imports, 'frostnet_mm'], overrides))
        found = load_config(out, classes=self.classes).model
        wrong = [key for key, *_ in differences(self.model, found) if not key.endswith('_scope_')]
        if wrong:
            os.unlink(out)
            raise AssertionError(f'{out} would be read with other values of {", ".join(wrong)}')


def swap_backbone(base: str | os.PathLike, options: SwapOptions) -> Swap:
    """Put FrostNet in the place of a config's backbone, and verify the new model by building and running it.

    Args:
        base (str | PathLike): A config of mmdet or mmseg, or the name of an installed one ('mmdet::...').
        options (SwapOptions): The FrostNet.

    Returns:
        Swap: The new config, not yet written.

    Raises:
        ConfigError: The base config or the FrostNet does not allow it; the message names the part and its key.
        UnsupportedModelError: The base model is not one of those that :class:`DenseNetwork` knows.
    """
    cfg, classes = _load(base)
    if not isinstance(cfg.get('model'), dict) or not isinstance(cfg.model.get('backbone'), dict):
        raise ConfigError(f'{base} has no model with a backbone of its own: expected model = dict(backbone=dict(...)).')
    if options.checkpoint is not None:
        require_checkpoint(options.checkpoint, '--checkpoint')
    try:
        swap = _swap(cfg, options, 'meta')
    except RunError:  # also what cannot run without data, such as the operators of mmcv
        swap = _swap(cfg, options, 'cpu')
    if classes is not None:
        swap.classes = classes
        swap.notes.append(f'the data are not here: parameters are those for {len(classes)} classes')
    return swap


def _load(base: str | os.PathLike) -> tuple[Config, tuple[str, ...] | None]:
    """A config; with classes that stand for those of data which are not there."""
    try:
        return load_config(base), None
    except DatasetNotFoundError:
        return load_config(base, classes=STAND_IN_CLASSES), STAND_IN_CLASSES


def input_shape(cfg: Config) -> tuple[int, int]:
    """Height and width of an image behind a config's test pipeline, padded as the preprocessor pads it.

    Where the pipeline leaves them open: of an image of the same ratio as its scale, or of a square one.

    Raises:
        ConfigError: The pipeline has no size of its own.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    steps = inner_dataset(loader.dataset).get('pipeline', []) if loader else []
    size = image_sizes(steps).nominal
    if size is None:
        raise ConfigError('The test pipeline of this config resizes to no fixed scale; give --shape HEIGHT WIDTH.')
    divisor = (model_config(cfg).get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    height, width = size
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


# -- the maps of the backbone


def choose_stages(strides: Sequence[int]) -> tuple[list[int], int]:
    """The FrostNet stage for each map of another backbone, and the output stride.

    A map of stride 2 is replaced by that of stride 4. Where the coarsest maps have stride 8 or 16, FrostNet is dilated.
    A map that comes before a finer one (the first of BiSeNetV2) has merged those behind it: the last stage, dilated to
    its stride, takes its place.

    Args:
        strides (Sequence[int]): Strides of the maps in the backbone's order.

    Returns:
        tuple[list[int], int]: Stages, 0 to 4, and the output stride.

    Raises:
        ConfigError: FrostNet has no such maps.
    """
    coarsest = max(strides)
    merged = [i for i, stride in enumerate(strides) if any(other < stride for other in strides[i + 1 :])]
    last = strides[merged[0]] if merged else coarsest
    if coarsest not in (8, 16, 32) or last not in (8, 16, 32) or min(strides) < 2 or len(merged) > 1:
        raise ConfigError(
            f"The base backbone's maps have the strides {tuple(strides)}. FrostNet has 4, 8, 16, 32 and 32 in this "
            'order, dilated to 8 or 16 at most: name a stage for each map with --out-indices, and --output-stride.'
        )
    levels = (0, 1, 2, 3) if merged else LEVELS
    stages = [NUM_STAGES - 1] * len(strides)
    for stride in {stride for i, stride in enumerate(strides) if i not in merged}:
        places = [i for i, other in enumerate(strides) if other == stride and i not in merged]
        fitting = [s for s in levels if min(STRIDES[s], coarsest) == max(stride, 4)]
        if len(fitting) < len(places) and not merged:
            fitting = [s for s in range(NUM_STAGES) if min(STRIDES[s], coarsest) == max(stride, 4)]
        if len(fitting) < len(places):
            raise ConfigError(
                f'{len(places)} maps of the base backbone have stride {stride}, FrostNet has {len(fitting)} at output '
                f'stride {coarsest}: name a stage for each of its maps, of strides {tuple(strides)}, with '
                '--out-indices, and --output-stride.'
            )
        for place, stage in zip(places, fitting[-len(places) :], strict=True):
            stages[place] = stage
    return stages, last


def _swap(cfg: Config, options: SwapOptions, device: str) -> Swap:
    if type_name(cfg.model.get('head') or {}) == 'LogitsHead':
        raise ConfigError(
            f'The backbone of this config, {type_name(cfg.model.backbone)}, puts out the logits itself (LogitsHead): '
            'expected one that puts out maps (num_classes=-1 of AlexNet and VGG), with a ClsHead behind it.'
        )
    base, model = build_model(cfg, cfg.model), copy.deepcopy(cfg.model)
    DenseNetwork(base)  # raises for models whose network is not known
    base.to(device)
    swap = Swap(cfg, model)
    channels = input_channels(base)
    images = torch.zeros(1, channels, PROBE, PROBE, device=device)
    old = run(base.backbone, images, 'model.backbone of the base config')
    strides = [round(PROBE / x.shape[-1]) for x in old]
    if reads_last_map(model):
        old, strides = old[-1:], [max(8, min(STRIDES, key=lambda stride: abs(stride - strides[-1])))]
    stages, output_stride = _stages(strides, options)
    model.backbone = ConfigDict(_frostnet(cfg.model.backbone, options, stages, output_stride, swap.notes))
    if channels != 3:
        model.backbone.in_channels = channels
    frostnet = build(model.backbone, 'FrostNet').eval()
    if options.checkpoint is not None:
        frostnet.init_weights()  # raises where the file does not fit
    new = run(frostnet.to(device), images, 'FrostNet')
    maps = Maps(old, new, [sorted(set(stages)).index(stage) for stage in stages])
    _note_sizes(maps, swap.notes)
    if model.get('pretrained') is not None:
        model.pretrained = None  # mm would hand it to the backbone
    if model.get('neck'):
        maps = rewrite_necks(base.neck, model, maps, device)
    rewrite_heads(model, maps)
    verify(cfg, model, device)
    swap.changes = [('model.backbone', cfg.model.backbone.to_dict(), model.backbone.to_dict())]
    swap.changes += [change for change in differences(cfg.model, model, 'model') if not _of_backbone(change[0])]
    _note_training(cfg, options, swap.notes)
    return swap


def _stages(strides: list[int], options: SwapOptions) -> tuple[list[int], int]:
    if options.out_indices is None:
        stages, output_stride = choose_stages(strides)
        return stages, options.output_stride or output_stride
    stages = list(options.out_indices)
    if len(stages) != len(strides) or not set(stages) <= set(range(NUM_STAGES)):
        raise ConfigError(
            f'--out-indices {" ".join(map(str, stages))}: expected a stage, 0 to {NUM_STAGES - 1}, for each of the '
            f'{len(strides)} maps of the base backbone, of strides {", ".join(map(str, strides))}.'
        )
    return stages, options.output_stride or min(max(strides[-1], 8), 32)


def _frostnet(old: dict, options: SwapOptions, stages: list[int], output_stride: int, notes: list[str]) -> dict:
    """The backbone entry: only what differs from FrostNet's defaults, and what holds for any backbone."""
    backbone: dict[str, Any] = dict(type=TYPE, arch=options.arch)
    if options.widen_factor != 1:
        backbone['widen_factor'] = options.widen_factor
    backbone['out_indices'] = tuple(sorted(set(stages)))
    if output_stride < STRIDES[max(stages)]:
        backbone['output_stride'] = output_stride
    norm = type_name(old.get('norm_cfg') or {}) or 'BN'
    if norm == 'SyncBN':
        backbone['norm_cfg'] = dict(type='SyncBN')
    elif norm != 'BN':
        notes.append(f'backbone.norm_cfg {norm}: FrostNet gets BN')
    if old.get('with_cp'):
        backbone['with_cp'] = True
    frozen = {
        key: old[key] for key, idle in (('frozen_stages', -1), ('norm_eval', False)) if old.get(key, idle) != idle
    }
    if options.checkpoint is not None:
        backbone |= {key: min(v, max(stages) + 1) if key == 'frozen_stages' else v for key, v in frozen.items()}
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=str(options.checkpoint))
    elif frozen:
        left_out = ', '.join(f'{key}={value}' for key, value in frozen.items())
        notes.append(f'backbone: {left_out} left out, because FrostNet starts from random weights (see --checkpoint)')
    try:
        FrostNet(**{key: value for key, value in backbone.items() if key not in ('type', 'init_cfg')})
    except ValueError as error:
        raise ConfigError(f'FrostNet cannot be built: {error}') from error
    return backbone


# -- what the user should know


def _note_sizes(maps: Maps, notes: list[str]) -> None:
    for i, (x, place) in enumerate(zip(maps.old, maps.places, strict=True)):
        before, after = (round(PROBE / y.shape[-1]) for y in (x, maps.new[place]))
        if before != after:
            notes.append(f'backbone: map {i} had stride {before}, its replacement has stride {after}')
    if len(set(maps.places)) < len(maps.places):
        notes.append(f'backbone: maps {maps.places} of FrostNet take the places of the old ones, so one is read twice')


def _of_backbone(key: str) -> bool:
    return key.startswith('model.backbone.')


def _note_training(cfg: Config, options: SwapOptions, notes: list[str]) -> None:
    if cfg.get('load_from'):
        notes.append(
            f'load_from={cfg.load_from} holds weights of the old model: set load_from=None unless you want those'
        )
    if options.checkpoint is None:
        return
    preprocessor = dict(model_config(cfg).get('data_preprocessor') or {})
    if 'to_rgb' in preprocessor:  # as mmpretrain calls it
        preprocessor['bgr_to_rgb'] = preprocessor['to_rgb']
    other = {key: preprocessor.get(key) for key, value in IMAGENET.items() if preprocessor.get(key) != value}
    if other:
        notes.append(
            'data_preprocessor has '
            + ', '.join(f'{key}={value}' for key, value in other.items())
            + "; the released FrostNet weights expect ImageNet's RGB statistics: "
            + ', '.join(f'{key}={IMAGENET[key]}' for key in other)
        )
