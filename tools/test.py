"""Evaluate a checkpoint on the config's test data.

python tools/test.py configs/ssdlite_frostnet_coco.py work_dirs/ssdlite_frostnet_coco/epoch_600.pth
"""

import argparse
import json
import os

import _path  # noqa: F401
from mmengine.config import Config
from mmengine.evaluator import DumpResults

from frostnet_mm.engine.cli import (
    add_config_options,
    add_execution_options,
    add_launcher_options,
    run_tool,
    set_local_rank,
)
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.evaluation import comparison_table, configure_execution, evaluate_all, load_runner_weights
from frostnet_mm.engine.inference import choose_execution, classes_of
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
    add_execution_options(parser)
    parser.add_argument(
        '--compare', action='store_true', help='run in float, simulated INT8 and converted; print a table'
    )
    add_config_options(parser)
    add_launcher_options(parser)
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.json', '.pkl')):
        parser.error(f'--out {args.out}: expected a name ending in .json (figures) or .pkl (predictions)')
    if args.compare and (args.execution or args.show_dir or (args.out and args.out.endswith('.pkl'))):
        parser.error(
            '--compare runs all three: it goes without --float, --simulated, --converted, --show-dir and --out FILE.pkl'
        )
    set_local_rank(args)
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
    execution = choose_execution(checkpoint, 'converted' if args.compare else args.execution, args.checkpoint)
    cfg = load_config(args.config, args.cfg_options, classes=classes_of(checkpoint))
    settle_work_dir(cfg, args.config, args.work_dir)
    cfg.load_from, cfg.resume = None, False
    configure_execution(cfg, checkpoint, execution)
    if args.show_dir:
        draw_into(cfg, args.show_dir)
    runner = build_runner(cfg, args.launcher)
    load_runner_weights(runner, checkpoint, args.checkpoint)
    if args.out and args.out.endswith('.pkl'):
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    if args.compare:
        execution, metrics = 'compared', evaluate_all(runner)
        if runner.rank == 0:
            print(f'\n{comparison_table(metrics)}')
    else:
        metrics = runner.test()
    if args.out and args.out.endswith('.json') and runner.rank == 0:
        report = dict(config=args.config, checkpoint=args.checkpoint, execution=execution, metrics=metrics)
        write_text(args.out, json.dumps(report, indent=1, default=float))


if __name__ == '__main__':
    run_tool(main)
