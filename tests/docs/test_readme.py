"""The README's plugin loads, its table of verbs is complete, its main command runs; test_blocks.py runs the rest."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from warmed import command

README = Path(__file__).parents[2] / "README.md"
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.M | re.S)


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **environment}
    )


def path_with(*folders: Path) -> str:
    """Return the path of this process with folders in front."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


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


def test_the_scan_of_a_table_runs_as_it_stands_but_for_its_size(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("bash") if "collapsebench scan" in block]
    make, scan = block.strip().splitlines()
    options = "--seeds 1 --temperatures 3 --max-updates 2 --latent-dim 3"
    made = run("bash", "-ec", make, cwd=tmp_path, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert made.returncode == 0, made.stderr
    program, *arguments = shlex.split(f"{scan} {options}")
    assert program == "collapsebench"
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Latent spectrum" in done.stdout
    assert (tmp_path / "wine-scan" / "scan.txt").read_text() in done.stdout


def test_the_plugin_loads_and_a_suite_runs_with_it(two_moons: Path) -> None:
    (suite,) = [block for block in blocks("toml") if "[scan]" in block]
    text = re.sub(r'use = "gaussian"\n.*?\n\n', 'use = "two-moons"\n\n', suite, count=1, flags=re.S)
    (two_moons / "moons.toml").write_text(text)
    listed = command("plugins", "list", cwd=two_moons, PYTHONPATH=path_with(two_moons))
    assert "dataset two-moons" in listed.stdout, listed.stdout + listed.stderr
    settings = ["scan.latent_dim=2", "scan.temperatures.count=3", "training.max_updates=20"]
    options = [word for setting in settings for word in ("--set", setting)]
    done = command("run", "moons.toml", "--seeds", "2", *options, cwd=two_moons, PYTHONPATH=path_with(two_moons))
    assert done.returncode == 0, done.stderr
    assert "two-moons" in done.stdout


def test_a_beta_vae_of_pythae_is_measured_in_three_lines() -> None:
    (example,) = [block for block in blocks("python") if "model.beta" in block]
    assert len([line for line in example.splitlines() if line]) == 3
    models = pytest.importorskip("pythae.models")
    import torch

    model = models.BetaVAE(models.BetaVAEConfig(input_dim=(5,), latent_dim=3, beta=0.5))
    exec(example, {"model": model, "train_data": torch.randn(200, 5)})


def test_the_plugin_of_the_readme_keeps_the_laws(two_moons: Path) -> None:
    done = command("plugins", "check", "two-moons", cwd=two_moons, PYTHONPATH=path_with(two_moons))
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout


def test_the_commands_for_a_plugin_lead_from_nothing_to_a_run(tmp_path: Path) -> None:
    """As they stand, but that the installation is that of a folder on the path."""
    (section,) = re.findall(r"<!-- plugin -->\n```bash\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    lines = [line.split() for line in section.splitlines()]
    assert lines[1] == ["pip", "install", "-e", "two-rings"]
    about = tmp_path / "site/collapsebench_two_rings-0.1.0.dist-info"
    path = path_with(tmp_path / "site", tmp_path / "two-rings/src")
    for number, (program, *arguments) in enumerate(lines):
        if number == 1:
            about.mkdir(parents=True)
            (about / "METADATA").write_text("Metadata-Version: 2.1\nName: collapsebench-two-rings\nVersion: 0.1.0\n")
            (about / "entry_points.txt").write_text("[collapsebench]\ntwo-rings = collapsebench_two_rings\n")
            continue
        assert program == "collapsebench"
        done = command(*arguments, cwd=tmp_path, PYTHONPATH=path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Trying two-rings" in done.stdout
    (kit,) = [block for block in blocks("python") if "collapsebench.testing" in block]
    (tmp_path / "test_two_rings.py").write_text(kit)
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_two_rings.py"]
    done = run(*pytest_run, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout


def test_every_verb_stands_in_the_readme() -> None:
    from collapsebench.cli.main import LAZY

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
    from collapsebench.suite.resolve import check_presets, shipped_suites

    for suite in shipped_suites():
        check_presets(suite)
