"""The cells of a benchmark: what is measured, what came of it, and the file that keeps both."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from .store import FAILED, BenchmarkError, Kind, Store, counts

TORCH = 'torch'  # eager, the baseline: no engine, as nothing is deployed to it
# What a precision of the table is to an engine, and its weights' bits.
PRECISIONS: dict[str, tuple[str, int | None]] = {
    'float': ('float', None),
    'int8': ('int8', 8),
    'int8w7': ('int8', 7),
    'bf16': ('bf16', None),
}


@dataclass(frozen=True)
class Cell:
    """One cell of the table: a model on an engine in a precision.

    Args:
        config (str): Path of a config, or ``package::name``.
        checkpoint (str, optional): None for random weights.
        engine (str): 'torch', or the name of a registered engine.
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

    @property
    def arithmetic(self) -> str:
        """What the engine computes in: 'float', 'int8' or 'bf16'."""
        return PRECISIONS[self.precision][0]

    @property
    def weight_bits(self) -> int | None:
        """Bits of the INT8 weights; None without any."""
        return PRECISIONS[self.precision][1]

    def unavailable(self) -> str | None:
        """Why there is nothing to measure whatever is installed, or None."""
        if self.engine == TORCH:
            int8 = self.arithmetic == 'int8'
            return 'torch eager only simulates INT8, in float; inductor is its INT8 form' if int8 else None
        from ..deploy.engines import engine_names, engine_of

        known = engine_of(self.engine).precisions
        if self.arithmetic in known:
            return None
        if self.arithmetic != 'bf16':
            return f'{self.engine} computes in {" and ".join(known)} only'
        others = [f'{name} (precision hint)' for name in engine_names() if 'bf16' in engine_of(name).precisions]
        return f'{self.engine} has no bf16 form here; {" and ".join(["torch (autocast)", *others])} have'


def _stamp(path: str | None) -> str:
    """The state of a file: of a small one its content, of a large one size and time."""
    if path is None or not os.path.isfile(path):
        return ''
    state = os.stat(path)
    if state.st_size < 1 << 20:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f'{state.st_size} {state.st_mtime_ns}'


RENAMED = dict(may_overflow='may_saturate')  # fields of results.json by the names that they had


@dataclass
class Result:
    """What came of a cell; what was not measured is None.

    Args:
        cell (Cell): The cell.
        status (str): 'done', 'busy' (measured, but no result) or 'failed'.
        reason (str): Why, if it is not done.
        random_weights (bool): Whether the weights were never trained.
        may_saturate (bool): Whether its INT8 products may saturate on this CPU, so that only its times mean something.
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
    may_saturate: bool = False
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

    @property
    def key(self) -> str:
        """That of its cell."""
        return self.cell.key

    def counts(self, allow_busy: bool = False) -> bool:
        """Whether the times are a result."""
        return counts(self.status, allow_busy)

    def to_dict(self) -> dict:
        """All as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> 'Result':
        """The opposite of :meth:`to_dict`; values of unknown names are left out, those of earlier names taken over."""
        values = {RENAMED.get(name, name): value for name, value in values.items()}
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

    Configs may register engines, so they must be loaded before.

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
    check_engines(engines)
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


def check_engines(engines: Sequence[str]) -> None:
    """Check names of engines against those that are registered.

    Raises:
        BenchmarkError: One is unknown, or there is none.
    """
    from ..deploy.engines import engine_names, engine_of

    _check_names('--engines', engines, (TORCH, *engine_names()))
    for name in engines:
        if name != TORCH:
            engine_of(name).require_running('measured')  # also: its package is among those of describe_machine


def _check_names(option: str, names: Sequence[str], known: Iterable[str]) -> None:
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise BenchmarkError(f'{option} {",".join(names)} was given; expected some of {",".join(known)}.')


def groups(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """The cells that are measured in turns, group by group, in the order of their first cells."""
    found: dict[tuple, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.group, []).append(cell)
    yield from found.values()


CELLS = Kind('results.json', 'results', Result.from_dict, dict, ('cpu', 'flags', 'cores', 'versions'))


def cell_store(folder: str | os.PathLike, machine: dict, again: bool = False) -> Store[Result]:
    """The store of the cells' results in a folder, ``results.json``.

    Args:
        folder (str | PathLike): The folder.
        machine (dict): Of :func:`describe_machine`.
        again (bool): Begin with no results where those there are of another machine, which otherwise raises
            BenchmarkError. Default: False.
    """
    return Store(CELLS, folder, machine, drop=again)
