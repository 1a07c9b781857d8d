"""A tiny suite and ways to run it: in this process, in a warm one (`command`), or as people do, by the script."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from warmed import command, environment, without_figures

__all__ = ["command", "environment", "without_figures"]

SCRIPT = Path(sys.executable).with_name("collapsebench")
"""The console script of the environment that runs the tests."""

TINY = """
title = "Tiny"
seeds = 2
metrics = ["effective-dimension"]

[scan]
latent_dim = 3
temperatures = { from = 1.0, to = 1e-2, count = 4 }

[training]
optimiser = { use = "adam", learning_rate = 1e-2 }
batch_size = 32
max_updates = 60
convergence = { checks = 4 }

[evaluation]
samples = 64
cost_samples = 256

[compute]
device = "cpu"
threads = 1

[[datasets]]
use = "gaussian"
dimension = 4
samples = 64
evaluation_samples = 64

[[architectures]]
id = "linear"
encoder = { use = "linear" }
decoder = { use = "linear" }

[[architectures]]
id = "mlp"
encoder = { use = "mlp", depth = 1, width = 8 }
decoder = { use = "mlp", depth = 1, width = 8 }
"""
ARCHITECTURES = ("linear", "mlp")


def write_suite(folder: Path, text: str = TINY, name: str = "tiny") -> Path:
    """Write a suite into a folder and return its path."""
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def without(architecture: str, text: str = TINY) -> str:
    """Return a suite without one of its architectures."""
    head, *tables = text.split("[[architectures]]")
    return "[[architectures]]".join([head, *(table for table in tables if f'"{architecture}"' not in table)])


def invoke(*arguments: Any) -> Result:
    """Run the command line in this process."""
    from collapsebench.cli.main import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def script(*arguments: Any, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the console script in a process of its own that starts cold, and wait for it."""
    return subprocess.run(
        [str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, env=environment(**changes), check=False
    )


def start(*arguments: Any) -> subprocess.Popen[str]:
    """Start the console script in a process of its own."""
    return subprocess.Popen(
        [str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def records(store: Path) -> dict[str, dict[str, Any]]:
    """Return what `cell.json` says of every stored cell, by architecture/seed."""
    found = [json.loads(path.read_text()) for path in sorted(store.glob("cells/*/*/cell.json"))]
    return {f"{_architecture(one['description'])}/{one['description']['seed']}": one for one in found}


def _architecture(description: dict[str, Any]) -> str:
    return str(description["encoder"]["use"])


def stamps(store: Path, pattern: str = "cells/*/*/cell.json") -> dict[str, tuple[int, int]]:
    """Return inode and time of change of every file that matches: equal stamps mean that nobody wrote it again."""
    files = sorted(store.glob(pattern))
    return {path.relative_to(store).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """Return the SHA-256 of the files below a folder that match any of the patterns."""
    files = sorted({path for pattern in patterns or ("**/*",) for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def boards(store: Path, suite: str = "tiny") -> dict[str, str]:
    """Return the SHA-256 of the boards and tables that repeat byte for byte."""
    return digests(store / "suites" / suite, "board.csv", "board.json", "tables/*.csv")


def weights(store: Path) -> dict[str, str]:
    """Return the SHA-256 of every cell's weights."""
    return digests(store, "cells/*/*/weights.safetensors")
