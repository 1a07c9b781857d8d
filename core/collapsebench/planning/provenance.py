"""Describe where a result comes from: commands, code, packages, plugins, hardware."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from collapsebench import __version__
from collapsebench.contracts import Registry
from collapsebench.suite.file import parsed_value, shipped_suites
from collapsebench.suite.resolve import Suite

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "pydantic", "pluggy")


def provenance(registry: Registry, device: str, precision: str) -> dict[str, Any]:
    """Return what a reader needs in order to judge or repeat a result."""
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
        **_gpu(device),
        "precision": precision,
    }


def _gpu(device: str) -> dict[str, str]:
    """Return the name of a CUDA device."""
    if device != "cuda":
        return {}
    import torch

    return {"gpu": torch.cuda.get_device_name()}


def commands(suite: Suite) -> list[str]:
    """Return the commands that produce the published folder of a suite again; none for a suite without a file.

    A suite that does not ship with collapsebench appears with the name of its file. Locations that exist on one machine
    only, such as the `path` of data, are replaced by a name such as PATH.
    """
    if suite.path is None:
        return []
    name = suite.id if shipped_suites().get(suite.id) == suite.path else suite.path.name
    coders = [coder for architecture in suite.architectures for coder in (architecture.encoder, architecture.decoder)]
    references = (*suite.datasets, *suite.objectives, *suite.metrics, *coders, suite.executor)
    locations = {name for reference in references for name in reference.location_parameters}
    options = ["--preset", suite.preset] if suite.preset else []
    for override in suite.overrides:
        options += ["--set", _without_locations(override, locations)]
    suite_options = [name, *options]
    return [
        shlex.join(["collapsebench", "run", *suite_options]),
        shlex.join(["collapsebench", "publish", *suite_options, "FOLDER"]),
    ]


def _without_locations(override: str, locations: Set[str]) -> str:
    """Return `dotted.key=value` with a name in place of every absolute path and every value of a location parameter."""
    dotted, _, value = override.partition("=")
    key, parsed = dotted.rpartition(".")[2].strip(), parsed_value(value)
    local = {
        text: name.upper() if name in locations else "PATH"
        for name, text in _texts(parsed, key)
        if name in locations or _is_absolute(text)
    }
    if isinstance(parsed, str):
        return f"{dotted}={local.get(parsed, value)}"
    for text, name in local.items():
        value = value.replace(json.dumps(text, ensure_ascii=False), f'"{name}"').replace(f"'{text}'", f"'{name}'")
    left = local.keys() & {text for _, text in _texts(parsed_value(value), key)}
    return f"{dotted}={'VALUE' if left else value}"


def _is_absolute(text: str) -> bool:
    return text.startswith("~") or PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every string inside a TOML value, each after the key that it belongs to."""
    if isinstance(value, str):
        yield key, value
    for inner_key, inner in value.items() if isinstance(value, dict) else ():
        yield from _texts(inner, inner_key)
    for inner in value if isinstance(value, list) else ():
        yield from _texts(inner, key)


@cache
def git_state() -> str | None:
    """Return the commit of the checkout that collapsebench runs from, with `-dirty` if files were changed.

    None if collapsebench does not run from a checkout.
    """
    folder = Path(__file__).resolve().parents[1]
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    tracked = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=False
    )
    return described.stdout.strip() if tracked.returncode == 0 else None


@cache
def processor() -> str:
    """Return the processor's name as reported by the system."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
