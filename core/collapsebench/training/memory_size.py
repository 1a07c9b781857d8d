"""Amounts of memory: what people write, what the machine has left, what this process holds."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def as_bytes(text: str) -> int:
    """Return the bytes of an amount such as "2 GiB".

    >>> from collapsebench.training.memory_size import as_bytes
    >>> as_bytes("1.5 MiB"), as_bytes("2GB")
    (1572864, 2000000000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if found is None or found[2] not in _UNITS or float(found[1]) == 0:
        raise ValueError(f"found '{text}', expected an amount and a unit such as '2 GiB'; units: {', '.join(_UNITS)}.")
    return int(float(found[1]) * _UNITS[found[2]])


def bytes_text(amount: float) -> str:
    """Return an amount of memory with three digits.

    >>> from collapsebench.training.memory_size import bytes_text
    >>> bytes_text(1572864), bytes_text(9.5e9)
    ('1.5 MiB', '8.85 GiB')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if amount >= _UNITS[unit]:
            return f"{amount / _UNITS[unit]:.3g} {unit}"
    return f"{amount:.0f} B"


def resident_bytes() -> int:
    """Return what this process holds of the machine's memory now; where that is not told, the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def available_bytes() -> int | None:
    """Return what this process may still take: of the machine, of its control group, of its own limits (Linux).

    None where nothing is known.
    """
    found = [_meminfo("MemAvailable"), _control_group(), _own_limits()]
    known = [amount for amount in found if amount is not None]
    return max(0, min(known)) if known else None


def _meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _control_group() -> int | None:
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used)


def _own_limits() -> int | None:
    """The address space and the data segment that are left under this process's limits."""
    try:
        pages = Path("/proc/self/statm").read_text().split()
    except OSError:
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    left = [
        limit - int(pages[field]) * page
        for kind, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5))
        for limit in resource.getrlimit(kind)[:1]
        if limit != resource.RLIM_INFINITY
    ]
    return min(left) if left else None
