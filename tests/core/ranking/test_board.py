"""The frames of a board: nothing planned is missing from them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scored_results import NAMES, cell, full, marked, mixed_suite, suite

from collapsebench.publishing.board_report import render
from collapsebench.ranking.board import COLUMNS, OVERALL, board, ranking, reasons, scores, statuses


@pytest.fixture
def results():
    return mixed_suite()


def rows(results, **names):
    frame = board(results)
    for column, name in names.items():
        frame = frame[frame[column] == name]
    return frame


def test_the_columns_of_a_board_are_fixed(results):
    expected = [
        "suite",
        "dataset",
        "architecture",
        "objective",
        "metric",
        "score",
        "value",
        "low",
        "high",
        "n_ok",
        "n_planned",
        "unit",
        "direction",
    ]
    assert list(board(results).columns) == expected == list(COLUMNS)
    assert list(board(suite([])).columns) == expected
    assert {kind.name for kind in board(results)[["value", "low", "high"]].dtypes} == {"float64"}
    assert {kind.name for kind in board(results)[["n_ok", "n_planned"]].dtypes} == {"int64"}


def test_every_planned_architecture_and_declared_score_is_a_row_in_the_suites_order(results):
    frame = board(results)
    keys = list(zip(frame["dataset"], frame["architecture"], frame["metric"] + "/" + frame["score"], strict=True))
    groups = [("digits", name) for name in ("linear", "mlp", "conv", "short")] + [("null", "linear")]
    assert keys == [(*group, name) for group in groups for name in NAMES]
    assert (frame["n_planned"] == 3).all()


def test_only_cells_that_ended_ok_are_averaged_and_the_others_stay_counted(results):
    found = rows(results, architecture="conv", score="r2").iloc[0]
    assert (found["value"], found["n_ok"], found["n_planned"]) == (0.9, 1, 3)
    assert math.isnan(found["low"])
    assert math.isnan(found["high"])
    gone = board(suite([cell("conv", 0, status="timeout")]))
    assert len(gone) == len(NAMES)
    assert gone["value"].isna().all()
    assert (gone["n_ok"] == 0).all()


def test_a_score_without_a_value_is_a_row_with_none_and_its_reason_is_kept(results):
    found = rows(results, architecture="short", score="at-1%").iloc[0]
    assert math.isnan(found["value"])
    assert found["n_ok"] == 0
    why = reasons(results)
    assert set(why[why["architecture"] == "short"]["reason"]) == {
        "no at-1% here",
        "the metric failed: ValueError: broken",
    }
    assert set(why[(why["architecture"] == "conv") & (why["seed"] == 2)]["reason"]) == {
        "failed: RuntimeError: out of memory"
    }
    missing = {(row.key, name) for row in results.cells for name in NAMES} - {
        (row.key, f"{metric}/{name}")
        for row in results.cells
        if row.status == "ok"
        for metric, evaluation in row.evaluations.items()
        for name in evaluation.values
    }
    assert len(why) == len(missing)


def test_every_planned_cell_has_a_status(results):
    frame = statuses(results)
    assert list(frame.columns) == ["dataset", "architecture", "objective", "seed", "status", "reason", "key"]
    assert frame["key"].tolist() == [row.key for row in results.cells]
    assert frame["status"].value_counts().to_dict() == {"ok": 13, "diverged": 1, "failed": 1}


def test_one_seed_that_does_not_reach_a_tolerance_makes_the_mean_infinite_without_an_interval(results):
    found = rows(results, architecture="mlp", score="at-1%").iloc[0]
    assert found["value"] == math.inf
    assert found["n_ok"] == 3
    assert math.isnan(found["low"])
    assert "not reached (1 of 3)" in render(results, "text")


def test_the_ranking_has_a_row_for_every_architecture_ranked_or_not(results):
    frame = ranking(results).set_index(["dataset", "architecture"])
    assert set(frame.index.get_level_values("dataset")) == {OVERALL, "digits", "null"}
    assert tuple(frame.loc[("digits", "linear"), ["rank_best", "rank_worst", "n_ok", "n_planned"]]) == (1, 1, 3, 3)
    conv = frame.loc[("digits", "conv")]
    assert conv["rank_best"] is pd.NA
    assert (conv["reason"], conv["n_ok"], conv["n_planned"]) == ("1 of 3 runs ended ok", 1, 3)
    assert np.isnan(frame.loc[("digits", "linear"), "converged_share"])


def test_every_cell_and_score_has_a_row_of_its_own_value(results):
    frame = scores(results)
    assert len(frame) == len(results.cells) * len(NAMES)
    mine = frame[(frame["dataset"] == "digits") & (frame["architecture"] == "linear") & (frame["score"] == "r2")]
    assert mine["value"].tolist() == [0.99, 0.99 + 0.001, 0.99 + 0.002]
    assert frame[frame["architecture"] == "conv"]["value"].notna().sum() == len(NAMES)


def test_the_converged_share_counts_the_replicas_of_every_cell_that_ended_ok():
    cells = [marked(full("linear", seed, 0.5), 9 - seed, 10) for seed in range(3)]
    assert ranking(suite(cells)).loc[0, "converged_share"] == pytest.approx(0.8)
