"""The tables of a page: every score, every failure and every replica is there, and sorts by its value."""

from __future__ import annotations

from dataclasses import replace
from html import unescape

import pytest
from measured_results import SCORED, TEMPERATURES, cell, scored, suite
from scored_results import ranked_by

from collapsebench.publishing.page.numbers import curves_of_cells
from collapsebench.publishing.page.page import suite_page
from collapsebench.publishing.page.tables import board_table, equilibrium_report, failure_rows, overall
from collapsebench.ranking.standings import overall_standings


def test_the_board_of_a_page_has_every_score_and_sorts_by_its_value(results):
    board = board_table(results)
    names = [f"{column.metric}/{column.name}".lstrip("/") for column in board["columns"]]
    rows = [dict(zip(names, (cell for _, cell in row), strict=True)) for row in board["rows"]]
    assert [row["architecture"].text for row in rows] == ["linear", "mlp", "linear"]
    assert rows[0]["shape/slope"].value == pytest.approx(0.5)
    assert rows[0]["shape/slope"].title == "0.5, 95 % interval -0.77062 to 1.77062, n = 2 of 2"
    assert (rows[0]["shape/rank"].text, rows[0]["shape/rank"].value) == ("not reached", "inf")
    assert rows[1]["shape/slope"].text == "0.1 (n = 1)"
    assert (rows[1]["rank"].text, rows[1]["rank"].value, rows[1]["runs ok"].text) == ("-", "", "1/2")
    assert rows[2]["shape/slope"].value == ""
    assert "gap, mlp is not ranked: 1 of 2 runs ended ok." in board["unranked"]


def test_what_is_not_meant_for_the_data_is_said_and_is_no_failure(results):
    unmeasured = [cell("gap", "conv", seed, status="failed", reason="no images") for seed in range(2)]
    empty = [replace(row, status="skipped") for row in unmeasured]
    given = replace(results, cells=[*results.cells, *empty])
    assert not [row for row in failure_rows(given) if row["architecture"] == "conv"]
    page = unescape(suite_page(given, curves_of_cells(given), []))
    assert page.count("gap, conv: not meant for these data: no images.") == 1
    assert "2 were skipped: their architecture is not meant for the data." in page
    assert "run: skipped" not in page
    assert "gap, conv is not ranked: not meant for these data." in page
    only = replace(results, cells=[results.cells[0], *empty], declared={}, questions=())
    assert "Every score has a value" not in suite_page(only, curves_of_cells(only), [])


def test_the_page_ranks_over_all_datasets_as_the_board_does():
    cells = [
        scored(dataset, name, seed, slope + 0.01 * seed, 1.0)
        for dataset in ("gap", "power-law")
        for name, slope in (("linear", 0.2), ("mlp", 0.8))
        for seed in range(3)
    ]
    given = suite(cells, declared=SCORED, questions=ranked_by("shape/slope"))
    standing, _, _ = overall_standings(given, "beta-vae", given.questions[0])
    best, other = standing["mlp"].rank, standing["linear"].rank
    assert overall(given) == [
        f"All 2 datasets together, beta-vae: {best.text} mlp (mean rank 1.00), {other.text} linear (mean rank 2.00)."
    ]
    failed = [*cells[:-1], replace(cells[-1], status="failed", reason="disk full")]
    lines = overall(replace(given, cells=failed))
    assert lines[1] == "Not ranked: mlp: on power-law, 2 of 3 runs ended ok."
    page = suite_page(given, curves_of_cells(given), [])
    assert overall(given)[0] in page
    assert not overall(replace(given, cells=cells[:6]))


def test_failures_of_two_objectives_are_told_apart(results):
    failed = results.cells[3]
    given = replace(results, cells=[failed, replace(failed, objective="free-bits", seed=2)])
    rows = [row for row in failure_rows(given) if row["what"] == "run: failed"]
    assert [(row["objective"], row["seeds"]) for row in rows] == [(failed.objective, "1"), ("free-bits", "2")]
    page = suite_page(given, curves_of_cells(given), [])
    assert "<td>gap</td><td>free-bits</td><td>mlp</td><td>2</td>" in page


def test_what_failed_stands_on_the_page_with_its_reason(results, curves):
    rows = {(row["dataset"], row["architecture"], row["what"]): row for row in failure_rows(results)}
    assert rows["gap", "mlp", "run: failed"]["reason"] == "OSError: disk full"
    assert rows["power-law", "linear", "run: diverged"]["seeds"] == "0"
    page = suite_page(results, curves, [])
    assert "2 of 17 replicas diverged" in page
    assert "3 of 5 planned runs ended ok." in page


def test_the_equilibrium_report_counts_every_replica_and_shows_each_with_a_sign(results, curves):
    report = equilibrium_report(results, curves)
    counts = [[cell.text for cell in row[2:7]] for row in report["rows"]]
    assert counts == [["30", "0", "4", "0", "0"], ["15", "0", "2", "0", "0"], ["13", "0", "2", "0", "2"]]
    marks = report["grids"][1]["runs"][0]["marks"]
    assert [mark["sign"] for mark in marks].count("✕") == 2
    assert len(marks) == len(TEMPERATURES)
