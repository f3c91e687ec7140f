"""A Python environment, asked by its own interpreter; standard library only (see setup_env.py)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from _setup_checks import SetupError, tail

PROBE = """
import importlib.metadata, json, re, sys, sysconfig
sys.path = [p for p in sys.path if p]
found = {}
for dist in importlib.metadata.distributions():
    name = dist.metadata['Name']
    if name:
        found.setdefault(re.sub('[-_.]+', '-', name).lower(), dist.version)
print(json.dumps({'python': list(sys.version_info[:3]), 'prefix': sys.prefix, 'packages': found,
                  'include': sysconfig.get_path('include'), 'purelib': sysconfig.get_path('purelib')}))
"""


@dataclass(frozen=True)
class Environment:
    """A Python environment and what is in it.

    Args:
        python: Its interpreter.
        own: Whether this script made it and may repair it (a venv), or it is the user's (``--use-current``).
        version: Python's version, three numbers.
        prefix: Its root folder.
        include: Folder of ``Python.h``.
        purelib: Its site-packages.
        packages: Normalised name of each distribution that it sees, to its version.
    """

    python: Path
    own: bool
    version: tuple[int, ...]
    prefix: Path
    include: Path
    purelib: Path
    packages: Mapping[str, str]


def probe(python: Path, own: bool) -> Environment:
    """Ask an interpreter for its version, folders and packages."""
    done = subprocess.run([python, '-c', PROBE], capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f'{python} does not run:\n{tail(done.stderr)}')
    facts = json.loads(done.stdout)
    folders = {name: Path(facts[name]) for name in ('prefix', 'include', 'purelib')}
    return Environment(python, own, tuple(facts['python']), packages=facts['packages'], **folders)


def output_of(environment: Environment, code: str, complaint: str) -> str:
    """Run Python code in the environment and return what it prints."""
    done = subprocess.run([environment.python, '-c', code], capture_output=True, text=True, cwd=environment.prefix)
    if done.returncode:
        raise SetupError(f'{complaint} in {environment.prefix}:\n{tail(done.stderr)}')
    return done.stdout


def last_error(environment: Environment, code: str) -> str | None:
    """Run Python code in the environment; return None, or its traceback's last line (or the signal that ended it)."""
    done = subprocess.run([environment.python, '-c', code], capture_output=True, text=True, cwd=environment.prefix)
    return (done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1] if done.returncode else None
