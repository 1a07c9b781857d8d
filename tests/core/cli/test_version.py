"""`--version` is one line; with `--json` it is what a report of a fault needs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from flow import invoke

from collapsebench import __version__
from collapsebench.cli import main as version
from collapsebench.contracts import Registry, Source
from collapsebench.stack.kernel import library


@pytest.fixture(scope="module")
def told() -> dict:
    done = invoke("--version", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_version_is_one_line() -> None:
    assert invoke("--version").output == f"collapsebench {__version__}\n"


def test_the_order_of_the_two_options_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "environment", lambda: {"collapsebench": __version__})
    assert invoke("--json", "--version").output == invoke("--version", "--json").output


def test_json_without_version_is_a_usage_error() -> None:
    done = invoke("--json", "list")
    assert done.exit_code == 2
    assert "--json before a command goes with --version" in done.stderr


def test_the_report_names_versions_plugins_devices_and_compiler(told: dict) -> None:
    assert list(told) == [
        "collapsebench", "git", "python", "platform", "packages", "plugins", "devices", "compiler",
    ]  # fmt: skip
    assert (told["collapsebench"], told["python"]) == (__version__, platform.python_version())
    assert told["packages"]["torch"] == importlib.metadata.version("torch")
    assert told["devices"]["cpu"]["cores"] == os.cpu_count()
    assert told["devices"]["cpu"]["name"]


def test_every_required_package_has_its_version_and_no_optional_one_is_listed() -> None:
    metadata = importlib.metadata.metadata("collapsebench")
    found = version.packages()
    required = [text for text in metadata.get_all("Requires-Dist") or [] if "extra ==" not in text]
    assert len(found) == len(required) > 10
    assert all(importlib.metadata.version(name) == value for name, value in found.items())
    assert "pytest" not in found


def test_a_package_that_is_missing_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package>=1.0; python_version>'3'"])
    assert version.packages() == {"no-such-package": None}


def test_a_folder_that_nobody_installed_has_no_packages_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert version.packages() == {}


def test_every_plugin_is_told_with_its_distribution_its_version_and_whether_it_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise ImportError("no module named 'gone'")

    registry = Registry([Source("moons", "two-moons", "0.3", broken)])
    monkeypatch.setattr("collapsebench.contracts.load_registry", lambda: registry)
    (plugin,) = version.environment()["plugins"]
    assert plugin == {
        "distribution": "two-moons",
        "version": "0.3",
        "entry_point": "moons",
        "status": "failed",
        "reason": "ImportError: no module named 'gone'",
        "remarks": (),
    }


def test_the_compiler_is_told_with_the_first_line_of_its_version(tmp_path: Path, monkeypatch) -> None:
    compiler = tmp_path / "mycc"
    compiler.write_text("#!/bin/sh\necho 'mycc 1.2.3'\necho 'no warranty'\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    found = version.environment()["compiler"]
    assert (found["path"], found["version"]) == (str(compiler), "mycc 1.2.3")


def test_where_the_kernel_is_not_available_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise library.KernelError("no C compiler (cc) on the path")

    monkeypatch.setattr(library, "load_kernel", unavailable)
    monkeypatch.setattr(library, "find_compiler", lambda: None)
    assert version.environment()["compiler"] == {
        "path": None,
        "version": None,
        "why_no_kernel": "no C compiler (cc) on the path",
    }


def test_without_torch_the_report_is_written_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is broken')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "collapsebench.cli.main", "--version", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"]["torch"] == "cannot be imported: libtorch is broken"
    assert found["compiler"]["why_no_kernel"] == "libtorch is broken"
