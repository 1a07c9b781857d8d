"""Scores of the replicas at equilibrium: whatever the others are, nothing of them enters; and a board says how many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flow import write_suite
from scored_results import full, marked

from collapsebench.contracts import Measurement, Prediction, load_registry
from collapsebench.planning.cells import make_plan
from collapsebench.ranking.board import resolved, resolved_text
from collapsebench.ranking.standings import Contender
from collapsebench.scoring.score import score_plan
from collapsebench.store import Store
from collapsebench.suite.resolve import load_suite
from collapsebench.verbs.run import run

QUICK = ("training.max_updates=16", "scan.temperatures.count=4")


def scan_of(results) -> Measurement:
    return next(cell.measurement for cell in results.cells if cell.measurement is not None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    write_suite(folder)
    run(folder / "tiny.toml", overrides=QUICK, store=folder / "store")
    return folder


def scored(folder: Path, *overrides: str):
    suite, store = load_suite(folder / "tiny.toml", overrides=[*QUICK, *overrides]), Store(folder / "store")
    return score_plan(make_plan(suite, store, load_registry()), store, load_registry(), "cpu")


def test_a_scan_without_equilibrium_has_reasons_instead_of_scores_but_keeps_its_marks(folder):
    everything, strict = scored(folder), scored(folder, 'scores_from="converged"')
    for all_of, none in zip(everything.cells, strict.cells, strict=True):
        assert not scan_of(strict).converged.any()
        assert any(evaluation.values for evaluation in all_of.evaluations.values())
        for id, evaluation in none.evaluations.items():
            if id == "equilibrium":
                assert evaluation.values == all_of.evaluations[id].values
            else:
                assert not evaluation.values
                assert all("no replica of the scan is at equilibrium" in why for why in evaluation.reasons.values())


def test_only_some_replicas_are_the_scan_that_was_trained_at_their_temperatures(folder):
    """Every table, the prediction, and what metrics make of them; replicas left out may hold anything."""
    results = scored(folder)
    scan = scan_of(results)
    chosen = np.array([True, False, True, True])
    spoilt = {
        name: table.assign(**{
            column: table[column].where(table["temperature"] != scan.temperatures[1], np.nan)
            for column in table.select_dtypes("float").columns if column != "temperature"
        })
        for name, table in scan.tables.items()
    }  # fmt: skip
    some, other = scan.only(chosen), replace(scan, tables=spoilt).only(chosen)
    assert some.temperatures.tolist() == scan.temperatures[chosen].tolist()
    for name, table in some.tables.items():
        assert set(table["temperature"]) <= set(some.temperatures)
        pd.testing.assert_frame_equal(table, other.tables[name])
    registry = load_registry()
    for id in ("effective-dimension", "threshold-ranking", "exponent-fit"):
        metric = registry.get("metric", id).create({})
        if set(metric.requires) <= set(scan.tables):
            assert metric.evaluate(some).values == metric.evaluate(other).values


def test_a_prediction_keeps_the_rows_of_the_chosen_temperatures(folder):
    scan = scan_of(scored(folder))
    prediction = Prediction.linear(scan.temperatures, scan.pca.eigenvalues * scan.total_variance, scan.latent_dim)
    some = replace(scan, prediction=prediction).only(np.array([False, True, True, False]))
    assert some.prediction is not None
    assert np.array_equal(some.prediction.signal_fraction, prediction.signal_fraction[1:3])
    assert np.array_equal(some.prediction.thresholds, prediction.thresholds, equal_nan=True)


@pytest.mark.parametrize(("at_rest", "expected"), [(0, 0), (5, 0), (9, 1), (10, 2)])
def test_resolved_components_are_those_above_ten_times_the_lowest_temperature_at_rest(at_rest, expected):
    """Ten temperatures from 1 to 0.01; lambda_k / V is 0.6, 0.12, 0.05: all replicas together resolve the first two."""
    cell = marked(full("mlp", 0, 0.9), 10, 10)
    temperatures = np.logspace(0, -2, 10)
    marks = ["converged"] * at_rest + ["budget"] * (10 - at_rest)
    table = pd.DataFrame({"temperature": temperatures, "mark": marks})
    scan = replace(
        cell.measurement, temperatures=temperatures, tables={"replicas": table}, latent_dim=3,
        pca=replace(cell.measurement.pca, eigenvalues=np.array([0.6, 0.12, 0.05])),
    )  # fmt: skip
    contender = Contender("digits", "mlp", "beta-vae", (replace(cell, measurement=scan),))
    assert resolved([contender]) == (expected, 2)
    assert resolved([contender, replace(contender, dataset="other")]) == (2 * expected, 4)
    assert resolved_text([contender]) == f"{expected} of 2"
    assert resolved_text([]) == "-"
