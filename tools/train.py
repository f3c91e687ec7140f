"""Train a detector or a segmenter.

python tools/train.py configs/ssdlite_frostnet_coco.py
python tools/train.py configs/ssdlite_frostnet_coco.py --resume
"""

import argparse
import os
from typing import TYPE_CHECKING

import _path  # noqa: F401

from frostnet_mm.cli import add_config_options, add_launcher_options, run_tool, set_local_rank, tool_command
from frostnet_mm.files import require_checkpoint, require_config

if TYPE_CHECKING:
    from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector or a segmenter.')
    parser.add_argument('config', help='config file, or mmdet::NAME / mmseg::NAME of an installed package')
    parser.add_argument('--work-dir', help='folder of checkpoints and logs; default work_dirs/<config name>')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without a name, from the last one of the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size')
    add_config_options(parser)
    add_launcher_options(parser)
    args = parser.parse_args()
    set_local_rank(args)
    return args


def main() -> None:
    args = parse_args()
    require_config(args.config)
    if args.resume not in (None, 'auto'):
        require_checkpoint(args.resume)
    from frostnet_mm.engine.config import load_config
    from frostnet_mm.engine.runner import build_runner, enable_amp, enable_auto_scale_lr, settle_work_dir
    from frostnet_mm.models import read_checkpoint

    cfg = load_config(args.config, args.cfg_options)
    settle_work_dir(cfg, args.config, args.work_dir)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    opened = {}
    if cfg.get('load_from'):  # a wrong path or a truncated file is said now, not after reading the data
        opened[cfg.load_from] = read_checkpoint(cfg.load_from)
    runner = build_runner(cfg, args.launcher, opened)
    runner.train()
    if runner.rank == 0:
        print(f'\n{_next_step(runner, args)}')


def _next_step(runner: 'Runner', args: argparse.Namespace) -> str:
    """The command that goes on with the best checkpoint, in INT8 with the last one."""
    from frostnet_mm.apis.qat_config import qat_hooks

    written = runner.message_hub.runtime_info
    quantized = qat_hooks(runner.cfg)
    best = None if quantized else written.get('best_ckpt')  # the best may be one of the float warm-up
    checkpoint = best or written.get('last_ckpt')
    if checkpoint is None:
        return 'No checkpoint was written (default_hooks.checkpoint).'
    checkpoint = os.path.relpath(checkpoint)
    if quantized:
        return f'Evaluate it: {tool_command("test", args.config, checkpoint, "--compare", args=args)}'
    return f'Make it INT8: {tool_command("calibrate", args.config, checkpoint, args=args)}'


if __name__ == '__main__':
    run_tool(main)
