"""The numbers of a page are those of the tables beside it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
from measured_results import TEMPERATURES

from collapsebench.publishing.page.numbers import curve_tables, curves_of_cell, page_content, rounded


def test_every_number_of_the_page_is_that_of_the_tables_beside_it(results, curves):
    tables = {name: pd.read_csv(io.StringIO(text)) for name, text in curve_tables(results, curves).items()}
    content = json.loads(json.dumps(page_content(results, curves)))
    checked = 0
    for scan in content:
        for architecture in scan["architectures"]:
            for run in architecture["runs"]:
                chosen = {
                    name: frame[
                        (frame["dataset"] == scan["dataset"])
                        & (frame["architecture"] == architecture["name"])
                        & (frame["seed"] == run["seed"])
                    ]
                    for name, frame in tables.items()
                }
                curves = chosen["over-temperature.csv"].pivot(index="rank", columns="temperature")
                for name, first in {"train_signal_fraction": 1, "train_rate": 1, "test_distortion": 0}.items():
                    key = {"train_signal_fraction": "signal", "train_rate": "rate", "test_distortion": "truncated"}[
                        name
                    ]
                    if run[key]:
                        table = curves[name].to_numpy()[first:]
                        np.testing.assert_array_equal(np.array(run[key], dtype=float), table)
                        checked += table.size
                ranks = chosen["over-rank.csv"]
                np.testing.assert_array_equal(np.array(run["distortion"], float), ranks["test_distortion"])
                for key in ("utility", "threshold"):
                    table = ranks[f"train_{key}"].to_numpy()[1:]
                    np.testing.assert_array_equal(np.array(run[key], float), table[: len(run[key])])
    assert checked > 1000


def test_numbers_have_six_digits_and_what_is_not_finite_is_none():
    assert rounded([1 / 3, np.inf, np.nan, 123456789.0, 0.0]) == [0.333333, None, None, 123457000.0, 0.0]


def test_a_run_that_measured_nothing_says_why(results):
    run = curves_of_cell(results.cells[3])
    assert run.temperatures.size == run.signal_fraction.size == run.distortion.size == 0
    assert set(run.missing) == {"signal", "truncated", "distortion", "rate", "utility", "ward", "edge"}
    assert "failed (OSError: disk full)" in run.missing["signal"]


def test_the_edge_of_stability_is_over_the_price_that_the_objective_sets(results):
    scan = results.cells[0].measurement
    order = np.random.default_rng(0).permutation(TEMPERATURES.size)
    residuals = pd.DataFrame({"temperature": TEMPERATURES, "ward_residual": 0.0, "residual_edge": 0.3 * TEMPERATURES})
    replicas = scan.tables["replicas"].assign(effective_temperature=3 * TEMPERATURES).iloc[order]
    tables = {**scan.tables, "equilibrium": residuals, "replicas": replicas}
    run = curves_of_cell(replace(results.cells[0], measurement=replace(scan, tables=tables)))
    np.testing.assert_allclose(run.edge, 0.1)


def test_replicas_that_diverged_are_gaps_of_their_curve(results, curves):
    content = page_content(results, curves)[1]["architectures"][0]["runs"][0]
    lost = [place for place, value in enumerate(content["signal"][0]) if value is None]
    assert [float(f"{t:.6g}") for t in np.sort(TEMPERATURES)[lost]] == [content["t"][place] for place in lost]
    assert len(lost) == 2
