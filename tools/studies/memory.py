"""Memory of a long training and of a predictor that runs long: the resident set, and by how much it grows.

python tools/studies/memory.py train tests/golden/detector.py --cfg-options data_root=tests/golden/coco ...
python tools/studies/memory.py predict tests/golden/deployment tests/golden/coco/val2017/000000.png
"""

import argparse
import sys
from pathlib import Path

import _tools  # noqa: F401
import numpy as np

from frostnet_mm.cli import add_config_options, run_tool
from frostnet_mm.files import require_config

POINTS = 20  # lines of output
PAGE = 4096  # bytes, of /proc/self/statm


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Show how the memory of a training or a predictor grows.')
    commands = parser.add_subparsers(dest='command', required=True)
    train = commands.add_parser('train', help='iterations of a training')
    train.add_argument('config')
    train.add_argument('--iterations', type=int, default=2000)
    train.add_argument('--work-dir', default='work_dirs/memory')
    add_config_options(train)
    predict = commands.add_parser('predict', help='calls of a predictor')
    predict.add_argument('folder', help='a deployment')
    predict.add_argument('image')
    predict.add_argument('--calls', type=int, default=10000)
    return parser.parse_args()


class Record:
    """Resident memory by step, printed as it goes.

    Args:
        what (str): What is counted.
        total (int): How many there will be.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.steps, self.sizes = what, total, [], []

    def note(self, step: int) -> None:
        """Note the memory behind a step, counted from 1."""
        if step % max(1, self.total // POINTS) == 0:
            self.steps.append(step)
            self.sizes.append(resident())
            print(f'{step} {self.what}: {self.sizes[-1]:.1f} MiB', flush=True)

    def summary(self) -> str:
        """The slope over the second half, in which everything has been used before."""
        half = len(self.steps) // 2
        slope = np.polyfit(self.steps[half:], self.sizes[half:], 1)[0]
        return (
            f'{self.sizes[0]:.1f} MiB after {self.steps[0]} {self.what}, {self.sizes[-1]:.1f} MiB after '
            f'{self.steps[-1]}; slope of the second half {1024 * 1000 * slope:.1f} KiB per 1000'
        )


def resident() -> float:
    """The resident set of this process in MiB."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * PAGE / 2**20


def train(args: argparse.Namespace) -> str:
    """Train for some iterations."""
    require_config(args.config)
    from mmengine.hooks import Hook

    from frostnet_mm.engine.config import load_config
    from frostnet_mm.engine.runner import build_runner, settle_work_dir

    record = Record('iterations', args.iterations)

    class Memory(Hook):
        def after_train_iter(self, runner, *args, **kwargs) -> None:
            record.note(runner.iter + 1)
            if runner.iter + 1 == record.total:
                print(record.summary())
                sys.exit(0)

    cfg = load_config(args.config, args.cfg_options)
    settle_work_dir(cfg, args.config, args.work_dir)
    runner = build_runner(cfg)
    runner.register_hook(Memory())
    runner.train()
    return f'The training ended before {args.iterations} iterations.'


def predict(args: argparse.Namespace) -> str:
    """Call a predictor again and again."""
    from frostnet_mm.device.predictor import Predictor

    record, predictor = Record('calls', args.calls), Predictor(args.folder)
    for step in range(1, args.calls + 1):
        predictor.predict(args.image)
        record.note(step)
    return record.summary()


def main() -> None:
    args = parse_args()
    print({'train': train, 'predict': predict}[args.command](args))


if __name__ == '__main__':
    run_tool(main)
