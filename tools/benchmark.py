"""Measure models on engines, in float, INT8 and bf16: latency, throughput, memory and the time from image to result.

python tools/benchmark.py configs/ssdlite_frostnet_coco.py configs/ssdlite_mobilenetv2_coco.py --shape 320 320
    --engines torch,onnxruntime,openvino --precisions float,int8,bf16 --threads 1 --out work_dirs/benchmark

Without --checkpoints the weights are random, which times do not mind. Each cell of the table runs in a process of its
own, in turns with the others. Open report.html in the folder of --out; report.md, cells.csv, results.json and plots
lie beside it. The command can be stopped and repeated: what is measured already is not measured again.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from frostnet_mm.benchmark.cells import PRECISIONS, TORCH, Cell, check_engines, plan
from frostnet_mm.benchmark.measure.machine import describe_line, describe_machine
from frostnet_mm.benchmark.measure.scheduler import Effort
from frostnet_mm.benchmark.measure.timing import Limits
from frostnet_mm.cli import add_config_options, run_tool
from frostnet_mm.device import cpu_saturates
from frostnet_mm.device.engines import names as engine_files
from frostnet_mm.files import require_config, write_text

if TYPE_CHECKING:
    from mmengine.config import Config

EFFORT = Effort()
USUAL = (320, 320)  # height, width


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Measure models on engines, in float, INT8 and bf16.')
    parser.add_argument('configs', nargs='*', help='configs, or package::name of an installed package')
    parser.add_argument('--checkpoints', nargs='+', default=[], help='one for each config, "none" for random weights')
    parser.add_argument(
        '--engines',
        type=names,
        help=f'of {", ".join((TORCH, *engine_files()))}, and those that a config registers; default torch and the '
        'engines that read ONNX',
    )
    parser.add_argument('--precisions', type=names, default=default_precisions(), help=', '.join(PRECISIONS))
    parser.add_argument('--threads', type=numbers, default=[1], help='such as 1,2; default 1')
    parser.add_argument('--batch', type=numbers, default=[1], help='such as 1,8; default 1')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images; default 320 320, of classifiers that of their test pipelines',
    )
    parser.add_argument('--out', default='work_dirs/benchmark', help='folder; default work_dirs/benchmark')
    parser.add_argument('--rounds', type=int, default=EFFORT.rounds, help=f'turns of a cell; default {EFFORT.rounds}')
    parser.add_argument('--seconds', type=float, default=EFFORT.seconds, help='length of a turn; default 1')
    parser.add_argument('--image', help='for the end-to-end time; default a generated one')
    parser.add_argument('--metrics', nargs='+', default=[], metavar='FILE.json', help='of tools/test.py --out')
    parser.add_argument('--profile', action='store_true', help='print the time by layer in the engines')
    parser.add_argument('--by-operator', action='store_true', help='measure each kind and shape of operator')
    parser.add_argument('--zero-point', type=int, default=0, help='of activations in --by-operator; default 0')
    parser.add_argument('--allow-busy', action='store_true', help='let times of a busy machine count, marked')
    parser.add_argument('--again', action='store_true', help='measure what was measured already')
    add_config_options(parser)
    args = parser.parse_args()
    if not args.configs and not args.by_operator:
        parser.error('expected configs, or --by-operator')
    if args.rounds < 1 or args.seconds <= 0:
        parser.error(f'--rounds {args.rounds} --seconds {args.seconds}: expected numbers above 0')
    if not 0 <= args.zero_point <= 255:
        parser.error(f'--zero-point {args.zero_point}: expected 0 to 255')
    return args


def default_precisions() -> list[str]:
    """All; weights of 7 bits where 8 may saturate."""
    return [name for name in PRECISIONS if name != 'int8w7' or cpu_saturates()]


def names(text: str) -> list[str]:
    """Words between commas."""
    return [word for word in text.split(',') if word]


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(word) for word in names(text)]


def default_engines() -> list[str]:
    """torch, and the engines that read ONNX, with those that the configs have registered."""
    from frostnet_mm.deploy.engines import engine_of, running_engines

    return [TORCH, *(name for name in running_engines() if engine_of(name).reads_onnx)]


def with_options(args: argparse.Namespace, config: str) -> 'tuple[str, Config]':
    """A config, and its file with ``--cfg-options`` in it, which the processes that measure can read."""
    from frostnet_mm.engine.config import load_config

    cfg = load_config(config, args.cfg_options)  # registers its engines; what is wrong with it is said now
    if not args.cfg_options:
        return config, cfg
    path = Path(args.out) / 'configs' / f'{Path(config.split("::")[-1]).stem}.py'
    write_text(path, cfg.pretty_text)
    return str(path), cfg


def usual_shape(configs: 'list[Config]') -> tuple[int, int]:
    """Height and width at which models are measured when none is given.

    Raises:
        ConfigError: It is not the same for all, or a classifier's test pipeline leaves it open.
    """
    from frostnet_mm.apis.swap.parts import is_classifier
    from frostnet_mm.apis.swap.swap import input_shape
    from frostnet_mm.engine.config import ConfigError

    sizes = sorted({input_shape(cfg) if is_classifier(cfg.model) else USUAL for cfg in configs})
    if len(sizes) > 1:
        found = ' and '.join(f'{height} {width}' for height, width in sizes)
        raise ConfigError(f'The usual shapes of these configs are {found}: give one for all, --shape HEIGHT WIDTH.')
    return sizes[0]


def by_operator(args: argparse.Namespace, machine: dict, engines: list[str]) -> None:
    """Measure and print what operators cost."""
    from frostnet_mm.benchmark.measure.operator_costs import OperatorEffort, measure_operators, operator_store
    from frostnet_mm.benchmark.measure.operators import CASES
    from frostnet_mm.benchmark.report.operator_table import HEADINGS, operator_tables
    from frostnet_mm.benchmark.report.tables import markdown_table

    store = operator_store(args.out, machine)
    cases = [replace(case, zero_point=args.zero_point) for case in CASES]
    options = (OperatorEffort(), Limits(), args.allow_busy, args.again, cases, say)
    found = measure_operators(store, engines, args.threads, *options)
    for heading, lines in operator_tables(found, args.allow_busy):
        print(f'\n{heading}\n\n{markdown_table(HEADINGS, lines)}')


def by_cell(args: argparse.Namespace, machine: dict, cells: list[Cell]) -> None:
    """Measure and print the cells of the table."""
    from frostnet_mm.benchmark.report.publish import profile_table
    from frostnet_mm.benchmark.report.tables import make_rows, markdown_table, read_metrics, settings, table
    from frostnet_mm.benchmark.runs import Benchmark

    effort = Effort(rounds=args.rounds, seconds=args.seconds)
    metrics = read_metrics(args.metrics)
    options = dict(allow_busy=args.allow_busy, again=args.again, image=args.image, metrics=metrics, say=say)
    benchmark = Benchmark(Path(args.out), machine, effort, Limits(), **options)
    results = benchmark.measure(cells, args.profile)
    for heading, group in settings(make_rows(results, args.allow_busy, metrics)):
        print(f'\n{heading}\n\n{markdown_table(*table(group))}')
    if args.profile:
        for result in (result for result in results if result.profile):
            heading, headings, lines, _ = profile_table(result)
            print(f'\n{heading}\n\n{markdown_table(headings, lines)}')
    print(f'\n{args.out}/report.html')


def say(line: str) -> None:
    """Print at once, to a file too."""
    print(line, flush=True)


def main() -> None:
    args = parse_args()
    for config in args.configs:
        require_config(config)  # before what reads configs is imported
    read = [with_options(args, config) for config in args.configs]
    configs = [path for path, _ in read]
    engines = default_engines() if args.engines is None else args.engines
    check_engines(engines)
    machine = describe_machine()
    say(describe_line(machine))
    cells = []
    if configs:
        shape = tuple(args.shape or usual_shape([cfg for _, cfg in read]))
        options = (engines, args.precisions, args.threads, args.batch, shape)
        cells = plan(configs, args.checkpoints, *options)
    if args.by_operator:
        by_operator(args, machine, engines)
    by_cell(args, machine, cells)


if __name__ == '__main__':
    run_tool(main)
