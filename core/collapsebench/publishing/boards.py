"""The board of a suite: every declared score of every planned cell as a long table, and that table written out.

What failed, diverged or has no value is a row like any other.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pandas as pd

from collapsebench.errors import UserError
from collapsebench.publishing.layout import converged_share, interval_method, layout, origin
from collapsebench.publishing.table_html import document
from collapsebench.publishing.table_latex import latex
from collapsebench.publishing.tables import page
from collapsebench.ranking.ranks import t_interval
from collapsebench.ranking.standings import (
    Group,
    Standing,
    comparisons,
    declared_scores,
    overall_standings,
    standings,
    value_of,
    why_missing,
)
from collapsebench.scoring.results import SuiteResults

COLUMNS = {
    "suite": "str", "dataset": "str", "architecture": "str", "objective": "str", "metric": "str", "score": "str",
    "value": "float64", "low": "float64", "high": "float64", "n_ok": "int64", "n_planned": "int64",
    "unit": "str", "direction": "str",
}  # fmt: skip
RANKS = {
    "rank_best": "Int64", "rank_worst": "Int64", "mean_rank": "float64", "converged_share": "float64",
}  # fmt: skip
FOOTER = {"interval": "str", "suite_hash": "str", "versions": "str", "hardware": "str"}
"""What follows `COLUMNS` in a file: the architecture's rank on the dataset, and what other formats have as a footer.
All but the date: the same plan, path and machine give the same bytes on another day."""

OVERALL = "(all)"
"""The dataset of the ranks over all datasets together; no id of a dataset looks like it."""

FORMATS = ("text", "md", "csv", "json", "tex", "html")


def board(results: SuiteResults) -> pd.DataFrame:
    """Return the long table: one row per dataset, objective, architecture and declared score, in the suite's order.

    value, low, high: the mean over the cells that ended ok and its 95 % t-interval over seeds. In `value` infinity is
    "not reached" and NaN no value at all (n_ok = 0); in `low` and `high` NaN is no interval. n_ok: cells that ended ok
    and have the score; n_planned: cells that were planned. `metric/score` is the score's stable name.
    """
    rows = []
    for compared in comparisons(results).values():
        for group in compared:
            for metric, score in declared_scores(results):
                values = list(group.values(metric, score.name).values())
                rows.append(
                    (
                        results.suite, group.dataset, group.architecture, group.objective, metric, score.name,
                        *t_interval(values), len(values), len(group.cells), score.unit, score.direction,
                    )
                )  # fmt: skip
    return _frame(rows, COLUMNS)


def ranking(results: SuiteResults) -> pd.DataFrame:
    """Return one row per dataset, objective and architecture, and for several datasets those of all together, `(all)`.

    Columns: suite, dataset, objective, architecture; rank_best and rank_worst, the ends of the rank interval, missing
    where it is not ranked; mean_rank; converged_share of the replicas; n_ok of n_planned cells; reason, why it is not
    ranked.
    """
    boards = comparisons(results)
    rows = []
    for objective in dict.fromkeys(name for _, name in boards):
        datasets = [groups for (_, name), groups in boards.items() if name == objective]
        if len(datasets) > 1:
            for name, standing in overall_standings(results, objective)[0].items():
                groups = [group for compared in datasets for group in compared if group.architecture == name]
                rows.append((results.suite, OVERALL, objective, *_rank_row(name, standing, groups)))
    for (dataset, objective), groups in boards.items():
        found = standings(results, groups)
        rows += [
            (results.suite, dataset, objective, *_rank_row(group.architecture, found[group.architecture], [group]))
            for group in groups
        ]
    types = {**dict.fromkeys(("suite", "dataset", "objective", "architecture"), "str"), **RANKS}
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
    """Return `board` with what the other formats show around it: ranks on the dataset, interval method, origin.

    The date is left to them, and to provenance.json: a table is the same on every day.
    """
    ranks = ranking(results).set_index(["dataset", "objective", "architecture"])
    frame = board(results).join(ranks[list(RANKS)], on=["dataset", "objective", "architecture"])
    constants = {"interval": interval_method(results), **origin(results)}
    return frame.assign(**{name: constants[name] for name in FOOTER}).astype(COLUMNS | RANKS | FOOTER)


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


def render(results: SuiteResults, format: str, *, standalone: bool = False) -> str:
    """Return the board as "text", "md", "tex" or "html" for people, or as a long table, "csv" or "json".

    csv: `complete_board`; numbers in full, infinity as `inf`, a missing number as an empty field; `read_board` restores
    it exactly. json: a list of records of the same; it knows no infinity, so a missing number and an infinite one are
    both null: a null value with n_ok above 0 is "not reached", one with n_ok = 0 is missing. tex: tables for `\\input`,
    or with `standalone` a document. html: a document.
    """
    if format in ("text", "md"):
        return page(layout(results), markdown=format == "md")
    if format == "tex":
        return latex(layout(results), standalone=standalone)
    if format == "html":
        return document(layout(results))
    if format == "csv":
        return complete_board(results).to_csv(index=False, lineterminator="\n")
    if format == "json":
        return json_text(complete_board(results))
    raise UserError(f"board format '{format}' is unknown. Expected one of {', '.join(FORMATS)}; choose one of these.")


def json_text(frame: pd.DataFrame) -> str:
    """Return a frame as a list of records in JSON, what is missing or infinite as null."""
    records = [{key: _json_value(value) for key, value in row.items()} for row in frame.to_dict("records")]
    return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_board(text: str) -> pd.DataFrame:
    """Return the long table of a board from its CSV, with the columns' types as `complete_board` gives them."""
    # Read as text first: pandas's own reader of numbers may be off by the last bit, and takes some names for missing.
    found = pd.read_csv(io.StringIO(text), dtype="str", keep_default_na=False)
    types = {column: kind for column, kind in (COLUMNS | RANKS | FOOTER).items() if column in found}
    numbers = {column: {"": "nan"} for column, kind in types.items() if kind == "float64"}
    whole = {column: found[column].replace({"": pd.NA}) for column, kind in types.items() if kind == "Int64"}
    return found.replace(numbers).assign(**whole).astype(types)


def _rank_row(name: str, standing: Standing, groups: list[Group]) -> tuple[Any, ...]:
    rank = standing.rank
    counts = sum(len(group.ok) for group in groups), sum(len(group.cells) for group in groups)
    places = (rank.best, rank.worst, rank.mean) if rank else (pd.NA, pd.NA, math.nan)
    return (name, *places, converged_share(groups), *counts, standing.reason)


def _frame(rows: list[tuple[Any, ...]], types: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(list(types))).astype(types)


def _json_value(value: Any) -> Any:
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value
