"""The cells of a benchmark: what is measured, what came of it, and the file that keeps both."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ..engine.config import ConfigError
from ..files import write_text

ENGINES = ('torch', 'onnxruntime', 'openvino', 'executorch', 'inductor')
PRECISIONS = ('float', 'int8', 'int8w7', 'bf16')  # int8w7: weights of 7 bits
DONE, BUSY, FAILED = 'done', 'busy', 'failed'
RESULTS = 'results.json'


class BenchmarkError(ConfigError):
    """The benchmark cannot be run as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Cell:
    """One figure of the table to be: a model on an engine in a precision.

    Args:
        config (str): Path of a config, or ``package::name``.
        checkpoint (str, optional): None for random weights.
        engine (str): Of ``ENGINES``.
        precision (str): Of ``PRECISIONS``.
        threads (int): Threads of the engine.
        batch (int): Images of a call.
        shape (tuple[int, int]): Height and width in pixels.
    """

    config: str
    checkpoint: str | None
    engine: str
    precision: str
    threads: int
    batch: int
    shape: tuple[int, int]

    @property
    def model(self) -> str:
        """The config's name."""
        return Path(self.config.split('::')[-1]).stem

    @property
    def network(self) -> str:
        """A folder name for this model with these weights: readable, and another one when either file has changed."""
        digest = hashlib.sha256(
            f'{self.config}{_stamp(self.config)}{self.checkpoint}{_stamp(self.checkpoint)}'.encode()
        )
        return f'{self.model}-{digest.hexdigest()[:8]}'

    @property
    def key(self) -> str:
        """A name of this cell, the same in every run."""
        height, width = self.shape
        return f'{self.network}-{self.engine}-{self.precision}-t{self.threads}-b{self.batch}-{height}x{width}'

    @property
    def group(self) -> tuple:
        """What the cells that are measured in turns have in common."""
        return self.network, self.threads, self.batch, self.shape

    def unavailable(self) -> str | None:
        """Why there is nothing to measure whatever is installed, or None."""
        if self.precision == 'bf16' and self.engine not in ('torch', 'openvino'):
            return f'{self.engine} has no bf16 form here; torch (autocast) and openvino (precision hint) have'
        if self.precision in ('int8', 'int8w7') and self.engine == 'torch':
            return 'torch eager only simulates INT8, in float; inductor is its INT8 form'
        return None


def _stamp(path: str | None) -> str:
    """The state of a file: of a small one its content, of a large one size and time."""
    if path is None or not os.path.isfile(path):
        return ''
    state = os.stat(path)
    if state.st_size < 1 << 20:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f'{state.st_size} {state.st_mtime_ns}'


@dataclass
class Result:
    """What came of a cell; figures that were not measured are None.

    Args:
        cell (Cell): The cell.
        status (str): 'done', 'busy' (measured, but no result) or 'failed'.
        reason (str): Why, if it is not done.
        random_weights (bool): Whether the weights were never trained.
        may_overflow (bool): Whether its sums may overflow on this CPU, so that only its times mean something.
        params (int, optional): Of the dense network.
        macs (int, optional): Multiply-accumulates of the dense network for one image.
        int8_share (float, optional): Share of them in INT8.
        file_bytes (int, optional): Size of the network's files; for torch of its weights in memory.
        memory_mib (float, optional): Peak of the process' memory over what it held before the network was loaded.
        process_memory_mib (float, optional): Peak of the process' memory.
        latency_ms (float, optional): Median of a call.
        spread (float, optional): (p90 - p10) / median.
        drift (float, optional): (largest - smallest) / median of the rounds' medians.
        throughput (float, optional): Images a second.
        rounds (int, optional): How many rounds.
        repetitions (int, optional): Calls in all rounds.
        others (float, optional): Cores that other processes used meanwhile, the median of the rounds.
        load (float, optional): Load average meanwhile, the highest of any round.
        preprocess_ms (float, optional): From a decoded image to the network's input.
        network_ms (float, optional): The network, inside of the whole.
        decode_ms (float, optional): From the network's outputs to boxes after NMS, or to a label map.
        end_to_end_ms (float, optional): All three.
        no_end_to_end (str): Why they are missing.
        operators (dict): What the engine runs, kind and precision to count.
        profile (list[dict]): Time by layer: name, kind, precision, milliseconds.
    """

    cell: Cell
    status: str = FAILED
    reason: str = ''
    random_weights: bool = False
    may_overflow: bool = False
    params: int | None = None
    macs: int | None = None
    int8_share: float | None = None
    file_bytes: int | None = None
    memory_mib: float | None = None
    process_memory_mib: float | None = None
    latency_ms: float | None = None
    spread: float | None = None
    drift: float | None = None
    throughput: float | None = None
    rounds: int | None = None
    repetitions: int | None = None
    others: float | None = None
    load: float | None = None
    preprocess_ms: float | None = None
    network_ms: float | None = None
    decode_ms: float | None = None
    end_to_end_ms: float | None = None
    no_end_to_end: str = ''
    operators: dict = field(default_factory=dict)
    profile: list = field(default_factory=list)

    def counts(self, allow_busy: bool = False) -> bool:
        """Whether the times are a result."""
        return self.status == DONE or (self.status == BUSY and allow_busy)

    @classmethod
    def from_dict(cls, values: dict) -> 'Result':
        """The opposite of ``dataclasses.asdict``; values of unknown names are left out."""
        known = {item.name for item in fields(cls)}
        cell = Cell(**values['cell'] | dict(shape=tuple(values['cell']['shape'])))
        return cls(**{name: value for name, value in values.items() if name in known} | dict(cell=cell))


def plan(
    configs: Sequence[str],
    checkpoints: Sequence[str | None],
    engines: Iterable[str],
    precisions: Iterable[str],
    threads: Iterable[int],
    batches: Iterable[int],
    shape: tuple[int, int],
) -> list[Cell]:
    """All cells, those of a group together.

    Raises:
        BenchmarkError: A name is unknown, a number below 1, or checkpoints and configs differ in number.
    """
    checkpoints = [None if name in (None, '', 'none') else name for name in checkpoints] or [None] * len(configs)
    if len(checkpoints) != len(configs):
        raise BenchmarkError(
            f'{len(checkpoints)} checkpoints were given for {len(configs)} configs; expected one for each, with "none" '
            'for random weights.'
        )
    engines, precisions, threads, batches = list(engines), list(precisions), list(threads), list(batches)
    _check_names('--engines', engines, ENGINES)
    _check_names('--precisions', precisions, PRECISIONS)
    for name, numbers in (('--threads', threads), ('--batch', batches), ('--shape', shape)):
        if not numbers or min(numbers) < 1:
            raise BenchmarkError(f'{name} {list(numbers)} was given, expected numbers from 1.')
    return [
        Cell(config, checkpoint, engine, precision, count, batch, tuple(shape))
        for (config, checkpoint), count, batch in itertools.product(
            zip(configs, checkpoints, strict=True), threads, batches
        )
        for engine, precision in itertools.product(engines, precisions)
    ]


def _check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise BenchmarkError(f'{option} {",".join(names)} was given; expected some of {",".join(known)}.')


def groups(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """The cells that are measured in turns, group by group, in the order of their first cells."""
    found: dict[tuple, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.group, []).append(cell)
    yield from found.values()


class Store:
    """The results in a folder, which is up to date after every cell: an interrupted run goes on from there.

    Args:
        folder (str | PathLike): Of ``results.json``.
        machine (dict): Of :func:`describe_machine`.
        again (bool): Start with no results. Default: False.

    Raises:
        BenchmarkError: The results there are of another machine or of other versions, or cannot be read.
    """

    def __init__(self, folder: str | os.PathLike, machine: dict, again: bool = False) -> None:
        self.path = Path(folder) / RESULTS
        self.machine = machine
        self.results: dict[str, Result] = {}
        if self.path.is_file():
            self._read(again)

    def _read(self, again: bool) -> None:
        try:
            content = json.loads(self.path.read_text())
            previous = content['machine']
            results = [Result.from_dict(values) for values in content['results']]
        except (ValueError, KeyError, TypeError) as error:
            raise BenchmarkError(
                f'{self.path} is no file of this benchmark ({type(error).__name__}: {error}): give another --out.'
            ) from error
        changed = [name for name in ('cpu', 'flags', 'cores', 'versions') if previous.get(name) != self.machine[name]]
        if changed and not again:
            raise BenchmarkError(
                f'{self.path} holds results of another machine or of other packages ({", ".join(changed)} differ), '
                'which do not compare with those of this one: give another --out, or measure all again with --again.'
            )
        if not changed:
            self.results = {result.cell.key: result for result in results}

    def pending(self, cells: Iterable[Cell], allow_busy: bool, again: bool = False) -> list[Cell]:
        """The cells without a result so far; all of them with ``again``."""
        return [
            cell
            for cell in cells
            if again or cell.key not in self.results or not self.results[cell.key].counts(allow_busy)
        ]

    def add(self, result: Result) -> None:
        """Keep a result, in the file too."""
        self.results[result.cell.key] = result
        content = dict(machine=self.machine, results=[asdict(entry) for entry in self.results.values()])
        write_text(self.path, json.dumps(content, indent=1, allow_nan=False))

    def of(self, cells: Iterable[Cell]) -> list[Result]:
        """The results of these cells, in their order; those not measured yet are left out."""
        return [self.results[cell.key] for cell in cells if cell.key in self.results]
