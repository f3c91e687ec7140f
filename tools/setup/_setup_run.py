"""How ``setup_env.py`` runs long commands: all in a log, a sign of life on the screen, none left behind by Ctrl-C."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from _setup_checks import SetupError, tail

JOB_GB = 2  # memory for one compiler process; 0.6 GB measured without CUDA, nvcc takes more
BEAT_SECONDS = 30  # a sign of life while mmcv compiles, if the output is not a terminal


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and say how long it took."""
    say(f'  ..  {title}')
    started = time.monotonic()
    yield
    say(f'  ok  {time.monotonic() - started:.0f} s')


def run_logged(command: list[str], log: Path, env: Mapping[str, str], beat: Callable[[str, float], None]) -> None:
    """Run a command with its output in a log file.

    Args:
        command: The command.
        log: The file to append to.
        env: Environment variables on top of the present ones.
        beat: Called about once a second with the last ``[n/m]`` that ninja printed (or '') and the seconds so far.

    Raises:
        SetupError: If it fails; with the first errors, the last lines and the log's path.
    """
    started, progress = time.monotonic(), ['']
    begin = log.stat().st_size if log.exists() else 0

    def pump() -> None:
        with log.open('a', errors='replace') as sink:
            sink.write(f'\n$ {shlex.join(map(str, command))}\n')
            for line in process.stdout:
                sink.write(line)
                sink.flush()
                ninja = re.match(r'\s*(\[\d+/\d+\])', line)
                progress[0] = ninja[1] if ninja else progress[0]

    process = start(command, log, env, stdout=subprocess.PIPE, text=True, errors='replace')
    reader = threading.Thread(target=pump, daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            reader.join(1.0)
            beat(progress[0], time.monotonic() - started)
    except BaseException:
        stop_group(process)
        raise
    reader.join(5)
    require_success(process, log, begin)


@contextmanager
def beside(command: list[str], log: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Run a command while another one runs, and wait for its end.

    Args:
        command: The command.
        log: The file that its output is appended to: its own.
        env: Environment variables on top of the present ones.

    Raises:
        SetupError: If it fails, as :func:`run_logged`.
    """
    begin = log.stat().st_size if log.exists() else 0
    with log.open('a') as sink:
        process = start(command, log, env, stdout=sink)
    try:
        yield
        process.wait()
    except BaseException:
        stop_group(process)
        raise
    require_success(process, log, begin)


def start(command: list[str], log: Path, env: Mapping[str, str], **options: object) -> subprocess.Popen:
    """Start a command in a process group of its own, so that an interrupt takes pip, ninja and the compilers along."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env},
        cwd=log.parent,
        start_new_session=True,
        **options,
    )


def require_success(process: subprocess.Popen, log: Path, begin: int) -> None:
    """Raise what the log says of a command that failed; ``begin`` is where its part of the log begins."""
    if process.returncode:
        text = log.read_bytes()[begin:].decode(errors='replace')
        raise SetupError(f'this step failed (exit {process.returncode}).\n{explain_failure(text)}\n  full log: {log}')


def constraint(prefix: Path, torch: str) -> list[str]:
    """Options that keep pip from replacing torch, whatever an install pulls in."""
    file = prefix / 'frostnet-constraint.txt'
    file.write_text(f'torch=={torch}\n')
    return ['-c', str(file)]


def remove_half_installed(purelib: Path) -> list[str]:
    """Forget packages whose installation was interrupted, so that pip installs them again.

    pip copies a package's files first and writes INSTALLER and RECORD last, but takes one whose folder is there for
    installed and would pass over it.
    """
    removed = []
    for folder in sorted(purelib.glob('*.dist-info')):
        if not (folder / 'RECORD').is_file() or not (folder / 'INSTALLER').is_file():
            removed.append(folder.name.removesuffix('.dist-info'))
            shutil.rmtree(folder)
    for leftover in purelib.glob('~*'):  # what pip sets aside while it replaces a package
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return removed


def default_jobs() -> int:
    """Return how many compilers may run at once: one a core, as far as the memory goes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9
    return max(1, min(cores, int(memory / JOB_GB)))


def works(python: Path, *module: str) -> bool:
    """Whether an interpreter is there and runs (a module)."""
    try:
        return subprocess.run([python, *(module or ('-c', ''))], capture_output=True).returncode == 0
    except OSError:
        return False


def byte_compile(python: Path, folder: Path, log: Path) -> None:
    """Compile what is installed on all cores; pip does it on one, which is a third of the time of its installations.

    Files that do not compile, such as templates in packages, are left as pip leaves them: for whoever imports them.
    """
    with step('byte code of all packages, on all cores'), log.open('a') as sink:
        command = [str(python), '-m', 'compileall', '-q', '-j', '0', str(folder)]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)


def explain_failure(text: str) -> str:
    """Pick what a person wants to see of a failed step's log: the first errors, which are far up, and the end."""
    errors = [line for line in text.splitlines() if re.search(r'\berror:|^\s*FAILED:|No space left', line, re.I)][:5]
    return (f'  first errors:\n{tail(chr(10).join(errors))}\n' if errors else '') + f'  the end:\n{tail(text)}'


def stop_group(process: subprocess.Popen) -> None:
    """End a process and its children, gently first, so that pip removes its temporary folders."""
    for number, patience in ((signal.SIGINT, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def show_progress(progress: str, seconds: float, last: list[float]) -> None:
    """Show that the compiler is alive: in place on a terminal, else a line now and then (``last`` holds when)."""
    minutes, rest = divmod(int(seconds), 60)
    text = f'      mmcv: {minutes} min {rest:02d} s' + (f', {progress} files compiled' if progress else '')
    if sys.stdout.isatty():
        print(f'\r{text}  ', end='', flush=True)
    elif seconds - last[0] >= BEAT_SECONDS:
        last[0] = seconds
        say(text)
