"""Distributions that misbehave as a whole, or only a little: each is reported by name, and the others work."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
from flow import command, script, without, write_suite

HOOK = """
from collapsebench import Component, hookimpl

@hookimpl
def collapsebench_{kind}s():
    return [Component("{id}", "{module}_components:{name}", "{id}")]
"""
ENCODER = """
import torch
from collapsebench import Encoder, GaussianHead

class Net(torch.nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.head = GaussianHead(4, latent_dim)

    def forward(self, x):
        mean, log_variance = self.head(x)
        return (mean if float(mean.detach()[0, 0]) > 0 else 1 * mean), log_variance

class Branching(Encoder):
    def build(self, shape, latent_dim):
        return Net(latent_dim)
"""
DATASET = """
import numpy as np
from collapsebench import Data, Dataset, Split

class Plain(Dataset):
    def load(self, seed, cache):
        generator = np.random.default_rng(seed)
        parts = [Split(generator.standard_normal((64, 4)).astype(np.float32)) for _ in range(3)]
        return Data(*parts, feature_names=("a", "b", "c", "d"))
"""
OBJECTIVE = """
from collapsebench import Objective

class Raising(Objective):
    def loss(self, distortion, rate, dial, state, progress):
        raise RuntimeError("no such price")
"""
MODULES = {
    "absent_import": "import surely_not_installed\n",
    "hookless": "answer = 42\n",
    "misspelt": HOOK.format(kind="data_set", id="x", module="x", name="X"),
    "slow": "import time\ntime.sleep(1.3)\n" + HOOK.format(kind="dataset", id="slow", module="slow", name="Plain"),
    "slow_components": DATASET,
    "heavy": "import pandas\n" + HOOK.format(kind="dataset", id="heavy", module="slow", name="Plain"),
    "twin": HOOK.format(kind="dataset", id="gaussian", module="slow", name="Plain"),
    "branching": HOOK.format(kind="encoder", id="branching", module="branching", name="Branching"),
    "branching_components": ENCODER,
    "raising": HOOK.format(kind="objective", id="raising", module="raising", name="Raising"),
    "raising_components": OBJECTIVE,
}
FAILED = {
    "absent_import": "ModuleNotFoundError: No module named 'surely_not_installed'",
    "hookless": "found no hook, expected at least one function marked with @collapsebench.hookimpl",
    "misspelt": "unknown hook 'collapsebench_data_sets'. Did you mean 'collapsebench_datasets'?",
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A path on which each of these modules but `slow` is a plugin of its own distribution, and one with all."""
    site, waiting = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("waiting")
    for name, text in MODULES.items():
        folder = waiting if name == "slow" else site
        (folder / f"{name}.py").write_text(text)
        if not name.endswith("_components"):
            about = folder / f"{name}_dist-0.1.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 0.1\n")
            (about / "entry_points.txt").write_text(f"[collapsebench]\n{name} = {name}\n")
    most = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return most, os.pathsep.join([str(waiting), most])


@pytest.fixture
def path(paths: tuple[str, str]) -> str:
    return paths[0]


@pytest.fixture(scope="module")
def listed(paths: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    return script("plugins", "list", PYTHONPATH=paths[1])


def lines(listed: subprocess.CompletedProcess[str], name: str) -> str:
    return "\n".join(line for line in listed.stdout.splitlines() if f"{name}-dist" in line)


@pytest.mark.parametrize("name", FAILED)
def test_a_plugin_that_cannot_be_loaded_is_listed_with_its_distribution_and_the_reason(
    listed: subprocess.CompletedProcess[str], name: str
) -> None:
    assert listed.returncode == 0
    assert lines(listed, name).startswith(f"failed  {name}-dist 0.1  {name}: {FAILED[name]}")


@pytest.mark.parametrize("name", FAILED)
def test_checking_a_plugin_that_cannot_be_loaded_ends_with_1_and_the_reason(path: str, name: str) -> None:
    done = command("plugins", "check", f"{name}-dist", PYTHONPATH=path)
    assert done.returncode == 1
    assert f"error: plugin {name} of {name}-dist 0.1: {FAILED[name]}" in done.stderr


def test_the_list_says_which_plugin_is_slow_or_heavy_or_takes_the_name_of_another(
    listed: subprocess.CompletedProcess[str],
) -> None:
    assert "ok      slow-dist 0.1  slow: dataset slow" in lines(listed, "slow")
    assert "slow-dist slow: takes 1.3 s to import, expected at most 1 s." in lines(listed, "slow")
    assert "heavy-dist heavy: imports pandas" in lines(listed, "heavy")
    assert "dataset 'gaussian' is provided by collapsebench too; suites must write 'twin-dist/gaussian'" in lines(
        listed, "twin"
    )
    assert "dataset 'gaussian' is provided by twin-dist too" in listed.stdout
    assert "takes" not in lines(listed, "branching")


@pytest.mark.parametrize(
    ("name", "law", "reason"),
    [
        ("slow", "quick", "takes 1.3 s, expected at most 1 s; move slow imports"),
        ("heavy", "light", "listing it imports pandas, pyarrow, expected none of torch, pandas"),
        ("branching", "batchable", "torch.func cannot map it"),
        ("raising", "shapes", "RuntimeError: no such price"),
    ],
)
def test_the_check_of_a_plugin_names_the_law_it_breaks(
    paths: tuple[str, str], tmp_path: Path, name: str, law: str, reason: str
) -> None:
    path = paths[name == "slow"]
    done = command("plugins", "check", name, "--shape", "4", "--store", tmp_path, PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  FAIL  ") and f" {law} " in line]
    assert reason in line
    if name != "raising":
        broken = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("  FAIL  ")}
        assert broken - {law} <= ({"quick"} if name == "heavy" else set())  # pandas is slow where the machine is busy


def test_an_unknown_name_comes_with_the_nearest_and_with_the_plugins_that_failed(path: str) -> None:
    done = command("plugins", "check", "branchin", PYTHONPATH=path)
    assert done.returncode == 2
    assert "unknown component or plugin 'branchin'. Did you mean 'branching'?" in done.stderr
    assert "not loaded: plugin hookless of hookless-dist 0.1: found no hook" in done.stderr


def test_the_rest_of_a_suite_completes_beside_all_of_them(paths: tuple[str, str], tmp_path: Path) -> None:
    """A broken objective is a failed row, what cannot be batched runs one by one and says why, the rest is ok."""
    text = without("mlp").replace("seeds = 2", "seeds = 1").replace('"gaussian"', '"collapsebench/gaussian"')
    text = text.replace("[[datasets]]\n", '[[datasets]]\nid = "good"\n')
    text += '\n[[datasets]]\nuse = "slow"\n\n[[objectives]]\nuse = "beta-vae"\n\n[[objectives]]\nuse = "raising"\n'
    text += '\n[[architectures]]\nid = "branched"\nencoder = { use = "branching" }\ndecoder = { use = "linear" }\n'
    done = command("run", write_suite(tmp_path, text), "--store", tmp_path / "store", PYTHONPATH=paths[1])
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    with (tmp_path / "store/suites/tiny/cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["status"] for row in rows if row["objective"] == "beta-vae"} == {"ok"}
    failed = [row for row in rows if row["objective"] == "raising"]
    assert {row["status"] for row in failed} == {"failed"}
    assert all("RuntimeError: no such price" in row["reason"] for row in failed)
    said = done.stdout + done.stderr
    assert (
        "good/branched/beta-vae: its stacks are computed one replica after the other: torch.func cannot map it" in said
    )
    assert "raising/beta-vae: its stacks" not in said


def test_a_name_that_two_distributions_provide_is_refused_naming_both(path: str, tmp_path: Path) -> None:
    done = command("check", write_suite(tmp_path), PYTHONPATH=path)
    assert done.returncode == 2
    assert "dataset 'gaussian' is provided by collapsebench 0.1.0 and twin-dist 0.1" in done.stderr
    assert "write 'collapsebench/gaussian' or 'twin-dist/gaussian'" in done.stderr


def test_the_findings_of_a_check_can_be_read_as_json(path: str, tmp_path: Path) -> None:
    done = command("plugins", "check", "twin-dist/gaussian", "--store", tmp_path, "--json", PYTHONPATH=path)
    assert done.returncode == 0, done.stdout
    rows = json.loads(done.stdout)
    assert {row["status"] for row in rows} == {"pass"}
    assert rows[0].keys() == {"kind", "id", "holds", "law", "sentence", "status", "reason"}
