"""What a board shows: the same bytes in every format, its origin in each, and a table that loads back exactly."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored_results import DECLARED, full, marked, mixed_suite, ranked_by, suite

from collapsebench import Data, Evaluation, Score, Split, UserError
from collapsebench.data.standardise import standardise
from collapsebench.publishing.board_report import read_board, render
from collapsebench.publishing.report import FORMATS
from collapsebench.ranking.board import COLUMNS, FOOTER, QUESTION, RANKS, board, complete_board, ranking
from collapsebench.scoring.results import CellResult, SuiteResults
from collapsebench.verbs.run import Outcome

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def results():
    return mixed_suite()


def named_results(**changes: str) -> SuiteResults:
    names = {"dataset": "digits", "architecture": "linear", "objective": "beta-vae", "reason": "", **changes}
    cells = [
        CellResult(
            key=str(seed),
            seed=seed,
            status="ok" if seed else "failed",
            evaluations={"agreement": Evaluation({"r2": 0.5 + seed})},
            **names,
        )
        for seed in range(2)
    ]
    declared = {"agreement": [Score("r2", "Agreement.", "higher")]}
    return SuiteResults("small", names.pop("title", "A title"), cells, declared, ranked_by("agreement/r2"))


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
    assert list(frame) == [*COLUMNS, *RANKS, *FOOTER, *QUESTION]
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
    assert all(list(record) == [*COLUMNS, *RANKS, *FOOTER, *QUESTION] for record in records)
    by_name = {(r["dataset"], r["architecture"], r["score"]): r for r in records}
    not_reached, missing = by_name["digits", "mlp", "at-1%"], by_name["digits", "short", "at-1%"]
    assert (not_reached["value"], not_reached["n_ok"]) == (None, 3)
    assert (missing["value"], missing["n_ok"], missing["rank_best"]) == (None, 0, None)
    assert [r["value"] for r in records if r["value"] is not None] == [
        value for value in board(results)["value"] if math.isfinite(value)
    ]


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
    text = render(suite([marked(full("linear", seed, 0.5), 9999, 10_000) for seed in range(3)]), "md")
    header, row = (line.split("|") for line in text.splitlines() if line.startswith("| rank") or "linear" in line)
    assert [part.strip() for part in header[1:5]] == [
        "rank<br>↓",
        "architecture",
        "runs ok<br>of planned",
        "converged<br>↑ share",
    ]
    assert [part.strip() for part in row[1:5]] == ["1", "linear", "3/3", "99 %"]


def test_an_unknown_format_is_refused_with_the_legal_ones(results):
    with pytest.raises(UserError, match=r"'xml'.*text, md, csv, json, tex, html"):
        render(results, "xml")


def test_a_board_escapes_every_text_that_a_suite_or_a_failure_brings() -> None:
    for field in ("dataset", "architecture", "objective", "reason"):
        html = Outcome(named_results(**{field: HOSTILE}), Path())._repr_html_()
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    html = Outcome(replace(named_results(), title=HOSTILE), Path())._repr_html_()
    assert "<script" not in html


def test_a_board_shows_what_failed_beside_the_scores() -> None:
    html = Outcome(named_results(reason="RuntimeError: broken"), Path())._repr_html_()
    assert "RuntimeError: broken" in html
    assert "<td>1/2</td>" in html


def test_the_name_of_an_outcome_is_short() -> None:
    assert repr(Outcome(named_results(), Path("out"))) == f"Outcome(suite='small', ok=1 of 2, folder={Path('out')!r})"


@pytest.mark.parametrize("format", ["text", "md", "html", "tex"])
def test_what_standardising_noticed_about_the_data_stands_below_the_table(format):
    train = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    train[0, 1] = 1e4
    splits = (Split(train), Split(train[1:300]), Split(train[300:600]))
    about = standardise(Data(*splits, feature_names=("a", "b", "c"), citation="someone"), "digits").about
    text = render(replace(named_results(), datasets={"digits": dict(about)}), format)
    assert "Notice: 1 of 3 features (b) owes 100" in " ".join(text.split())
