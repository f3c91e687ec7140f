"""x86 CPUs whose INT8 sums saturate."""

import os
import platform
from pathlib import Path

SATURATION = (
    'This CPU has no VNNI: engines add INT8 products in 16 bits here, which saturate without a word where weights have '
    '8 bits. For such CPUs deploy the model with --weight-bits 7.'
)


def cpu_saturates(cpuinfo: str | os.PathLike = '/proc/cpuinfo') -> bool | None:
    """Whether this CPU's INT8 sums may saturate: x86 without VNNI adds two products of u8 and s8 in 16 bits.

    Args:
        cpuinfo (str | PathLike): What Linux says about the CPU.

    Returns:
        bool | None: None where it is an x86 and the system does not tell.
    """
    if platform.machine().lower() not in ('x86_64', 'amd64', 'i386', 'i686', 'x86'):
        return False
    try:
        lines = Path(cpuinfo).read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return None
    flags = next((set(line.partition(':')[2].split()) for line in lines if line.startswith('flags')), None)
    if flags is None:
        return None
    return 'ssse3' in flags and not flags & {'avx512_vnni', 'avx_vnni'}


def sums_saturate(weight_bits: int | None) -> bool:
    """Whether INT8 sums of 16 bits may saturate on this CPU, for weights of so many bits; None for float."""
    return weight_bits is not None and weight_bits > 7 and bool(cpu_saturates())
