"""Time a training step in float, in StatAssist's warm-up, in QAT and with frozen ranges, side by side.

python tools/studies/benchmark_qat.py configs/ssdlite_frostnet_custom.py --threads 1 --cfg-options data_root=my/data

A step is preprocessing, network, losses, backward and optimizer on one batch of the training data, loaded once.
"""

import argparse
import copy
import time
from statistics import median

import _tools  # noqa: F401

from frostnet_mm.cli import add_config_options, run_tool
from frostnet_mm.engine.config import load_config
from frostnet_mm.files import require_config

MODES = ('float', 'warm-up', 'QAT', 'QAT, batch norm frozen', 'QAT, batch norm and ranges frozen')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Time a training step in float and in the phases of QAT.')
    parser.add_argument('config', help='a float config')
    parser.add_argument('--rounds', type=int, default=5, help='each mode once a round; default 5')
    parser.add_argument('--steps', type=int, default=2, help='steps of a mode in a round; default 2')
    parser.add_argument('--threads', type=int, help="torch's threads; default as torch chooses")
    parser.add_argument('--numerics', default='onnx', help='default onnx')
    parser.add_argument('--operators', type=int, default=0, help='rows of an operator table of float and of QAT')
    add_config_options(parser)
    return parser.parse_args()


class Bench:
    """One model in float and its copy under quantization, fed with the same batch."""

    def __init__(self, args: argparse.Namespace) -> None:
        cfg = load_config(args.config, args.cfg_options)
        from mmengine.registry import DATASETS

        from frostnet_mm.engine.runner import build_runner, settle_work_dir
        from frostnet_mm.quantization import QuantizationSettings, prepare_model

        settle_work_dir(cfg, args.config, 'work_dirs/benchmark_qat')
        runner = build_runner(cfg)
        runner._init_model_weights()
        loader = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
        loader['dataset'] = DATASETS.build(cfg.train_dataloader.dataset)
        self.batch = next(iter(runner.build_dataloader(loader, seed=0)))
        self.cfg = cfg
        float_model = runner.model.train()
        quantized = copy.deepcopy(float_model)
        started = time.perf_counter()
        self.network = prepare_model(quantized, QuantizationSettings.of(args.numerics))
        self.capture_seconds = time.perf_counter() - started
        self.models = {mode: quantized.train() for mode in MODES[1:]} | {'float': float_model}
        self.optimizers = {}
        for model in (float_model, quantized):
            runner.model = model
            self.optimizers[id(model)] = runner.build_optim_wrapper(copy.deepcopy(cfg.optim_wrapper))

    def step(self, mode: str) -> float:
        """Run one training step; return its seconds."""
        index = MODES.index(mode)
        if index:
            self.network.simulate(index >= 2)
            self.network.observe(index <= 3)
            self.network.freeze_norms = index >= 3
        model = self.models[mode]
        optimizer = self.optimizers[id(model)]
        self.synchronize()
        started = time.perf_counter()
        model.train_step(copy.deepcopy(self.batch), optimizer)
        self.synchronize()
        return time.perf_counter() - started

    @staticmethod
    def synchronize() -> None:
        """Wait for a GPU, if there is one."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def main() -> None:
    args = parse_args()
    require_config(args.config)
    import torch
    from torch.profiler import ProfilerActivity, profile

    if args.threads:
        torch.set_num_threads(args.threads)
    bench = Bench(args)
    for mode in MODES:
        bench.step(mode)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(args.rounds):
        for mode in MODES:
            bench.step(mode)  # not counted: the caches still hold the other model
            seconds[mode] += [bench.step(mode) for _ in range(args.steps)]
    print(
        f'\n{args.config}: batch {len(bench.batch["data_samples"])}, {torch.get_num_threads()} threads, channels_last '
        f'{bool(bench.cfg.get("channels_last"))}, torch {torch.__version__}, {args.numerics} numerics; captured in '
        f'{bench.capture_seconds:.1f} s; medians of {args.rounds} rounds of {args.steps} steps'
    )
    base = median(seconds['float'])
    print(f'  {"":36s}{"median":>10s}{"min":>10s}{"max":>10s}   / float')
    for mode in MODES:
        middle = median(seconds[mode])
        times = ''.join(f'{value * 1000:7.0f} ms' for value in (middle, min(seconds[mode]), max(seconds[mode])))
        print(f'  {mode:36s}{times}   {middle / base:.3f}')
    if args.operators:
        for mode in ('float', 'QAT'):
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                bench.step(mode)
            print(f'\n{mode}')
            table = profiler.key_averages()
            print(table.table(sort_by='self_cpu_time_total', row_limit=args.operators, max_name_column_width=44))


if __name__ == '__main__':
    run_tool(main)
