"""Time the step of each GradBoost optimizer against its torch.optim class, on a detector's parameters.

python tools/studies/benchmark_gradboost.py configs/ssdlite_frostnet_coco.py --threads 1

Gradients are random, and so are the images and boxes of the forward and backward pass; no data set is needed.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import TYPE_CHECKING

import _tools  # noqa: F401

from frostnet_mm.cli import add_config_options, run_tool
from frostnet_mm.engine.config import load_config

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config

BASES = {
    'SGD': dict(lr=1e-4, momentum=0.9, weight_decay=4e-5),
    'RMSprop': dict(lr=1e-4, momentum=0.9, weight_decay=4e-5),
    'Adam': dict(lr=1e-4),
    'AdamW': dict(lr=1e-4),
}
# name, options, quantized phase
VARIANTS = (
    ('float phase', dict(), False),
    ('paper', dict(mode='paper', noise_decay=0.0), True),
    ('reference', dict(mode='reference', noise_decay=0.0), True),
    ('boost over', dict(mode='paper', noise_decay=1 - 1e-9), True),  # over after the first step
)
WARM_UP = 3
GRADIENT_SCALE = 1e-3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Time GradBoost optimizers against their torch.optim classes.')
    parser.add_argument('config', nargs='?', default='configs/ssdlite_frostnet_coco.py')
    parser.add_argument('--rounds', type=int, default=21, help='measured rounds of each optimizer; default 21')
    parser.add_argument('--passes', type=int, default=5, help='measured forward and backward passes; default 5')
    parser.add_argument('--batch-size', type=int, help="images of a pass; default the config's")
    parser.add_argument('--size', type=int, default=320, help='height and width of the images; default 320')
    parser.add_argument('--threads', type=int, help="torch's threads; default as torch chooses")
    parser.add_argument('--seed', type=int, default=0)
    add_config_options(parser)
    return parser.parse_args()


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of a call; on a GPU the queue is emptied before and after."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1000


def spread(times: list[float]) -> str:
    low, _, high = quantiles(times, n=4)
    return f'{median(times):.1f} ({low:.1f} to {high:.1f})'


def build_detector(cfg: 'Config') -> 'torch.nn.Module':
    import torch
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    model.init_weights()
    if cfg.get('channels_last'):
        model.to(memory_format=torch.channels_last)
    return model.to('cuda' if torch.cuda.is_available() else 'cpu').train()


def random_batch(batch_size: int, size: int, device: 'torch.device') -> dict:
    """Images of noise with 7 boxes each, as many as COCO's have on average."""
    import torch
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = []
    for _ in range(batch_size):
        corners = torch.rand(7, 2, device=device) * size * 0.6
        boxes = torch.cat([corners, corners + 16 + torch.rand(7, 2, device=device) * size * 0.3], 1)
        labels = torch.randint(10, (7,), device=device)
        shapes = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape'), (size, size))
        sample = DetDataSample(metainfo=dict(shapes, scale_factor=(1, 1)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        samples.append(sample)
    return dict(inputs=torch.randn(batch_size, 3, size, size, device=device), data_samples=samples)


def time_passes(model: 'torch.nn.Module', batch: dict, count: int) -> list[float]:
    """Times of the forward and backward pass, losses included."""

    def run() -> None:
        model.zero_grad()
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
        loss.backward()

    return [timed(run) for _ in range(WARM_UP + count)][WARM_UP:]


def time_optimizers(parameters: 'list[torch.Tensor]', name: str, rounds: int) -> dict[str, list[float]]:
    """Times of the base class and of each variant, interleaved: one step of each in every round, in turning order."""
    import torch

    from frostnet_mm.engine.optimizers import gradboost

    arguments = BASES[name]
    makers = {'plain': (lambda copies: getattr(torch.optim, name)(copies, **arguments))}
    for label, options, boosting in VARIANTS:

        def make(copies, options=options, boosting=boosting):
            optimizer = getattr(gradboost, f'GradBoost{name}')(copies, **arguments, **options)
            optimizer.boost(boosting)
            return optimizer

        makers[label] = make
    gradients = [[torch.randn_like(p) * GRADIENT_SCALE for p in parameters] for _ in range(2)]
    optimizers, times = {}, {label: [] for label in makers}
    for label, make in makers.items():
        optimizers[label] = make([torch.nn.Parameter(p.detach().clone()) for p in parameters])
    order = list(optimizers)
    for round_index in range(WARM_UP + rounds):
        for label in order:
            copies = optimizers[label].param_groups[0]['params']
            for copy, gradient in zip(copies, gradients[round_index % 2], strict=True):
                copy.grad = gradient
            times[label].append(timed(optimizers[label].step))
        order.append(order.pop(0))
    return {label: series[WARM_UP:] for label, series in times.items()}


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = build_detector(cfg)
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    batch_size = args.batch_size or cfg.train_dataloader.batch_size
    passes = time_passes(model, random_batch(batch_size, args.size, device), args.passes)
    print(
        f'\n{args.config}: {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters in {len(parameters)} tensors, '
        f'{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, seed {args.seed}'
    )
    print(f'forward and backward, batch {batch_size} of {args.size}x{args.size}: {spread(passes)} ms')
    print(f'median (quartiles) of {args.rounds} interleaved rounds; training step = forward, backward and optimizer\n')
    print('| optimizer | step, ms | against plain | share of a training step | training step against plain |')
    print('|---|---|---|---|---|')
    for name in BASES:
        times = time_optimizers(parameters, name, args.rounds)
        plain = median(times['plain'])
        for label, series in times.items():
            ratio = median(t / p for t, p in zip(series, times['plain'], strict=True))
            total = median(passes) + median(series)
            print(
                f'| {name}, {label} | {spread(series)} | {ratio:.2f} | {median(series) / total:.1%} '
                f'| {total / (median(passes) + plain):.3f} |'
            )


if __name__ == '__main__':
    run_tool(main)
