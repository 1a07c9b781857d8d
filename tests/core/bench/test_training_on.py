"""Training on what was called converged: the experiment in miniature, with a suite that calls everything converged."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from flow import invoke, write_suite

import collapsebench
from collapsebench.bench import training_on
from collapsebench.bench.training_on import TrainedOn, TrainingOn, bench_training_on
from collapsebench.errors import UserError
from collapsebench.training.remaining import RemainingDecrease
from collapsebench.verbs.run import open_session

SUITE = """
title = "Easily content"
seeds = 2
metrics = ["equilibrium"]

[scan]
latent_dim = 4
temperatures = [0.3, 0.03, 0.01]

[training]
optimiser = { use = "preconditioned", learning_rate = 0.02 }
batch_size = 64
max_updates = 40
average = 0.1
warm_up = 5

[training.convergence]
checks = 4
relative_tolerance = 10.0
patience = 0.1
ward_residual = 1e3
edge_tolerance = 1e3
drift = 1e3
predicted_decrease = 1e3
trial_decrease = 1e3
threshold_shift = 1e3
envelope_gap = 1e3

[[datasets]]
use = "gaussian"
dimension = 6
samples = 256
evaluation_samples = 64

[[architectures]]
id = "mlp"
encoder = { use = "mlp", depth = 1, width = 8 }
decoder = { use = "mlp", depth = 1, width = 8 }

[[architectures]]
id = "mlp-linear"
encoder = { use = "mlp", depth = 1, width = 8 }
decoder = { use = "linear" }
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A suite that has been run into the store beside it."""
    folder = tmp_path_factory.mktemp("further")
    path = write_suite(folder, SUITE)
    assert collapsebench.run(path, store=folder / "store").converged
    return path


def row(decrease, predicted=0.0, shift=0.0):
    return TrainedOn(
        "data", "pair", "beta-vae", 0, 0.1, 100, decrease, 0.0, predicted, 0.0, predicted, 0.0, shift, 0.02
    )


def test_the_share_above_and_the_quantiles_are_those_of_the_replicas():
    result = TrainingOn((row(1e-3, 1e-4), row(5e-3, 3e-4, math.nan), row(1e-4, 2e-4)), 9, 3.0)
    assert result.share_above == pytest.approx(1 / 3)
    assert result.quantiles("decrease")[::2] == (1e-3, 5e-3)
    assert result.quantiles("threshold_shift") == (0.0, 0.0, 0.0)
    assert result.rank_correlation("predicted") == pytest.approx(0.5)
    assert result.table["decrease"].tolist() == [5e-3, 1e-3, 1e-4]


def test_shares_are_of_the_replicas_that_did_not_diverge_and_a_threshold_that_moves_counts():
    rows = (row(5e-3), row(1e-4, shift=0.03), row(1e-4), row(1e-4, shift=math.nan), row(math.nan, shift=math.nan))
    result = TrainingOn(rows, 9, 3.0)
    assert (len(result.ended), result.share_above, result.share_moved) == (4, 0.25, 0.5)
    assert math.isnan(TrainingOn(rows[-1:], 1, 3.0).share_moved)


def test_who_diverges_is_trained_on_again_at_half_the_rate(suite, monkeypatch):
    measure, calls = training_on.measured_decrease, []

    def diverges_first(*arguments):
        found = measure(*arguments)
        calls.append(len(found.decrease))
        nothing = np.full_like(found.decrease, math.nan)
        return RemainingDecrease(nothing, nothing) if len(calls) == 1 else found

    monkeypatch.setattr(training_on, "measured_decrease", diverges_first)
    session = open_session(suite, store=suite.parent / "store")
    result = bench_training_on(session.suite, session.store, session.registry, replicas=30)
    assert len(result.ended) == len(result.replicas) == 12
    assert [each.learning_rate for each in result.replicas] == [0.01] * calls[0] + [0.02] * (12 - calls[0])


@pytest.mark.slow
def test_replicas_that_stopped_far_too_early_are_found_out(suite):
    """Called converged after at most 40 updates; twenty times as many lower every objective by a per cent at least."""
    session = open_session(suite, store=suite.with_name("store"))
    said = []
    before = {path: path.stat().st_mtime_ns for path in session.store.root.rglob("*") if path.is_file()}
    found = bench_training_on(session.suite, session.store, session.registry, replicas=5, factor=20.0, say=said.append)
    assert (len(found.replicas), found.converged) == (5, 12)
    assert len({(each.architecture, each.seed, each.temperature) for each in found.replicas}) == 5
    low = [each for each in found.replicas if each.temperature < 0.1]
    assert all(each.decrease > 0.01 > 5 * each.error for each in low)
    assert all(each.predicted > 5e-5 for each in low)
    assert all(each.tried < each.decrease for each in low)
    assert all(each.error == 0.0 for each in found.replicas if each.architecture == "mlp-linear")
    assert {path: path.stat().st_mtime_ns for path in session.store.root.rglob("*") if path.is_file()} == before
    assert said


@pytest.mark.slow
def test_the_same_choice_gives_the_same_numbers(suite):
    session = open_session(suite, store=suite.with_name("store"))
    one, two = (
        bench_training_on(session.suite, session.store, session.registry, replicas=2, factor=0.5) for _ in range(2)
    )
    assert one.replicas == two.replicas


def test_a_suite_without_converged_replicas_is_refused(suite, tmp_path):
    session = open_session(suite, store=tmp_path / "empty")
    with pytest.raises(UserError, match="found no converged replica"):
        bench_training_on(session.suite, session.store, session.registry)


def test_the_command_writes_a_table(suite, tmp_path):
    arguments = ("bench", "further", suite, "--store", suite.with_name("store"), "--replicas", 3, "--factor", 1)
    result = invoke(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out" / "further.json").read_text())
    assert len(written["replicas"]) == 3
    lines = (tmp_path / "out" / "further.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("dataset,architecture,objective,seed,temperature,updates,decrease")
    assert np.isfinite(written["replicas"][0]["decrease"])
