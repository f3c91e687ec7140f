"""Runs of the tools for a study: each in a folder with its logs, gone on with where it was, not done twice."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from frostnet_mm.benchmark.measure.process import end_with_parent
from frostnet_mm.errors import UserError
from frostnet_mm.files import write_text

TOOLS = Path(__file__).resolve().parent.parent
INTERRUPTED = 130  # the exit status of a tool that was
_LOCK = threading.Lock()  # of the two below
_RUNNING: set[subprocess.Popen] = set()
_INTERRUPTED = threading.Event()


class StudyError(UserError):
    """One of the runs failed; the message names its log."""


def environment() -> dict[str, str]:
    """One thread a run: two runs that share cores would wait for each other's threads."""
    return dict(os.environ, OMP_NUM_THREADS='1')


def run(command: list[str], log: Path) -> None:
    """Run a tool with its output in a file.

    Args:
        command (list[str]): Name of the tool, such as 'train.py', and its arguments.
        log (Path): What it prints is appended there.

    Raises:
        StudyError: It failed.
        KeyboardInterrupt: It was interrupted, or this study was.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TOOLS / command[0]), *command[1:]]
    options = dict(stderr=subprocess.STDOUT, env=environment(), preexec_fn=end_with_parent, start_new_session=True)
    with log.open('a') as stream:
        with _LOCK:
            if _INTERRUPTED.is_set():
                raise KeyboardInterrupt
            process = subprocess.Popen(command, stdout=stream, **options)
            _RUNNING.add(process)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        finally:
            with _LOCK:
                _RUNNING.discard(process)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise StudyError(f'{" ".join(command)} ended with exit status {code}; its output is in {log}.')


@contextmanager
def side_by_side(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for runs of tools. Ctrl-C begins no further run, and reaches those under way: a training saves its state.

    Tools have a session of their own, so that a terminal's Ctrl-C reaches them once, by this process alone.

    Args:
        jobs (int): How many at once.
    """
    _INTERRUPTED.clear()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            with _LOCK:
                _INTERRUPTED.set()
                for process in _RUNNING:
                    process.send_signal(signal.SIGINT)
            raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Have no other study in a folder while the context is open.

    Raises:
        UserError: There is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f'Another study runs in {folder}: wait for it, or give another --out.') from error
        yield


def train(config: Path, folder: Path, options: Sequence[str] = ()) -> Path:
    """Train a config in a folder, or go on with it.

    Args:
        config (Path): The config.
        folder (Path): The work dir.
        options (Sequence[str]): Further arguments of train.py.

    Returns:
        Path: The last checkpoint.
    """
    done = folder / 'trained'
    if not done.is_file():
        command = ['train.py', str(config), '--work-dir', str(folder)]
        if (folder / 'last_checkpoint').is_file():
            command.append('--resume')
        run([*command, *options], folder / 'train.out')
        write_text(done, (folder / 'last_checkpoint').read_text())
    return Path(done.read_text())


def calibrate(config: Path, checkpoint: Path, folder: Path, images: int, options: Sequence[str] = ()) -> Path:
    """Calibrate a float checkpoint in a folder, unless it is done.

    Args:
        config (Path): The config.
        checkpoint (Path): The float weights.
        folder (Path): Where ``calibrated.pth`` is kept.
        images (int): How many training images.
        options (Sequence[str]): Further arguments of calibrate.py.

    Returns:
        Path: The calibrated checkpoint.
    """
    out = folder / 'calibrated.pth'
    if not out.is_file():
        command = ['calibrate.py', str(config), str(checkpoint), '--out', str(out), '--num-images', str(images)]
        run([*command, *options], folder / 'calibrate.out')
    return out


def evaluate(config: Path, checkpoint: Path, folder: Path, options: Sequence[str] = (), of: str = '') -> dict:
    """What test.py finds of a checkpoint.

    Args:
        config (Path): The config.
        checkpoint (Path): The weights.
        folder (Path): Where ``metrics.json`` is kept, or ``metrics_OF.json``.
        options (Sequence[str]): Further arguments of test.py.
        of (str): What tells this evaluation of the folder from others. Defaults to ''.

    Returns:
        dict: Its metrics, with ``--compare`` by arithmetic.
    """
    out = folder / (f'metrics_{of}.json' if of else 'metrics.json')
    if not out.is_file():
        command = ['test.py', str(config), str(checkpoint), '--out', str(out), '--work-dir', str(folder / 'test')]
        run([*command, *options], folder / 'test.out')
    return json.loads(out.read_text())['metrics']


def main_value(metrics: dict) -> float:
    """The metric of a run, that of the integers where there are some.

    Args:
        metrics (dict): By arithmetic.

    Returns:
        float: mAP, mIoU or top-1 accuracy, between 0 and 1.
    """
    own = metrics['converted'] if len(metrics) > 1 else metrics['float']
    name = next(name for name in own if name.rpartition('/')[2] in ('bbox_mAP', 'mIoU', 'top1'))
    return own[name] / (1 if name.endswith('mAP') else 100)
