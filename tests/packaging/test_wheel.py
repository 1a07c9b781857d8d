"""The wheel holds the core, every plugin package and the suites, and works where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists())
SUITES = sorted(path.name for path in (ROOT / "suites").glob("*.toml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel, installed, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    install = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index",
        "--no-compile", "--target", str(folder), str(wheel),
    ]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def text(wheel: Path, ending: str) -> str:
    (name,) = [name for name in names(wheel) if name.endswith(ending)]
    with ZipFile(wheel) as archive:
        return archive.read(name).decode()


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command far from the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COLLAPSEBENCH_")}
    return subprocess.run(
        [sys.executable, str(installed / "bin/collapsebench"), *arguments],
        capture_output=True, text=True, cwd=folder, env={**environment, "PYTHONPATH": str(installed)}, check=False,
    )  # fmt: skip


def test_every_module_of_the_core_and_of_every_plugin_is_in_the_wheel(wheel: Path) -> None:
    assert len(PLUGINS) >= 6
    sources = {"core": ["collapsebench"], "plugins": PLUGINS}
    expected = {
        path.relative_to(ROOT / root).as_posix()
        for root, packages in sources.items()
        for package in packages
        for path in (ROOT / root / package).rglob("*.py")
    }
    assert {name for name in names(wheel) if name.endswith(".py")} == expected


def test_every_package_says_that_it_is_typed(wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in ("collapsebench", *PLUGINS)} <= names(wheel)


def test_the_source_of_the_kernel_is_shipped(wheel: Path) -> None:
    kernel = ROOT / "core/collapsebench/stack/kernel"
    sources = {path.relative_to(ROOT / "core").as_posix() for path in (*kernel.glob("*.c"), *kernel.glob("*.h"))}
    assert len(sources) >= 2
    assert sources <= names(wheel)


def test_the_templates_of_new_plugins_are_shipped(wheel: Path) -> None:
    templates = {path.name for path in (ROOT / "core/collapsebench/authoring/templates").iterdir()}
    assert {name.rpartition("/")[2] for name in names(wheel) if "/templates/" in name} == templates


def test_what_a_page_is_made_of_is_shipped(wheel: Path) -> None:
    source = ROOT / "core/collapsebench"
    assets = source / "publishing/page/assets"
    parts = {path.relative_to(source.parent).as_posix() for path in assets.rglob("*") if path.is_file()}
    assert "collapsebench/publishing/page/assets/uplot/LICENSE" in parts
    assert {name for name in names(wheel) if "/page/assets/" in name} == parts


def test_every_suite_is_in_the_wheel_as_it_is_in_the_checkout(wheel: Path) -> None:
    assert "quickstart.toml" in SUITES
    found = {name for name in names(wheel) if name.endswith(".toml")}
    assert found == {f"collapsebench/suites/{name}" for name in SUITES}
    for name in SUITES:
        assert text(wheel, f"/{name}") == (ROOT / "suites" / name).read_text(encoding="utf-8")


def test_nothing_else_is_in_the_wheel(wheel: Path) -> None:
    about = f"collapsebench-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names(wheel)} == {"collapsebench", *PLUGINS, about}
    assert not [name for name in names(wheel) if "test_" in name or "__pycache__" in name or name.startswith("results")]


def test_the_wheel_declares_the_command_every_plugin_and_the_licence(wheel: Path) -> None:
    entries = text(wheel, ".dist-info/entry_points.txt")
    assert "collapsebench = collapsebench.cli.main:main" in entries
    assert all(f"= {package}\n" in entries + "\n" for package in PLUGINS)
    assert any(name.endswith("licenses/LICENSE") for name in names(wheel))
    assert f"Version: {PROJECT['version']}" in text(wheel, ".dist-info/METADATA")


def test_an_installed_wheel_finds_its_own_plugins_and_suites(installed: Path, tmp_path: Path) -> None:
    code = "import collapsebench.suite.file as s; print(s.__file__, *s.shipped_suites().values(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, check=True,
    )  # fmt: skip
    module, *suites = map(Path, done.stdout.split())
    assert module.parent == installed / "collapsebench/suite"
    assert sorted(suites) == [installed / "collapsebench/suites" / name for name in SUITES]

    listed = run(installed, tmp_path, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    kinds = {row["kind"] for row in json.loads(listed.stdout)}
    assert kinds == {"dataset", "encoder", "decoder", "objective", "observable", "metric", "executor", "suite"}
    reports = json.loads(run(installed, tmp_path, "plugins", "list", "--json").stdout)
    assert {report["status"] for report in reports} == {"ok"}


@pytest.mark.parametrize("suite", [Path(name).stem for name in SUITES])
def test_every_shipped_suite_is_valid_from_an_installed_wheel(installed: Path, tmp_path: Path, suite: str) -> None:
    done = run(installed, tmp_path, "check", suite)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{suite}: ok")
    assert list(tmp_path.iterdir()) == []
