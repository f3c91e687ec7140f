"""Processes that measure, as the one that gives them work sees them."""

import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

WORKER = 'frostnet_mm.benchmark.measure.worker'
ROOT = Path(__file__).resolve().parents[3]


_prctl = getattr(ctypes.CDLL(None), 'prctl', None)  # Linux
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """In a process that was just started: have Linux kill it when the thread that started it ends, however it does.

    Else what a killed command has started would work on beside the command that goes on, in the same files.
    """
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class WorkerError(RuntimeError):
    """A process failed, died or took too long; the message is the reason that the table gives."""


class WorkerProcess:
    """A process of :mod:`worker`.

    Args:
        log (Path): Where its messages go.
        threads (int): For libraries that ask the environment. Default: 1.
    """

    def __init__(self, log: Path, threads: int = 1) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        with log.open('w') as stream:
            self.process = subprocess.Popen(
                [sys.executable, '-m', WORKER, str(writing)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                pass_fds=(writing,),
                text=True,
                env=_environment(threads),
                preexec_fn=end_with_parent,
                start_new_session=True,  # Ctrl-C reaches the scheduler alone, which ends its processes
            )
        os.close(writing)
        self.answers: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()

    def _read(self, channel: int) -> None:
        """Queue the answers, then None."""
        with os.fdopen(channel) as lines:
            for line in lines:
                self.answers.put(line)
        self.answers.put(None)

    def send(self, command: str, **request: Any) -> None:
        """Send a request, to be answered by :meth:`receive`."""
        try:
            self.process.stdin.write(json.dumps(dict(request, command=command)) + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: receive says how

    def receive(self, timeout: float) -> dict:
        """Wait for the answer.

        Raises:
            WorkerError: The process reports an error, died, or did not answer in time.
        """
        try:
            line = self.answers.get(timeout=timeout)
        except queue.Empty:
            raise WorkerError(f'no answer within {timeout:.0f} s; its messages are in {self.log}') from None
        if line is None:
            code = self.process.wait()
            how = f'signal {-code}' if code < 0 else f'exit status {code}'
            raise WorkerError(f'the process ended with {how}: {_last_line(self.log)}')
        answer = json.loads(line)
        if 'error' in answer:
            raise WorkerError(answer['error'])
        return answer

    def ask(self, command: str, timeout: float, **request: Any) -> dict:
        """Send a request and wait for the answer."""
        self.send(command, **request)
        return self.receive(timeout)

    def close(self) -> None:
        """End the process: it ends by itself if it has nothing to do, else it is interrupted, and at last killed."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            self.process.kill()  # it has closed its side already
        for seconds, end in ((1, lambda: self.process.send_signal(signal.SIGINT)), (5, self.process.kill)):
            try:
                self.process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()


def _environment(threads: int) -> dict[str, str]:
    """That of this process, with what it can import: this package, and modules that register engines."""
    paths = dict.fromkeys((str(ROOT), *map(os.path.abspath, sys.path)))
    return dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(paths),
        PYTHONSAFEPATH='1',  # nothing else of the folder that it is started in
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
    )


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
    return lines[-1] if lines else f'no message in {log}'
