"""What differs around the switch from float to simulated INT8: QAT from the first step beside StatAssist, step by step.

python tools/studies/switch_study.py CONFIG --out work_dirs/switch_study --warmups 0 1 --seeds 0 1 \
    --cfg-options data_root=path/to/data

CONFIG is trained by its own optimizer and images, for --epochs at a constant schedule of its own length. At each step
are measured: the loss; how far activation ranges and the variances of batch norms move; the cosine between the gradient
and the optimizer's first moment of before; the length of the update against that of the weights; the second moment
against the squared gradient, which GradBoost changes (--cfg-options
optim_wrapper.optimizer.type=frostnet_mm.GradBoostAdamW). steps.json keeps all, switch.png draws it, and the table has
means of three spans. A run that is there is not made again.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import _tools  # noqa: F401

from frostnet_mm.cli import add_config_options, run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import png_of, require_config, write_bytes, write_text

if TYPE_CHECKING:
    import torch
    from mmengine.runner import Runner

SERIES = dict(
    loss='loss',
    ranges='activation ranges: absolute log2 of this step by the last, mean of layers',
    norms="batch norms' running variances: the same",
    agreement='cosine of gradient and first moment',
    update='length of the update by that of the weights',
    second='root of the second moment by that of the squared gradient, both summed',
)
SPAN = 20  # steps of a mean in the table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Measure what happens around the switch to simulated INT8.')
    parser.add_argument('config')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/switch_study'), help='folder of the results')
    parser.add_argument('--warmups', type=int, nargs='+', default=[0, 1], help='epochs of float before; default 0 1')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--epochs', type=int, default=3, help='that are trained, of a longer schedule; default 3')
    parser.add_argument('--weights', default='tensor', help="'tensor' or 'channel', as QATHook's; default tensor")
    add_config_options(parser)
    return parser.parse_args()


class Probe:
    """Measures a training step by step, from inside of the optimizer.

    Args:
        runner (Runner): Whose model is in its QATHook already, or will be.
        stop (int): Steps after which the training ends.
    """

    def __init__(self, runner: 'Runner', stop: int) -> None:
        self.runner, self.stop = runner, stop
        self.steps: dict[str, list[float]] = {name: [] for name in SERIES}
        self.before: list = []
        self.last: dict[str, torch.Tensor] = {}
        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(self.before_step)
        optimizer.register_step_post_hook(self.after_step)

    def before_step(self, optimizer: 'torch.optim.Optimizer', args: tuple, kwargs: dict) -> None:
        """Compare the gradient with the first moment, and remember the weights."""
        import torch

        dot = gradients = moments = squares = 0.0
        for parameter in self._parameters(optimizer):
            moment = optimizer.state[parameter].get('exp_avg')
            if parameter.grad is not None and moment is not None:
                dot += float(torch.sum(parameter.grad * moment))
                gradients += float(parameter.grad.square().sum())
                moments += float(moment.square().sum())
                squares += float(optimizer.state[parameter]['exp_avg_sq'].sum())
        length = (gradients * moments) ** 0.5
        self.steps['agreement'].append(dot / length if length else float('nan'))
        self.steps['second'].append((squares / gradients) ** 0.5 if gradients and squares else float('nan'))
        self.before = [parameter.detach().clone() for parameter in self._parameters(optimizer)]

    def after_step(self, optimizer: 'torch.optim.Optimizer', args: tuple, kwargs: dict) -> None:
        """Measure the update and the statistics."""
        moved = whole = 0.0
        for parameter, before in zip(self._parameters(optimizer), self.before, strict=True):
            moved += float((parameter.detach() - before).square().sum())
            whole += float(before.square().sum())
        self.steps['update'].append((moved / whole) ** 0.5)
        self.steps['ranges'].append(self._movement('ranges', self._ranges()))
        self.steps['norms'].append(self._movement('norms', self._variances()))

    def after_iteration(self, outputs: dict) -> None:
        """Keep the loss of a step, and end the training when there are enough."""
        self.steps['loss'].append(float(outputs['loss']))
        if len(self.steps['loss']) >= self.stop:
            raise StopIteration

    def _movement(self, name: str, values: 'torch.Tensor') -> float:
        """The mean distance of positive numbers to those of the last step, in powers of two."""
        values = values.log2()
        last, self.last[name] = self.last.get(name), values
        known = values.isfinite() if last is None else values.isfinite() & last.isfinite()
        return float('nan') if last is None or not known.any() else float((values - last)[known].abs().mean())

    def _parameters(self, optimizer: 'torch.optim.Optimizer') -> Iterator['torch.nn.Parameter']:
        return (parameter for group in optimizer.param_groups for parameter in group['params'])

    def _ranges(self) -> 'torch.Tensor':
        import torch

        from frostnet_mm.quantization.fake_quantize import ActivationFakeQuantize

        own = (module for module in self.runner.model.modules() if isinstance(module, ActivationFakeQuantize))
        return torch.cat([(module.max_val - module.min_val).reshape(1) for module in own])

    def _variances(self) -> 'torch.Tensor':
        import torch

        norms = torch.nn.modules.batchnorm._BatchNorm
        own = (module for module in self.runner.model.modules() if isinstance(module, norms))
        return torch.cat([module.running_var.detach().clone() for module in own])


def measure(args: argparse.Namespace, warmup: int, seed: int) -> dict[str, list[float]]:
    """Train a few epochs of a schedule; return a list of values for each of ``SERIES``, and the steps of an epoch."""
    from mmengine.hooks import Hook

    from frostnet_mm.engine.config import load_config
    from frostnet_mm.engine.runner import build_runner

    cfg = load_config(args.config, args.cfg_options)
    hook = dict(type='frostnet_mm.QATHook', warmup=f'{warmup} epochs', weights=args.weights)
    cfg.default_hooks = (cfg.get('default_hooks') or {}) | dict(qat=hook)
    cfg.randomness = dict(seed=seed, deterministic=False)
    cfg.work_dir = str(args.out / f'warmup{warmup}_seed{seed}')
    runner = build_runner(cfg)

    class ProbeHook(Hook):
        """Begins when the optimizer is there."""

        probe: Probe | None = None

        def before_train(self, runner: 'Runner') -> None:
            self.length = len(runner.train_dataloader)
            self.probe = Probe(runner, args.epochs * self.length)

        def after_train_iter(
            self, runner: 'Runner', batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
        ) -> None:
            self.probe.after_iteration(outputs)

    own = ProbeHook()
    runner.register_hook(own, 'VERY_LOW')
    try:
        runner.train()
    except StopIteration:
        pass
    return own.probe.steps | dict(epoch=own.length)


def table(found: dict[str, dict], warmups: Sequence[int], seeds: Sequence[int]) -> Iterator[str]:
    """Means of the last steps before an epoch's end, of the first ones behind it, and of the last of all."""
    yield '| | warm-up, epochs | before the first epoch ends | behind it | at the end |'
    yield '|---|---|---|---|---|'
    for name, label in SERIES.items():
        for warmup in warmups:
            cells = []
            for place in range(3):
                values = []
                for seed in seeds:
                    run = found[f'{warmup}/{seed}']
                    begin = (run['epoch'] - SPAN, run['epoch'], len(run['loss']) - SPAN)[place]
                    values += [value for value in run[name][begin : begin + SPAN] if value == value]
                cells.append(f'{mean(values):.4g}')
            yield f'| {label} | {warmup} | {" | ".join(cells)} |'


def draw(found: dict[str, dict], warmups: Sequence[int], seeds: Sequence[int]) -> bytes:
    """A panel a series; a colour for each length of the warm-up, a line for each seed."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(SERIES), 1, figsize=(9, 14), dpi=110, sharex=True, layout='constrained')
    for axis, (name, label) in zip(axes, SERIES.items(), strict=True):
        for index, warmup in enumerate(warmups):
            for seed in seeds:
                run = found[f'{warmup}/{seed}']
                title = f'{warmup} epochs of float before QAT' if seed == seeds[0] else None
                axis.plot(run[name], color=f'C{index}', linewidth=0.9, alpha=0.8, label=title)
                axis.axvline(warmup * run['epoch'], color=f'C{index}', linewidth=0.8, linestyle=':')
        axis.set_title(label, fontsize=9, loc='left')
        axis.grid(alpha=0.25)
        if name != 'agreement':
            axis.set_yscale('log')
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel('step; dotted: QAT begins')
    return png_of(figure)


def main() -> None:
    args = parse_args()
    require_config(args.config)
    path = args.out / 'steps.json'
    own = dict(config=args.config, epochs=args.epochs, weights=args.weights, options=args.cfg_options or {})
    own = json.loads(json.dumps(own))  # as it is read: lists, not tuples
    kept = json.loads(path.read_text()) if path.is_file() else dict(study=own, runs={})
    if kept.get('study') != own:
        raise UserError(f'{path} is of another study ({kept.get("study")}, now it is {own}): give another --out.')
    found = kept['runs']
    for warmup in args.warmups:
        for seed in args.seeds:
            if f'{warmup}/{seed}' not in found:
                found[f'{warmup}/{seed}'] = measure(args, warmup, seed)
                write_text(path, json.dumps(kept))
    write_bytes(args.out / 'switch.png', draw(found, args.warmups, args.seeds))
    print('\n'.join(table(found, args.warmups, args.seeds)))


if __name__ == '__main__':
    run_tool(main)
