"""Plugins of another distribution that break their contract: each is a row with its reason, and the rest completes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from flow import command, without, write_suite

DESCRIPTORS = """
from collapsebench import Component, hookimpl


def component(id, name):
    return Component(id, f"bad_components:{name}", id.replace("-", " "))


@hookimpl
def collapsebench_datasets():
    return [
        component("unprepared-data", "Unprepared"), component("garbled-data", "Garbled"),
        component("changing-data", "Changing"), component("undefined-data", "Undefined"),
        component("unconstructed-data", "Unconstructed"), Component("absent-data", "bad_absent:Data", "absent"),
    ]


@hookimpl
def collapsebench_encoders():
    return [
        component("unbuilt-encoder", "Unbuilt"), component("undefined-encoder", "UndefinedEncoder"),
        component("misshapen-encoder", "Misshapen"), component("raising-encoder", "Raising"),
        component("late-encoder", "Late"), Component("absent-encoder", "bad_absent:Encoder", "absent"),
    ]


@hookimpl
def collapsebench_decoders():
    return [component("crooked-decoder", "Crooked")]


@hookimpl
def collapsebench_observables():
    return [
        component("raising-observable", "RaisingObservable"),
        component("misshapen-observable", "MisshapenObservable"),
    ]


@hookimpl
def collapsebench_metrics():
    return [
        component("raising-metric", "RaisingMetric"), component("boastful-metric", "Boastful"),
        component("undeclared-metric", "Undeclared"), component("silent-metric", "Silent"),
        component("unmeasured-metric", "Unmeasured"), component("mismeasured-metric", "Mismeasured"),
        component("lost-metric", "Lost"), Component("absent-metric", "bad_absent:Metric", "absent"),
    ]
"""

COMPONENTS = """
from itertools import count

import numpy as np
import torch
from collapsebench import Data, Dataset, Decoder, Encoder, Evaluation, Metric, Observable, Score, Split

loads = count()


def data(seed):
    generator = np.random.default_rng(seed)
    parts = [Split(generator.standard_normal((64, 4)).astype(np.float32)) for _ in range(3)]
    return Data(*parts, feature_names=("a", "b", "c", "d"))


class Unprepared(Dataset):
    def is_prepared(self, cache):
        return False

    def prepare(self, cache):
        raise OSError("the server is away")

    def load(self, seed, cache):
        raise AssertionError("never prepared")


class Garbled(Dataset):
    def load(self, seed, cache):
        raise ValueError("the file is garbled")


class Changing(Dataset):
    def load(self, seed, cache):
        return data(next(loads))


class Undefined(Dataset):
    def load(self, seed, cache):
        found = data(seed)
        found.train.values[3] = np.nan
        return found


class Unconstructed(Dataset):
    def __init__(self, parameters):
        raise RuntimeError("no licence key")

    def load(self, seed, cache):
        raise AssertionError("never constructed")


class Net(torch.nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.mean, self.log_variance = torch.nn.Linear(4, latent_dim), torch.nn.Linear(4, latent_dim)

    def forward(self, x):
        return self.mean(x), self.log_variance(x)


class Unbuilt(Encoder):
    def build(self, shape, latent_dim):
        raise RuntimeError("no such layer")


class UndefinedEncoder(Encoder):
    def build(self, shape, latent_dim):
        net = Net(latent_dim)
        torch.nn.init.constant_(net.mean.weight, float("nan"))
        return net


class Short(Net):
    def forward(self, x):
        return self.mean(x)[:, :1], self.log_variance(x)


class Misshapen(Encoder):
    def build(self, shape, latent_dim):
        return Short(latent_dim)


class Stuck(Net):
    def forward(self, x):
        raise RuntimeError("cannot go forward")


class Raising(Encoder):
    def build(self, shape, latent_dim):
        return Stuck(latent_dim)


class LateNet(Net):
    def forward(self, x):
        return self.mean(x) + (float("nan") if x.shape[-2] == 32 else 0.0), self.log_variance(x)


class Late(Encoder):
    def build(self, shape, latent_dim):
        return LateNet(latent_dim)


class Crooked(Decoder):
    linear = True

    def build(self, latent_dim, shape):
        return torch.nn.Sequential(torch.nn.Linear(latent_dim, 4), torch.nn.Softplus())


class RaisingObservable(Observable):
    def measure(self, model, samples):
        raise FloatingPointError("overflow in the Jacobian")


class MisshapenObservable(Observable):
    def measure(self, model, samples):
        return {"wide": np.zeros((len(model.temperatures), 2))}


class OneScore(Metric):
    scores = (Score("share", "A share.", "lower", low=0, high=1),)

    def evaluate(self, measurement):
        return Evaluation({"share": 0.5})


class RaisingMetric(OneScore):
    def evaluate(self, measurement):
        raise ZeroDivisionError("a mode has no width")


class Boastful(OneScore):
    def evaluate(self, measurement):
        return Evaluation({"share": 7.0})


class Undeclared(OneScore):
    def evaluate(self, measurement):
        return Evaluation({"share": 0.5, "extra": 1.0})


class Silent(OneScore):
    def evaluate(self, measurement):
        return Evaluation({})


class Unmeasured(OneScore):
    requires = ("raising-observable",)


class Mismeasured(OneScore):
    requires = ("misshapen-observable",)


class Lost(OneScore):
    requires = ("no-such-observable",)
"""

DATASETS = {
    "unprepared-data": ("failed", "OSError: the server is away"),
    "garbled-data": ("failed", "ValueError: the file is garbled"),
    "changing-data": ("failed", "dataset 'changing-data': found data with fingerprint"),
    "undefined-data": ("failed", "dataset 'undefined-data', split train: row 3"),
    "unconstructed-data": ("failed", "RuntimeError: no licence key"),
    "absent-data": ("not-installed", "No module named 'bad_absent'"),
}
ENCODERS = {
    "unbuilt-encoder": ("failed", "RuntimeError: no such layer"),
    "undefined-encoder": ("failed", "returned NaN or infinity"),
    "misshapen-encoder": ("failed", "returned [(3, 1), (3, 3)], expected (mean, log_variance), each (3, 3)"),
    "raising-encoder": ("failed", "RuntimeError: cannot go forward"),
    "absent-encoder": ("not-installed", "No module named 'bad_absent'"),
}
METRICS = {
    "raising-metric": "ZeroDivisionError: a mode has no width",
    "boastful-metric": "metric 'boastful-metric': 'share' is 7, declared within [0, 1]",
    "undeclared-metric": "metric 'undeclared-metric': returned undeclared scores ['extra']",
    "silent-metric": "metric 'silent-metric': returned neither a value nor a reason for 'share'",
    "unmeasured-metric": "raising-observable: FloatingPointError: overflow in the Jacobian",
    "mismeasured-metric": "observable 'misshapen-observable': returned shapes",
}


@dataclass(frozen=True)
class Ran:
    """A run with its outputs. rows: (dataset, architecture) -> the line of cells.csv."""

    done: subprocess.CompletedProcess[str]
    rows: dict[tuple[str, str], dict[str, str]]
    board: list[dict[str, str]]

    @property
    def text(self) -> str:
        """The printed board without its line breaks."""
        return " ".join(self.done.stdout.split())


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put on the path, as if the distribution `bad-plugins` were installed there."""
    folder = tmp_path_factory.mktemp("site")
    about = folder / "bad_plugins-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugins\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[collapsebench]\nbad = bad_plugins\nworse = bad_absent\n")
    (folder / "bad_plugins.py").write_text(DESCRIPTORS)
    (folder / "bad_components.py").write_text(COMPONENTS)
    return folder


def path_with(plugins: Path) -> str:
    """Return the path of this process with the broken distribution in front."""
    return os.pathsep.join([str(plugins), *filter(None, [os.environ.get("PYTHONPATH")])])


def run(plugins: Path, folder: Path, text: str) -> Ran:
    done = command("run", write_suite(folder, text), "--store", folder / "store", PYTHONPATH=path_with(plugins))
    outputs = folder / "store/suites/tiny"
    rows = read(outputs / "cells.csv")
    return Ran(done, {(row["dataset"], row["architecture"]): row for row in rows}, read(outputs / "board.csv"))


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def suite(
    *,
    datasets: Iterable[str] = (),
    encoders: Iterable[str] = (),
    decoders: Iterable[str] = (),
    metrics: Iterable[str] = (),
) -> str:
    """Return a suite of these components beside a good one of each kind."""
    text = without("mlp").replace("seeds = 2", "seeds = 1")
    text = text.replace('["effective-dimension"]', json.dumps(["effective-dimension", *metrics]))
    text += "".join(f'\n[[datasets]]\nuse = "{id}"\n' for id in datasets)
    pairs = [(id, id, "linear") for id in encoders] + [(id, "linear", id) for id in decoders]
    return text + "".join(
        f'\n[[architectures]]\nid = "{id}"\nencoder = {{ use = "{encoder}" }}\ndecoder = {{ use = "{decoder}" }}\n'
        for id, encoder, decoder in pairs
    )


@pytest.fixture(scope="module")
def models(plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run with every broken encoder, decoder and metric beside a good one of each."""
    text = suite(encoders=[*ENCODERS, "late-encoder"], decoders=["crooked-decoder"], metrics=METRICS)
    return run(plugins, tmp_path_factory.mktemp("models"), text)


@pytest.fixture(scope="module")
def data(plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run with every broken dataset beside a good one."""
    text = suite(datasets=DATASETS).replace(
        '[[datasets]]\nuse = "gaussian"', '[[datasets]]\nid = "good"\nuse = "gaussian"'
    )
    return run(plugins, tmp_path_factory.mktemp("data"), text)


def test_the_rest_of_a_suite_completes_beside_broken_models_and_metrics_with_exit_code_1(models: Ran) -> None:
    assert models.done.returncode == 1, models.done.stderr
    assert models.rows["gaussian", "linear"]["status"] == "ok"
    good = [row for row in models.board if (row["architecture"], row["metric"]) == ("linear", "effective-dimension")]
    assert good
    assert {(row["n_ok"], row["n_planned"]) for row in good} == {("1", "1")}
    assert "Traceback" not in models.done.stderr


@pytest.mark.parametrize("id", ENCODERS)
def test_a_broken_encoder_is_a_row_with_its_status_and_reason(models: Ran, id: str) -> None:
    status, reason = ENCODERS[id]
    row = models.rows["gaussian", id]
    assert row["status"] == status
    assert reason in row["reason"]
    assert reason in models.text
    shown = [line for line in models.board if line["architecture"] == id]
    assert {(line["n_ok"], line["n_planned"], line["value"]) for line in shown} == {("0", "1", "")}


@pytest.mark.parametrize("id", ENCODERS)
def test_the_reason_names_the_component_that_broke(models: Ran, id: str) -> None:
    reason = models.rows["gaussian", id]["reason"]
    assert "encoder '" in reason
    assert f"{id}'" in reason


def test_a_decoder_that_only_says_that_it_is_linear_is_not_believed(models: Ran) -> None:
    row = models.rows["gaussian", "crooked-decoder"]
    assert row["status"] == "failed"
    assert "declares itself linear, but f(a + b) + f(0) differs from f(a) + f(b)" in row["reason"]


def test_an_encoder_whose_output_turns_nan_in_training_has_diverged(models: Ran) -> None:
    row = models.rows["gaussian", "late-encoder"]
    assert (row["status"], row["reason"]) == ("diverged", "not finite at T = 1, 0.215, 0.0464, 0.01")


@pytest.mark.parametrize("id", METRICS)
def test_a_broken_metric_is_a_score_without_a_value_and_with_the_reason(models: Ran, id: str) -> None:
    (row,) = [line for line in models.board if (line["architecture"], line["metric"]) == ("linear", id)]
    assert (row["score"], row["value"], row["n_ok"]) == ("share", "", "0")
    assert f"linear has no {id}/share in 1 of 1 runs: the metric failed:" in models.text
    assert METRICS[id] in models.text


def test_the_rest_of_a_suite_completes_beside_broken_datasets_with_exit_code_1(data: Ran) -> None:
    assert data.done.returncode == 1, data.done.stderr
    assert data.rows["good", "linear"]["status"] == "ok"
    assert data.rows.keys() == {(id, "linear") for id in ("good", *DATASETS)}


@pytest.mark.parametrize("id", DATASETS)
def test_a_broken_dataset_is_a_row_with_its_status_and_reason(data: Ran, id: str) -> None:
    assert data.rows, data.done.stderr
    status, reason = DATASETS[id]
    row = data.rows[id, "linear"]
    assert row["status"] == status
    assert reason in row["reason"]
    assert reason in data.text


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("absent-metric", "metric 'bad-plugins/absent-metric': ModuleNotFoundError: No module named 'bad_absent'"),
        ("lost-metric", "metric 'bad-plugins/lost-metric': requires unknown observable 'no-such-observable'"),
    ],
    ids=["absent", "lost"],
)
def test_a_metric_that_can_never_be_evaluated_is_refused_before_anything_is_trained(
    plugins: Path, tmp_path: Path, metric: str, reason: str
) -> None:
    ran = run(plugins, tmp_path, suite(metrics=[metric]))
    assert ran.done.returncode == 1, ran.done.stderr
    assert f"error: {reason}" in ran.done.stderr
    assert "Traceback" not in ran.done.stderr
    assert not (tmp_path / "store").exists()


def test_a_distribution_whose_plugin_cannot_be_imported_leaves_its_others_and_is_reported(plugins: Path) -> None:
    done = command("plugins", "list", "--json", PYTHONPATH=path_with(plugins))
    found = {one["entry_point"]: one for one in json.loads(done.stdout) if one["distribution"] == "bad-plugins"}
    assert {name: one["status"] for name, one in found.items()} == {"bad": "ok", "worse": "failed"}
    assert "No module named 'bad_absent'" in found["worse"]["reason"]
