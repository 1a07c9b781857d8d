"""Curves that components declare: how their ranks are counted, and what is said where there is nothing to show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from measured_results import LATENTS, TEMPERATURES, captions, cell, suite, table

from collapsebench.contracts import Curve, Evaluation
from collapsebench.publishing.curves import declared_curves, values_of
from collapsebench.publishing.figures.draw import draw_figures

T = TEMPERATURES.size


def with_tables(made, *without, **tables):
    """Return a cell with further tables, or without some."""
    kept = {name: frame for name, frame in made.measurement.tables.items() if name not in without}
    named = {name.replace("_", "-"): frame for name, frame in tables.items()}
    return replace(made, measurement=replace(made.measurement, tables={**kept, **named}))


def with_modes(made, modes, metric="own-metric"):
    return replace(made, evaluations={metric: Evaluation({}, modes)})


def only(results):
    (found,) = declared_curves(results)
    return found


def per_latent(values):
    return table("latent", {"width": values}, TEMPERATURES)


def replica_rows(values, quantity="width"):
    return pd.DataFrame({"split": "train", "temperature": TEMPERATURES, quantity: values})


def test_latents_are_ranked_by_the_signal_fractions_of_another_observable():
    made = cell("gap", "linear", 0)
    moments = made.measurement.tables["latent-moments"]
    index = np.tile(np.arange(LATENTS, dtype=float), (T, 1))
    made = with_tables(made, own=per_latent(index))
    results = suite([made], curves={"own": (Curve("width", "width"),)})
    declared = only(results)
    found = values_of(results.cells, declared, "train")
    fractions = moments[moments["split"] == "train"].pivot(index="temperature", columns="latent")["signal_fraction"]
    assert (declared.order, declared.first) == ("signal", 1)
    assert np.array_equal(found.x, np.sort(TEMPERATURES))
    assert np.array_equal(found.y[0], np.argsort(-fractions.to_numpy(), axis=1, kind="stable"))
    assert not np.array_equal(found.y[0], np.sort(found.y[0], axis=1))


def test_latents_keep_their_order_where_no_signal_fraction_was_measured():
    index = np.tile(np.arange(LATENTS, dtype=float), (T, 1))
    made = with_tables(cell("gap", "linear", 0), "latent-moments", own=per_latent(index))
    results = suite([made], curves={"own": (Curve("width", "width"),)})
    declared = only(results)
    assert declared.order == "index"
    assert np.array_equal(values_of(results.cells, declared, "train").y[0], index)
    assert "in the order of their indices" in declared.explanation()


def test_what_is_measured_per_rank_counts_from_nothing_kept():
    values = np.random.default_rng(0).random((T, LATENTS + 1))
    made = with_tables(cell("gap", "linear", 0), own=table("rank", {"width": values}, TEMPERATURES))
    results = suite([made], curves={"own": (Curve("width", "width"),)})
    declared = only(results)
    assert (declared.order, declared.first) == ("kept", 0)
    assert np.allclose(values_of(results.cells, declared, "train").y[0], values[np.argsort(TEMPERATURES)])


@pytest.mark.parametrize("column", [["rank", "drop"], ["drop"]])
def test_rows_of_a_metric_stand_at_their_rank_and_runs_may_have_different_ones(column):
    modes = pd.DataFrame({"rank": [1, 2, 3], "drop": [3.0, 2.0, np.inf]})[column]
    cells = [
        with_modes(cell("gap", "linear", 0), modes),
        with_modes(cell("gap", "linear", 1), modes.iloc[:2]),
    ]
    results = suite(cells, curves={"modes-own-metric": (Curve("drop", "drop"),)})
    found = values_of(cells, only(results), "train")
    assert found.x.tolist() == [1, 2, 3]
    assert np.array_equal(found.y, [[3, 2, np.nan], [3, 2, np.nan]], equal_nan=True)


def test_a_logarithmic_curve_leaves_out_what_has_no_logarithm():
    values = np.where(np.arange(T) == 0, -1.0, 1.0)
    cells = [with_tables(cell("gap", "linear", 0), own=replica_rows(values))]
    (declared,) = declared_curves(suite(cells, curves={"own": (Curve("width", "width", logarithmic=True),)}))
    assert np.isnan(values_of(cells, declared, "train").y).sum() == 1
    nowhere = [with_tables(cell("gap", "linear", 0), own=replica_rows(-np.ones(T)))]
    assert values_of(nowhere, declared, "train").reason == "no value of width is above 0"


def test_every_curve_has_a_figure_of_its_own_also_where_names_are_the_same():
    curves = {
        "rank": (Curve("distortion", "one"),),
        "own": (Curve("a", "two", split="train"), Curve("a", "three", split="test")),
        "modes-own": (Curve("a", "four"),),
    }
    found = declared_curves(suite([cell("gap", "linear", 0)], curves=curves), taken=("rank-distortion",))
    assert [one.name for one in found] == ["rank-distortion-2", "own-a", "own-a-2", "own-a-3"]


@pytest.mark.parametrize(
    ("table", "change", "reason"),
    [
        ("own", lambda made: made, "no published table holds what own measured"),
        ("own", lambda made: with_tables(made, own=replica_rows(1.0, "height")), "table has no column width"),
        ("own", lambda made: with_tables(made, own=replica_rows(1.0).assign(split="test")), "split 'train'"),
        ("own", lambda made: with_tables(made, own=replica_rows("wide")), "could not convert string to float"),
        ("own", lambda made: with_tables(made, own=replica_rows(np.nan)), "no value of width is finite"),
        ("own", lambda made: replace(made, measurement=None, status="failed"), "nothing was measured: failed"),
        ("modes-own", lambda made: with_modes(made, None, "own"), "own left no rows with width"),
        ("modes-own", lambda made: with_modes(made, pd.DataFrame({"rank": [1]}), "own"), "left no rows with width"),
        ("modes-own", lambda made: with_modes(made, pd.DataFrame({"width": ["wide"]}), "own"), "is finite"),
        ("modes-own", lambda made: replace(made, metric_failures={"own": "ValueError: no"}), "ValueError: no"),
    ],
)  # fmt: skip
def test_a_caption_says_why_nothing_is_drawn(table, change, reason, tmp_path):
    made = change(cell("gap", "linear", 0))
    results = suite([made], curves={table: (Curve("width", "width"),)})
    paths = draw_figures(results, tmp_path, kinds=["own-width"])
    assert [path.name for path in paths] == ["captions.json"]
    caption = captions(tmp_path)["own-width-gap"]
    assert caption.startswith("Not drawn, nothing to show. linear: ")
    assert reason in caption


def test_a_figure_is_drawn_of_some_runs_where_others_have_nothing_and_twice_the_same(tmp_path):
    good = with_tables(cell("gap", "linear", 0), own=replica_rows(np.ones(T)))
    results = suite([good, cell("gap", "mlp", 0, "failed")], curves={"own": (Curve("width", "width " * 30, True),)})
    first, second = (draw_figures(results, tmp_path / name, {"own-width": "train"}, ["own-width"]) for name in "ab")
    assert [path.name for path in first] == ["own-width-gap.pdf", "own-width-gap.png", "captions.json"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_split_of_a_declared_figure_may_be_chosen(tmp_path):
    good = with_tables(cell("gap", "linear", 0), own=table("latent", {"width": np.ones((T, LATENTS))}, TEMPERATURES))
    results = suite([good], curves={"own": (Curve("width", "width"),)})
    draw_figures(results, tmp_path, {"own-width": "test"}, ["own-width"])
    assert "on the test split" in captions(tmp_path)["own-width-gap"]
