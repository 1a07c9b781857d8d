"""What a scan of one table says, as frames and as text: the latent spectrum, and what K latents cost and leave."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from collapsebench.publishing.board_report import metastable_note
from collapsebench.publishing.curves import rank_distortions
from collapsebench.publishing.folder import mode_tables
from collapsebench.publishing.report import number
from collapsebench.publishing.required_rank import required_rank_cells, required_ranks
from collapsebench.ranking.board import converged_share
from collapsebench.ranking.ranks import t_interval
from collapsebench.ranking.standings import Contender, comparisons, declared_scores
from collapsebench.scoring.results import SuiteResults

_NOTHING = "-"
_OVERFITTED = 2.0


def latent_spectrum(results: SuiteResults) -> pd.DataFrame:
    """Return one row per architecture and rank, from the train split.

    Columns: architecture; rank; pca, lambda_k / V; threshold, T_k, NaN where the mode never became active; utility,
    D(k - 1) - D(k); both with the ends `_low` and `_high` of their 95 % t-interval over seeds; resolved, whether
    lambda_k / V is at least ten times the lowest temperature.
    """
    rows = []
    for (architecture, rank), part in _groups(results, ("eigenvalue", "threshold", "utility", "resolved")):
        row: dict[str, Any] = {"architecture": architecture, "rank": rank, "pca": part["eigenvalue"].iloc[0]}
        for name in ("threshold", "utility"):
            interval = t_interval(part[name])
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
        rows.append({**row, "resolved": bool(part["resolved"].iloc[0])})
    columns = (
        "architecture", "rank", "pca", "threshold", "threshold_low", "threshold_high", "utility", "utility_low",
        "utility_high", "resolved",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(columns))


def kept_latents(results: SuiteResults) -> pd.DataFrame:
    """Return one row per architecture and K = 1..latent_dim: the temperatures that keep K latents, and what they leave.

    Columns: architecture; latents, K; above and below, the interval from T_{K+1} to T_K in which K modes are active;
    temperature, its geometric mean, and beta = T V there (sigma_dec = 1), NaN where the scan does not tell the two
    thresholds apart; distortion, D(K) / D(0) on the test split, its temperature chosen on validation; pca_distortion,
    that of PCA. Below the last threshold found, the interval ends at the lowest temperature scanned.
    """
    spectrum = latent_spectrum(results)
    measured = [cell.measurement for cell in results.cells if cell.measurement is not None]
    rows = []
    for (architecture, kept), part in _groups(results, ("relative_distortion", "pca_distortion")):
        thresholds = spectrum[spectrum["architecture"] == architecture].set_index("rank")["threshold"]
        below, above = (float(thresholds.get(rank, math.nan)) for rank in (kept, kept + 1))
        above = float(measured[0].temperatures.min()) if math.isnan(above) else above
        if not (math.isfinite(below) and above < below):
            below = above = math.nan
        temperature = math.sqrt(above * below)
        none = measured[0].pca.rank_distortion["test"][0]
        rows.append(
            (
                architecture, kept, above, below, temperature, temperature * measured[0].total_variance,
                float(part["relative_distortion"].mean()), float(part["pca_distortion"].iloc[0] / none),
            )
        )  # fmt: skip
    columns = (
        "architecture", "latents", "above", "below", "temperature", "beta", "distortion", "pca_distortion",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(columns))


def scan_page(results: SuiteResults) -> str:
    """Return the report of a scan as plain text."""
    (dataset, about), *_ = results.datasets.items()
    spectrum, kept, ranks = latent_spectrum(results), kept_latents(results), required_ranks(results)
    blocks = [_about(results, dataset, about)]
    if len(spectrum):
        blocks += [
            "Latent spectrum: T_k, the temperature above which latent k collapses; its utility; PCA's lambda_k / V\n\n"
            + _spectrum_table(spectrum),
            f"Latents, of {kept['latents'].max()}, that a tolerated distortion needs (share of the distortion of none, "
            "test split)\n\n" + _required_table(ranks),
            "Temperatures that keep K latents (beta = T V with a sum of squares / 2), and the share of the distortion "
            "left\n\n" + _kept_table(kept),
        ]
    blocks.append("\n".join(_judgements(results)))
    return "\n\n".join(blocks) + "\n"


def _groups(results: SuiteResults, columns: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield the rows of the metric's table that has some columns, by architecture and rank, in order of appearance."""
    tables = (table for table in mode_tables(results).values() if set(columns) <= set(table))
    for table in itertools.islice(tables, 1):
        for key, part in table.groupby(["architecture", "rank"], sort=False):
            yield tuple(key), part


def _about(results: SuiteResults, dataset: str, about: Any) -> str:
    rows = ", ".join(f"{count} {split}" for split, count in about["rows"].items())
    measured = next((cell.measurement for cell in results.cells if cell.measurement is not None), None)
    lines = [f"{about.get('revision') or dataset}: rows: {rows}"]
    if measured is not None:
        lines[0] += f"; columns: {len(measured.covariance)}; V = {measured.total_variance:.6g}"
    if about.get("left_out"):
        names = ", ".join(map(str, about["left_out"]))
        lines.append(f"notice: left out, because constant on the train split: {names}")
    return "\n".join([*lines, *(f"notice: {notice}" for notice in about.get("notices", ()))])


def _spectrum_table(spectrum: pd.DataFrame) -> str:
    wide = {name: part.set_index("rank") for name, part in spectrum.groupby("architecture", sort=False)}
    first = next(iter(wide.values()))
    headers = ["k", "PCA\nlambda_k/V", *(f"{name!s}\n{what}" for name in wide for what in ("T_k", "utility"))]
    body = [
        [
            str(rank), f"{first['pca'][rank]:.3g}{'' if first['resolved'][rank] else ' *'}",
            *(_with_interval(part.loc[rank], what) for part in wide.values() for what in ("threshold", "utility")),
        ]
        for rank in first.index
    ]  # fmt: skip
    note = "\n\n* below ten times the lowest temperature: not resolved" if not first["resolved"].all() else ""
    return _table(body, headers) + note


def _required_table(ranks: pd.DataFrame) -> str:
    models, body = required_rank_cells(ranks)
    return _table(body, ["tolerance", *models])


def _kept_table(kept: pd.DataFrame) -> str:
    wide = {name: part.set_index("latents") for name, part in kept.groupby("architecture", sort=False)}
    first = next(iter(wide.values()))
    headers = ["K", "PCA\nleft", *(f"{name!s}\n{what}" for name in wide for what in ("T", "beta", "left"))]
    body = []
    for latents in first.index:
        row = [str(latents), _percent(first["pca_distortion"][latents])]
        for part in wide.values():
            at = part.loc[latents]
            apart = math.isfinite(at["temperature"])
            row += [f"{at['above']:.2g} to {at['below']:.2g}", f"{at['beta']:.3g}"] if apart else [_NOTHING, _NOTHING]
            row.append(_percent(at["distortion"]))
        body.append(row)
    return _table(body, headers)


def _judgements(results: SuiteResults) -> list[str]:
    """Return a line per architecture on how far its results can be trusted, and the cells that are not ok."""
    lines = []
    for contenders in comparisons(results).values():
        for contender in contenders:
            converged, agreement = converged_share([contender]), _agreement(results, contender)
            if not math.isnan(converged):
                text = f"{contender.architecture}: {100 * converged:.0f} % of the replicas converged"
                if not math.isnan(agreement):
                    text += f"; R^2 of log T_k against log lambda_k / V: {agreement:.4f}"
                lines.append(text + (" (a linear decoder must give 1)" if _is_linear(contender.cells) else ""))
                lines += [text for text in (metastable_note(contender),) if text]
                lines += _overfitting(contender)
            lines += [
                f"{cell.architecture}, seed {cell.seed}: {cell.status}: {cell.reason}"
                for cell in contender.cells
                if cell.status != "ok"
            ]
    return lines


def _agreement(results: SuiteResults, contender: Contender) -> float:
    """The mean over seeds of the identity R^2 between thresholds and PCA, by the first metric that scores it."""
    metrics = (metric for metric, score in declared_scores(results) if score.name == "threshold-identity-r2")
    metric = next(metrics, None)
    if metric is None:
        return math.nan
    return t_interval(list(contender.values(metric, "threshold-identity-r2").values()))[0]


def _overfitting(contender: Contender) -> list[str]:
    """Return a line if what is left on the test split with all latents is far more than on the train split."""
    left = {
        split: np.mean([curve[-1] / curve[0] for curve in rank_distortions(contender.ok, split).y] or [math.nan])
        for split in ("train", "test")
    }
    if not left["test"] > max(_OVERFITTED * left["train"], 1e-4):
        return []
    return [
        f"{contender.architecture}: leaves {_percent(left['train'])} of the distortion on train and "
        f"{_percent(left['test'])} on test: it has learnt the training rows; use more rows, or trust the linear pair"
    ]


def _is_linear(cells: Sequence[Any]) -> bool:
    return any(cell.measurement is not None and cell.measurement.has_oracle for cell in cells)


def _with_interval(row: Any, name: str) -> str:
    value, low, high = (float(row[column]) for column in (name, f"{name}_low", f"{name}_high"))
    if not math.isfinite(value):
        return _NOTHING
    half = (high - low) / 2
    return f"{value:.3g}" if math.isnan(half) else number(value, low, high)


def _percent(share: float) -> str:
    if not np.isfinite(share):
        return _NOTHING
    return f"{100 * share:.3g} %" if share > 1e-8 else "0 %"


def _table(body: list[list[str]], headers: list[str]) -> str:
    return tabulate(body, headers, tablefmt="simple", disable_numparse=True, stralign="right")
