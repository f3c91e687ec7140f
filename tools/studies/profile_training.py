"""Say where the time of a training step goes: data, network, targets and losses, backward, optimizer, and operators.

python tools/studies/profile_training.py configs/ssdlite_frostnet_custom.py --threads 1 --cfg-options data_root=my/data
"""

import argparse
import time
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

import _tools  # noqa: F401

from frostnet_mm.cli import add_config_options, run_tool
from frostnet_mm.engine.config import load_config

if TYPE_CHECKING:
    import torch

PHASES = ('data', 'preprocess', 'network', 'targets and losses', 'backward', 'optimizer')
NETWORK = ('backbone', 'neck', 'bbox_head', 'rpn_head', 'decode_head', 'auxiliary_head')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Say where the time of a training step goes.')
    parser.add_argument('config')
    parser.add_argument('--steps', type=int, default=10, help='measured steps, after 3 of warm-up; default 10')
    parser.add_argument('--threads', type=int, help="torch's threads; default as torch chooses")
    parser.add_argument('--operators', type=int, default=12, help='rows of the operator table; 0 leaves it out')
    add_config_options(parser)
    return parser.parse_args()


class Stopwatch:
    """Time of the phases of one step in seconds; on a GPU the queue is emptied at each reading."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.mark = time.perf_counter()

    def read(self, phase: str) -> None:
        """Add the time since the last reading to a phase."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[phase] += now - self.mark
        self.mark = now


def watch_network(model: 'torch.nn.Module', current: list[Stopwatch]) -> None:
    """Count the time between entry and exit of backbone, neck and heads as the network's."""
    import torch

    for name in NETWORK:
        module = getattr(model, name, None)
        if isinstance(module, torch.nn.Module):
            module.register_forward_pre_hook(lambda *_: current[0].read('targets and losses'))
            module.register_forward_hook(lambda *_: current[0].read('network'))


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    import torch
    from torch.profiler import ProfilerActivity, profile

    from frostnet_mm.engine.runner import build_runner, settle_work_dir

    if args.threads:
        torch.set_num_threads(args.threads)
    settle_work_dir(cfg, args.config, 'work_dirs/profile')
    cfg.train_dataloader.num_workers = 0  # so that loading shows up as time of its own
    cfg.train_dataloader.persistent_workers = False
    runner = build_runner(cfg)
    loader = runner.build_dataloader(cfg.train_dataloader, seed=0)
    optimizer = runner.build_optim_wrapper(cfg.optim_wrapper)
    runner._init_model_weights()
    model = runner.model.train()
    current = [Stopwatch()]
    watch_network(model, current)

    def batches():
        while True:
            yield from loader

    source = batches()

    def step() -> dict[str, float]:
        watch = current[0] = Stopwatch()
        batch = next(source)
        watch.read('data')
        batch = model.data_preprocessor(batch, True)
        watch.read('preprocess')
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
        watch.read('targets and losses')
        optimizer.backward(optimizer.scale_loss(loss))
        watch.read('backward')
        optimizer.step()
        optimizer.zero_grad()
        watch.read('optimizer')
        return watch.seconds

    for _ in range(3):
        step()
    measured = [step() for _ in range(args.steps)]
    batch_size = cfg.train_dataloader.batch_size
    totals = [sum(m.values()) for m in measured]
    print(
        f'\n{args.config}: batch {batch_size}, {torch.get_num_threads()} threads, channels_last '
        f'{bool(cfg.get("channels_last"))}, torch {torch.__version__}, {next(model.parameters()).device}'
    )
    for phase in PHASES:
        share = median(m[phase] / t for m, t in zip(measured, totals, strict=True))
        print(f'  {phase:20s} {median(m[phase] for m in measured) * 1000:8.1f} ms  {share:6.1%}')
    print(
        f'  {"step":20s} {median(totals) * 1000:8.1f} ms  {batch_size / median(totals):.2f} images/s '
        f'(from {min(totals) * 1000:.0f} to {max(totals) * 1000:.0f} ms over {args.steps} steps)'
    )
    if args.operators:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        with profile(activities=activities) as profiler:
            step()
        key = 'self_cuda_time_total' if torch.cuda.is_available() else 'self_cpu_time_total'
        print(profiler.key_averages().table(sort_by=key, row_limit=args.operators, max_name_column_width=40))


if __name__ == '__main__':
    run_tool(main)
