"""Whatever is wrong with what was given: one clear message, exit code 2, and nothing written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import Result
from flow import TINY, invoke, script, write_suite

pytestmark = pytest.mark.usefixtures("no_figures")

FILES = {
    "unknown key": (
        TINY.replace("[scan]", "[scan]\nlatents = 3"),
        r"scan\.latents: unknown key 'latents'\. Did you mean 'latent_dim'\?",
    ),
    "unknown section": (TINY + "[trainng]\nx = 1\n", r"trainng: unknown key 'trainng'\. Did you mean 'training'\?"),
    "unknown encoder": (
        TINY.replace('encoder = { use = "mlp"', 'encoder = { use = "mpl"'),
        r"architectures\[1\]\.encoder\.use: unknown encoder 'mpl'\. Did you mean 'mlp'\? Installed: .*linear, mlp",
    ),
    "unknown dataset": (
        TINY.replace('use = "gaussian"', 'use = "gausian"'),
        r"datasets\[0\]\.use: unknown dataset 'gausian'\. Did you mean 'gaussian'\?",
    ),
    "unknown metric": (
        TINY.replace('["effective-dimension"]', '["effective-dimensions"]'),
        r"metrics\[0\]: unknown metric 'effective-dimensions'\. Did you mean 'effective-dimension'\?",
    ),
    "unknown parameter": (
        TINY.replace("dimension = 4", "dimensions = 4"),
        r"datasets\[0\]\.dimensions: unknown key 'dimensions'\. Did you mean 'dimension'\?",
    ),
    "unknown optimiser": (
        TINY.replace('"adam"', '"adm"'),
        r"training\.optimiser\.use: unknown optimiser 'adm'\. Did you mean 'adam'\?",
    ),
    "wrong type": (
        TINY.replace("latent_dim = 3", 'latent_dim = "3"'),
        r"scan\.latent_dim: found '3', expected an integer",
    ),
    "wrong type of a parameter": (
        TINY.replace("samples = 64\nevaluation", "samples = true\nevaluation"),
        r"datasets\[0\]\.samples: found true, expected",
    ),
    "fraction for a count": (
        TINY.replace("max_updates = 60", "max_updates = 60.5"),
        r"training\.max_updates: found 60\.5",
    ),
    "duplicate dataset": (
        TINY + '[[datasets]]\nuse = "gaussian"\n',
        r"datasets\[1\]\.id: id 'gaussian' is taken by datasets\[0\], expected unique ids; rename",
    ),
    "duplicate architecture": (
        TINY.replace('id = "mlp"', 'id = "linear"'),
        r"id 'linear' is taken by architectures\[0\]",
    ),
    "duplicate metric": (
        TINY.replace('"effective-dimension"', '"equilibrium", "equilibrium"'),
        r"'equilibrium' is taken",
    ),
    "duplicate seed": (TINY.replace("seeds = 2", "seeds = [1, 1]"), r"found seeds = \[1, 1\], expected distinct seeds"),
    "duplicate key": (
        TINY.replace("seeds = 2", "seeds = 2\nseeds = 3"),
        r"not valid TOML: Cannot overwrite a value.*line 4",
    ),
    "no TOML": ("title = Tiny\n", r"not valid TOML: .*line 1"),
    "empty": ("", r"architectures: missing, but required"),
    "no temperature": (TINY.replace("{ from = 1.0, to = 1e-2, count = 4 }", "[]"), r"scan\.temperatures: found \[\]"),
    "grid of none": (
        TINY.replace("count = 4", "count = 0"),
        r"scan\.temperatures\.count: found 0, expected a number greater",
    ),
    "temperature zero": (
        TINY.replace("to = 1e-2", "to = 0.0"),
        r"scan\.temperatures\.to: found 0\.0, expected a number greater",
    ),
    "temperature below zero": (
        TINY.replace("{ from = 1.0, to = 1e-2, count = 4 }", "[1.0, -0.1]"),
        r"scan\.temperatures\[1\]: found -0\.1, expected a number greater than 0",
    ),
    "infinite temperature": (TINY.replace("from = 1.0", "from = inf"), r"scan\.temperatures\.from: found .*finite"),
    "temperature twice": (
        TINY.replace("{ from = 1.0, to = 1e-2, count = 4 }", "[0.1, 0.1]"),
        r"found temperature 0\.1 more than once",
    ),
    "no seed": (TINY.replace("seeds = 2", "seeds = 0"), r"seeds: found 0, expected"),
    "no metric": (TINY.replace('["effective-dimension"]', "[]"), r"metrics: found \[\]"),
    "unknown device": (
        TINY.replace('"cpu"', '"tpu"'),
        r"compute\.device: found 'tpu', expected 'auto', 'cpu', 'cuda' or 'mps'",
    ),
    "ranked by a stranger": (
        TINY.replace("seeds = 2", 'seeds = 2\nrank_by = ["pca-agreement/x"]'),
        r"rank_by\[0\]: unknown metric of this suite 'pca-agreement'",
    ),
    "too few samples": (
        TINY.replace("samples = 64\nevaluation", "samples = 3\nevaluation"),
        r"found samples = 3 for dimension = 4",
    ),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def refused(done: Result, store: Path, message: str) -> None:
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not store.exists()


@pytest.mark.parametrize("case", FILES)
def test_a_mistake_in_a_suite_is_reported_at_its_place_before_anything_is_written(
    tmp_path: Path, store: Path, case: str
) -> None:
    text, message = FILES[case]
    path = write_suite(tmp_path, text)
    done = invoke("run", path, "--store", store)
    refused(done, store, message)
    lines = done.stderr.splitlines()
    assert lines if case == "empty" else len(lines) == 1
    assert all(line.startswith(f"error: {path}: ") for line in lines)


@pytest.mark.parametrize("verb", ["run", "plan", "status", "explain", "prepare", "score", "board", "check"])
def test_every_verb_refuses_the_same_way(tmp_path: Path, store: Path, verb: str) -> None:
    path = write_suite(tmp_path, FILES["wrong type"][0])
    done = invoke(verb, path, *([] if verb == "check" else ["--store", store]))
    refused(done, store, FILES["wrong type"][1])


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path, store: Path) -> None:
    text = TINY.replace("latent_dim = 3", "latent_dim = 0").replace('use = "gaussian"', 'use = "gausian"')
    text = text.replace("depth = 1, width = 8 }\ndecoder", 'depth = "1", widht = 8 }\ndecoder').replace("60", "-1")
    done = invoke("run", write_suite(tmp_path, text), "--store", store)
    refused(done, store, "error")
    places = {line.split(": ")[2] for line in done.stderr.splitlines()}
    assert places == {
        "scan.latent_dim", "training.max_updates", "datasets[0].use", "architectures[1].encoder.depth",
        "architectures[1].encoder.widht",
    }  # fmt: skip


OPTIONS = {
    "unknown preset": (["--preset", "gpu"], r"--preset: unknown preset 'gpu'\. Legal: none"),
    "unknown device": (["--device", "tpu"], r"found 'tpu', expected 'auto', 'cpu', 'cuda' or 'mps'"),
    "unknown executor": (["--executor", "slrum"], r"unknown executor 'slrum'\..* Installed: local"),
    "unknown override": (
        ["--set", "scan.latents=3"],
        r"--set scan\.latents: unknown key 'latents'\. Did you mean 'latent_dim'\?",
    ),
    "override without a value": (["--set", "seeds"], r"--set: found 'seeds', expected PATH=VALUE"),
    "override of nobody": (["--set", "datasets.digits.x=1"], r"--set datasets\.digits\.x: unknown dataset 'digits'"),
    "override out of range": (["--set", "scan.temperatures.to=0"], r"--set scan\.temperatures\.to: found 0"),
    "no seeds": (["--seeds", "0"], r"Invalid value for '--seeds'"),
    "unknown option": (["--devcie", "cpu"], r"No such option.*--devcie.*--device"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_mistake_on_the_command_line_is_reported_before_anything_is_written(
    tmp_path: Path, store: Path, case: str
) -> None:
    options, message = OPTIONS[case]
    refused(invoke("run", write_suite(tmp_path), "--store", store, *options), store, message)


def test_an_unknown_suite_comes_with_the_nearest_and_the_list(store: Path) -> None:
    refused(
        invoke("run", "quikstart", "--store", store), store, r"unknown suite 'quikstart'\. Did you mean 'quickstart'\?"
    )
    refused(
        invoke("run", "nowhere/tiny.toml", "--store", store), store, r"found no file 'nowhere/tiny\.toml'.*quickstart"
    )


def test_an_unknown_cell_comes_with_those_there_are(tmp_path: Path, store: Path) -> None:
    done = invoke("explain", write_suite(tmp_path), "gaussian/cnn/beta-vae/0", "--store", store)
    refused(done, store, r"no cell 'gaussian/cnn/beta-vae/0'.*gaussian/mlp/beta-vae/1")


@pytest.mark.parametrize("verb", ["run", "plan", "status", "score", "board", "prepare"])
@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_way_of_the_store_is_refused_and_stays(tmp_path: Path, verb: str, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    done = invoke(verb, write_suite(tmp_path), "--store", tmp_path / "file" / below)
    if verb == "prepare":
        assert done.exit_code == 0, "nothing to prepare, so nothing to write"
    else:
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert re.search(r"error: store .*file.*: cannot be (read as a folder|written)", done.stderr), done.stderr
        assert "--store" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_store_from_the_environment_is_refused_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("COLLAPSEBENCH_STORE", str(tmp_path / "file"))
    done = invoke("run", write_suite(tmp_path))
    assert done.exit_code == 2
    assert "COLLAPSEBENCH_STORE" in done.stderr


def test_a_damaged_cell_is_refused_with_its_place(ran: Path) -> None:
    path = next((ran / "store").glob("cells/*/*/cell.json"))
    path.write_text("{")
    for verb in ("status", "plan", "run", "score"):
        done = invoke(verb, ran / "tiny.toml", "--store", ran / "store")
        assert done.exit_code == 2
        assert re.search(r"error: .*cell\.json: cannot be read.*Remove the folder .* and run again", done.stderr)


def test_a_process_of_its_own_refuses_with_the_same_words(tmp_path: Path, store: Path) -> None:
    path = write_suite(tmp_path, FILES["unknown encoder"][0])
    done = script("run", path, "--store", store)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == invoke("run", path, "--store", store).stderr
    assert not store.exists()
