"""Put FrostNet in the place of the backbone of any mmdet or mmseg config, and write the config that says so.

    python tools/swap_backbone.py mmdet::retinanet/retinanet_r18_fpn_1x_coco --arch base --out retinanet_frostnet.py
    python tools/swap_backbone.py mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024
        --out deeplabv3plus_frostnet.py

The new config inherits the given one and sets the backbone and the channels of what reads it. It is written after the
new model was built and run; docs/swap_backbone.md has the rules.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from frostnet_mm.cli import run_tool
from frostnet_mm.engine.config import ConfigError
from frostnet_mm.files import require_checkpoint, require_config
from frostnet_mm.models.frostnet_arch import ARCHS
from frostnet_mm.registry import type_name

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Put FrostNet in the place of the backbone of a config.')
    parser.add_argument('config', help="a config of mmdet or mmseg, or an installed one: 'mmdet::NAME', 'mmseg::NAME'")
    parser.add_argument('--arch', choices=list(ARCHS), default='small', help='default: small')
    parser.add_argument('--width', type=float, default=1.0, help='width multiplier; default 1.0')
    parser.add_argument(
        '--output-stride', type=int, choices=[8, 16, 32], help="default: the stride of the base backbone's coarsest map"
    )
    parser.add_argument(
        '--out-indices',
        nargs='+',
        type=int,
        metavar='STAGE',
        help='the stage, 0 to 4, for each map of the base backbone; default: those of the same strides',
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='FrostNet weights to start training from')
    parser.add_argument('--out', required=True, help='config to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='to count MACs at; default: of the test pipeline',
    )
    args = parser.parse_args()
    if args.shape and min(args.shape) < 1:
        parser.error('--shape: expected at least 1')
    return args


def cost(cfg: 'Config', model: 'ConfigDict', shape: tuple[int, int]) -> tuple[int, int, int]:
    """Parameters of the model and of its backbone, and MACs of its dense network."""
    import torch

    from frostnet_mm.apis.swap.parts import build_model
    from frostnet_mm.deploy.cost import count_macs
    from frostnet_mm.models.dense import DenseNetwork
    from frostnet_mm.models.input_channels import input_channels

    built = build_model(cfg, model)
    channels = input_channels(built)
    params = [sum(p.numel() for p in part.parameters()) for part in (built, built.backbone)]
    try:  # without data: the sizes are enough
        macs = count_macs(DenseNetwork(built).to('meta'), torch.empty(1, channels, *shape, device='meta'))
    except (NotImplementedError, RuntimeError):  # an operator of mmcv that needs data, or a size that does not fit
        try:
            macs = count_macs(DenseNetwork(build_model(cfg, model)), torch.zeros(1, channels, *shape))
        except RuntimeError as error:
            raise ConfigError(
                f'The model cannot run at {shape[0]}x{shape[1]}, give another --shape: {error}'
            ) from error
    return params[0], params[1], macs


def main() -> None:
    args = parse_args()
    if Path(args.out).suffix != '.py':
        raise ConfigError(f'--out {args.out}: expected the name of a .py config.')
    if Path(args.out).exists() and not args.overwrite:
        raise ConfigError(f'{args.out} exists already; give --overwrite to replace it.')
    require_config(args.config)
    if args.checkpoint is not None:
        require_checkpoint(args.checkpoint, '--checkpoint')
    from frostnet_mm.apis.swap.config_text import format_value
    from frostnet_mm.apis.swap.swap import SwapOptions, input_shape, swap_backbone

    options = SwapOptions(args.arch, args.width, args.output_stride, args.out_indices, args.checkpoint)
    swap = swap_backbone(args.config, options)
    shape = tuple(args.shape) if args.shape else input_shape(swap.base)
    rows = [
        (name, type_name(model.backbone), *cost(swap.base, model, shape))
        for name, model in (('before', swap.base.model), ('after', swap.model))
    ]
    swap.write(args.config, args.out)
    for key, old, new in swap.changes:
        print(
            f'{key}: {format_value(old)}\n    -> {format_value(new, 4, 7)}'
            if isinstance(old, dict)
            else f'{key}: {old} -> {new}'
        )
    for note in swap.notes:
        print(f'note: {note}')
    print(f'\n{"":8s}{"backbone":14s}{"params":>14s}{"of backbone":>14s}{f"MACs at {shape[0]}x{shape[1]}":>20s}')
    for name, backbone, params, own, macs in rows:
        print(f'{name:8s}{backbone:14s}{params:14,d}{own:14,d}{macs / 1e6:18,.0f} M')
    print(f'\n{args.out}')


if __name__ == '__main__':
    run_tool(main)
