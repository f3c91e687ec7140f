"""Evaluate a checkpoint on the config's test data.

python tools/test.py configs/ssdlite_frostnet_coco.py work_dirs/ssdlite_frostnet_coco/epoch_600.pth
python tools/test.py configs/ssdlite_frostnet_qat_coco.py CHECKPOINT --compare --engine openvino,onnxruntime
"""

import argparse
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from frostnet_mm.cli import (
    add_classes,
    add_config_options,
    add_execution_options,
    add_launcher_options,
    add_weight_bits,
    run_tool,
    set_local_rank,
    tool_command,
)
from frostnet_mm.engine.config import ConfigError
from frostnet_mm.files import require_checkpoint, require_config, write_text
from frostnet_mm.registry import type_name

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner

    from frostnet_mm.quantization.checkpoint import Checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint on the test data of its config.')
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', help='folder of the log; default work_dirs/<config name>')
    parser.add_argument('--show-dir', help='draw truth and predictions side by side into this folder')
    parser.add_argument(
        '--plots',
        metavar='DIR',
        help='draw what is confused into this folder: confusion matrix, precision by recall, the worst predictions',
    )
    parser.add_argument('--out', help='FILE.json: the metrics; FILE.pkl: the predictions')
    add_execution_options(parser)
    parser.add_argument(
        '--engine',
        type=lambda text: text.split(','),
        default=[],
        metavar='NAME[,NAME]',
        help='run in engines: openvino, onnxruntime, executorch, inductor; with --float in float',
    )
    parser.add_argument(
        '--compare',
        action='store_true',
        help='run in float, simulated INT8, converted and in the engines of --engine; print a table',
    )
    parser.add_argument(
        '--no-verify', action='store_true', help='evaluate engines also where they do not compute what was trained'
    )
    add_weight_bits(parser)
    add_classes(parser)
    add_config_options(parser)
    add_launcher_options(parser)
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.json', '.pkl')):
        parser.error(f'--out {args.out}: expected a name ending in .json (metrics) or .pkl (predictions)')
    single = args.show_dir or args.plots or (args.out and args.out.endswith('.pkl'))  # of one evaluation
    if args.compare and (args.execution or single):
        parser.error(
            '--compare runs all three: it goes without --float, --simulated, --converted, --show-dir, --plots and '
            '--out FILE.pkl'
        )
    if args.engine and (args.launcher != 'none' or single):
        parser.error('--engine goes without --launcher, --show-dir, --plots and --out FILE.pkl')
    if args.engine and args.execution in ('simulated', 'converted'):
        parser.error('--engine goes with --float or --compare, not with --simulated and --converted')
    set_local_rank(args)
    return args


def draw_into(cfg: 'Config', folder: str) -> None:
    """Have the visualization hook draw every test image into a folder."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if type_name(cfg.get('model') or {}) == 'ImageClassifier':  # mmpretrain's hook would draw nothing by these options
        raise ConfigError('--show-dir draws boxes and masks: of a classifier, --plots DIR draws what it gets wrong.')
    if hook is None:
        raise ConfigError(
            '--show-dir needs default_hooks.visualization (DetVisualizationHook or SegVisualizationHook) in the config.'
        )
    hook.draw, hook.test_out_dir = True, os.path.abspath(folder)


def evaluate(runner: 'Runner', args: argparse.Namespace, cfg: 'Config') -> dict:
    """Metrics of one evaluation; with ``--plots`` it draws what is confused."""
    if not args.plots:
        return runner.test()
    from frostnet_mm.apis.mistakes import Mistakes
    from frostnet_mm.apis.visualization.mistake_plots import draw_mistakes
    from frostnet_mm.models.dense import unwrap

    dataset = runner.test_dataloader.dataset
    mistakes = Mistakes(dataset)
    mistakes.dataset_meta = runner.test_evaluator.dataset_meta
    runner.test_evaluator.metrics.append(mistakes)
    metrics = runner.test()
    if runner.rank == 0:
        model = unwrap(runner.model).eval()
        model.dataset_meta = dataset.metainfo
        for file in draw_mistakes(mistakes.report, args.plots, model, dataset, cfg):
            print(f'drawn: {file}')
    return metrics


def execution_of_engines(args: argparse.Namespace, checkpoint: 'Checkpoint') -> str:
    """The precision that engines run in: INT8 for a quantized checkpoint, unless float is asked for."""
    return 'float' if args.execution == 'float' or not checkpoint.quantized else 'int8'


def engine_metrics(runner: 'Runner', args: argparse.Namespace, checkpoint: 'Checkpoint') -> dict[str, dict]:
    """Metrics by engine."""
    from frostnet_mm.deploy.evaluation import evaluate_engines

    if not args.compare:
        runner.call_hook('before_run')
    precision = execution_of_engines(args, checkpoint)
    options = (args.engine, precision, args.cfg_options, args.weight_bits, not args.no_verify)
    return dict(evaluate_engines(runner, args.config, checkpoint, *options))


def main() -> None:
    args = parse_args()
    require_config(args.config)
    require_checkpoint(args.checkpoint)
    from mmengine.evaluator import DumpResults

    from frostnet_mm.apis.evaluation import comparison_table, configure_execution, evaluate_all, load_runner_weights
    from frostnet_mm.engine.config import load_config
    from frostnet_mm.engine.runner import build_runner, settle_work_dir
    from frostnet_mm.quantization.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(args.checkpoint, args.classes)
    execution = checkpoint.execution('converted' if args.compare else args.execution)
    cfg = load_config(args.config, args.cfg_options, classes=checkpoint.classes)
    settle_work_dir(cfg, args.config, args.work_dir)
    cfg.load_from, cfg.resume = None, False
    configure_execution(cfg, checkpoint, execution, args.weight_bits)
    if args.show_dir:
        draw_into(cfg, args.show_dir)
    runner = build_runner(cfg, args.launcher)
    checkpoint.compare(cfg)
    checkpoint.check_names(cfg)
    checkpoint.dataset_meta_for(cfg)  # says whose classes they are, and refuses too many or too few
    load_runner_weights(runner, checkpoint)
    if args.out and args.out.endswith('.pkl'):
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    if args.compare or args.engine:
        execution, metrics = 'compared', evaluate_all(runner) if args.compare else {}
        if args.engine:
            metrics |= engine_metrics(runner, args, checkpoint)
        if runner.rank == 0:
            print(f'\n{comparison_table(metrics)}')
    else:
        metrics = evaluate(runner, args, cfg)
    if args.out and args.out.endswith('.json') and runner.rank == 0:
        report = dict(config=args.config, checkpoint=args.checkpoint, execution=execution, metrics=metrics)
        if checkpoint.quantized:
            report['weight_bits'] = checkpoint.settings_with(args.weight_bits).scheme.weight_bits
        write_text(args.out, json.dumps(report, indent=1, default=float))
    if runner.rank == 0:
        print(f'\n{_next_step(args, checkpoint, cfg)}')


def _next_step(args: argparse.Namespace, checkpoint: 'Checkpoint', cfg: 'Config') -> str:
    if not checkpoint.quantized:
        return f'Make it INT8: {tool_command("calibrate", args.config, args.checkpoint, *_given(args), args=args)}'
    engine = args.engine[0] if args.engine else 'openvino'
    out = f'deploy/{Path(args.config.split("::")[-1]).stem}-{engine}'
    words = (args.config, args.checkpoint, '--engine', engine, '--out', out, *_size(cfg), *_given(args))
    return f'Deploy it: {tool_command("deploy", *words, args=args)}'


def _size(cfg: 'Config') -> list:
    """The option that a test pipeline needs which leaves the size of images open: a segmenter's scale, or none."""
    from frostnet_mm.deploy.heads.preprocessing import resize_and_pad
    from frostnet_mm.engine.config import dataset_for_testing
    from frostnet_mm.engine.image_sizes import image_sizes

    try:
        resize_and_pad(cfg)
    except ConfigError:  # the pipeline does something that cannot be deployed, as deploying says
        return []
    sizes = image_sizes(dataset_for_testing(cfg).pipeline)
    if sizes.fixed is not None:
        return []
    bounded = not sizes.cropped and math.inf not in sizes.most
    return ['--shape', *sizes.nominal] if bounded else ['--dynamic']


def _given(args: argparse.Namespace) -> list:
    """The options that the next tool takes as well."""
    bits = ['--weight-bits', args.weight_bits] if args.weight_bits else []
    return [*bits, '--classes', *args.classes] if args.classes else bits


if __name__ == '__main__':
    run_tool(main)
