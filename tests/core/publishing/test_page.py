"""What a page is made of: its numbers are those of the tables beside it, its parts are what they say they are."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flow import invoke
from test_figures import TEMPERATURES, cell, suite

import collapsebench.publishing.page.page
from collapsebench import UserError
from collapsebench.contracts import Evaluation, Score
from collapsebench.publishing.folder import write_everything
from collapsebench.publishing.page.numbers import all_runs, curve_tables, page_content, rounded, run_of
from collapsebench.publishing.page.page import bibtex, suite_page, write_index
from collapsebench.publishing.page.tables import board_table, equilibrium_report, failure_rows, overall
from collapsebench.ranking.standings import overall_standings

FOLDER = Path(collapsebench.publishing.page.page.__file__).with_name("assets")
DECLARED = {"shape": (Score("slope", "how steep", "higher"), Score("rank", "how many", "lower", "latents"))}


def scored(dataset, architecture, seed, slope=0.5, rank=np.inf, **changes):
    evaluation = Evaluation({"slope": slope, "rank": rank})
    return cell(dataset, architecture, seed, evaluations={"shape": evaluation}, **changes)


@pytest.fixture(scope="module")
def results():
    cells = [
        scored("gap", "linear", 0, 0.4),
        scored("gap", "linear", 1, 0.6),
        scored("gap", "mlp", 0, 0.1, 3.0),
        scored("gap", "mlp", 1, status="failed", reason="OSError: disk full"),
        scored("power-law", "linear", 0, status="diverged", reason="2 of 17 replicas diverged"),
    ]
    made = suite(cells, declared=DECLARED, rank_by=("shape/slope",), title="Synthetic & odd 100 %")
    return replace(made, provenance={"date": "2026-03-04", "suite_hash": "ab" * 32, "collapsebench": "0.1.0"})


@pytest.fixture(scope="module")
def runs(results):
    return all_runs(results)


def test_every_number_of_the_page_is_that_of_the_tables_beside_it(results, runs):
    tables = {name: pd.read_csv(io.StringIO(text)) for name, text in curve_tables(results, runs).items()}
    content = json.loads(json.dumps(page_content(results, runs)))
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
    run = run_of(results.cells[3])
    assert run.temperatures.size == run.signal_fraction.size == run.distortion.size == 0
    assert set(run.missing) == {"signal", "truncated", "distortion", "rate", "utility", "ward", "edge"}
    assert "failed (OSError: disk full)" in run.missing["signal"]


def test_the_edge_of_stability_is_over_the_price_that_the_objective_sets(results):
    scan = results.cells[0].measurement
    order = np.random.default_rng(0).permutation(TEMPERATURES.size)
    residuals = pd.DataFrame({"temperature": TEMPERATURES, "ward_residual": 0.0, "residual_edge": 0.3 * TEMPERATURES})
    replicas = scan.tables["replicas"].assign(effective_temperature=3 * TEMPERATURES).iloc[order]
    tables = {**scan.tables, "equilibrium": residuals, "replicas": replicas}
    run = run_of(replace(results.cells[0], measurement=replace(scan, tables=tables)))
    np.testing.assert_allclose(run.edge, 0.1)


def test_replicas_that_diverged_are_gaps_of_their_curve(results, runs):
    content = page_content(results, runs)[1]["architectures"][0]["runs"][0]
    lost = [place for place, value in enumerate(content["signal"][0]) if value is None]
    assert [float(f"{t:.6g}") for t in np.sort(TEMPERATURES)[lost]] == [content["t"][place] for place in lost]
    assert len(lost) == 2


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
    page = unescape(suite_page(given, all_runs(given), []))
    assert page.count("gap, conv: not meant for these data: no images.") == 1
    assert "2 were skipped: their architecture is not meant for the data." in page
    assert "run: skipped" not in page
    assert "gap, conv is not ranked: it is not meant for these data." in page
    only = replace(results, cells=[results.cells[0], *empty], declared={}, rank_by=())
    assert "Every score has a value" not in suite_page(only, all_runs(only), [])


def test_the_page_ranks_over_all_datasets_as_the_board_does():
    cells = [
        scored(dataset, name, seed, slope + 0.01 * seed, 1.0)
        for dataset in ("gap", "power-law")
        for name, slope in (("linear", 0.2), ("mlp", 0.8))
        for seed in range(3)
    ]
    given = suite(cells, declared=DECLARED, rank_by=("shape/slope",))
    standing, _, _ = overall_standings(given, "beta-vae")
    best, other = standing["mlp"].rank, standing["linear"].rank
    assert overall(given) == [
        f"All 2 datasets together, beta-vae: {best.text} mlp (mean rank 1.00), {other.text} linear (mean rank 2.00)."
    ]
    failed = [*cells[:-1], replace(cells[-1], status="failed", reason="disk full")]
    lines = overall(replace(given, cells=failed))
    assert lines[1] == "Not ranked: mlp: on power-law, 2 of 3 runs ended ok."
    page = suite_page(given, all_runs(given), [])
    assert overall(given)[0] in page
    assert not overall(replace(given, cells=cells[:6]))


def test_failures_of_two_objectives_are_told_apart(results):
    failed = results.cells[3]
    given = replace(results, cells=[failed, replace(failed, objective="free-bits", seed=2)])
    rows = [row for row in failure_rows(given) if row["what"] == "run: failed"]
    assert [(row["objective"], row["seeds"]) for row in rows] == [(failed.objective, "1"), ("free-bits", "2")]
    page = suite_page(given, all_runs(given), [])
    assert "<td>gap</td><td>free-bits</td><td>mlp</td><td>2</td>" in page


def test_what_failed_stands_on_the_page_with_its_reason(results, runs):
    rows = {(row["dataset"], row["architecture"], row["what"]): row for row in failure_rows(results)}
    assert rows["gap", "mlp", "run: failed"]["reason"] == "OSError: disk full"
    assert rows["power-law", "linear", "run: diverged"]["seeds"] == "0"
    page = suite_page(results, runs, [])
    assert "2 of 17 replicas diverged" in page
    assert "3 of 5 planned runs ended ok." in page


def test_the_equilibrium_report_counts_every_replica_and_shows_each_with_a_sign(results, runs):
    report = equilibrium_report(results, runs)
    counts = [[cell.text for cell in row[2:6]] for row in report["rows"]]
    assert counts == [["30", "4", "0", "0"], ["15", "2", "0", "0"], ["13", "2", "0", "2"]]
    marks = report["grids"][1]["runs"][0]["marks"]
    assert [mark["sign"] for mark in marks].count("✕") == 2
    assert len(marks) == len(TEMPERATURES)


def test_the_page_names_nothing_outside_itself_and_allows_only_its_own_scripts(results, runs):
    page = suite_page(results, runs, ["board.csv"])
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"<(?:link|img|iframe|object)\b|<script[^>]*\bsrc=|@import|url\(", page)
    hrefs = set(re.findall(r'(?:href|src)="([^"]+)"', page))
    assert {href for href in hrefs if not href.startswith("#")} == {"board.csv"}


def test_a_text_that_closes_the_script_cannot(results):
    hostile = replace(results, cells=[replace(results.cells[0], architecture="</script><script>alert(1)</script>")])
    page = suite_page(hostile, all_runs(hostile), [])
    assert page.count("</script>") == page.count("<script") == 6
    assert "\\u003c/script\\u003e" in page


def test_the_chart_library_is_the_one_it_says_it_is():
    origin = json.loads((FOLDER / "uplot/origin.json").read_text(encoding="utf-8"))
    for name, expected in origin["sha256"].items():
        assert hashlib.sha256((FOLDER / "uplot" / name).read_bytes()).hexdigest() == expected
    assert f"(v{origin['version']})" in (FOLDER / "uplot/uPlot.iife.min.js").read_text(encoding="utf-8")[:100]
    assert set(origin["sha256"]) | {"origin.json"} == {path.name for path in (FOLDER / "uplot").iterdir()}


def test_the_assumptions_of_a_page_are_those_of_the_documentation():
    docs = (Path(__file__).resolve().parents[3] / "docs/assumptions.md").read_text(encoding="utf-8")
    written = re.findall(r"^\d\. \*\*(.+?)\*\*", docs, flags=re.M)
    shown = re.findall(r"<li><strong>(.+?)</strong>", (FOLDER / "assumptions.html.jinja").read_text(encoding="utf-8"))
    assert len(shown) == 6
    assert shown == written


def test_the_citation_is_bibtex_with_its_signs_escaped(results):
    text = bibtex(results)
    assert r"title = {Synthetic \& odd 100 \%: a board of collapsebench}" in text
    assert "year = {2026}" in text
    assert "suite synthetic abababababab, 2026-03-04" in text
    assert text.count("@misc{") == 3
    assert text.count("{") == text.count("}")


def test_the_index_lists_what_is_published_and_names_what_is_broken(results, tmp_path):
    write_everything(results, tmp_path / "one")
    write_everything(replace(results, title="Another"), tmp_path / "two")
    (tmp_path / "two/data/results.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    done = invoke("publish", "--index", tmp_path)
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert '<a href="one/index.html">Synthetic &amp; odd 100 %</a>' in page
    assert "3/5" in page
    assert "two: " in page
    assert "missing or changed since it was published" in page


def test_an_index_over_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no published suites"):
        write_index(tmp_path)
    with pytest.raises(UserError, match="holds no published suites"):
        write_index(tmp_path / "absent")
