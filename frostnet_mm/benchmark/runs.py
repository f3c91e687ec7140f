"""A benchmark from the cells that are wanted to files that are read: deploy, measure, profile, report."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..files import write_bytes
from .cells import FAILED, Cell, Result, Store, groups
from .measure import timing
from .measure.scheduler import Effort, WorkerError, WorkerProcess, measure_group, require_quiet
from .report.operator_table import OperatorStore
from .report.publish import write_report
from .report.tables import Metric, thread_count

DEPLOY_TIMEOUT = 1800.0  # seconds for all deployments of a model, of which ExecuTorch and inductor take minutes
PROFILED = ('onnxruntime', 'openvino')


@dataclass
class Benchmark:
    """Runs a benchmark in a folder.

    Args:
        out (Path): The folder.
        machine (dict): Of :func:`describe_machine`.
        effort (Effort): How long to measure.
        limits (timing.Limits): From when on a time is no result.
        allow_busy (bool): Let times of a busy machine count, marked. Default: False.
        again (bool): Measure what was measured already. Default: False.
        image (str, optional): For the end-to-end time. Default: a generated one.
        metrics (dict): Of :func:`read_metrics`.
        say (Callable): Prints a line.
    """

    out: Path
    machine: dict
    effort: Effort
    limits: timing.Limits
    allow_busy: bool = False
    again: bool = False
    image: str | None = None
    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self.store = Store(self.out, self.machine, self.again)

    def measure(self, cells: Sequence[Cell], profile: bool = False) -> list[Result]:
        """Measure cells that have no result yet, and write the report after each group and at the end.

        Args:
            cells (Sequence[Cell]): All that the report is to show.
            profile (bool): Ask the engines for the time by layer too. Default: False.

        Returns:
            list[Result]: Of all cells.
        """
        pending = self.store.pending(cells, self.allow_busy, self.again)
        if cells:
            self.say(f'{len(cells)} cells, {len(cells) - len(pending)} of them measured already')
        if pending and not self.allow_busy:
            require_quiet(self.limits)
        try:
            for group in groups(pending):
                first = group[0]
                self.say(f'{first.model}, {thread_count(first.threads)}, batch {first.batch}: {len(group)} cells')
                for result in measure_group(
                    group, self._prepare(group), self.effort, self.limits, self.out / 'logs', self.say
                ):
                    self.store.add(result)
                    self.say(f'  {_line(result)}')
                self.report(cells)
            if profile:
                self._profile(cells)
        finally:
            self.report(cells)
        return self.store.of(cells)

    def report(self, cells: Sequence[Cell]) -> None:
        """Write tables, figures and the page of what is known so far."""
        results, entries = self.store.of(cells), OperatorStore(self.out, self.machine).entries
        if results or entries:
            write_report(self.out, self.machine, results, entries, self.allow_busy, self.metrics)

    def folder(self, cell: Cell) -> Path:
        """Where the deployment of a cell lies; bf16 runs the float one."""
        precision = 'float' if cell.precision == 'bf16' else cell.precision
        height, width = cell.shape
        name = f'{cell.engine}-{precision}-b{cell.batch}-{height}x{width}'
        return (self.out / 'deployments' / cell.network / name).resolve()

    def _prepare(self, group: Sequence[Cell]) -> dict[str, dict]:
        """What the processes of a group are to load, or why they cannot."""
        available = [cell for cell in group if not cell.unavailable()]
        folders = {cell.key: self.folder(cell) for cell in available if cell.engine != 'torch'}
        forms = {
            str(folders[cell.key]): (cell.engine, folders[cell.key].name.split('-')[1], str(folders[cell.key]))
            for cell in available
            if cell.engine != 'torch'
        }
        reasons = self._deploy(group[0], list(forms.values())) if forms else {}
        prepared: dict[str, dict] = {cell.key: {} for cell in group}
        for cell in available:
            spec = dict(engine=cell.engine, precision=cell.precision, threads=cell.threads, batch=cell.batch)
            spec |= dict(shape=list(cell.shape), image=self._image())
            if cell.engine == 'torch':
                spec |= dict(kind='torch', config=_absolute(cell.config), checkpoint=_absolute(cell.checkpoint))
                prepared[cell.key] = dict(spec=spec)
            else:
                spec |= dict(kind='deployment', folder=str(folders[cell.key]))
                prepared[cell.key] = dict(spec=spec, reason=reasons[str(folders[cell.key])])
        return prepared

    def _deploy(self, cell: Cell, forms: list[tuple[str, str, str]]) -> dict[str, str]:
        missing = [form for form in forms if self.again or not (Path(form[2]) / 'deploy.json').is_file()]
        if not missing:
            return {folder: '' for _, _, folder in forms}
        self.say(f'  deploying to {", ".join(f"{engine} {precision}" for engine, precision, _ in missing)}')
        worker = WorkerProcess(self.out / 'logs' / f'deploy-{cell.network}-b{cell.batch}.log', package=True)
        options = dict(config=_absolute(cell.config), checkpoint=_absolute(cell.checkpoint), shape=list(cell.shape))
        try:
            return worker.ask('prepare', DEPLOY_TIMEOUT, **options, batch=cell.batch, forms=forms, again=self.again)
        except WorkerError as error:
            return {folder: str(error) for _, _, folder in forms}
        finally:
            worker.close()

    def _profile(self, cells: Sequence[Cell]) -> None:
        """Add the time by layer to results that lack it."""
        wanted = [result for result in self.store.of(cells) if result.status != FAILED and not result.profile]
        for result in wanted:
            cell = result.cell
            if cell.engine not in PROFILED:
                continue
            worker = WorkerProcess(self.out / 'logs' / f'profile-{cell.key}.log', cell.threads, package=True)
            options = dict(folder=str(self.folder(cell)), threads=cell.threads, batch=cell.batch)
            options |= dict(shape=list(cell.shape), precision=cell.precision)
            try:
                result.profile = worker.ask('profile', self.effort.timeout, **options)['layers']
            except WorkerError as error:
                self.say(f'  no profile of {cell.model} {cell.engine} {cell.precision}: {error}')
            finally:
                worker.close()
            self.store.add(result)

    def _image(self) -> str:
        """The image for the end-to-end time: the one given, else a smooth one of 640x480 pixels."""
        if self.image:
            return str(Path(self.image).resolve())
        path = (self.out / 'image.png').resolve()
        if not path.is_file():
            import cv2

            noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
            picture = cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
            write_bytes(path, cv2.imencode('.png', picture)[1].tobytes())
        return str(path)


def _absolute(path: str | None) -> str | None:
    return path if path is None or '::' in path or '://' in path else os.path.abspath(path)


def _line(result: Result) -> str:
    cell = result.cell
    if result.latency_ms is None:
        return f'{cell.engine} {cell.precision}: not measured: {result.reason}'
    busy = f'  ({result.reason})' if result.reason else ''
    return f'{cell.engine} {cell.precision}: {result.latency_ms:.2f} ms, spread {result.spread:.0%}{busy}'
