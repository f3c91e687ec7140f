"""A benchmark from the cells that are wanted to files that are read: deploy, measure, profile, report."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..files import write_bytes
from .cells import TORCH, Cell, Result, cell_store, groups
from .measure import timing
from .measure.operator_costs import operator_store
from .measure.process import WorkerError, WorkerProcess
from .measure.scheduler import Effort, measure_group, require_quiet
from .report.publish import write_report
from .report.tables import Metric, thread_count
from .store import FAILED

DEPLOY_TIMEOUT = 1800.0  # seconds for all deployments of a model, of which ExecuTorch and inductor take minutes


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
        self.store = cell_store(self.out, self.machine, self.again)

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
        """Write tables, plots and the page of what is known so far."""
        results, entries = self.store.of(cells), operator_store(self.out, self.machine).results
        if results or entries:
            write_report(self.out, self.machine, results, list(entries.values()), self.allow_busy, self.metrics)

    def folder(self, cell: Cell) -> Path:
        """Where the deployment of a cell lies; bf16 runs the float one."""
        height, width = cell.shape
        name = f'{cell.engine}-{_deployed(cell)}-b{cell.batch}-{height}x{width}'
        return (self.out / 'deployments' / cell.network / name).resolve()

    def _prepare(self, group: Sequence[Cell]) -> dict[str, dict]:
        """What the processes of a group are to load, or why they cannot."""
        available = [cell for cell in group if not cell.unavailable()]
        folders = {cell.key: str(self.folder(cell)) for cell in available if cell.engine != TORCH}
        deployments = {  # by folder, as several cells may share one
            folders[cell.key]: (cell.engine, _deployed(cell), folders[cell.key])
            for cell in available
            if cell.engine != TORCH
        }
        reasons = self._deploy(group[0], list(deployments.values())) if deployments else {}
        prepared: dict[str, dict] = {cell.key: {} for cell in group}
        for cell in available:
            spec = dict(engine=cell.engine, precision=cell.precision, threads=cell.threads, batch=cell.batch)
            spec |= dict(shape=list(cell.shape), image=self._image())
            if cell.engine == TORCH:
                spec |= dict(kind='torch', config=_absolute(cell.config), checkpoint=_absolute(cell.checkpoint))
                prepared[cell.key] = dict(spec=spec)
            else:
                spec |= dict(kind='deployment', folder=folders[cell.key])
                prepared[cell.key] = dict(spec=spec, reason=reasons[folders[cell.key]])
        return prepared

    def _deploy(self, cell: Cell, deployments: list[tuple[str, str, str]]) -> dict[str, str]:
        missing = [entry for entry in deployments if self.again or not (Path(entry[2]) / 'deploy.json').is_file()]
        if not missing:
            return {folder: '' for _, _, folder in deployments}
        self.say(f'  deploying to {", ".join(f"{engine} {precision}" for engine, precision, _ in missing)}')
        worker = WorkerProcess(self.out / 'logs' / f'deploy-{cell.network}-b{cell.batch}.log')
        options = dict(config=_absolute(cell.config), checkpoint=_absolute(cell.checkpoint), shape=list(cell.shape))
        options |= dict(batch=cell.batch, deployments=deployments, again=self.again)
        try:
            return worker.ask('prepare', DEPLOY_TIMEOUT, **options)
        except WorkerError as error:
            return {folder: str(error) for _, _, folder in deployments}
        finally:
            worker.close()

    def _profile(self, cells: Sequence[Cell]) -> None:
        """Add the time by layer to results that lack it."""
        from ..deploy.engines import engine_of

        wanted = [result for result in self.store.of(cells) if result.status != FAILED and not result.profile]
        for result in wanted:
            cell = result.cell
            if cell.engine == TORCH or not engine_of(cell.engine).profiles_operators:
                continue
            worker = WorkerProcess(self.out / 'logs' / f'profile-{cell.key}.log', cell.threads)
            options = dict(
                config=_absolute(cell.config), folder=str(self.folder(cell)), threads=cell.threads, batch=cell.batch
            )
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


def _deployed(cell: Cell) -> str:
    """The precision that a cell is deployed in: bf16 runs the float deployment."""
    return 'float' if cell.arithmetic == 'bf16' else cell.precision


def _absolute(path: str | None) -> str | None:
    return path if path is None or '::' in path or '://' in path else os.path.abspath(path)


def _line(result: Result) -> str:
    cell = result.cell
    if result.latency_ms is None:
        return f'{cell.engine} {cell.precision}: not measured: {result.reason}'
    busy = f'  ({result.reason})' if result.reason else ''
    return f'{cell.engine} {cell.precision}: {result.latency_ms:.2f} ms, spread {result.spread:.0%}{busy}'
