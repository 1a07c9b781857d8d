"""Settings of the running process that change its speed and never its numbers."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MIB, _GIB = 1 << 20, 1 << 30


@cache
def keep_freed_memory() -> bool:
    """Ask the GNU C library not to hand large freed blocks back to the system; return whether it agreed.

    By default each activation of a stack is mapped and unmapped anew, page by page, at every update. Elsewhere than
    on Linux with glibc nothing happens. Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _GIB)) and bool(mallopt(_M_TRIM_THRESHOLD, 2 * _GIB - 1))


@contextmanager
def returned_memory() -> Iterator[None]:
    """Within this context every large block is mapped, and handed back when freed, as are those freed before.

    A phase that allocates otherwise than the one before cannot reuse the blocks that `keep_freed_memory` has kept.
    Elsewhere than on Linux with glibc nothing happens. Source: malloc_trim(3), mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    glibc = ctypes.CDLL(None)
    glibc.malloc_trim(0)
    glibc.mallopt(_M_MMAP_THRESHOLD, _MIB)
    try:
        yield
    finally:
        glibc.malloc_trim(0)
        if keep_freed_memory.cache_info().currsize:
            glibc.mallopt(_M_MMAP_THRESHOLD, _GIB)


def share_cores() -> None:
    """Let threads that wait for one another yield early; to be called before torch is imported.

    GNU OpenMP spins by default, which slows an update many times as soon as another process wants one of the cores.
    What the environment says already is kept. Source: GCC manual, GOMP_SPINCOUNT.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
