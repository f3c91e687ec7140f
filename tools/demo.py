"""From nothing to INT8 on engines: generate data, train with StatAssist and GradBoost, deploy, evaluate, time, draw.

What an earlier run finished is reused.

make demo        # a detector: python tools/demo.py
make demo-seg    # a segmenter: python tools/demo.py segmentation
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401
from _demo_engines import HEADINGS, ROUNDS, SECONDS, EngineDemo, installed_engines, summary, weight_bits, write_page

from frostnet_mm.cli import run_tool
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.files import write_text

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.dataset import BaseDataset
    from torch import nn

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Demo:
    """One of the demos.

    Args:
        config (str): Name of its config.
        model (str): What the model is, in words.
        data (str): Where the generated data lies, unless told otherwise.
        generate (Callable): Writes the data into a folder and returns the counts of 'train' and 'val'.
        unit (str): What the length of the training is counted in: 'epoch' or 'iter', as mm's checkpoints are named.
        length (int): Length of the training.
        draw (Callable): Takes the config, the model, the test data and a path, and draws predictions there.
        drawn (str): What the picture shows.
        shape (tuple[int, int]): Height and width of the images.
        images (Sequence[int]): Test images that an engine's deployment draws.
    """

    config: str
    model: str
    data: str
    generate: Callable[[str], dict]
    unit: str
    length: int
    draw: 'Callable[[Config, nn.Module, BaseDataset, Path], None]'
    drawn: str
    shape: tuple[int, int]
    images: Sequence[int]

    @property
    def path(self) -> Path:
        """The config file."""
        return ROOT / 'configs' / self.config


def generate_images(folder: str) -> dict:
    from frostnet_mm.data.generated.mini_coco import generate_mini_coco

    return generate_mini_coco(folder)


def generate_streets(folder: str) -> dict:
    from frostnet_mm.data.generated.mini_cityscapes import generate_mini_cityscapes

    return generate_mini_cityscapes(folder)


def draw_detections(cfg: 'Config', model: 'nn.Module', dataset: 'BaseDataset', path: Path) -> None:
    from frostnet_mm.apis.inference import build_visualizer
    from frostnet_mm.apis.visualization.training_plots import draw_sheet

    draw_sheet(model, dataset, build_visualizer(cfg, model.dataset_meta), list(range(0, 24, 2)), path)


def draw_streets(cfg: 'Config', model: 'nn.Module', dataset: 'BaseDataset', path: Path) -> None:
    from frostnet_mm.apis.visualization.segmentation_plots import draw_segmentation_sheet

    draw_segmentation_sheet(model, dataset, list(range(6)), path)


DEMOS = dict(
    detection=Demo(
        config='examples/ssdlite_frostnet_qat_minicoco.py',
        model='SSDLite on FrostNet small at width 0.5',
        data='data/mini_coco',
        generate=generate_images,
        unit='epoch',
        length=8,
        draw=draw_detections,
        drawn='truth on the left, prediction on the right',
        shape=(256, 256),
        images=range(0, 12, 2),
    ),
    segmentation=Demo(
        config='examples/espnetv2_frostnet_qat_minicityscapes.py',
        model="ESPNetv2's decoder on FrostNet small at width 0.5",
        data='data/mini_cityscapes',
        generate=generate_streets,
        unit='iter',
        length=800,
        draw=draw_streets,
        drawn='image, truth, prediction',
        shape=(128, 256),
        images=range(6),
    ),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train, evaluate and draw a small INT8 network on generated data.')
    parser.add_argument('task', nargs='?', choices=list(DEMOS), default='detection', help='(default: %(default)s)')
    parser.add_argument('--work-dir', help='default work_dirs/demo, or work_dirs/demo_segmentation')
    parser.add_argument('--data', help='where the generated data lies; default data/mini_coco or data/mini_cityscapes')
    parser.add_argument(
        '--epochs', type=int, help='length of the detection demo; default 8, of which 2 are float warm-up'
    )
    parser.add_argument('--iterations', type=int, help='length of the segmentation demo; default 800')
    args = parser.parse_args()
    args.demo = DEMOS[args.task]
    wrong, right = ('iterations', 'epochs') if args.demo.unit == 'epoch' else ('epochs', 'iterations')
    if getattr(args, wrong) is not None:
        parser.error(f'--{wrong}: the {args.task} demo is counted in {right}: use --{right}')
    args.length = getattr(args, right) or args.demo.length
    args.data = args.data or args.demo.data
    args.work_dir = args.work_dir or ('work_dirs/demo' if args.task == 'detection' else f'work_dirs/demo_{args.task}')
    return args


def prepare(args: argparse.Namespace) -> 'tuple[Config, Path]':
    """The demo's config and work dir; a work dir of other settings is moved aside."""
    cfg = load_config(args.demo.path, dict(data_root=args.data))
    schedule = cfg.param_scheduler[-1]
    if args.length <= schedule.get('begin', 0):
        raise ConfigError(
            f'The learning rate of this demo rises for {schedule.begin} {args.demo.unit}s, so it cannot end after '
            f'{args.length}: expected more.'
        )
    schedule.update({key: args.length for key in ('T_max', 'end') if key in schedule})
    cfg.train_cfg[f'max_{args.demo.unit}s'] = args.length
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


def train(cfg: 'Config', work_dir: Path, args: argparse.Namespace) -> Path:
    """Train, or go on where an earlier run was interrupted; return the last checkpoint."""
    checkpoint = work_dir / f'{args.demo.unit}_{args.length}.pth'
    if checkpoint.is_file():
        print(f'Training was done before: {checkpoint}')
        return checkpoint
    from frostnet_mm.engine.runner import build_runner

    cfg.resume = (work_dir / 'last_checkpoint').is_file()
    build_runner(cfg.copy()).train()
    return checkpoint


def evaluate(cfg: 'Config', engines: EngineDemo) -> dict:
    """Metrics in float, in simulated INT8, as integers, and in INT8 on the engines."""
    from frostnet_mm.apis.evaluation import configure_execution, evaluate_all, load_runner_weights
    from frostnet_mm.engine.runner import build_runner
    from frostnet_mm.quantization.checkpoint import Checkpoint

    known = engines.metrics()
    if known and all(name in known for name in engines.engines):
        return known
    cfg = cfg.copy()
    cfg.resume, cfg.load_from = False, None
    cfg.experiment_name = f'demo_test_{time.time_ns()}'
    opened = Checkpoint.open(engines.checkpoint)
    configure_execution(cfg, opened, 'float', weight_bits())
    runner = build_runner(cfg)
    load_runner_weights(runner, opened)
    if not known:
        engines.keep(evaluate_all(runner))
    return engines.evaluate(runner, opened)


def main() -> None:
    args = parse_args()
    from mmengine.registry import DATASETS

    from frostnet_mm.apis.model import load_model
    from frostnet_mm.apis.visualization.training_plots import draw_curves
    from frostnet_mm.benchmark.report.tables import markdown_table

    demo, started = args.demo, time.monotonic()
    counts = demo.generate(args.data)
    cfg, work_dir = prepare(args)
    config = work_dir / 'config.py'
    write_text(config, cfg.pretty_text)
    checkpoint = train(cfg, work_dir, args)
    engines = EngineDemo(config, checkpoint, work_dir, demo.shape, installed_engines())
    metrics, rows = evaluate(cfg, engines), engines.time()
    curves, sheet = work_dir / 'curves.png', work_dir / 'predictions.png'
    model, _ = load_model(config, checkpoint)  # registers what the data set is made of, too
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    if not (curves.is_file() and sheet.is_file()):
        draw_curves(work_dir, curves, title=f'{demo.model}, on generated data')
        demo.draw(cfg, model, dataset, sheet)
    plots = [('The training', curves), (f'In simulated INT8: {demo.drawn}', sheet)]
    if engines.engines:
        caption = f'Drawn by predictor.py of the deployment to {engines.engines[0]}, in INT8'
        plots.append((caption, engines.draw(dataset, demo.images)))
    about = (
        f'{demo.model}, trained in simulated INT8 from scratch (StatAssist, GradBoost) on '
        f'{counts["train"]["images"]} synthetic images, evaluated on {counts["val"]["images"]} others.'
    )
    notes = [about, f'{ROUNDS} turns of {SECONDS} s a cell, one thread, one image; * the machine was busy meanwhile.']
    lines, report = list(summary(metrics, rows)), work_dir / 'report.html'
    write_page(report, f'{demo.model} in INT8', lines, rows, plots, notes)
    print(f'\n{about} The same weights everywhere:\n\n{markdown_table(HEADINGS, lines)}\n\n{notes[1]}')
    print(
        f'\ntook {time.monotonic() - started:.0f} s\n  report       {report}\n  checkpoint   {checkpoint}\n'
        f'  deployments  {work_dir}/deploy/*\n  all metrics  {engines.results}\n  logs         {work_dir}/*/*.log'
    )


if __name__ == '__main__':
    run_tool(main)
