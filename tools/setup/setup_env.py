"""Make this project's Python environment: ``python3 tools/setup/setup_env.py [--venv .venv | --use-current]``.

Standard library only, because nothing is installed yet when it runs. The order matters and pip cannot know it: mmcv is
compiled against the torch that is installed, so torch comes first, and a torch that is already there (the way to one's
own CUDA build) is kept. Every step is idempotent: after an interruption the same command goes on where it stopped; when
everything is in place it returns at once. See docs/install.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import _setup_checks as checks
from _setup_checks import SetupError, release, tail
from _setup_environment import Environment, last_error, output_of, probe
from _setup_run import (
    beside,
    byte_compile,
    constraint,
    default_jobs,
    remove_half_installed,
    run_logged,
    say,
    show_progress,
    step,
    works,
)

ROOT = Path(__file__).resolve().parent.parent.parent
TORCH_MIN = (2, 4)  # onedl-mmcv's own lower bound
BUILD_TOOLS = ('ninja', 'packaging', 'setuptools', 'wheel')
FULL_GB, MMCV_GB = 4.0, 1.0  # measured 1.7 GB with a CPU torch, plus pip's downloads and the compiler's temporary files
COMPILE_CORE_MINUTES = 20  # mmcv's CPU operators: 10 minutes on 2 cores
STAMP, LOG, LOCK = 'frostnet-setup.json', 'frostnet-setup.log', 'frostnet-setup.lock'

PROBE_TORCH = """
import json, torch
from torch.utils import cpp_extension
print(json.dumps({'gpu': torch.cuda.is_available(), 'cuda': torch.version.cuda, 'home': cpp_extension.CUDA_HOME}))
"""
VERIFY_PACKAGE = 'from frostnet_mm import FrostNet, QATHook; import mmdet.datasets, mmseg'
# On a GPU machine the operator must run there as well: ops compiled without CUDA import and then refuse CUDA tensors.
VERIFY_OPS = """
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], dtype=torch.float32)
for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
    kept = nms(boxes.to(device), torch.tensor([.9, .8, .7], device=device), 0.5)[1].tolist()
    assert kept == [0, 2], f'nms on {device} keeps boxes {kept} instead of [0, 2]'
"""


def parse_pins(text: str) -> dict[str, str]:
    """Read ``name==version`` lines; lines for some Pythons only (with a marker) and comments are left out."""
    lines = (re.sub(r'(^|\s)#.*', '', line).strip() for line in text.splitlines())
    return dict(line.split('==', 1) for line in lines if '==' in line and ';' not in line)


def stamp_key(requirements: bytes, environment: Environment) -> str:
    """Name the state that a finished set-up leaves: pins, torch (which mmcv is compiled for), Python, our place."""
    parts = [hashlib.sha256(requirements).hexdigest(), environment.packages.get('torch', 'none')]
    return ' '.join([*parts, '.'.join(map(str, environment.version)), str(ROOT)])


def is_complete(environment: Environment, requirements: bytes) -> bool:
    """Whether a finished set-up of these pins, this torch and this Python is stamped, and nothing was removed since."""
    try:
        stamped = json.loads((environment.prefix / STAMP).read_text())['key']
    except (OSError, ValueError, KeyError, TypeError):
        return False
    exempt = {'torch', 'opencv-python'}  # one's own torch is kept; OpenCV's headless twin serves where libGL is missing
    pins = {name: version for name, version in parse_pins(requirements.decode()).items() if name not in exempt}
    found = environment.packages
    intact = 'frostnet-mm' in found and all(found.get(name) == version for name, version in pins.items())
    return intact and stamped == stamp_key(requirements, environment)


def pip_command(environment: Environment, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """A command of the environment's pip, and variables that keep it quiet."""
    quiet = {'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1', 'PYTHONUNBUFFERED': '1'}
    quiet |= {'PIP_NO_COMPILE': '1'} if environment.own else {}  # see byte_compile
    return [str(environment.python), '-m', 'pip', *arguments], quiet


def pip(environment: Environment, arguments: list[str], env: Mapping[str, str] | None = None, show=False) -> None:
    """Run the environment's pip; the indexes and caches it uses are the user's own configuration."""
    last = [0.0]

    def beat(progress: str, seconds: float) -> None:
        if show:
            show_progress(progress, seconds, last)

    command, quiet = pip_command(environment, arguments)
    run_logged(command, environment.prefix / LOG, {**quiet, **(env or {})}, beat)
    if show and sys.stdout.isatty():
        say('')


@contextmanager
def locked(prefix: Path) -> Iterator[None]:
    """Let one set-up work in an environment at a time (``make test`` and ``make demo`` side by side)."""
    import fcntl  # here, because Windows has none and check_python tells so

    with (prefix / LOCK).open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f'  ..  another set-up is at work in {prefix}: waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_venv(folder: Path, system_site_packages: bool) -> Path:
    """Make a venv, or mend a half-made one; return its interpreter."""
    python, ours = folder / 'bin' / 'python', {STAMP, LOG, LOCK}
    if not (folder / 'pyvenv.cfg').exists() and any(p.is_file() and p.name not in ours for p in folder.rglob('*')):
        raise SetupError(f'{folder} exists and is no virtual environment; name another with VENV=... (--venv ...).')
    if works(python, '-m', 'pip', '--version'):
        return python
    if works(python) and works(python, '-m', 'ensurepip', '--upgrade'):
        return python
    checks.check_python(sys.version_info[:3], sys.executable)
    checks.check_venv_module()
    with step(f'virtual environment in {folder}'):
        left = [path for path in folder.iterdir() if path.name not in ours]
        if left:
            say('      its Python does not run (removed, or a set-up was interrupted): making it anew')
        for path in left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        options = ['--system-site-packages'] if system_site_packages else []
        done = subprocess.run([sys.executable, '-m', 'venv', *options, folder], capture_output=True, text=True)
        if done.returncode:
            raise SetupError(f'python -m venv {folder} failed:\n{tail(done.stdout + done.stderr)}')
    return python


def install_beside_torch(environment: Environment, requirements: str) -> Environment:
    """Install torch and, by a second pip, most of what is built without it: each unpacks on one core for half a minute.

    A third of the packages goes with torch, so that both take as long; what others may be built with comes before them.
    What torch depends on comes behind all: the two must not write the same packages.
    """
    pins = parse_pins(requirements)
    # the packages of mm import torch when they are built
    names = '|'.join(['torch', 'onedl-[a-z]+', *BUILD_TOOLS])
    lines = [line for line in requirements.splitlines() if re.match(rf'(?!({names})==)[\w.-]+==', line)]
    shares = dict(torch=[f'torch=={pins["torch"]}', *lines[::3]], others=[x for i, x in enumerate(lines) if i % 3])
    files = {name: environment.prefix / f'frostnet-{name}.txt' for name in shares}
    for name, file in files.items():
        file.write_text('\n'.join(shares[name]) + '\n')
    options = ['install', '--no-deps', '--no-build-isolation']
    tools, env = pip_command(environment, [*options, *(f'{name}=={pins[name]}' for name in BUILD_TOOLS)])
    others, _ = pip_command(environment, [*options, '-r', str(files['others'])])
    with step(
        f'torch=={pins["torch"]} (0.2 GB for the CPU, several GB with CUDA), and beside it what is built without'
    ):
        both = ['sh', '-c', f'{shlex.join(tools)} && {shlex.join(others)}']
        with beside(both, environment.prefix / f'beside-{LOG}', env):
            pip(environment, [*options, '-r', str(files['torch'])])
        pip(environment, ['install', f'torch=={pins["torch"]}'])  # what it depends on
    return probe(environment.python, environment.own)


def install_torch(environment: Environment, pins: Mapping[str, str]) -> Environment:
    """Install the build tools, and torch unless there is one."""
    tools = [f'{name}=={pins[name]}' for name in BUILD_TOOLS if environment.packages.get(name) != pins[name]]
    there = environment.packages.get('torch')
    if there and release(there) < TORCH_MIN:
        raise SetupError(f'torch {there} is installed; 2.4 or newer is needed, {pins["torch"]} is tested. Upgrade it.')
    if there:
        say(f'  ok  torch {there} is there and is kept')
        if release(there) != release(pins['torch']):
            say(f'      note: the tests run with torch {pins["torch"]}; yours is not changed')
    wanted = ([] if there else [f'torch=={pins["torch"]}']) + tools
    if wanted:
        size = '' if there else '; torch is 0.2 GB for the CPU, several GB with CUDA'
        with step(f'{", ".join(wanted)}{size}'):
            keep = constraint(environment.prefix, there) if there else []
            pip(environment, ['install', *keep, *wanted])
    return probe(environment.python, environment.own)


def install_packages(environment: Environment, requirements: str) -> Environment:
    """Install everything pinned but torch and mmcv, and leave one OpenCV that imports."""
    pins = parse_pins(requirements)
    kept = [line for line in requirements.splitlines() if not re.match(r'(torch|onedl-mmcv)==', line)]
    if not environment.own and 'opencv-python-headless' in environment.packages:
        kept = [line for line in kept if not line.startswith('opencv-python==')]  # the user's OpenCV serves as well
    file = environment.prefix / 'frostnet-requirements.txt'
    file.write_text('\n'.join(kept) + '\n')
    with step(f'the other {sum("==" in line and not line.startswith("#") for line in kept)} pinned packages'):
        keep = constraint(environment.prefix, environment.packages['torch'])
        pip(environment, ['install', '--no-deps', '--no-build-isolation', *keep, '-r', str(file)])
    environment = probe(environment.python, environment.own)
    gui, headless = (f'{name}=={pins["opencv-python"]}' for name in ('opencv-python', 'opencv-python-headless'))
    error = last_error(environment, 'import cv2')
    if environment.own and not error and {'opencv-python', 'opencv-python-headless'} <= environment.packages.keys():
        with step('two OpenCV packages share their files: keeping opencv-python'):
            pip(environment, ['uninstall', '-y', 'opencv-python-headless'])
            pip(environment, ['install', '--no-deps', '--force-reinstall', gui])
        error = last_error(environment, 'import cv2')
    if error and environment.own:
        with step(f'OpenCV does not load here ({error}): taking its build without windows'):
            pip(environment, ['uninstall', '-y', 'opencv-python', 'opencv-python-headless'])
            pip(environment, ['install', '--no-deps', headless])
        error = last_error(environment, 'import cv2')
    if error:
        raise SetupError(f'OpenCV does not import: {error}\nDebian/Ubuntu: sudo apt install libgl1 libglib2.0-0')
    return probe(environment.python, environment.own)


def check_cuda(environment: Environment) -> None:
    """Stop if torch sees a GPU, for which mmcv's build wants nvcc, and there is none."""
    torch = json.loads(output_of(environment, PROBE_TORCH, 'torch does not import').splitlines()[-1])
    if torch['gpu'] and torch['cuda'] and not torch['home']:
        raise SetupError(
            f'torch sees a GPU, so mmcv compiles CUDA operators, but there is no nvcc.\n'
            f'Install the CUDA {torch["cuda"]} toolkit and set CUDA_HOME, '
            'or compile for the CPU only: CUDA_VISIBLE_DEVICES= make setup'
        )


def install_mmcv(environment: Environment, version: str, compiler: Mapping[str, str]) -> None:
    """Compile and install mmcv, and see that its operators run with this torch."""
    torch = environment.packages['torch']
    there = environment.packages.get('onedl-mmcv') == version
    error = last_error(environment, VERIFY_OPS) if there else None
    if there and not error:
        say(f'  ok  mmcv {version} is there and its operators run with torch {torch}')
        return
    checks.check_disk(environment.prefix, MMCV_GB)
    check_cuda(environment)
    jobs = os.environ.get('MAX_JOBS') or str(default_jobs())
    env = {**compiler, 'MAX_JOBS': jobs}
    command = ['install', '--no-deps', '--no-build-isolation', '-v', f'onedl-mmcv=={version}']
    minutes = f'about {COMPILE_CORE_MINUTES / float(jobs):.0f} minutes with {jobs} parallel jobs (MAX_JOBS)'
    if not there:
        with step(
            f'mmcv {version} for torch {torch}: seconds if pip has it in its cache, else it is compiled,\n'
            f'      {minutes}; log: {environment.prefix / LOG}'
        ):
            pip(environment, command, env, show=True)
        error = last_error(environment, VERIFY_OPS)
    if error:
        # pip's cache is keyed by mmcv's source, not by the torch that it was compiled for.
        with step(
            f'mmcv was compiled for another torch, its operators fail with torch {torch}\n      ({error});\n'
            f'      compiling it anew, {minutes}; log: {environment.prefix / LOG}'
        ):
            pip(environment, [*command, '--no-cache-dir', '--force-reinstall'], env, show=True)
        error = last_error(environment, VERIFY_OPS)
    if error:
        raise SetupError(
            f'mmcv {version} was compiled, but its operators do not run with torch {torch}:\n  {error}\n'
            f'  compiler: {compiler["CXX"]}; full log: {environment.prefix / LOG}'
        )


def set_up(environment: Environment, requirements: bytes) -> None:
    """Take all steps in an environment that is there."""
    pins = parse_pins(requirements.decode())
    checks.check_rivals(environment.packages)
    compiler = checks.find_compiler(os.environ)
    checks.check_toolchain(compiler, environment.include)
    if environment.own:
        removed = remove_half_installed(environment.purelib)
        if removed:
            say(f'  ..  interrupted earlier, installed again: {", ".join(removed)}')
            environment = probe(environment.python, True)
    checks.check_disk(environment.prefix, MMCV_GB if 'torch' in environment.packages else FULL_GB)
    if environment.own and 'torch' not in environment.packages:
        environment = install_beside_torch(environment, requirements.decode())
    environment = install_torch(environment, pins)
    environment = install_packages(environment, requirements.decode())
    install_mmcv(environment, pins['onedl-mmcv'], compiler)
    with step('this project (editable)'):
        pip(environment, ['install', '--no-deps', '--no-build-isolation', '-e', str(ROOT)])
    if environment.own:
        byte_compile(environment.python, environment.purelib, environment.prefix / LOG)
    with step('importing frostnet_mm'):
        output_of(environment, VERIFY_PACKAGE, 'the installed environment does not import')
    environment = probe(environment.python, environment.own)
    (environment.prefix / STAMP).write_text(json.dumps({'key': stamp_key(requirements, environment)}) + '\n')


def set_up_target(folder: Path, use_current: bool, system_site_packages: bool) -> None:
    """Bring a venv, or the Python that runs this, to the pinned state."""
    requirements = (ROOT / 'requirements.txt').read_bytes()
    python = Path(sys.executable) if use_current else folder / 'bin' / 'python'
    if works(python):
        environment = probe(python, own=not use_current)
        checks.check_python(environment.version, str(python))
        if is_complete(environment, requirements):
            return
        folder = environment.prefix
    else:
        checks.check_python(sys.version_info[:3], sys.executable)
        checks.find_compiler(os.environ)  # before a folder is made
        checks.check_disk(folder, FULL_GB)
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not use_current:
            python = ensure_venv(folder, system_site_packages)
        environment = probe(python, own=not use_current)
        if is_complete(environment, requirements):
            return  # another set-up has finished it meanwhile
        say(f'Setting up {folder} (once; later runs return at once)')
        set_up(environment, requirements)
        say(f'The environment is ready after {(time.monotonic() - started) / 60:.1f} minutes: {python}')


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description='Make the Python environment of FrostNet-MM.')
    target = parser.add_mutually_exclusive_group()
    target.add_argument('--venv', type=Path, default=ROOT / '.venv', help='virtual environment to make or complete')
    target.add_argument('--use-current', action='store_true', help='install into the Python that runs this (conda)')
    parser.add_argument('--system-site-packages', action='store_true', help="let a new venv see this Python's packages")
    args = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):  # a kill or a closed terminal is an interrupt: the same clean end
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    try:
        set_up_target(args.venv.absolute(), args.use_current, args.system_site_packages)
        return 0
    except SetupError as error:
        print(f'setup: {error}', file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f'setup: {error}. Use an environment that you may write to (without --use-current).', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nsetup: interrupted; run the same command again to go on, finished steps are kept.', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
