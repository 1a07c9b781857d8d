"""The README's plugin loads, its table of verbs is complete, its main command runs; test_blocks.py runs the rest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.M | re.S)


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **environment}
    )


@pytest.fixture
def two_moons(tmp_path: Path) -> Path:
    """The README's plugin, installed as pip would leave it: a module and the metadata of its distribution."""
    (module,) = [block for block in blocks("python") if block.startswith("# two_moons.py")]
    (tmp_path / "two_moons.py").write_text(module)
    metadata = tmp_path / "two_moons-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: two-moons\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[collapsebench]\ntwo-moons = two_moons\n")
    return tmp_path


def test_the_plugin_loads_and_a_suite_runs_with_it(two_moons: Path) -> None:
    (suite,) = [block for block in blocks("toml") if "[scan]" in block]
    text = re.sub(r'use = "gaussian"\n.*?\n\n', 'use = "two-moons"\n\n', suite, count=1, flags=re.S)
    (two_moons / "moons.toml").write_text(text)
    listed = run(str(BIN / "collapsebench"), "plugins", "list", cwd=two_moons, PYTHONPATH=str(two_moons))
    assert "dataset two-moons" in listed.stdout, listed.stdout + listed.stderr
    settings = ["scan.latent_dim=2", "scan.temperatures.count=3", "training.max_updates=20"]
    options = [word for setting in settings for word in ("--set", setting)]
    command = [str(BIN / "collapsebench"), "run", "moons.toml", "--seeds", "2", *options]
    done = run(*command, cwd=two_moons, PYTHONPATH=str(two_moons))
    assert done.returncode == 0, done.stderr
    assert "two-moons" in done.stdout


def test_every_verb_stands_in_the_readme() -> None:
    from collapsebench.cli import LAZY

    text = README.read_text(encoding="utf-8")
    absent = [verb for verb in LAZY if not re.search(rf"`(collapsebench )?{verb}\b", text)]
    assert absent == []


def test_the_commands_between_the_markers_are_single_lines() -> None:
    text = README.read_text(encoding="utf-8")
    for marker in ("run", "test"):
        (section,) = re.findall(rf"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", text, flags=re.S)
        assert len(re.findall(r"^(?!```).+$", section, flags=re.M)) == 1


@pytest.mark.slow
def test_the_main_command_runs_once_it_is_installed(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("bash") if "pip install" in block and "collapsebench run" in block]
    command = block.rpartition("&& ")[2].split()
    assert command[0] == ".venv/bin/collapsebench"
    done = run(str(BIN / "collapsebench"), *command[1:], cwd=tmp_path, COLLAPSEBENCH_STORE=str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr


def test_every_preset_of_every_shipped_suite_validates(tmp_path: Path) -> None:
    from collapsebench.suite import check_presets, shipped_suites

    for suite in shipped_suites():
        check_presets(suite)
