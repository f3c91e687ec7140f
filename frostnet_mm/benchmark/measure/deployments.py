"""Times of deployments as a function: for whoever compares networks, such as a search for an architecture."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .machine import choose_cpus, pinned
from .process import WorkerProcess
from .session import Session
from .timing import LEAST_REPETITIONS, Timing
from .turns import Turns, rotated

TIMEOUT = 900.0  # seconds after which a process that loads or measures is given up
COOL_DOWN = 0.3  # seconds between turns


def measure_deployment(
    folder: str | os.PathLike,
    threads: int = 1,
    rounds: int = 7,
    seconds: float = 1.0,
    **options,
) -> Timing:
    """Measure the network of a deployment on its engine.

    Args:
        folder (str | PathLike): The deployment, as ``tools/deploy.py`` writes it.
        threads (int): Of the engine; it is bound to as many cores. Default: 1.
        rounds (int): Turns in which it is called again and again. Default: 7.
        seconds (float): Length of a turn. Default: 1.
        options: Others of :func:`measure_deployments`.

    Returns:
        Timing: Its median latency in seconds, the spread, and what other processes did meanwhile; whether that is a
        result, :func:`timing.busy_reason` tells.

    Raises:
        See :func:`measure_deployments`.
    """
    return measure_deployments([folder], threads, rounds, seconds, **options)[0]


def measure_deployments(
    folders: Sequence[str | os.PathLike],
    threads: int = 1,
    rounds: int = 7,
    seconds: float = 1.0,
    *,
    batch: int = 1,
    shape: tuple[int, int] | None = None,
    bf16: bool = False,
    least: int = LEAST_REPETITIONS,
    cool_down: float = COOL_DOWN,
    processes: bool = False,
    logs: str | os.PathLike | None = None,
) -> list[Timing]:
    """Measure the networks of several deployments in turns, so that their times compare.

    All are loaded, then each has a turn in every round. By default they are run here, by the installed package, on this
    thread, which is bound to cores meanwhile. In processes of their own no network sees what another one left behind,
    no library that is loaded here takes part, and each is run by the predictor that lies in its folder.

    Args:
        folders (Sequence[str | PathLike]): The deployments.
        threads (int): Of each engine. Default: 1.
        rounds (int): Turns of each. Default: 7.
        seconds (float): Length of a turn. Default: 1.
        batch (int): Images of a call, where the deployment leaves that open. Default: 1.
        shape (tuple[int, int], optional): Height and width of the images, where the deployment leaves them open.
        bf16 (bool): Have an engine that can compute in bfloat16 what is not INT8. Default: False.
        least (int): Calls of a turn, however long they take. Default: 5.
        cool_down (float): Seconds between turns. Default: 0.3.
        processes (bool): Measure each in a process of its own. Default: False.
        logs (str | PathLike, optional): Folder that keeps the processes' messages. Default: none is kept.

    Returns:
        list[Timing]: In the order of the folders.

    Raises:
        ValueError: There are fewer cores than threads, a number is too small, or a shape is missing.
        DeploymentError: A folder is no deployment, or its engine is not installed or cannot load it.
        WorkerError: A process failed, with the message of the error in it.
    """
    if rounds < 1 or least < 1 or batch < 1 or threads < 1:
        raise ValueError(
            f'threads={threads}, rounds={rounds}, batch={batch} and least={least} were given, expected numbers from 1.'
        )
    spec = dict(kind='deployment', precision='bf16' if bf16 else 'float', threads=threads, batch=batch, image=None)
    spec |= dict(shape=shape and list(shape), cpus=choose_cpus(threads))
    specs = [spec | dict(folder=str(Path(folder).resolve())) for folder in folders]
    with ExitStack() as stack:
        workers = _in_processes(stack, specs, logs) if processes else _here(stack, specs)
        order = workers
        for _ in range(rounds):
            for worker in order:
                time.sleep(cool_down)
                worker.turns.add(worker.measure(seconds=seconds, least=least))
            order = rotated(order)
    return [worker.turns.timing(worker.batch) for worker in workers]


@dataclass
class _Worker:
    """A deployment that is loaded somewhere."""

    measure: Callable[..., dict]
    batch: int
    turns: Turns = field(default_factory=Turns)


def _here(stack: ExitStack, specs: Sequence[dict]) -> list[_Worker]:
    """Load all in this process, which stays bound to cores until the stack is closed."""
    workers = []
    for spec in specs:
        if not workers:
            stack.enter_context(pinned(spec['cpus']))
        session = Session()
        loaded = session.load(spec | dict(installed=True, cpus=None))
        workers.append(_Worker(session.measure, loaded['batch']))
    return workers


def _in_processes(stack: ExitStack, specs: Sequence[dict], logs: str | os.PathLike | None) -> list[_Worker]:
    """Load each in a process that lives until the stack is closed."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if logs is None else logs)
    workers = []
    for number, spec in enumerate(specs):
        process = WorkerProcess(folder / f'{number}-{Path(spec["folder"]).name}.log', spec['threads'])
        stack.callback(process.close)
        loaded = process.ask('load', TIMEOUT, spec=spec)
        workers.append(_Worker(partial(process.ask, 'measure', TIMEOUT), loaded['batch']))
    return workers
