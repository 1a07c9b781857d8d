"""Where a result comes from: code, packages, plugins, hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from collapsebench import __version__
from collapsebench.registry import Registry

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "pydantic", "pluggy")


def provenance(registry: Registry, device: str, precision: str) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat a result."""
    return {
        "collapsebench": __version__,
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "torch": importlib.metadata.version("torch"),
        "plugins": {f"{report.distribution}/{report.entry_point}": report.version for report in registry.plugins()},
        "cpu": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "device": device,
        "precision": precision,
    }


@cache
def git_state() -> str | None:
    """Return the commit of the checkout that collapsebench runs from, with `-dirty` if it differs; None elsewhere."""
    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    tracked = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=False
    )
    return found.stdout.strip() if tracked.returncode == 0 else None


@cache
def processor() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
