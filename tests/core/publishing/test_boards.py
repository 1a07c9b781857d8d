"""Boards: nothing planned is missing from them, and no rank claims more than the seeds decide."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from collapsebench.publishing.boards import (
    COLUMNS,
    FOOTER,
    FORMATS,
    OVERALL,
    RANKS,
    board,
    complete_board,
    ranking,
    read_board,
    reasons,
    render,
    scores,
    statuses,
)
from collapsebench.publishing.layout import number

from collapsebench import Evaluation, Score, UserError
from collapsebench.ranking.standings import comparisons, overall_standings, standings
from collapsebench.scoring.results import CellResult, SuiteResults

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
    for metric, declared in DECLARED.items():
        found = {score.name: given[f"{metric}/{score.name}"] for score in declared}
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
        provenance={
            "suite_hash": "0123456789abcdef",
            "collapsebench": "0.1.0",
            "cpu": "EPYC",
            "date": "2026-01-02",
            "git": None,
        },
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


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_results_give_the_same_bytes_and_every_format_says_where_they_come_from(results, format):
    text = render(results, format)
    assert text == render(replace(results, cells=list(results.cells)), format)
    for fact in ("0123456789ab", "collapsebench 0.1.0", "cpu EPYC", "t-interval over seeds, n = 3"):
        assert fact in text
    assert ("2026-01-02" in text) == (format not in ("csv", "json"))


def test_the_tables_of_the_same_results_are_the_same_on_another_day(results):
    later = replace(results, provenance={**results.provenance, "date": "2027-12-31"})
    for format in ("csv", "json"):
        assert render(later, format) == render(results, format)
    assert ranking(later).equals(ranking(results))


def test_csv_loads_back_with_every_value_and_type(results):
    text = render(results, "csv")
    pd.testing.assert_frame_equal(read_board(text), complete_board(results), check_exact=True)
    assert ",inf,,,3,3,latents,lower" in text


def test_csv_loads_in_pandas_as_it_is_with_numbers_as_numbers_and_names_as_text(results):
    frame = pd.read_csv(io.StringIO(render(results, "csv")))
    assert list(frame) == [*COLUMNS, *RANKS, *FOOTER]
    for column, kind in (COLUMNS | RANKS).items():
        assert pd.api.types.is_numeric_dtype(frame[column].dtype) == (kind in ("float64", "int64", "Int64")) or (
            column == "unit" and kind == "str"
        )
    assert frame["n_ok"].dtype == frame["n_planned"].dtype == "int64"
    expected = board(results)["value"]
    assert np.allclose(frame["value"], expected, rtol=1e-15, equal_nan=True)
    assert np.isinf(frame["value"]).sum() == np.isinf(expected).sum() > 0


def test_json_has_the_columns_alone_and_null_for_what_it_cannot_say(results):
    records = json.loads(render(results, "json"))
    assert all(list(record) == [*COLUMNS, *RANKS, *FOOTER] for record in records)
    by_name = {(r["dataset"], r["architecture"], r["score"]): r for r in records}
    not_reached, missing = by_name["digits", "mlp", "at-1%"], by_name["digits", "short", "at-1%"]
    assert (not_reached["value"], not_reached["n_ok"]) == (None, 3)
    assert (missing["value"], missing["n_ok"], missing["rank_best"]) == (None, 0, None)
    assert [r["value"] for r in records if r["value"] is not None] == [
        value for value in board(results)["value"] if math.isfinite(value)
    ]


def test_the_ranking_has_a_row_for_every_architecture_ranked_or_not(results):
    frame = ranking(results).set_index(["dataset", "architecture"])
    assert set(frame.index.get_level_values("dataset")) == {OVERALL, "digits", "null"}
    assert tuple(frame.loc[("digits", "linear"), ["rank_best", "rank_worst", "n_ok", "n_planned"]]) == (1, 1, 3, 3)
    conv = frame.loc[("digits", "conv")]
    assert conv["rank_best"] is pd.NA
    assert (conv["reason"], conv["n_ok"], conv["n_planned"]) == ("1 of 3 runs ended ok", 1, 3)
    assert frame.loc[("digits", "linear"), "converged_share"] == pytest.approx(0.9)


def test_every_cell_and_score_has_a_row_of_its_own_value(results):
    frame = scores(results)
    assert len(frame) == len(results.cells) * len(NAMES)
    mine = frame[(frame["dataset"] == "digits") & (frame["architecture"] == "linear") & (frame["score"] == "r2")]
    assert mine["value"].tolist() == [0.99, 0.99 + 0.001, 0.99 + 0.002]
    assert frame[frame["architecture"] == "conv"]["value"].notna().sum() == len(NAMES)


def across(*datasets):
    """Return results with the same architectures on several datasets; each dataset gives name -> r2 of each seed."""
    cells = [
        full(name, seed, value, dataset=f"data-{place}")
        for place, values in enumerate(datasets)
        for name, row in values.items()
        for seed, value in enumerate(row)
    ]
    return suite(cells, rank_by=("agreement/r2",))


def test_what_one_dataset_leaves_open_several_decide():
    better, worse = [0.9, 0.8, 0.87], [0.83, 0.78, 0.79]
    found = across(*({"a": better, "b": worse} for _ in range(4)))
    alone = standings(found, comparisons(found)["data-0", "beta-vae"])
    assert alone["a"].rank.text == alone["b"].rank.text == "1-2"
    together, used, left_out = overall_standings(found, "beta-vae")
    assert (together["a"].rank.text, together["b"].rank.text, len(used), left_out) == ("1", "2", 4, [])
    text = render(found, "text")
    assert "All 4 datasets together, beta-vae" in text
    assert "All" not in render(across({"a": better, "b": worse}), "text")


def test_incomplete_on_one_dataset_is_unranked_overall_and_a_dataset_without_any_run_is_left_out_and_said():
    fine = {"a": [0.9, 0.8, 0.87], "b": [0.83, 0.78, 0.79]}
    found = across(fine, fine, fine)
    cells = [
        replace(row, status="failed", reason="no data", evaluations={})
        if row.dataset == "data-2" or (row.dataset == "data-1" and row.architecture == "b" and row.seed == 1)
        else row
        for row in found.cells
    ]
    broken = replace(found, cells=cells)
    together, used, left_out = overall_standings(broken, "beta-vae")
    assert (together["a"].rank.text, together["b"].rank) == ("1", None)
    assert together["b"].reason == "on data-1, 2 of 3 runs ended ok"
    assert (used, left_out) == (["data-0", "data-1"], ["data-2"])
    text = render(broken, "text")
    assert "Left out of the overall rank, since nothing is complete there: data-2." in text
    assert "unranked  b" in text


def test_an_architecture_that_is_not_meant_for_some_data_is_said_once_and_unranked_overall():
    fine = {"a": [0.9, 0.8, 0.87], "b": [0.83, 0.78, 0.79]}
    found = across(fine, fine, fine)
    why = "encoder 'conv': samples have shape (16,), expected images."
    cells = [
        replace(row, status="skipped", reason=why, evaluations={})
        if row.dataset != "data-2" and row.architecture == "b"
        else row
        for row in found.cells
    ]
    given = replace(found, cells=cells)
    assert standing(given, "data-0")["b"].reason == "it is not meant for these data"
    together, used, left_out = overall_standings(given, "beta-vae")
    assert (together["b"].rank, together["a"].rank.text) == (None, "1")
    assert together["b"].reason == "on data-0, data-1, it is not meant for these data"
    assert (len(used), left_out) == (3, [])
    text = " ".join(render(given, "text").split())
    assert text.count(f"b is not ranked: it is not meant for these data: {why}") == 2
    assert text.count("it is not meant for these data") == 3
    assert "skipped" not in text
    assert "seed 0:" not in text


def test_text_fits_a_terminal_and_names_its_origin(results):
    text = render(results, "text")
    assert max(map(len, text.splitlines())) <= 120
    assert "suite small 0123456789ab, collapsebench 0.1.0, cpu EPYC, date 2026-01-02." in text
    assert "3 seeds (0, 1, 2); ±: 95 % t-interval over seeds, n = 3 unless a cell says otherwise." in text
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
    assert [part.strip() for part in header[1:5]] == [
        "rank<br>↓",
        "architecture",
        "runs ok<br>of planned",
        "converged<br>↑ share",
    ]
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
    with pytest.raises(UserError, match=r"'xml'.*text, md, csv, json, tex, html"):
        render(results, "xml")
