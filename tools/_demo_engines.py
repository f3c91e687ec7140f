"""The demo's second half: the trained network on engines, evaluated, timed, drawn and reported in one page."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frostnet_mm.files import write_bytes, write_text

if TYPE_CHECKING:
    from mmengine.dataset import BaseDataset
    from mmengine.runner import Runner

    from frostnet_mm.benchmark.report.tables import Row
    from frostnet_mm.quantization.checkpoint import Checkpoint

ENGINES = ('openvino', 'onnxruntime')
ROUNDS, SECONDS = 5, 0.5  # of a timing, shorter than tools/benchmark.py takes by default
TORCH_NAMES = dict(float='float', simulated='simulated INT8', converted='converted to integers')
TIMES = ('network ms', '/ float', 'file MiB')  # as the columns of tools/benchmark.py
HEADINGS = ('runs in', 'arithmetic', 'metric', *TIMES)


def installed_engines() -> list[str]:
    """Those of ENGINES that this environment has; what is left out is said."""
    from frostnet_mm.deploy.engines import engine_of
    from frostnet_mm.device import DeploymentError

    found = []
    for name in ENGINES:
        try:
            engine_of(name).require()
            found.append(name)
        except DeploymentError as error:
            print(f'{name} is left out: {error}')
    return found


def weight_bits() -> int:
    """7 where the sums of 8-bit weights may saturate on this CPU, else 8."""
    from frostnet_mm.device import cpu_saturates

    return 7 if cpu_saturates() else 8


@dataclass
class EngineDemo:
    """A trained network, and where its results lie.

    Args:
        config (Path): The config, with all options in it.
        checkpoint (Path): The checkpoint.
        work_dir (Path): The folder of the demo.
        shape (tuple[int, int]): Height and width of the images that are timed.
        engines (Sequence[str]): Names of engines.
    """

    config: Path
    checkpoint: Path
    work_dir: Path
    shape: tuple[int, int]
    engines: Sequence[str]

    @property
    def results(self) -> Path:
        """The metrics, as ``tools/test.py --compare --out`` writes them."""
        return self.work_dir / 'results.json'

    def metrics(self) -> dict[str, dict]:
        """What is evaluated so far, by arithmetic or engine."""
        return json.loads(self.results.read_text())['metrics'] if self.results.is_file() else {}

    def keep(self, metrics: dict[str, dict]) -> None:
        """Write metrics, beside what belongs to them."""
        content = dict(config=str(self.config), checkpoint=str(self.checkpoint), execution='compared')
        write_text(self.results, json.dumps(content | dict(weight_bits=weight_bits(), metrics=metrics), indent=1))

    def evaluate(self, runner: 'Runner', checkpoint: 'Checkpoint') -> dict[str, dict]:
        """Evaluate in the engines that have no result yet; each is kept at once."""
        from frostnet_mm.deploy.evaluation import evaluate_engines

        metrics = self.metrics()
        missing = [name for name in self.engines if name not in metrics]
        options = dict(weight_bits=weight_bits())
        for name, values in evaluate_engines(runner, str(self.config), checkpoint, missing, 'int8', **options):
            metrics[name] = values
            self.keep(metrics)
        return metrics

    def time(self) -> list['Row']:
        """Time float and INT8 in the engines, and float in torch, by the rules of tools/benchmark.py.

        Times of a busy machine are marked, as this is a demo: the ratios are measured in turns all the same.
        """
        from frostnet_mm.benchmark.cells import TORCH, plan
        from frostnet_mm.benchmark.measure.machine import describe_machine
        from frostnet_mm.benchmark.measure.scheduler import Effort
        from frostnet_mm.benchmark.measure.timing import Limits
        from frostnet_mm.benchmark.report.tables import make_rows, read_metrics
        from frostnet_mm.benchmark.runs import Benchmark

        int8 = 'int8' if weight_bits() == 8 else 'int8w7'
        names = (TORCH, *self.engines)
        cells = plan([str(self.config)], [str(self.checkpoint)], names, ['float', int8], [1], [1], self.shape)
        cells = [cell for cell in cells if cell.unavailable() is None]
        metrics = read_metrics([self.results])
        effort = Effort(rounds=ROUNDS, seconds=SECONDS)
        options = dict(allow_busy=True, metrics=metrics, say=lambda line: print(line, flush=True))
        benchmark = Benchmark(self.work_dir / 'benchmark', describe_machine(), effort, Limits(), **options)
        return make_rows(benchmark.measure(cells), True, metrics)

    def draw(self, dataset: 'BaseDataset', indices: Sequence[int]) -> Path:
        """A sheet of the pictures that predictor.py of the first engine's deployment draws."""
        engine = self.engines[0]
        sheet = self.work_dir / f'predictions_{engine}.png'
        if sheet.is_file():
            return sheet
        folder, pictures = self.work_dir / 'deploy' / f'{engine}_int8', self.work_dir / f'pictures_{engine}'
        files = [dataset.get_data_info(index)['img_path'] for index in indices]
        command = [sys.executable, str(folder / 'predictor.py'), *files, '--out', str(pictures)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        write_bytes(sheet, contact_sheet(sorted(pictures.iterdir())))
        return sheet


def contact_sheet(files: Sequence[Path], columns: int = 3) -> bytes:
    """Pictures beside each other.

    Args:
        files (Sequence[Path]): The pictures.
        columns (int): Of the sheet. Default: 3.

    Returns:
        bytes: A PNG.
    """
    import cv2

    from frostnet_mm.apis.visualization.sheets import arrange

    return cv2.imencode('.png', arrange([cv2.imread(str(file)) for file in files], columns))[1].tobytes()


def summary(metrics: dict[str, dict], rows: Sequence['Row']) -> Iterator[list[str]]:
    """The lines of the table of HEADINGS: each arithmetic, in torch and in the engines.

    Args:
        metrics (dict[str, dict]): By arithmetic of torch, or by engine in INT8.
        rows (Sequence[Row]): Of :meth:`EngineDemo.time`.
    """
    from frostnet_mm.benchmark.cells import TORCH
    from frostnet_mm.benchmark.report.tables import COLUMNS, NONE, main_metric

    def value(source: str) -> str:
        return f'{main_metric(source, metrics[source]).value:.3f}' if source in metrics else NONE

    columns = dict(COLUMNS)

    def times(row: 'Row | None') -> list[str]:
        return [NONE if row is None else columns[name](row) for name in TIMES]

    by_cell = {(row.result.cell.engine, row.result.cell.precision): row for row in rows}
    for source, name in TORCH_NAMES.items():
        yield ['torch', name, value(source), *times(by_cell.get((TORCH, source)))]
    for (engine, precision), row in by_cell.items():
        if engine != TORCH:
            name = 'float' if precision == 'float' else 'INT8' if precision == 'int8' else 'INT8, weights of 7 bits'
            yield [engine, name, NONE if precision == 'float' else value(engine), *times(row)]


def write_page(
    path: Path,
    title: str,
    lines: Sequence[Sequence[str]],
    rows: Sequence['Row'],
    plots: Sequence[tuple[str, Path]],
    notes: Sequence[str],
) -> None:
    """Write one page with table, latencies and pictures in it, which needs no network.

    Args:
        path (Path): The file.
        title (str): Heading.
        lines (Sequence[Sequence[str]]): Of :func:`summary`.
        rows (Sequence[Row]): Of :meth:`EngineDemo.time`.
        plots (Sequence[tuple[str, Path]]): Captions and PNG files.
        notes (Sequence[str]): Below the table.
    """
    from frostnet_mm.benchmark.measure.machine import describe_machine
    from frostnet_mm.benchmark.report.html import Section, page
    from frostnet_mm.benchmark.report.plots import latency_bars
    from frostnet_mm.benchmark.report.publish import about_lines

    bars = latency_bars(rows)
    sections = [
        Section('The same weights everywhere', HEADINGS, lines, notes=notes),
        Section('Latency', plots=[] if bars is None else [('The network alone, one thread, one image', bars)]),
        Section('Training and predictions', plots=[(caption, file.read_bytes()) for caption, file in plots]),
    ]
    write_text(path, page(title, about_lines(describe_machine()), sections))
