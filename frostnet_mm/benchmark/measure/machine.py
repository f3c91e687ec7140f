"""The machine that measures: processor, memory, system, versions, and pinning to cores. Imports no engine."""

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ...device import engines

# Instruction sets that decide which INT8 and bf16 kernels an engine takes; x86 as Linux calls them, then ARM.
FLAGS = ('avx2', 'avx_vnni', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_int8', 'amx_bf16', 'amx_tile')
ARM_FLAGS = ('asimd', 'asimddp', 'asimdhp', 'i8mm', 'bf16', 'sve')
PACKAGES = (  # and those of the engines
    'frostnet-mm torch torchao onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmsegmentation onnx numpy '
    'opencv-python'
).split()


def describe_machine() -> dict:
    """What a reader needs to know of the machine, as plain data; what the system does not tell is None or missing."""
    info = _cpu_info(Path('/proc/cpuinfo'))
    found = info['flags']
    return dict(
        cpu=info['model'] or platform.processor() or platform.machine(),
        flags=[name for name in (*FLAGS, *ARM_FLAGS) if name in found],
        cores=len(physical_cores()),
        logical_cpus=os.cpu_count(),
        memory_gib=_memory_gib(),
        system=f'{platform.system()} {platform.release()} {platform.machine()}',
        governor=_read(Path('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor')),
        hypervisor='hypervisor' in found,
        python=platform.python_version(),
        versions=versions(dict.fromkeys((*PACKAGES, *_engine_packages()))),
        pinning=hasattr(os, 'sched_setaffinity'),
    )


def _engine_packages() -> list[str]:
    found = (engines.find(name).package for name in engines.names())
    return [package for package in found if package]


def versions(names: Iterable[str]) -> dict[str, str]:
    """The installed ones of the distributions named, with their versions."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_line(machine: dict) -> str:
    """A machine of :func:`describe_machine` in one line."""
    flags = ' '.join(machine['flags']) or 'no INT8 instructions known'
    memory = f', {machine["memory_gib"]:.0f} GiB' if machine.get('memory_gib') else ''
    return f'{machine["cpu"]} ({flags}), {machine["cores"]} cores{memory}, {machine["system"]}'


def physical_cores() -> list[int]:
    """A logical CPU for each physical core that this process may use, in order."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else range(os.cpu_count() or 1)
    cores: dict[str, int] = {}
    for cpu in allowed:
        siblings = _read(Path(f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list'))
        cores.setdefault(siblings or str(cpu), cpu)
    return list(cores.values())


def choose_cpus(threads: int) -> list[int]:
    """The logical CPUs for a number of threads: one a physical core, the last ones, for the first serve interrupts.

    Raises:
        ValueError: There are fewer cores.
    """
    cores = physical_cores()
    if threads > len(cores):
        raise ValueError(f'{threads} threads were asked for, but this process may use {len(cores)} cores only.')
    return cores[len(cores) - threads :]


def pin(cpus: Iterable[int]) -> bool:
    """Bind this process to logical CPUs where the system can; return whether it did."""
    if not hasattr(os, 'sched_setaffinity'):
        return False
    os.sched_setaffinity(0, set(cpus))
    return True


@contextmanager
def pinned(cpus: Iterable[int]) -> Iterator[bool]:
    """Bind this thread, and those that it starts, to logical CPUs for a while; tells whether the system can."""
    before = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else None
    try:
        yield pin(cpus)
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def memory_mib(path: str = '/proc/self/status') -> tuple[float, float] | None:
    """Resident memory of this process now and at its peak, in MiB; None where the system does not tell."""
    text = _read(Path(path))
    if text is None:
        return None
    fields = dict(line.split(':', 1) for line in text.splitlines() if ':' in line)
    return int(fields['VmRSS'].split()[0]) / 1024, int(fields['VmHWM'].split()[0]) / 1024


def reset_peak() -> None:
    """Let the peak of :func:`memory_mib` begin anew, where the system can."""
    try:
        Path('/proc/self/clear_refs').write_text('5')  # man proc: resets VmHWM to the present
    except OSError:
        return  # no Linux, or forbidden in a container: the peak then counts from the start of the process


def _cpu_info(path: Path) -> dict:
    model, flags = '', set()
    for line in (_read(path) or '').splitlines():
        name, _, value = line.partition(':')
        if name.strip() == 'model name':
            model = value.strip()
        elif name.strip() in ('flags', 'Features'):
            flags = set(value.split())
            break
    return dict(model=model, flags=flags)


def _memory_gib() -> float | None:
    for line in (_read(Path('/proc/meminfo')) or '').splitlines():
        if line.startswith('MemTotal:'):
            return int(line.split()[1]) / 2**20
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
