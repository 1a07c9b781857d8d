"""The house keeps its plan: rooms of a readable size, one way through, and plugins that see the face only."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import architecture
import pytest

ROOT = architecture.ROOT
CORE = architecture.CORE
MODULES = [path for path in sorted(CORE.rglob("*.py")) if path.name != "__init__.py"]


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.path[:0] = ['core', 'plugins']; from importlinter import cli; cli.lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=checkout, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the import contract reads."""
    for folder in ("core", "plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_a_plugin_that_imports_a_room_breaks_the_contract(checkout: Path) -> None:
    plugin = checkout / "plugins/collapsebench_metrics/exponent_fit.py"
    plugin.write_text("import collapsebench.observing\n" + plugin.read_text())
    done = lint_imports(checkout)
    assert done.returncode == 1
    assert "Plugins see the face only BROKEN" in done.stdout
    assert "collapsebench_metrics.exponent_fit -> collapsebench.observing" in done.stdout


def test_a_room_that_imports_one_above_it_for_its_types_alone_breaks_the_contract(checkout: Path) -> None:
    module = checkout / "core/collapsebench/planning/jobs.py"
    module.write_text(
        module.read_text()
        + "\nif __import__('typing').TYPE_CHECKING:\n    from collapsebench.training import trainer\n"
    )
    done = lint_imports(checkout)
    assert done.returncode == 1
    assert "collapsebench.planning.jobs -> collapsebench.training.trainer" in done.stdout


def test_every_room_is_a_layer_of_a_contract_that_fits_on_twelve_lines() -> None:
    found = architecture.layers()
    assert len(found) <= 12
    there = {path.stem for path in CORE.iterdir() if path.is_dir() or path.suffix == ".py"} - {
        "__init__",
        "__pycache__",
    }
    named = {name for layer in found for name in layer}
    assert named == there - {"suites"}


def test_no_folder_holds_more_than_nine_modules_and_the_core_about_a_hundred() -> None:
    folders = {folder: sum(path.parent == folder for path in MODULES) for folder in {path.parent for path in MODULES}}
    assert {folder.name: count for folder, count in folders.items() if count > 9} == {}
    assert len(MODULES) <= 120


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    modules = [*MODULES, *sorted((ROOT / "plugins").rglob("*.py"))]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in modules}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_name_says_nothing() -> None:
    assert {path.stem for path in CORE.rglob("*")} & {"utils", "helpers", "common", "base", "manager"} == set()


def test_a_job_travels_as_a_job() -> None:
    for path in MODULES:
        assert not re.search(r"(job|content): Mapping\[str, Any\]|content\[\"", path.read_text()), path


@pytest.mark.parametrize("name", [name for layer in architecture.layers() for name in layer])
def test_every_room_says_what_comes_in_what_goes_out_and_what_belongs_there(name: str) -> None:
    for room in architecture.rooms(name):
        if room.files:
            assert {"In", "Out", "Add here"} == room.parts.keys(), room.path
            assert all(sentence.endswith(".") for _, sentence in room.files), room.path
