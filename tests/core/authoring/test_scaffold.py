"""`plugins new` writes plugins that install, keep every law, validate and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from flow import command, invoke

WRITTEN = ("dataset", "encoder", "decoder", "objective", "observable", "metric")


def install(folder: Path, site: Path) -> None:
    """Leave in `site` what `pip install -e` would: the metadata of the distribution, and where its source lies."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["collapsebench"].items())
    (about / "entry_points.txt").write_text(f"[collapsebench]\n{entries}")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One plugin of every kind, written by the command; their folder, and the path on which they are installed."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in WRITTEN:
        done = invoke("plugins", "new", kind, f"new-{kind}", "--folder", folder / kind)
        assert done.exit_code == 0, done.output
        install(folder / kind, folder / "site")
    sources = [folder / "site", *(folder / kind / "src" for kind in WRITTEN), os.environ.get("PYTHONPATH", "")]
    return folder, os.pathsep.join(filter(None, map(str, sources)))


@pytest.mark.parametrize("kind", ["dataset", "metric"])
def test_a_new_plugin_keeps_every_law(plugins: tuple[Path, str], kind: str) -> None:
    folder, path = plugins
    done = command("plugins", "check", f"new-{kind}", "--store", folder / "store", "--json", PYTHONPATH=path)
    rows = json.loads(done.stdout)
    assert done.returncode == 0, [row for row in rows if not row["holds"]]
    assert len(rows) >= 12
    assert {(row["kind"], row["id"]) for row in rows} == {(kind, f"new-{kind}")}


def test_the_tests_of_a_new_plugin_pass(plugins: tuple[Path, str]) -> None:
    folder, path = plugins
    tests = [str(file) for kind in WRITTEN for file in (folder / kind / "tests").iterdir()]
    run = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = subprocess.run(
        [*run, *tests], cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "82 passed" in done.stdout


@pytest.mark.parametrize("kind", [kind for kind in WRITTEN if kind != "observable"])
def test_the_suite_of_a_new_plugin_validates(plugins: tuple[Path, str], kind: str) -> None:
    folder, path = plugins
    done = command("check", folder / kind / f"new-{kind}.toml", "--json", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert f"new-{kind}" in done.stdout


def test_a_run_uses_a_new_dataset_decoder_and_metric(plugins: tuple[Path, str]) -> None:
    folder, path = plugins
    text = (folder / "dataset" / "new-dataset.toml").read_text()
    text = text.replace('decoder = { use = "linear" }', 'decoder = { use = "new-decoder", width = 8 }')
    text = text.replace('metrics = ["effective-dimension", "equilibrium"]', 'metrics = ["new-metric"]')
    (folder / "all.toml").write_text(text.replace("max_updates = 200", "max_updates = 20"))
    done = command("run", folder / "all.toml", "--store", folder / "store", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "new-dataset" in (folder / "store/suites/all/cells.csv").read_text()
    assert "active-latents" in done.stdout


def test_what_is_written_has_the_project_s_style_and_nothing_left_to_fill_in(plugins: tuple[Path, str]) -> None:
    folder, _ = plugins
    found = [file for kind in WRITTEN for file in (folder / kind).rglob("*") if file.is_file()]
    files = [file for file in found if file.parent.name != "__pycache__"]
    assert len(files) == 6 * len(WRITTEN) + 5
    for file in files:
        text = file.read_text()
        assert "$" not in text, file
        if file.suffix == ".py":
            assert max(map(len, text.splitlines())) <= 120, file
            compile(text, str(file), "exec")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset", "Two_Moons"], "found 'Two_Moons', expected lower-case letters and digits"),
        (["dataset", "3d"], "a letter first, as in two-moons"),
        (["dataset", "../moons"], "found '../moons', expected lower-case"),
        (["dataset", "gaussian"], "dataset 'gaussian': found in collapsebench already, expected a new id"),
        (["encoder", "datasets"], "whose package collapsebench_datasets is installed already"),
        (["executor", "cluster"], "'executor' is not one of 'dataset'"),
        (["dataset", "moons", "--folder", "there"], "there: exists already, expected a folder to be made"),
        (["dataset", "moons", "--folder", "file/moons"], "is a file, expected a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_name_or_a_folder_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    done = invoke("plugins", "new", *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]
