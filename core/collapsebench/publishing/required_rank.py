"""The rank that each tolerated distortion requires, for PCA, every architecture and the best of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from collapsebench.contracts import SplitName
from collapsebench.publishing.curves import pca_curve, rank_distortions
from collapsebench.publishing.report import number
from collapsebench.ranking.ranks import t_interval
from collapsebench.ranking.standings import Contender, comparisons
from collapsebench.scoring.results import SuiteResults
from collapsebench.theory.spectrum import TOLERANCES, effective_dimension

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

PCA = "PCA"
BEST = "best VAE"
NOT_REACHED = "not reached"
NOT_MEASURED = "not measured"
_KEY = ("dataset", "objective", "split", "tolerance_percent")


def required_ranks(results: SuiteResults, split: SplitName = "test") -> pd.DataFrame:
    """Return one row per dataset, objective, tolerance and model, of min { K : D(K) / D(0) <= tolerance }.

    Columns: dataset, objective, split, tolerance_percent, model, value, low, high, reached, runs. The models are "PCA",
    every architecture, and "best VAE", the architecture with the least mean, which `architecture` names. value: the
    mean over the runs that ended ok, infinite if one of them does not reach the tolerance, NaN without a run; low,
    high: its 95 % t-interval. reached: how many of the `runs` reach it. D(K) has its temperature chosen on the
    validation split; PCA is fitted on the train split and evaluated on the same one.
    """
    columns = (
        "dataset", "objective", "split", "tolerance_percent", "model", "architecture", "value", "low", "high",
        "reached", "runs",
    )  # fmt: skip
    rows: list[tuple[object, ...]] = []
    for (dataset, objective), contenders in comparisons(results).items():
        ranks = {contender.architecture: _ranks(contender, split) for contender in contenders}
        pca = next(
            (curve for contender in contenders if (curve := pca_curve(contender.cells, split)) is not None), None
        )
        for index, tolerance in enumerate(TOLERANCES):
            here = (dataset, objective, split, tolerance)
            if pca is not None:
                needed = effective_dimension(pca, tolerance / 100)
                rows.append((*here, PCA, "", needed, math.nan, math.nan, int(math.isfinite(needed)), 1))
            found = {name: _summary(values[:, index]) for name, values in ranks.items()}
            rows += [(*here, name, name, *summary) for name, summary in found.items()]
            measured = [name for name, summary in found.items() if not math.isnan(summary[0])]
            if measured:
                best = min(measured, key=lambda name: found[name][0])
                rows.append((*here, BEST, best, *found[best]))
    return pd.DataFrame(rows, columns=pd.Index(columns))


def required_rank_csv(ranks: pd.DataFrame) -> str:
    """Return `required_ranks` as CSV: a row per tolerance, a column per model, and two for each interval there is."""
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    for row in ranks.to_dict("records"):
        cells = rows.setdefault(tuple(row[name] for name in _KEY), {})
        cells[row["model"]] = _text(row["value"], math.nan, math.nan, row["reached"], row["runs"])
        if row["model"] == BEST:
            cells[f"{BEST} architecture"] = row["architecture"] if math.isfinite(row["value"]) else ""
        elif row["model"] != PCA:
            cells |= {f"{row['model']} {end}": row[end] for end in ("low", "high")}
    frame = pd.DataFrame([dict(zip(_KEY, key, strict=True)) | cells for key, cells in rows.items()])
    last = [name for name in (BEST, f"{BEST} architecture") if name in frame]
    return frame[[name for name in frame if name not in last] + last].to_csv(index=False, lineterminator="\n")


def required_rank_page(ranks: pd.DataFrame) -> str:
    """Return `required_ranks` as Markdown, a table per dataset and objective, with what its numbers mean."""
    blocks = ["# Required rank"]
    for (dataset, objective), part in ranks.groupby(["dataset", "objective"], sort=False):
        models, body = required_rank_cells(part)
        headers = ["tolerance", *(model.replace("|", "\\|") for model in models)]
        blocks += [f"## {dataset}, {objective}", tabulate(body, headers, tablefmt="pipe", disable_numparse=True)]
    blocks.append(
        f"The least number of latents, or of principal components, that leaves at most the tolerance of the distortion "
        f"of none, on the {ranks['split'].iloc[0]} split; the temperature of each rank is chosen on the validation "
        f"split, PCA is fitted on the train split. Mean over the runs that ended ok, ± its 95 % t-interval where there "
        f"are two or more; not reached: by at least one of them, how many in brackets where it is not all. {BEST}: the "
        f"architecture with the least mean."
    )
    return "\n\n".join(blocks) + "\n"


def required_rank_cells(ranks: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return `required_ranks` of one dataset and objective as text: its models, and per tolerance a cell for each."""
    models = sorted(dict.fromkeys(ranks["model"]), key=lambda name: (name != PCA, name == BEST))
    body = []
    for tolerance, rows in ranks.groupby("tolerance_percent", sort=False):
        texts = {row["model"]: _with_interval(row) for row in rows.to_dict("records")}
        body.append([f"{tolerance:g} %", *(texts.get(model, NOT_MEASURED) for model in models)])
    return models, body


def _ranks(contender: Contender, split: SplitName) -> Floats:
    """Return the required ranks `(run, tolerance)` of the runs that ended ok."""
    curves = rank_distortions(contender.ok, split).y
    ranks = [[effective_dimension(curve, tolerance / 100) for tolerance in TOLERANCES] for curve in curves]
    return np.array(ranks, dtype=np.float64).reshape(len(ranks), len(TOLERANCES))


def _summary(values: Floats) -> tuple[float, float, float, int, int]:
    return *t_interval(values), int(np.isfinite(values).sum()), values.size


def _with_interval(row: Mapping[Hashable, Any]) -> str:
    text = _text(row["value"], row["low"], row["high"], row["reached"], row["runs"])
    return f"{text} ({row['architecture']})" if row["model"] == BEST and math.isfinite(row["value"]) else text


def _text(value: float, low: float, high: float, reached: int, runs: int) -> str:
    if not runs:
        return NOT_MEASURED
    if math.isinf(value):
        return f"{NOT_REACHED} ({runs - reached} of {runs})" if reached else NOT_REACHED
    return number(value, low, high)
