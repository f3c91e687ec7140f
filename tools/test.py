"""Evaluate a checkpoint on the config's test data.

python tools/test.py configs/ssdlite_frostnet_coco.py work_dirs/ssdlite_frostnet_coco/epoch_600.pth
"""

import argparse
import json
import os

import _path  # noqa: F401
from mmengine.config import Config, DictAction
from mmengine.evaluator import DumpResults

from frostnet_mm.engine.cli import run_tool
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.inference import classes_of, load_runner_weights
from frostnet_mm.engine.runner import build_runner, settle_work_dir
from frostnet_mm.files import write_text
from frostnet_mm.models import read_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint on the test data of its config.')
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', help='folder of the log; default work_dirs/<config name>')
    parser.add_argument('--show-dir', help='draw the predictions (for detectors beside the truth) into this folder')
    parser.add_argument('--out', help='FILE.json: the figures; FILE.pkl: the predictions')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='replace values of the config, for example data_root=/path',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.json', '.pkl')):
        parser.error(f'--out {args.out}: expected a name ending in .json (figures) or .pkl (predictions)')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def draw_into(cfg: Config, folder: str) -> None:
    """Have mm's visualization hook draw every test image into a folder."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ConfigError(
            '--show-dir needs default_hooks.visualization (DetVisualizationHook or SegVisualizationHook) in the config.'
        )
    hook.draw = True
    if hook.type.endswith('DetVisualizationHook'):
        hook.test_out_dir = os.path.abspath(folder)
    else:
        cfg.visualizer.update(
            save_dir=folder, name=f'show {folder}'
        )  # by its name, one of an earlier run would be reused


def main() -> None:
    args = parse_args()
    checkpoint = read_checkpoint(args.checkpoint)
    cfg = load_config(args.config, args.cfg_options, classes=classes_of(checkpoint))
    settle_work_dir(cfg, args.config, args.work_dir)
    cfg.load_from, cfg.resume = None, False
    if args.show_dir:
        draw_into(cfg, args.show_dir)
    runner = build_runner(cfg, args.launcher)
    load_runner_weights(runner, checkpoint, args.checkpoint)
    if args.out and args.out.endswith('.pkl'):
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if args.out and args.out.endswith('.json') and runner.rank == 0:
        write_text(
            args.out,
            json.dumps(dict(config=args.config, checkpoint=args.checkpoint, metrics=metrics), indent=1, default=float),
        )


if __name__ == '__main__':
    run_tool(main)
