"""Boards: nothing planned is missing from them, and no rank claims more than the seeds decide."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from collapsebench import Evaluation, Score, UserError
from collapsebench.boards import COLUMNS, board, read_board, reasons, render, statuses
from collapsebench.ranking import paired_ranks, t_interval
from collapsebench.results import CellResult, SuiteResults
from collapsebench.standings import comparisons, standings
from collapsebench.tables import number

DECLARED = {
    "agreement": [Score("r2", "Agreement.", "higher", high=1), Score("gap", "Gap.", "lower", "nats")],
    "dimension": [Score("at-1%", "Latents.", "lower", "latents"), Score("curvature", "Neither.")],
    "equilibrium": [Score("converged-share", "Share.", "higher"), Score("residual", "Residual.", "lower")],
}
RANK_BY = ("agreement/r2", "dimension/at-1%")
NAMES = [f"{metric}/{score.name}" for metric, scores in DECLARED.items() for score in scores]


def cell(architecture, seed, status="ok", reason="", dataset="digits", objective="beta-vae", failures=(), **values):
    """Return a cell with these scores, by `metric__score` without the signs that Python forbids."""
    given = {name: values.get(name.replace("/", "__").replace("-", "_").replace("%", "")) for name in NAMES}
    evaluations = {}
    for metric, scores in DECLARED.items():
        found = {score.name: given[f"{metric}/{score.name}"] for score in scores}
        known = {name: value for name, value in found.items() if value is not None}
        why = {name: f"no {name} here" for name in found if name not in known}
        if metric not in failures:
            evaluations[metric] = Evaluation(known, reasons=why)
    return CellResult(
        key=f"{dataset}-{architecture}-{seed}", dataset=dataset, architecture=architecture, objective=objective,
        seed=seed, status=status, reason=reason, evaluations=evaluations if status in ("ok", "diverged") else {},
        metric_failures=dict.fromkeys(failures, "ValueError: broken"),
    )  # fmt: skip


def full(architecture, seed, r2, size=4.0, **changes):
    scores = {
        "agreement__r2": r2, "agreement__gap": 0.01 * (seed + 1), "dimension__at_1": size,
        "dimension__curvature": 1e-7, "equilibrium__converged_share": 0.9, "equilibrium__residual": 1e-3,
    }  # fmt: skip
    return cell(architecture, seed, **(scores | changes))


def suite(cells, **changes):
    made = SuiteResults(suite="small", title="A small suite", cells=cells, declared=DECLARED, rank_by=RANK_BY)
    return replace(made, **changes)


@pytest.fixture
def results():
    return suite(
        [
            *(full("linear", seed, 0.99 + 0.001 * seed) for seed in range(3)),
            *(full("mlp", seed, 0.80 + 0.002 * seed, size=math.inf if seed == 2 else 7.0) for seed in range(3)),
            full("conv", 0, 0.9),
            full("conv", 1, 0.9, status="diverged", reason="2 of 9 replicas are not finite."),
            cell("conv", 2, status="failed", reason="RuntimeError: out of memory"),
            *(full("short", seed, 0.7, dimension__at_1=None, failures=("equilibrium",)) for seed in range(3)),
            *(full("linear", seed, 1.0, dataset="null") for seed in range(3)),
        ],
        provenance={"suite_hash": "0123456789abcdef", "collapsebench": "0.1.0", "date": "2026-01-02", "git": None},
    )


def rows(results, **names):
    frame = board(results)
    for column, name in names.items():
        frame = frame[frame[column] == name]
    return frame


def standing(results, dataset="digits"):
    return standings(results, comparisons(results)[dataset, "beta-vae"])


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


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_is_students(count):
    values = np.random.default_rng(count).normal(size=count)
    expected = stats.t.interval(0.9, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(values, 0.9) == pytest.approx((values.mean(), *expected))


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([], math.nan),
        ([2.0], 2.0),
        ([1.0, math.inf], math.inf),
        ([math.inf], math.inf),
        ([-math.inf, math.inf], math.nan),
    ],
)
def test_too_few_or_infinite_values_have_no_interval(values, mean):
    found, low, high = t_interval(values)
    assert found == pytest.approx(mean, nan_ok=True)
    assert math.isnan(low)
    assert math.isnan(high)


def test_equal_values_have_an_interval_of_no_width_and_missing_ones_do_not_count():
    assert t_interval([0.1, 0.1, math.nan, 0.1]) == (0.1, 0.1, 0.1)


def test_intervals_of_three_seeds_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(loc=1.0, size=3)) for _ in range(3000)]
    covered = np.mean([low <= 1.0 <= high for _, low, high in intervals])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_ranks_follow_the_direction_of_each_score():
    values = np.array([[[0.9, 5.0]], [[0.8, 3.0]], [[0.7, 1.0]]]) + np.array([0.0, 1e-3, 3e-3])[:, None] * [1, 1]
    assert [rank.text for rank in paired_ranks(values[:, :, :1], [True])] == ["1", "2", "3"]
    assert [rank.text for rank in paired_ranks(values[:, :, 1:], [False])] == ["3", "2", "1"]
    assert [rank.text for rank in paired_ranks(values, [True, False])] == ["1-3"] * 3
    assert [rank.mean for rank in paired_ranks(values, [True, False])] == [2.0] * 3


def test_equal_architectures_are_tied():
    same = np.random.default_rng(0).normal(size=(1, 5, 2)).repeat(3, axis=0)
    assert {(rank.text, rank.mean) for rank in paired_ranks(same, [True, False])} == {("1-3", 2.0)}


def test_architectures_that_differ_by_noise_alone_are_told_apart_no_more_often_than_the_confidence_allows():
    rng = np.random.default_rng(1)
    for scores in (1, 3):
        drawn = [paired_ranks(rng.normal(size=(2, 3, scores)), [True] * scores) for _ in range(800)]
        assert np.mean([ranks[0].text != "1-2" for ranks in drawn]) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 800)


def test_a_difference_that_is_the_same_in_every_seed_decides_although_seeds_vary():
    seeds = np.random.default_rng(2).normal(scale=5.0, size=(1, 3, 1))
    assert [rank.text for rank in paired_ranks(np.concatenate([seeds, seeds - 0.1, seeds - 0.2]), [True])] == [
        "1",
        "2",
        "3",
    ]


def test_one_seed_decides_nothing():
    (first, second) = paired_ranks([[[1.0]], [[2.0]]], [True])
    assert first.text == second.text == "1-2"
    assert (first.mean, second.mean) == (2.0, 1.0)
    assert math.isnan(first.low)


def test_not_reached_in_every_seed_ranks_below_reached_and_ties_with_itself():
    never = [[math.inf]] * 3
    assert [rank.text for rank in paired_ranks([[[3.0], [4.0], [3.0]], never, never], [False])] == ["1", "2-3", "2-3"]


def test_incomplete_architectures_are_not_ranked_and_say_why(results):
    found = standing(results)
    assert [name for name, place in found.items() if place.rank is None] == ["conv", "short"]
    assert found["conv"].reason == "1 of 3 runs ended ok"
    assert "dimension/at-1% in 0 of 3 runs" in found["short"].reason
    assert (found["linear"].rank.text, found["linear"].rank.mean) == ("1", 1.0)
    assert found["mlp"].rank.text == "2"
    text = render(results, "text")
    assert "conv is not ranked: 1 of 3 runs ended ok." in text
    assert "conv, seed 2: failed: RuntimeError: out of memory." in text
    assert "short has no equilibrium/converged-share, equilibrium/residual in 3 of 3 runs" in text


def test_ranks_do_not_depend_on_architectures_that_are_not_ranked(results):
    alone = suite([row for row in results.cells if row.architecture in ("linear", "mlp")])
    assert standing(alone)["mlp"] == standing(results)["mlp"]


@pytest.mark.parametrize(
    ("rank_by", "message"),
    [
        ((), "names no score"),
        (("agreement/typo",), "declares agreement/typo"),
        (("dimension/curvature",), "neither high"),
    ],
)
def test_without_a_score_to_rank_by_nothing_is_ranked_and_the_reason_is_said(results, rank_by, message):
    found = standing(replace(results, rank_by=rank_by)).values()
    assert all(place.rank is None and message in place.reason for place in found)
    assert "Nothing is ranked." in render(replace(results, rank_by=rank_by), "text")


@pytest.mark.parametrize("format", ["text", "md", "csv", "json"])
def test_the_same_results_give_the_same_bytes_and_dates_stay_out_of_tables(results, format):
    assert render(results, format) == render(replace(results, cells=list(results.cells)), format)
    other = render(replace(results, provenance={"date": "2027-03-04"}), format)
    assert (render(results, format) == other) == (format in ("csv", "json"))


def test_csv_loads_back_with_every_value_and_type(results):
    text = render(results, "csv")
    pd.testing.assert_frame_equal(read_board(text), board(results), check_exact=True)
    assert ",inf,,,3,3,latents,lower" in text


def test_json_has_the_columns_alone_and_null_for_what_it_cannot_say(results):
    records = json.loads(render(results, "json"))
    assert all(list(record) == list(COLUMNS) for record in records)
    by_name = {(r["dataset"], r["architecture"], r["score"]): r for r in records}
    not_reached, missing = by_name["digits", "mlp", "at-1%"], by_name["digits", "short", "at-1%"]
    assert (not_reached["value"], not_reached["n_ok"]) == (None, 3)
    assert (missing["value"], missing["n_ok"]) == (None, 0)
    assert [r["value"] for r in records if r["value"] is not None] == [
        value for value in board(results)["value"] if math.isfinite(value)
    ]


def test_text_fits_a_terminal_and_names_its_origin(results):
    text = render(results, "text")
    assert max(map(len, text.splitlines())) <= 120
    assert "suite small 0123456789ab, collapsebench 0.1.0, date 2026-01-02." in text
    assert "3 seeds (0, 1, 2); ±: 95 % t-interval over seeds." in text
    assert "None" not in text
    many = {f"metric-{n}": [Score("a-rather-long-score-name", "Long.", "lower", "unit")] for n in range(12)}
    wide = render(replace(results, declared={**DECLARED, **many}), "text")
    assert max(map(len, wide.splitlines())) <= 120
    assert wide.count("a-rather-long-score-name") >= 2 * 12


def test_one_seed_has_no_interval_and_the_footer_says_so():
    text = render(suite([full("linear", 0, 0.5)]), "text")
    assert "no interval: fewer than two seeds" in text
    assert "±" not in text


def test_the_converged_share_stands_beside_the_rank_and_is_never_rounded_up():
    text = render(suite([full("linear", s, 0.5, equilibrium__converged_share=0.9999) for s in range(3)]), "md")
    header, row = (line.split("|") for line in text.splitlines() if line.startswith("| rank") or "linear" in line)
    assert [part.strip() for part in header[1:5]] == ["rank", "architecture", "runs ok", "converged"]
    assert [part.strip() for part in row[1:5]] == ["1", "linear", "3/3", "99 %"]


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.98765, 0.01234, "0.988 ± 0.012"),
        (12.0, 0.0, "12 ± 0"),
        (1.234e-5, 1.1e-6, "(1.23 ± 0.11)e-5"),
        (0.0, 0.05, "0.000 ± 0.050"),
        (1234.4, 21.0, "1234 ± 21"),
        (0.5, math.nan, "0.5"),
        (1.23456e-7, math.nan, "1.235e-7"),
        (0.5, 1e-15, "0.5 ± 1e-15"),
    ],
)
def test_numbers_have_as_many_digits_as_their_interval_allows(mean, half, text):
    assert number(mean, mean - half, mean + half) == text


def test_an_unknown_format_is_refused_with_the_legal_ones(results):
    with pytest.raises(UserError, match=r"'xml'.*text, md, csv, json"):
        render(results, "xml")
