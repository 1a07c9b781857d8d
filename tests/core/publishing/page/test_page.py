"""A page asks for nothing outside itself, says what it is made of, and an index lists what is published."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from flow import invoke

import collapsebench.publishing.page.page
from collapsebench import UserError
from collapsebench.publishing.folder import write_everything
from collapsebench.publishing.page.numbers import curves_of_cells
from collapsebench.publishing.page.page import bibtex, suite_page, write_index

FOLDER = Path(collapsebench.publishing.page.page.__file__).with_name("assets")


def test_the_page_names_nothing_outside_itself_and_allows_only_its_own_scripts(results, curves):
    page = suite_page(results, curves, ["board.csv"])
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"<(?:link|img|iframe|object)\b|<script[^>]*\bsrc=|@import|url\(", page)
    hrefs = set(re.findall(r'(?:href|src)="([^"]+)"', page))
    assert {href for href in hrefs if not href.startswith("#")} == {"board.csv"}


def test_a_text_that_closes_the_script_cannot(results):
    hostile = replace(results, cells=[replace(results.cells[0], architecture="</script><script>alert(1)</script>")])
    page = suite_page(hostile, curves_of_cells(hostile), [])
    assert page.count("</script>") == page.count("<script") == 6
    assert "\\u003c/script\\u003e" in page


def test_the_chart_library_is_the_one_it_says_it_is():
    origin = json.loads((FOLDER / "uplot/origin.json").read_text(encoding="utf-8"))
    for name, expected in origin["sha256"].items():
        assert hashlib.sha256((FOLDER / "uplot" / name).read_bytes()).hexdigest() == expected
    assert f"(v{origin['version']})" in (FOLDER / "uplot/uPlot.iife.min.js").read_text(encoding="utf-8")[:100]
    assert set(origin["sha256"]) | {"origin.json"} == {path.name for path in (FOLDER / "uplot").iterdir()}


def test_the_assumptions_of_a_page_are_those_of_the_documentation():
    docs = (Path(__file__).resolve().parents[4] / "docs/assumptions.md").read_text(encoding="utf-8")
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


def test_the_index_lists_what_is_published_and_names_what_is_broken(results, tmp_path, no_figures):
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
