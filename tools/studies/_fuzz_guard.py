"""What an input must not do: write elsewhere, start processes, open connections, take all memory."""

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEMORY = 4 << 30  # bytes that an input may take, beside what is loaded already
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {'os.rename': 2, 'os.link': 2, 'os.symlink': 2, 'shutil.copyfile': 2, 'shutil.move': 2}
_CHANGES |= dict.fromkeys(('os.remove', 'os.rmdir', 'os.mkdir', 'os.truncate', 'os.chmod', 'shutil.rmtree'), 1)
_STARTS = ('os.system', 'os.exec', 'os.posix_spawn', 'os.spawn', 'subprocess.Popen', 'pty.spawn')
_FONTS = ((['fc-list', '--help'],), (['fc-list', '--format=%{file}\\n'],))  # matplotlib looks for them
# mmengine asks the machine for its log of a training or an evaluation
_ASKED = (*_FONTS, (['/bin/sh', '-c', 'gcc --version'],), (['git', 'rev-parse', 'HEAD'],))
_CALLS = ('socket.connect', 'socket.bind', 'socket.getaddrinfo', 'socket.sendto')
_HARMLESS = ('/dev/null', '/dev/tty', '/dev/shm', '/proc/')


class Guard:
    """An audit hook of this process, which cannot be taken away again; it looks only between start and stop."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        self._looking = False
        self._started = os.getpid()
        sys.addaudithook(self._hear)

    @contextlib.contextmanager
    def looking(self, *allowed: Path) -> Iterator[None]:
        """Note what happens inside.

        Args:
            *allowed (Path): Where files may be written.
        """
        self.allowed, self.seen = tuple(os.path.realpath(path) for path in allowed), []
        self._looking = True
        try:
            yield
        finally:
            self._looking = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._looking:
            return
        if event == 'open':
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITING or (isinstance(mode, str) and set(mode) & set('wax+'))
            if writes and not self._may_write(path):
                self.seen.append(f'WRITE {path!r}')
        elif event in _CHANGES:
            paths = arguments[_CHANGES[event] - 1 : _CHANGES[event]] if event != 'os.rename' else arguments[:2]
            self.seen += [f'WRITE {event} {path!r}' for path in paths if not self._may_write(path)]
        elif event in _STARTS and arguments[1:2] not in _ASKED:
            self.seen.append(f'EXECUTED {event} {arguments!r}'[:300])
        elif event in _CALLS:
            self.seen.append(f'CONNECTED {event} {arguments!r}'[:300])

    def _may_write(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return True
        looking, self._looking = self._looking, False  # realpath must not be heard itself
        try:
            text = os.fsdecode(path)
            place = text if text.startswith(_HARMLESS) else os.path.realpath(text)
        except (TypeError, ValueError):
            return False
        finally:
            self._looking = looking
        return place.startswith(_HARMLESS) or any(
            place == root or place.startswith(f'{root}/') for root in self.allowed
        )


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process take so much more memory than it has now, and no more."""
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def forget_peak() -> None:
    """Begin to look for a new peak of resident memory."""
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


def peak() -> int:
    """The peak of resident memory, in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) << 10
    return 0
