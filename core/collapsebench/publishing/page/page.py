"""The page of a suite, and the index of several: one HTML file each, which asks for nothing beyond itself.

Every text is escaped by the templates, numbers travel as JSON in which `<`, `>` and `&` are escaped too, and a
Content-Security-Policy allows the page's own scripts and styles, by their hashes, and no network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from collapsebench import __version__
from collapsebench.errors import StoreError, UserError
from collapsebench.publishing.bundle import is_bundle, read_bundle
from collapsebench.publishing.page.numbers import CurvesOfCells, chart_frames, declared_charts, page_content
from collapsebench.publishing.page.tables import (
    TableEntry,
    board_table,
    converged_share,
    dataset_facts,
    ended,
    equilibrium_report,
    exactness,
    failure_rows,
    provenance_facts,
    summary,
    unsuited,
)
from collapsebench.scoring.results import SuiteResults

PAGE = "index.html"
_FOLDER = Path(__file__).with_name("assets")
_SECTIONS = ("board", "scans", "equilibrium", "failures", "provenance", "assumptions", "citation")
_PAPERS = (
    ("hirn2026pruning", "Posterior Collapse as Automatic Spectral Pruning", "2605.22691"),
    ("hirn2026tolerance", "{$\\beta$-VAEs} as Effective Theories: Tolerance-Dependent Dimension", "2608.10599"),
)
_INDEX_HEADER = ("suite", "id", "datasets", "architectures", "seeds", "runs ok", "converged", "date", "hardware")


def suite_page(results: SuiteResults, curves: CurvesOfCells, files: Sequence[str]) -> str:
    """Return the page of a suite. files: what lies beside it, by relative path, to be linked."""
    charts = chart_frames(declared_charts(results))
    drawing = ("chart.js", "scans.js", *(["declared.js"] if charts else []))
    return _render(
        "suite.html.jinja",
        ("uplot/uPlot.iife.min.js", "board.js", *drawing, "start.js"),
        title=results.title or results.suite,
        suite=results.suite,
        summary=summary(results),
        sections=[(name, name.capitalize()) for name in _SECTIONS],
        board=board_table(results),
        charts=charts,
        equilibrium=equilibrium_report(results, curves),
        failures=failure_rows(results),
        unsuited=unsuited(results),
        several_objectives=len({cell.objective for cell in results.cells}) > 1,
        ended=ended(results),
        provenance=provenance_facts(results),
        ward_tolerance=results.provenance.get("ward_tolerance", ""),
        commands=results.provenance.get("commands", []),
        datasets=[{"name": name, "facts": dataset_facts(about)} for name, about in results.datasets.items()],
        files=[quote(name) for name in files],
        tables=any(name.startswith("tables/") for name in files),
        exactness=exactness(results),
        bibtex=bibtex(results),
        uplot={**json.loads(_read("uplot/origin.json")), "licence": _read("uplot/LICENSE")},
        content=Markup(_json(page_content(results, curves))),
    )


def write_index(folder: Path) -> Path:
    """Write an index page over every published suite in the folders of a folder; return its path."""
    places = sorted(path for path in folder.iterdir() if path.is_dir() and is_bundle(path)) if folder.is_dir() else []
    if not places:
        raise UserError(
            f"{folder}: holds no published suites, which are folders with data/results.json. "
            "Give the folder that holds the folders that `collapsebench publish SUITE FOLDER` has written."
        )
    rows, refused = [], []
    for place in places:
        try:
            results = read_bundle(place)
        except StoreError as error:
            refused.append((place.name, str(error)))
        else:
            rows.append(_index_row(place.name, results))
    text = _render("index.html.jinja", ("board.js", "start.js"), header=_INDEX_HEADER, rows=rows, refused=refused)
    path = folder / PAGE
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def bibtex(results: SuiteResults) -> str:
    """Return how to cite a board, and the papers behind it, as BibTeX."""
    about = results.provenance
    date = str(about.get("date") or "")
    note = ", ".join(
        part
        for part in (
            f"collapsebench {about.get('collapsebench', __version__)}",
            f"suite {results.suite} {str(about.get('suite_hash', ''))[:12]}".strip(),
            date,
        )
        if part
    )
    fields = {
        "author": "{The collapsebench developers}",
        "title": f"{_tex(results.title or results.suite)}: a board of collapsebench",
        **({"year": date[:4]} if date else {}),
        "note": _tex(note),
    }
    entries = [("collapsebench-" + "".join(c if c.isalnum() else "-" for c in results.suite), fields)]
    for key, title, number in _PAPERS:
        paper = {"author": "Hirn, J.", "title": title, "year": "2026", "eprint": number, "archiveprefix": "arXiv"}
        entries.append((key, paper))
    return "\n\n".join(
        f"@misc{{{key},\n" + "".join(f"  {name} = {{{text}}},\n" for name, text in items.items()) + "}"
        for key, items in entries
    )


def _index_row(name: str, results: SuiteResults) -> dict[str, Any]:
    cells, about = results.cells, results.provenance
    ok = sum(cell.status == "ok" for cell in cells)
    share = converged_share(cells)

    def counted(attribute: str) -> str:
        return ", ".join(dict.fromkeys(str(getattr(cell, attribute)) for cell in cells))

    return {
        "link": f"{quote(name)}/{PAGE}",
        "title": results.title or results.suite,
        "cells": [
            TableEntry(results.suite),
            TableEntry(counted("dataset")),
            TableEntry(counted("architecture")),
            TableEntry(str(len({cell.seed for cell in cells})), len({cell.seed for cell in cells})),
            TableEntry(f"{ok}/{len(cells)}", ok / len(cells) if cells else ""),
            share,
            TableEntry(str(about.get("date") or "-")),
            TableEntry(str(about.get("cpu") or about.get("device") or "-")),
        ],
    }


def _render(template: str, scripts: Sequence[str], **content: Any) -> str:
    sources = [_read(name) for name in scripts]
    styles = _read("uplot/uPlot.min.css") + "\n" + _read("page.css")
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, sources)),
        "style-src": _hash(styles),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return _templates().get_template(template).render(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        version=__version__,
        styles=Markup(styles),
        scripts=[Markup(source) for source in sources],
        **content,
    )  # fmt: skip


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


@cache
def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


_TEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)
