"""Commands and programs in processes of their own that start warm: forked from one that has imported what a run needs.

A test whose point is the console script, its start or its signals takes `flow.script` and `flow.start` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

PATIENCE = 280.0
PRELOADED = [
    "torch", "torch.func", "torch._dynamo", "torch._inductor.analysis", "torch.onnx", "torch.distributed.tensor",
    "sympy", "pandas", "pyarrow.parquet", "scipy.stats", "scipy.optimize", "sklearn.datasets", "sklearn.decomposition",
    "matplotlib.figure", "matplotlib.pyplot", "safetensors.torch", "importlib.resources", "collapsebench.cli.run",
    "collapsebench.cli.results", "collapsebench.cli.plugins", "collapsebench.verbs.run", "collapsebench.verbs.scan",
    "collapsebench.verbs.measure", "collapsebench.training.pieces", "collapsebench.executing.execute",
    "collapsebench.scoring.score", "collapsebench.publishing.folder",
]  # fmt: skip

_SERVER = multiprocessing.get_context("forkserver")


@contextmanager
def without_figures() -> Iterator[None]:
    """Leave out the figures of every suite that is written: drawing them takes longer than a tiny suite's training."""
    with mock.patch("collapsebench.publishing.folder.draw_figures", return_value=[]):
        yield


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a process, on one thread, without what would lead it to another store."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COLLAPSEBENCH_")}
    return {**kept, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **changes}


def command(
    *arguments: Any, cwd: Path | None = None, figures: bool = False, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a warm process and wait for it. figures: whether a run draws them."""
    return _run(_command, [str(argument) for argument in arguments], cwd, figures, environment(**changes))


def python(
    code: str, *arguments: Any, cwd: Path | None = None, figures: bool = False, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in a warm process, as `python -c` would, and wait for it."""
    return _run(_program, [code, *map(str, arguments)], cwd, figures, environment(**changes))


def _run(
    task: Any, arguments: list[str], cwd: Path | None, figures: bool, surroundings: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    _SERVER.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as name:
        said = [Path(name) / "stdout", Path(name) / "stderr"]
        process = _SERVER.Process(target=_child, args=(task, arguments, cwd, figures, dict(surroundings), said))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, PATIENCE)
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(arguments, code, *(path.read_text(encoding="utf-8") for path in said))


def _child(
    task: Any, arguments: list[str], cwd: Path | None, figures: bool, surroundings: dict[str, str], said: list[Path]
) -> None:
    for stream, path in zip(("stdout", "stderr"), said, strict=True):
        setattr(sys, stream, path.open("w", encoding="utf-8", buffering=1))
        os.dup2(getattr(sys, stream).fileno(), 1 if stream == "stdout" else 2)
    os.environ.clear()
    os.environ.update(surroundings)
    for folder in reversed(surroundings.get("PYTHONPATH", "").split(os.pathsep)):
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
    if cwd:
        os.chdir(cwd)
    try:
        if figures:
            task(*arguments)
        else:
            with without_figures():
                task(*arguments)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _command(*arguments: str) -> None:
    from collapsebench.cli.main import main

    main(list(arguments), prog_name="collapsebench")


def _program(code: str, *arguments: str) -> None:
    sys.argv = ["-c", *arguments]
    sys.path.insert(0, "")
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
