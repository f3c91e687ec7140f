"""The stack on which a thread's signal handlers run."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (('address', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Put this thread's alternate signal stack back that was there before; it is put up on Linux only.

    OpenVINO's CPU plugin gives the thread that compiles a first model a stack of its own, and unmaps it when it is
    unloaded, in whatever thread that happens. Python's signal handlers run on such a stack: the next Ctrl-C, or a data
    loading worker that ends, then kills the process (seen in 2026.4).
    """
    if sys.platform != 'linux':
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    known = libc.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(ctypes.byref(before), None)
