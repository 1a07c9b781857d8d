"""The tables of a page, as texts with the values they are sorted by: board, equilibrium, failures, provenance."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from collapsebench.publishing.board_report import asked_by, unusable_scores
from collapsebench.publishing.page.numbers import DIGITS, CellCurves, CurvesOfCells, names_of
from collapsebench.publishing.report import number
from collapsebench.ranking.board import board, headline_scores, reasons, resolved_text, statuses
from collapsebench.ranking.findings import failed_controls, findings
from collapsebench.ranking.ranks import CONFIDENCE
from collapsebench.ranking.standings import (
    SKIPPED,
    UNSUITED,
    Contender,
    asked_together,
    comparisons,
    declared_scores,
    overall_standings,
    ranking_scores,
    standings,
)
from collapsebench.scoring.results import RANK, CellResult, SuiteResults

MARKS = {
    "converged": ("●", "converged"),
    "metastable": ("◆", "metastable: at rest, but the weights of another replica of the scan would cost less"),
    "budget": ("○", "its budget ended first"),
    "unstable": ("▲", "unstable: a spare latent is held above its threshold"),
    "diverged": ("✕", "diverged"),
    "missing": ("–", "not measured"),
}
"""How a replica ended: the sign, so that no colour is needed, and what it means."""
_ENDS = tuple(mark for mark in MARKS if mark != "missing")

_ARROWS = {"higher is better": "↑", "lower is better": "↓"}


@dataclass(frozen=True)
class BoardColumn:
    """A column of the board. place: from 0. heading: what it is listed under. sense: which way is better."""

    place: int
    name: str
    heading: str = "run"
    metric: str = ""
    sense: str = ""
    unit: str = ""
    summary: str = ""
    shown: bool = True
    number: bool = True
    filtered: bool = False
    pinned: bool = False

    @property
    def arrow(self) -> str:
        """The sense as a sign."""
        return _ARROWS.get(self.sense, "")


@dataclass(frozen=True)
class TableEntry:
    """What a table shows, and the value it is sorted by: a number, "inf" or "" for none; None to sort by the text."""

    text: str
    value: float | str | None = None
    title: str = ""


def board_table(results: SuiteResults) -> dict[str, Any]:
    """Return the board: one row per dataset, objective and architecture, with every declared score."""
    columns = _columns(results)
    values = board(results)
    found = {
        tuple(row[name] for name in ("dataset", "objective", "architecture", "metric", "score")): row
        for row in values.to_dict("records")
    }
    rows, unranked, said = [], [], []
    for (dataset, objective), compared in comparisons(results).items():
        said += [one.text for one in findings(results, compared)]
        placed = {question: standings(results, compared, question) for question in results.questions}
        for contender in compared:
            why: dict[str, list[str]] = {}
            for question, found_there in placed.items():
                if reason := found_there[contender.architecture].reason.rstrip("."):
                    why.setdefault(reason, []).append(question.id)
            unranked += [
                f"{dataset}, {contender.architecture} is not ranked{asked_by(asked, results)}: {reason}."
                for reason, asked in why.items()
            ]
            ranks = [one[contender.architecture].rank for one in placed.values()]
            cells = [
                TableEntry(contender.architecture),
                TableEntry(dataset),
                TableEntry(objective),
                *(TableEntry(rank.text, rank.mean) if rank else TableEntry("-", "") for rank in ranks),
                *(TableEntry(f"{rank.mean:.2f}", rank.mean) if rank else TableEntry("-", "") for rank in ranks),
                TableEntry(f"{len(contender.ok)}/{len(contender.cells)}", len(contender.ok) / len(contender.cells)),
                converged_share(contender.ok),
                TableEntry(resolved_text([contender])),
            ]
            for metric, score in declared_scores(results):
                cells.append(
                    _score_cell(found[dataset, objective, contender.architecture, metric, score.name], contender)
                )
            rows.append(list(zip(columns, cells, strict=True)))
    return {
        "columns": columns, "rows": rows, "overall": overall(results), "unranked": unranked,
        "notes": _board_notes(results), "findings": [*failed_controls(results), *said],
    }  # fmt: skip


def overall(results: SuiteResults) -> list[str]:
    """Return, per objective on several datasets, who stands where over all of them, and who is not ranked and why."""
    lines = []
    for one in asked_together(results):
        found, _, left_out = overall_standings(results, one.objective, one.question, one.track)
        ranked = sorted((at.rank.mean, name, at.rank.text) for name, at in found.items() if at.rank)
        places = [f"{text} {name} (mean rank {mean:.2f})" for mean, name, text in ranked]
        asked = f" {one.question.title}" if one.question.title else ""
        lines.append(f"{one.title}:{asked} {', '.join(places) or 'nothing is ranked'}.")
        lines += [f"Not ranked: {name}: {at.reason.rstrip('.')}." for name, at in found.items() if at.reason]
        if left_out and ranked:
            lines.append(f"Left out, since nothing is complete there: {', '.join(left_out)}.")
    return lines


def converged_share(cells: Sequence[CellResult]) -> TableEntry:
    """Return the share of the replicas of some cells that converged, rounded down: 100 % is every one."""
    marks = [mark for cell in cells if cell.measurement for mark in cell.measurement.tables["replicas"]["mark"]]
    if not marks:
        return TableEntry("-", "")
    share = marks.count("converged") / len(marks)
    return TableEntry(
        f"{math.floor(100 * share + 1e-9)} %", share, f"{marks.count('converged')} of {len(marks)} replicas"
    )


def equilibrium_report(results: SuiteResults, curves: CurvesOfCells) -> dict[str, Any]:
    """Return how the replicas of every architecture ended, and every single one."""
    rows, grids = [], []
    several = _several_objectives(results)
    for (dataset, objective), compared in comparisons(results).items():
        measured = [curves[names_of(cell)] for contender in compared for cell in contender.cells]
        for contender in compared:
            rows.append(_equilibrium_row(contender, [curves[names_of(cell)] for cell in contender.cells], several))
        temperatures = np.unique(np.concatenate([one.temperatures for one in measured]))[::-1]
        if temperatures.size:
            name = f"{dataset}, {objective}" if several else dataset
            cells = [cell for contender in compared for cell in contender.cells if curves[names_of(cell)].marks]
            grids.append(
                {
                    "name": name,
                    "temperatures": [f"{t:.2g}" for t in temperatures],
                    "runs": [
                        {
                            "name": f"{cell.architecture}, seed {cell.seed}",
                            "marks": _marks(curves[names_of(cell)], list(temperatures)),
                        }
                        for cell in cells
                    ],
                }
            )
    header = ["dataset", *(["objective"] if several else []), "architecture", *_ENDS]
    header += ["median Ward residual", "largest Ward residual", "largest edge / T"]
    legend = [{"kind": kind, "sign": sign, "text": text} for kind, (sign, text) in MARKS.items()]
    return {"header": header, "rows": rows, "grids": grids, "legend": legend}


def failure_rows(results: SuiteResults) -> list[dict[str, str]]:
    """Return the runs that did not end ok and the scores without a value, with reasons; seeds with equal ones together.

    Runs that were skipped because the architecture is not meant for the data did not fail: see `unsuited`.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for row in statuses(results).to_dict("records"):
        if row["status"] not in ("ok", SKIPPED):
            key = (*_scan(row), f"run: {row['status']}", row["reason"] or row["status"])
            found.setdefault(key, []).append(str(row["seed"]))
    ok = {names_of(cell) for cell in results.cells if cell.status == "ok"}
    gaps: dict[tuple[str, ...], list[str]] = {}
    for row in reasons(results).to_dict("records"):
        if (row["dataset"], row["objective"], row["architecture"], row["seed"]) in ok:
            gaps.setdefault((*_scan(row), str(row["seed"]), row["reason"]), []).append(
                f"{row['metric']}/{row['score']}"
            )
    for (*scan, seed, reason), scores in gaps.items():
        found.setdefault((*scan, f"no {', '.join(scores)}", reason), []).append(seed)
    names = ("dataset", "objective", "architecture", "what", "reason")
    return [dict(zip(names, key, strict=True)) | {"seeds": ", ".join(seeds)} for key, seeds in found.items()]


def unsuited(results: SuiteResults) -> list[str]:
    """Return a sentence for each dataset and architecture that is not meant for it."""
    reasons_by_scan = {
        (cell.dataset, cell.architecture): cell.reason for cell in results.cells if cell.status == SKIPPED
    }
    return [
        f"{dataset}, {architecture}: not meant for these data{': ' * bool(reason)}{reason.rstrip('.')}."
        for (dataset, architecture), reason in reasons_by_scan.items()
    ]


def _scan(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    return row["dataset"], row["objective"], row["architecture"]


def ended(results: SuiteResults) -> str:
    """Return how many of the planned runs ended ok, and how many were skipped, as a sentence."""
    ended = Counter(cell.status for cell in results.cells)
    ok, planned, skipped = ended["ok"], len(results.cells), ended[SKIPPED]
    if ok == planned:
        return "Every planned run ended ok."
    why = f", {skipped} were skipped: their architecture is not meant for the data" if skipped else ""
    return f"{ok} of {planned} planned runs ended ok{why}."


def provenance_facts(results: SuiteResults) -> list[tuple[str, str]]:
    """Return where the results come from, name by name."""
    return [
        (name.replace("_", " "), _text(value))
        for name, value in results.provenance.items()
        if name != "commands" and _text(value)
    ]


def dataset_facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what travels with a dataset, name by name."""
    return [(str(name).replace("_", " "), _text(value)) for name, value in about.items() if _text(value)]


def summary(results: SuiteResults) -> str:
    """Return how much was run: datasets, architectures, seeds, runs that ended ok."""
    cells = results.cells
    ok = sum(cell.status == "ok" for cell in cells)
    counts = {
        name: len({getattr(cell, name) for cell in cells}) for name in ("dataset", "architecture", "objective", "seed")
    }
    parts = [
        f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if name != "objective" or count > 1
    ]
    date = results.provenance.get("date")
    return ", ".join([*parts, f"{ok} of {len(cells)} runs ended ok", *([str(date)] if date else [])])


def exactness(results: SuiteResults) -> str:
    """Return for which architectures the exact solution holds."""
    known: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for cell in results.cells:
        if cell.measurement is not None:
            known[cell.measurement.has_oracle][cell.architecture] = None
    parts = []
    if known[True]:
        parts.append(
            "The exact solution, on PCA with thresholds λ_k/V, holds for the linear decoders and the plain objective "
            f"of {', '.join(known[True])}: a disagreement there is an error of the run."
        )
    if known[False]:
        parts.append(f"For {', '.join(known[False])} nothing is claimed beyond what was measured.")
    return " ".join(parts)


def _columns(results: SuiteResults) -> list[BoardColumn]:
    fixed: list[dict[str, Any]] = [
        {"name": "architecture", "number": False, "filtered": True, "pinned": True},
        {"name": "dataset", "number": False, "filtered": True},
        {"name": "objective", "number": False, "filtered": True, "shown": _several_objectives(results)},
        *(
            {
                "name": "rank" if one.id == RANK else f"rank: {one.id}",
                "summary": f"{one.title} Among the architectures of its dataset; a range is a tie".strip(),
            }
            for one in results.questions
        ),
        *(
            {
                "name": "mean rank" if one.id == RANK else f"mean rank: {one.id}",
                "sense": "lower is better",
                "summary": "over scores and seeds",
                "shown": len(results.questions) == 1,
            }
            for one in results.questions
        ),
        {"name": "runs ok", "summary": "runs that ended ok, of those planned"},
        {"name": "converged", "summary": "share of replicas at equilibrium"},
        {"name": "resolved", "summary": "principal components that replicas at equilibrium resolve, of all replicas'"},
    ]
    scores = [
        (metric, score, (metric, score) in headline_scores(results)) for metric, score in declared_scores(results)
    ]
    described = fixed + [
        {
            "name": score.name, "heading": metric, "metric": metric, "summary": score.summary, "shown": shown,
            "sense": "" if score.direction == "none" else f"{score.direction} is better", "unit": score.unit,
        }
        for metric, score, shown in scores
    ]  # fmt: skip
    return [BoardColumn(place, **column) for place, column in enumerate(described)]


def _score_cell(row: Mapping[Any, Any], contender: Contender) -> TableEntry:
    value, low, high = row["value"], row["low"], row["high"]
    if math.isnan(value):
        why = f"no value: {UNSUITED}" if contender.is_unsuited else "no value: see the failures"
        return TableEntry("-", "", why)
    if math.isinf(value):
        return TableEntry("not reached" if value > 0 else "-∞", "inf" if value > 0 else -1e308)
    count = "" if row["n_ok"] == len(contender.cells) else f" (n = {row['n_ok']})"
    interval = "" if math.isnan(low) else f", {100 * CONFIDENCE:g} % interval {low:.{DIGITS}g} to {high:.{DIGITS}g}"
    return TableEntry(
        number(value, low, high) + count,
        value,
        f"{value:.{DIGITS}g}{interval}, n = {row['n_ok']} of {row['n_planned']}",
    )


def _board_notes(results: SuiteResults) -> list[str]:
    names = {
        question: ", ".join(f"{metric}/{score.name}" for metric, score in ranking_scores(results, question)[0])
        for question in results.questions
    }
    seeds = len({cell.seed for cell in results.cells})
    interval = (
        f"± is half a {100 * CONFIDENCE:g} % t-interval over {seeds} seeds"
        if seeds > 1
        else "No interval: fewer than two seeds"
    )
    asked = [f"{one.id}: {one.title} Ranked by {by or 'nothing'}." for one, by in names.items() if one.title]
    first = f"Ranked, within each dataset, by {''.join(names.values())}; a" if not asked else "A"
    ranked = f"{first} range of ranks is a tie that the seeds do not decide."
    if not any(names.values()):
        asked, ranked = [], "Nothing is ranked."
    return [*asked, f"{ranked} {interval}; the values in full are in board.csv.", *unusable_scores(results)]


def _equilibrium_row(contender: Contender, curves: Sequence[CellCurves], several: bool) -> list[TableEntry]:
    marks = Counter(mark for one in curves for mark in one.marks)
    names = [
        TableEntry(contender.dataset),
        *([TableEntry(contender.objective)] if several else []),
        TableEntry(contender.architecture),
    ]
    counts = [TableEntry(str(marks[mark]), marks[mark]) for mark in _ENDS]
    ward, edge = (
        np.concatenate([part[np.isfinite(part)] for part in parts])
        for parts in ([one.ward_residual for one in curves], [one.edge for one in curves])
    )
    return [*names, *counts, _statistic(ward, np.median), _statistic(ward, np.max), _statistic(edge, np.max)]


def _statistic(values: Any, statistic: Any) -> TableEntry:
    if not values.size:
        return TableEntry("-", "")
    result = float(statistic(values))
    return TableEntry(f"{result:.2g}", result)


def _marks(curves: CellCurves, temperatures: Sequence[float]) -> list[dict[str, str]]:
    at = {float(t): place for place, t in enumerate(curves.temperatures)}
    replicas = []
    for t in temperatures:
        place = at.get(float(t))
        kind = "missing" if place is None else curves.marks[place]
        sign, text = MARKS.get(kind, ("?", kind))
        title = f"T = {t:.{DIGITS}g}: {text}"
        if place is not None:
            facts = {"Ward residual": curves.ward_residual[place], "edge / T": curves.edge[place]}
            title += "".join(f", {name} {value:.3g}" for name, value in facts.items() if np.isfinite(value))
            title += f", {curves.updates[place]} updates"
        replicas.append(
            {"kind": "missing-replica" if kind == "missing" else kind, "sign": sign, "text": text, "title": title}
        )
    return replicas


def _several_objectives(results: SuiteResults) -> bool:
    return len({cell.objective for cell in results.cells}) > 1


def _text(value: Any) -> str:
    """Return a value for a reader: nested names and lists in one line, nothing for what is empty."""
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)
