"""What ``setup_env.py`` checks before it starts anything long: each check stops with what is missing and how to get it.

Standard library only, because nothing is installed yet when it runs.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PYTHON_MIN, PYTHON_END = (3, 10), (3, 13)
# The official packages write the same files as the forks: whichever comes last overwrites half of the other.
RIVALS = {'mmcv', 'mmcv-full', 'mmcv-lite', 'mmdet', 'mmengine', 'mmengine-lite', 'mmsegmentation'}


class SetupError(Exception):
    """Something that the user has to mend; the message says how."""


def release(version: str) -> tuple[int, ...]:
    """Turn ``2.13.0+cpu`` into ``(2, 13, 0)``."""
    return tuple(int(number) for number in re.findall(r'\d+', re.match(r'[\d.]*', version)[0]))


def tail(text: str, lines: int = 15) -> str:
    """Return the last lines, indented."""
    return '\n'.join('  ' + line[:200] for line in text.rstrip().splitlines()[-lines:])


def check_python(version: tuple[int, ...], what: str) -> None:
    """Stop unless Python is one of those that the pinned packages are released for."""
    if os.name == 'nt':
        raise SetupError('Windows is not supported; run this inside WSL 2.')
    if not PYTHON_MIN <= version[:2] < PYTHON_END:
        raise SetupError(
            f'{what} is Python {".".join(map(str, version))}; supported are 3.10, 3.11 and 3.12.\n'
            'Name another with `make PYTHON=python3.11 ...` (with conda: `conda create -n frostnet python=3.11`).\n'
            'If it is an existing .venv that is at fault, remove that folder first.'
        )


def check_venv_module() -> None:
    """Stop if this Python cannot make virtual environments (Debian and Ubuntu package that apart)."""
    probe = subprocess.run([sys.executable, '-c', 'import ensurepip, venv'], capture_output=True, text=True)
    if probe.returncode:
        version = '.'.join(map(str, sys.version_info[:2]))
        raise SetupError(
            f'{sys.executable} has no venv/ensurepip module. Debian/Ubuntu: sudo apt install python{version}-venv'
        )


def find_compiler(env: Mapping[str, str]) -> dict[str, str]:
    """Find the C++ and C compilers.

    Args:
        env: The environment variables; ``CXX`` and ``CC`` are honoured.

    Returns:
        ``CXX`` and, where found, ``CC``, to be set while mmcv is compiled: torch's build otherwise takes ``c++`` and
        the linker step whatever Python itself was built with, which need not exist here.

    Raises:
        SetupError: If there is none.
    """
    chosen = {}
    for variable, names in (('CXX', ('c++', 'g++', 'clang++')), ('CC', ('cc', 'gcc', 'clang'))):
        if env.get(variable):
            command = shlex.split(env[variable])
            if not shutil.which(command[0], path=env.get('PATH')):
                raise SetupError(f'{variable}={env[variable]}, but there is no such command. Mend or unset {variable}.')
            chosen[variable] = env[variable]
            continue
        found = next((name for name in names if shutil.which(name, path=env.get('PATH'))), None)
        if found:
            chosen[variable] = found
        elif variable == 'CXX':
            raise SetupError(
                'there is no C++ compiler (looked for CXX, c++, g++, clang++); mmcv has to be compiled. Install one:\n'
                '  Debian/Ubuntu: sudo apt install g++        Fedora/RHEL: sudo dnf install gcc-c++\n'
                '  conda:         conda install -c conda-forge cxx-compiler        macOS: xcode-select --install'
            )
    return chosen


def check_toolchain(compiler: Mapping[str, str], include: Path) -> None:
    """Stop if the compiler cannot digest two lines of C++ with Python's header."""
    if not (include / 'Python.h').is_file():
        raise SetupError(
            f'Python.h is missing in {include}; mmcv needs it. Install the headers:\n'
            '  Debian/Ubuntu: sudo apt install python3-dev        Fedora/RHEL: sudo dnf install python3-devel'
        )
    command = [*shlex.split(compiler['CXX']), '-std=c++17', '-fsyntax-only', f'-I{include}', '-x', 'c++', '-']
    source = '#include <Python.h>\n#include <vector>\n'
    trial = subprocess.run(command, input=source, capture_output=True, text=True)
    if trial.returncode:
        raise SetupError(f'the C++ compiler {compiler["CXX"]} fails on a two-line program:\n{tail(trial.stderr, 8)}')


def check_disk(folder: Path, needed_gb: float) -> None:
    """Stop if the disk of a folder (of its nearest existing parent) is too full."""
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        raise SetupError(f'{free_gb:.1f} GB are free under {folder}, about {needed_gb:g} GB are needed. Make room.')


def check_rivals(packages: Mapping[str, str]) -> None:
    """Stop if an official OpenMMLab package is installed whose files the forks would overwrite."""
    rivals = sorted(RIVALS & packages.keys())
    if rivals:
        raise SetupError(
            f'{", ".join(rivals)}: these official packages share their files with the onedl-* forks installed here.\n'
            f'Remove them (pip uninstall {" ".join(rivals)}), or use an environment of its own (without --use-current).'
        )
