"""From nothing to an INT8 detector: generate data, train with StatAssist and GradBoost, evaluate, draw.

What an earlier run finished is reused.

make demo
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import _path  # noqa: F401
from mmengine.config import Config
from mmengine.registry import DATASETS

from frostnet_mm.data.mini_coco import generate_mini_coco
from frostnet_mm.engine.cli import run_tool
from frostnet_mm.engine.config import load_config
from frostnet_mm.engine.evaluation import comparison_table, configure_execution, evaluate_all, load_runner_weights
from frostnet_mm.engine.figures import draw_curves, draw_sheet
from frostnet_mm.engine.inference import build_visualizer, load_model
from frostnet_mm.engine.runner import build_runner
from frostnet_mm.files import write_text
from frostnet_mm.models import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'configs' / 'ssdlite_frostnet_qat_minicoco.py'
SHEET_IMAGES = range(0, 24, 2)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train, evaluate and draw a small detector on generated data.')
    parser.add_argument('--work-dir', default='work_dirs/demo')
    parser.add_argument('--data', default='data/mini_coco', help='where the generated data lies')
    parser.add_argument('--epochs', type=int, default=8, help='default 8, of which 2 are float warm-up')
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> tuple[Config, Path]:
    """The demo's config and work dir; a work dir of other settings is moved aside."""
    cfg = load_config(CONFIG, dict(data_root=args.data))
    cfg.merge_from_dict(
        {
            'train_cfg.max_epochs': args.epochs,
            'param_scheduler.1.T_max': args.epochs,
            'param_scheduler.1.end': args.epochs,
        }
    )
    work_dir = Path(args.work_dir)
    cfg.work_dir = str(work_dir)
    digest = hashlib.sha256(json.dumps(cfg.to_dict(), sort_keys=True, default=str).encode()).hexdigest()
    stamp = work_dir / 'settings.sha256'
    if work_dir.exists() and not (stamp.is_file() and stamp.read_text() == digest):
        aside = work_dir.with_name(f'{work_dir.name}.{time.strftime("%Y%m%d_%H%M%S")}')
        work_dir.rename(aside)
        print(f'{work_dir} was made with other settings: moved to {aside}.')
    write_text(stamp, digest)
    return cfg, work_dir


def train(cfg: Config, work_dir: Path) -> Path:
    """Train, or go on where an earlier run was interrupted; return the last checkpoint."""
    checkpoint = work_dir / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    if checkpoint.is_file():
        print(f'Training was done before: {checkpoint}')
        return checkpoint
    cfg.resume = (work_dir / 'last_checkpoint').is_file()
    build_runner(cfg.copy()).train()
    return checkpoint


def evaluate(cfg: Config, checkpoint: Path) -> dict:
    """Metrics in float, in simulated INT8 and as integers."""
    cfg = cfg.copy()
    cfg.resume, cfg.load_from = False, None
    cfg.experiment_name = f'demo_test_{time.time_ns()}'
    content = read_checkpoint(checkpoint)
    configure_execution(cfg, content, 'float')
    runner = build_runner(cfg)
    load_runner_weights(runner, content, str(checkpoint))
    return evaluate_all(runner)


def main() -> None:
    args = parse_args()
    started = time.monotonic()
    counts = generate_mini_coco(args.data)
    cfg, work_dir = prepare(args)
    checkpoint = train(cfg, work_dir)
    figures = work_dir / 'figures.json'
    if not figures.is_file():
        write_text(figures, json.dumps(evaluate(cfg, checkpoint), indent=1))
    curves, sheet = work_dir / 'curves.png', work_dir / 'predictions.png'
    if not (curves.is_file() and sheet.is_file()):
        draw_curves(work_dir, curves, title='SSDLite-FrostNet on generated data')
        model, _ = load_model(CONFIG, checkpoint, cfg_options=dict(data_root=args.data))
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        draw_sheet(model, dataset, build_visualizer(cfg, model.dataset_meta), list(SHEET_IMAGES), sheet)
    metrics = json.loads(figures.read_text())
    print(
        '\nSSDLite on FrostNet small at width 0.5, trained in simulated INT8 from scratch (StatAssist, GradBoost) on '
        f'{counts["train"]["images"]} synthetic images, evaluated on {counts["val"]["images"]} others. The same '
        'weights in float, in simulated INT8, and converted to integers:\n'
    )
    print(comparison_table(metrics))
    print(
        f'\ntook {time.monotonic() - started:.0f} s\n  checkpoint   {checkpoint}\n  logs         {work_dir}/*/*.log\n'
        f'  curves       {curves}\n  predictions  {sheet} (truth on the left, prediction on the right)'
    )


if __name__ == '__main__':
    run_tool(main)
