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
from collapsebench.ranking import t_interval
from collapsebench.results import SuiteResults
from collapsebench.standings import comparisons, declared_scores, value_of, why_missing
from collapsebench.tables import page

COLUMNS = {
    "suite": "str", "dataset": "str", "architecture": "str", "objective": "str", "metric": "str", "score": "str",
    "value": "float64", "low": "float64", "high": "float64", "n_ok": "int64", "n_planned": "int64",
    "unit": "str", "direction": "str",
}  # fmt: skip
FORMATS = ("text", "md", "csv", "json")


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


def render(results: SuiteResults, format: str) -> str:
    """Return the board as "text" or "md" for people, or its long table as "csv" or "json".

    csv: numbers in full, infinity as `inf`, a missing number as an empty field; `read_board` restores it exactly.
    json: a list of records with the table's columns; it knows no infinity, so a missing number and an infinite one are
    both null: a null value with n_ok above 0 is "not reached", one with n_ok = 0 is missing.
    """
    if format in ("text", "md"):
        return page(results, markdown=format == "md")
    if format == "csv":
        return board(results).to_csv(index=False, lineterminator="\n")
    if format == "json":
        records = [{key: _json_value(value) for key, value in row.items()} for row in board(results).to_dict("records")]
        return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    raise UserError(f"board format '{format}' is unknown. Expected one of {', '.join(FORMATS)}; choose one of these.")


def read_board(text: str) -> pd.DataFrame:
    """Return the long table of a board from its CSV, with the columns' types as `board` gives them."""
    # Read as text first: pandas's own reader of numbers may be off by the last bit, and takes some names for missing.
    found = pd.read_csv(io.StringIO(text), dtype="str", keep_default_na=False)
    numbers = [column for column, kind in COLUMNS.items() if kind == "float64"]
    return found.replace({column: {"": "nan"} for column in numbers}).astype(COLUMNS)


def _frame(rows: list[tuple[Any, ...]], types: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(list(types))).astype(types)


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
