"""Writing files so that a crash leaves either the old content or the new one."""

import os
import tempfile
from pathlib import Path


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file atomically: into a temporary file of the same folder, which then takes its name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: str | os.PathLike, content: str) -> None:
    """Write a text file (UTF-8) atomically."""
    write_bytes(path, content.encode())
