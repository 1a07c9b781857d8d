"""The board of a suite as long tables: scores, ranks, statuses, reasons, and the sentences on where they come from.

What failed, diverged or has no value is a row like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from collapsebench.contracts import Measurement, Score
from collapsebench.ranking.ranks import CONFIDENCE, t_interval
from collapsebench.ranking.standings import (
    Contender,
    Standing,
    asked_together,
    comparisons,
    declared_scores,
    overall_standings,
    ranking_scores,
    standings,
    value_of,
    why_missing,
)
from collapsebench.scoring.results import SuiteResults
from collapsebench.theory.spectrum import resolved_ranks

COLUMNS = {
    "suite": "str", "dataset": "str", "architecture": "str", "objective": "str", "metric": "str", "score": "str",
    "value": "float64", "low": "float64", "high": "float64", "n_ok": "int64", "n_planned": "int64",
    "unit": "str", "direction": "str",
}  # fmt: skip
RANKS = {
    "rank_best": "Int64", "rank_worst": "Int64", "mean_rank": "float64", "converged_share": "float64",
    "resolved": "float64",
}  # fmt: skip
QUESTION = {"question": "str"}
FOOTER = {"interval": "str", "suite_hash": "str", "versions": "str", "hardware": "str"}
"""What follows `COLUMNS` in a file: the architecture's rank on the dataset, by the question that the score answers, and
what other formats have as a footer.
All but the date: the same plan, path and machine give the same bytes on another day."""

OVERALL = "(all)"
"""The dataset of the ranks over all datasets together; no id of a dataset looks like it."""


_VERSIONS = ("collapsebench", "git", "python", "torch")
_HARDWARE = ("cpu", "cores", "device", "gpu", "precision")


def board(results: SuiteResults) -> pd.DataFrame:
    """Return the long table: one row per dataset, objective, architecture and declared score, in the suite's order.

    value, low, high: the mean over the cells that ended ok and its 95 % t-interval over seeds. In `value` infinity is
    "not reached" and NaN no value at all (n_ok = 0); in `low` and `high` NaN is no interval. n_ok: cells that ended ok
    and have the score; n_planned: cells that were planned. `metric/score` is the score's stable name.
    """
    rows = []
    for compared in comparisons(results).values():
        for contender in compared:
            for metric, score in declared_scores(results):
                values = list(contender.values(metric, score.name).values())
                rows.append(
                    (
                        results.suite, contender.dataset, contender.architecture, contender.objective, metric,
                        score.name, *t_interval(values), len(values), len(contender.cells), score.unit, score.direction,
                    )
                )  # fmt: skip
    return _frame(rows, COLUMNS)


def ranking(results: SuiteResults) -> pd.DataFrame:
    """Return one row per question, dataset, objective and architecture, and for several datasets all of them, `(all)`,
    or `(all images)` and `(all vectors)` if there are both.

    Columns: suite, question, dataset, objective, architecture; rank_best and rank_worst, the ends of the rank interval,
    missing where it is not ranked; mean_rank; converged_share of the replicas; resolved, the ranks of `resolved_ranks`;
    n_ok of n_planned cells; reason, why it is not ranked.
    """
    boards = comparisons(results)
    rows = []
    for question in results.questions:
        for asked in (one for one in asked_together(results) if one.question == question):
            for name, standing in overall_standings(results, asked.objective, question, asked.track)[0].items():
                planned = [one for dataset in asked.datasets for one in boards[dataset, asked.objective]]
                contenders = [one for one in planned if one.architecture == name]
                names = (
                    results.suite,
                    question.id,
                    f"(all {asked.track})" if asked.track else OVERALL,
                    asked.objective,
                )
                rows.append((*names, *_rank_row(name, standing, contenders)))
        for (dataset, objective), contenders in boards.items():
            found = standings(results, contenders, question)
            for one in contenders:
                names = (results.suite, question.id, dataset, objective)
                rows.append((*names, *_rank_row(one.architecture, found[one.architecture], [one])))
    types = {**dict.fromkeys(("suite", "question", "dataset", "objective", "architecture"), "str"), **RANKS}
    return _frame(rows, types | {"n_ok": "int64", "n_planned": "int64", "reason": "str"})


def scores(results: SuiteResults) -> pd.DataFrame:
    """Return one row per planned cell and declared score, its value NaN where there is none.

    Columns: dataset, architecture, objective, seed, metric, score, value.
    """
    rows = [
        (cell.dataset, cell.architecture, cell.objective, cell.seed, metric, score.name, value)
        for cell in results.cells
        for metric, score in declared_scores(results)
        for value in [value_of(cell, metric, score.name) if cell.status == "ok" else math.nan]
    ]
    columns = ("dataset", "architecture", "objective", "seed", "metric", "score", "value")
    return _frame(rows, dict.fromkeys(columns, "str") | {"seed": "int64", "value": "float64"})


def complete_board(results: SuiteResults) -> pd.DataFrame:
    """Return `board` with what the other formats show around it: question, ranks, interval method, origin.

    question: the first one that the score answers, "" if none. The ranks are those of that question; where a suite asks
    only one, they stand on every row. The date is left to the other formats, and to provenance.json: a table is the
    same on every day.
    """
    frame, by = board(results), ["question", "dataset", "objective", "architecture"]
    ranks = ranking(results).set_index(by)[list(RANKS)]
    answers = {name: question.id for question in reversed(results.questions) for name in question.scores}
    names = zip(frame["metric"], frame["score"], strict=True)
    asked = [answers.get(f"{metric}/{score}", "") for metric, score in names]
    only = results.questions[0].id if len(results.questions) == 1 else ""
    placed = frame.assign(question=pd.Series([one or only for one in asked], frame.index, "str"))
    ranked = placed.join(ranks, on=by).assign(question=asked)
    constants = {"interval": interval_method(results), **origin(results)}
    types = COLUMNS | RANKS | FOOTER | QUESTION
    return ranked.assign(**{name: constants[name] for name in FOOTER})[list(types)].astype(types)


def statuses(results: SuiteResults) -> pd.DataFrame:
    """Return one row per planned cell: dataset, architecture, objective, seed, status, reason, key."""
    columns = ("dataset", "architecture", "objective", "seed", "status", "reason", "key")
    rows = [tuple(getattr(cell, column) for column in columns) for cell in results.cells]
    return _frame(rows, dict.fromkeys(columns, "str") | {"seed": "int64"})


def reasons(results: SuiteResults) -> pd.DataFrame:
    """Return one row per planned cell and declared score without a value.

    Columns: dataset, architecture, objective, seed, metric, score, reason.
    """
    rows = [
        (cell.dataset, cell.architecture, cell.objective, cell.seed, metric, score.name, reason)
        for cell in results.cells
        for metric, score in declared_scores(results)
        if cell.status != "ok" or math.isnan(value_of(cell, metric, score.name))
        for reason in [why_missing(cell, metric, score.name)]
    ]
    columns = ("dataset", "architecture", "objective", "seed", "metric", "score", "reason")
    return _frame(rows, dict.fromkeys(columns, "str") | {"seed": "int64"})


def interval_method(results: SuiteResults) -> str:
    """Return the sentence on the intervals of the scores: what they are, and over how many seeds."""
    seeds = sorted({cell.seed for cell in results.cells})
    counted = f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"
    if len(seeds) < 2:
        return f"{counted}; no interval: fewer than two seeds"
    return f"{counted}; ±: {100 * CONFIDENCE:g} % t-interval over seeds, n = {len(seeds)} unless a cell says otherwise"


def origin(results: SuiteResults) -> dict[str, str]:
    """Return where a board comes from: suite_hash, versions, hardware, date ("" unknown; tables go without it)."""
    known = {key: value for key, value in results.provenance.items() if value not in (None, "")}
    return {
        "suite_hash": str(known.get("suite_hash", ""))[:12],
        "versions": ", ".join(f"{key} {known[key]}" for key in _VERSIONS if key in known),
        "hardware": ", ".join(f"{key} {known[key]}" for key in _HARDWARE if key in known),
        "date": str(known.get("date", "")),
    }


def headline_scores(results: SuiteResults) -> list[tuple[str, Score]]:
    """Return the scores that a board shows: those it ranks by, then the first one of every other metric."""
    shown = list(dict.fromkeys(score for one in results.questions for score in ranking_scores(results, one)[0]))
    seen = {metric for metric, _ in shown}
    for metric, score in declared_scores(results):
        if metric not in seen and score.column:
            seen.add(metric)
            shown.append((metric, score))
    return shown


def converged_share(contenders: Sequence[Contender]) -> float:
    """Return the share of replicas that converged, over the cells that ended ok; NaN where it is not known."""
    shares = []
    for cell in (cell for contender in contenders for cell in contender.ok):
        if cell.measurement is not None:
            shares.append(float(cell.measurement.converged.mean()))
    return sum(shares) / len(shares) if shares else math.nan


def resolved(contenders: Sequence[Contender]) -> tuple[int, int] | None:
    """Return how many principal components replicas at equilibrium resolve in every run, and how many all replicas do.

    A component is resolved if lambda_k / V is at least ten times the lowest temperature. Of several datasets, those of
    each are added up. None where it is not known.
    """
    found = []
    for contender in contenders:
        runs = [_resolved(cell.measurement) for cell in contender.ok if cell.measurement is not None]
        found += [(min(some for some, _ in runs), min(whole for _, whole in runs))] if runs else []
    return (sum(some for some, _ in found), sum(whole for _, whole in found)) if found else None


def _resolved(scan: Measurement) -> tuple[int, int]:
    spectrum, at_rest = scan.pca.eigenvalues, scan.temperatures[scan.converged]
    some = int(resolved_ranks(spectrum, at_rest, scan.latent_dim).sum()) if at_rest.size else 0
    return some, int(resolved_ranks(spectrum, scan.temperatures, scan.latent_dim).sum())


def resolved_text(contenders: Sequence[Contender]) -> str:
    """Return the same as text."""
    ranks = resolved(contenders)
    return "-" if ranks is None else f"{ranks[0]} of {ranks[1]}"


def _rank_row(name: str, standing: Standing, contenders: list[Contender]) -> tuple[Any, ...]:
    rank = standing.rank
    counts = sum(len(contender.ok) for contender in contenders), sum(len(contender.cells) for contender in contenders)
    places = (rank.best, rank.worst, rank.mean) if rank else (pd.NA, pd.NA, math.nan)
    ranks = resolved(contenders)
    share = converged_share(contenders)
    return (name, *places, share, float(ranks[0]) if ranks else math.nan, *counts, standing.reason)


def _frame(rows: list[tuple[Any, ...]], types: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(list(types))).astype(types)
