"""What a report of a fault needs to say: versions, plugins, devices and the C compiler of this environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict
from typing import Any

import click

from collapsebench import __version__

_DISTRIBUTION = "collapsebench"
_SECONDS = 10


def version_options(command: Any) -> Any:
    """Add `--version`, and `--json`, which goes with it."""
    version = click.option(
        "--version",
        is_flag=True,
        expose_value=False,
        callback=_print_version,
        help="Show the version and exit; with --json, the packages, plugins, devices and compiler too.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, is_eager=True, help="With --version: print JSON.")
    return version(as_json(command))


def _print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    as_json = context.params["as_json"]  # eager, so that it is known by now
    click.echo(json.dumps(environment(), indent=2) if as_json else f"{_DISTRIBUTION} {__version__}")
    context.exit()


def environment() -> dict[str, Any]:
    """Return what this environment is, as JSON has it. It imports torch, and compiles the kernel where it is new."""
    from collapsebench.contracts import load_registry
    from collapsebench.planning.provenance import git_state

    plugins = [asdict(report) for report in load_registry().plugins()]
    return {
        "collapsebench": __version__,
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "plugins": [{key: value for key, value in plugin.items() if key != "components"} for plugin in plugins],
        "devices": _devices(),
        "compiler": _compiler(),
    }


def packages() -> dict[str, str | None]:
    """Return the version of every package that collapsebench needs at run time; None for one that is missing."""
    try:
        required = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}  # it runs from a folder that nobody has installed
    names = (re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in required if "extra ==" not in text)
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    from collapsebench.planning.provenance import processor

    found: dict[str, Any] = {"cpu": {"name": processor(), "cores": os.cpu_count()}}
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken installation is what such a report is for
        return {**found, "torch": f"cannot be imported: {error}"}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {**found, "cuda": names, "mps": torch.backends.mps.is_available()}


def _compiler() -> dict[str, Any]:
    """The C compiler, its own words on its version, and why the kernel is not available, or None where it is."""
    try:
        from collapsebench.stack.kernel.library import KernelError, find_compiler, load_kernel
    except (ImportError, OSError) as error:
        return {"path": None, "version": None, "why_no_kernel": str(error)}
    path, reason = find_compiler(), None
    try:
        load_kernel()
    except KernelError as error:
        reason = str(error)
    return {"path": path, "version": None if path is None else _first_line(path), "why_no_kernel": reason}


def _first_line(compiler: str) -> str | None:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)
