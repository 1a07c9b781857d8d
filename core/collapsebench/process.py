"""Settings of the running process that affect its speed and memory but not its results."""

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

    By default, the activations of a stack are mapped and unmapped, page by page, at every update. On systems without
    glibc, this does nothing. Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _GIB)) and bool(mallopt(_M_TRIM_THRESHOLD, 2 * _GIB - 1))


@contextmanager
def returned_memory() -> Iterator[None]:
    """Return freed memory to the system: at the start and the end of this context, and large blocks within it.

    A phase with other block sizes cannot reuse the blocks that `keep_freed_memory` has kept from the phase before. On
    systems without glibc, this does nothing. Source: malloc_trim(3), mallopt(3).
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


@contextmanager
def matrix_precision(precision: str) -> Iterator[None]:
    """Let CUDA devices round float32 matrix products to TF32 within this context if `precision` is "tf32", else not."""
    import torch

    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


def share_cores() -> None:
    """Let waiting threads yield their core early. Call this before torch is imported.

    By default, waiting threads of GNU OpenMP spin, which makes updates many times slower when another process needs one
    of the cores. A value set in the environment is kept. Source: GCC manual, GOMP_SPINCOUNT.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
