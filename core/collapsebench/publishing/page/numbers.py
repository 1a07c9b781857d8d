"""What the figures of a page show, as numbers: one set of curves per run, for the page and as tables beside it.

Signal fractions, rates, utilities and thresholds belong to the train split, distortions to the test split. Pages and
tables hold the same numbers, both with six significant digits.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from collapsebench.publishing.curves import (
    DeclaredCurve,
    ScanCurves,
    declared_curves,
    exact,
    pca_curve,
    rank_distortions,
    ranked_moments,
    rate_thresholds_and_utilities,
    rates_and_utilities,
    thresholds_and_utilities,
    truncated_distortions,
    values_of,
)
from collapsebench.ranking.standings import Contender, comparisons
from collapsebench.scoring.results import CellResult, SuiteResults

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

DIGITS = 6
"""The significant digits of every number on a page, and of the same number in the tables beside it."""

CellNames = tuple[str, str, str, int]
_EXACT_POINTS = 61
_NAMES = ("dataset", "objective", "architecture", "seed")


@dataclass(frozen=True)
class CellCurves:
    """The curves of one cell. Axes: `t` ascending temperatures, `rank` from 1, `K` latents kept, from 0.

    signal_fraction, rate `(t, rank)`; truncated `(t, K)`; distortion `(K,)`; utility, threshold, rate_threshold
    `(rank,)`, NaN where the scan does not resolve the rank. ward_residual, edge `(t,)`: the largest residual of the
    Ward identities, and the residual edge over the effective T, which it must not exceed while latents are spare.
    missing: figure -> why it has no curve.
    """

    temperatures: Floats
    signal_fraction: Floats
    rate: Floats
    truncated: Floats
    distortion: Floats
    utility: Floats
    threshold: Floats
    rate_threshold: Floats
    ward_residual: Floats
    edge: Floats
    marks: tuple[str, ...]
    updates: tuple[int, ...]
    missing: Mapping[str, str]


CurvesOfCells = Mapping[CellNames, CellCurves]


def curves_of_cell(cell: CellResult) -> CellCurves:
    """Return the curves of a cell; empty ones, with the reason, where nothing was measured."""
    cells = [cell]
    signal = ranked_moments(cells, "train", "signal_fraction")
    rate = ranked_moments(cells, "train", "rate")
    truncated = truncated_distortions(cells, "test")
    distortion = rank_distortions(cells, "test")
    _, worth = rates_and_utilities(cells, "train")
    threshold, _ = thresholds_and_utilities(cells, "train")
    rate_threshold, _ = rate_thresholds_and_utilities(cells, "train")
    scale = np.sort(cell.measurement.temperatures) if cell.measurement else np.zeros(0)
    measured = cell.measurement
    replicas = _by_temperature(measured.tables.get("replicas") if measured else None, scale)
    residuals = _by_temperature(measured.table_of("ward_residual") if measured else None, scale)
    scans = {
        "signal": signal, "truncated": truncated, "distortion": distortion, "utility": threshold,
    }  # fmt: skip
    missing = {name: scan.reason for name, scan in scans.items() if scan.reason}
    if not len(worth):
        missing["rate"] = threshold.reason
    if residuals.empty:
        missing |= dict.fromkeys(("ward", "edge"), signal.reason or "no metric of the suite asked for Ward residuals")
    absent = np.full(scale.size, np.nan)
    return CellCurves(
        temperatures=scale,
        signal_fraction=_first(signal),
        rate=_first(rate),
        truncated=_first(truncated),
        distortion=_first(distortion),
        utility=worth[0] if len(worth) else np.zeros(0),
        threshold=_first(threshold),
        rate_threshold=_first(rate_threshold),
        ward_residual=absent if residuals.empty else residuals["ward_residual"].to_numpy(),
        edge=absent if residuals.empty else residuals["residual_edge"].to_numpy() / _prices(cell),
        marks=tuple(replicas["mark"].fillna("missing")) if "mark" in replicas else (),
        updates=tuple(replicas["updates"].fillna(0).astype(int)) if "updates" in replicas else (0,) * scale.size,
        missing=missing,
    )


def curves_of_cells(results: SuiteResults) -> CurvesOfCells:
    """Return the curves of every cell, by dataset, objective, architecture and seed."""
    return {names_of(cell): curves_of_cell(cell) for cell in results.cells}


def names_of(cell: CellResult) -> CellNames:
    """Return what tells the cells of a suite apart."""
    return cell.dataset, cell.objective, cell.architecture, cell.seed


def page_content(results: SuiteResults, curves: CurvesOfCells) -> list[dict[str, Any]]:
    """Return what the page's figures are drawn from: per dataset and objective, every architecture's runs."""
    charts = declared_charts(results)
    return [_comparison(names, contenders, curves, charts) for names, contenders in comparisons(results).items()]


def curve_tables(results: SuiteResults, curves: CurvesOfCells) -> dict[str, str]:
    """Return file name -> CSV of what the page's figures show.

    over-temperature: a row per run, temperature and rank K = 0..latent_dim. over-rank: a row per run and rank, PCA
    first. replicas: a row per run and temperature.
    """
    temperature, rank, replicas = [], [], []
    for (dataset, objective), contenders in comparisons(results).items():
        pca = _pca(contenders)
        if pca is not None:
            names: dict[str, Any] = dict(zip(_NAMES, (dataset, objective, "PCA", ""), strict=True))
            rank.append(_frame(names, {"rank": np.arange(pca.size), "test_distortion": pca}))
        for contender in contenders:
            for cell in contender.cells:
                found = curves[names_of(cell)]
                names = dict(zip(_NAMES, names_of(cell), strict=True))
                temperature.append(_frame(names, _over_temperature(found)))
                rank.append(_frame(names, _over_rank(found)))
                replicas.append(_frame(names, _replicas(found)))
    frames = {"over-temperature": temperature, "over-rank": rank, "replicas": replicas}
    return {f"{name}.csv": _csv(parts) for name, parts in frames.items()}


def declared_charts(results: SuiteResults) -> dict[str, DeclaredCurve]:
    """Return chart -> curve, of all that components of a suite declare."""
    return {f"declared-{place}": one for place, one in enumerate(declared_curves(results))}


def chart_frames(charts: Mapping[str, DeclaredCurve]) -> list[dict[str, Any]]:
    """Return what the page's template and its script need to know of each chart."""
    return [
        {
            "chart": chart,
            "heading": one.heading,
            "label": one.curve.label,
            "quantity": one.curve.quantity,
            "logarithmic": one.curve.logarithmic,
            "over": {None: "temperature", "modes": "rank"}.get(one.order, "temperature-and-rank"),
            "first": one.first,
            "text": f"{one.explanation()} The values are in {one.file} beside this page.",
        }
        for chart, one in charts.items()
    ]


def rounded(values: Any) -> Any:
    """Return numbers with six significant digits, as nested lists; None for those that are not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim:
        return [rounded(item) for item in array]
    return float(f"{array:.{DIGITS}g}") if np.isfinite(array) else None


def _comparison(
    names: tuple[str, str],
    contenders: Sequence[Contender],
    curves: CurvesOfCells,
    charts: Mapping[str, DeclaredCurve],
) -> dict[str, Any]:
    return {
        "dataset": names[0],
        "objective": names[1],
        "pca": rounded(found) if (found := _pca(contenders)) is not None else None,
        "exact": _exact(contenders),
        "architectures": [
            {
                "name": contender.architecture,
                "exact": any(cell.measurement is not None and cell.measurement.has_oracle for cell in contender.cells),
                "runs": [_run_content(cell, curves[names_of(cell)], charts) for cell in contender.cells],
            }
            for contender in contenders
        ],
    }


def _run_content(cell: CellResult, curves: CellCurves, charts: Mapping[str, DeclaredCurve]) -> dict[str, Any]:
    declared, missing = _declared_of_run(cell, charts)
    shown: dict[str, Any] = {
        "seed": cell.seed,
        "t": rounded(curves.temperatures),
        "signal": rounded(curves.signal_fraction.T),
        "rate": rounded(curves.rate.T),
        "truncated": rounded(curves.truncated.T),
        "distortion": rounded(curves.distortion),
        "utility": rounded(curves.utility),
        "threshold": rounded(curves.threshold),
        "rateThreshold": rounded(curves.rate_threshold),
        "ward": rounded(curves.ward_residual),
        "edge": rounded(curves.edge),
        "missing": {**curves.missing, **missing},
    }
    if charts:
        shown["declared"] = {
            chart: {axis: rounded(values) for axis, values in curve.items()} for chart, curve in declared.items()
        }
    return shown


def _declared_of_run(
    cell: CellResult, charts: Mapping[str, DeclaredCurve]
) -> tuple[dict[str, dict[str, Floats]], dict[str, str]]:
    """Return chart -> x `(n,)` and y `(n,)` or `(rank, n)` of a run, and chart -> why it shows nothing."""
    found = {chart: values_of([cell], one, one.curve.split) for chart, one in charts.items()}
    curves = {chart: {"x": scan.x, "y": scan.x if scan.reason else scan.y[0].T} for chart, scan in found.items()}
    return curves, {chart: scan.reason for chart, scan in found.items() if scan.reason}


def _exact(contenders: Sequence[Contender]) -> dict[str, Any] | None:
    """Return the exact solution on a fine grid: M^2 on the train split, D_K on the test split."""
    cells = [cell for contender in contenders for cell in contender.cells]
    scales = [cell.measurement.temperatures for cell in cells if cell.measurement is not None]
    if not scales:
        return None
    ends = np.concatenate(scales)
    fine = np.geomspace(ends.min(), ends.max(), _EXACT_POINTS)
    train, test = (exact(cells, fine, split) for split in ("train", "test"))
    return {
        "t": rounded(fine),
        "signal": [] if train is None else rounded(train.signal_fraction.T),
        "truncated": [] if test is None else rounded(test.normalised_distortion.T),
    } if train is not None or test is not None else None  # fmt: skip


def _pca(contenders: Sequence[Contender]) -> Floats | None:
    found = (pca_curve(contender.cells, "test") for contender in contenders)
    curve = next((curve for curve in found if curve is not None), None)
    sizes = [
        cell.measurement.latent_dim
        for contender in contenders
        for cell in contender.cells
        if cell.measurement is not None
    ]
    return None if curve is None else curve[: max(sizes) + 1]


def _first(scan: ScanCurves) -> Floats:
    """Return the curves of the only run of a scan."""
    return np.zeros((0,) * max(1, scan.y.ndim - 1)) if scan.reason else scan.y[0]


def _prices(cell: CellResult) -> Floats:
    """Return what a nat costs each replica, as a share of V: T, unless the objective sets its own `(t,)`, ascending."""
    if cell.measurement is None:
        return np.zeros(0)
    return cell.measurement.effective_temperatures[np.argsort(cell.measurement.temperatures)]


def _by_temperature(table: pd.DataFrame | None, temperatures: Floats) -> pd.DataFrame:
    """Return a table with one row per temperature, ascending; empty where it was not measured."""
    return pd.DataFrame() if table is None else table.set_index("temperature").reindex(temperatures)


def _over_temperature(curves: CellCurves) -> dict[str, Any]:
    columns = max(curves.truncated.shape[1] if curves.truncated.size else 0, curves.signal_fraction.shape[-1] + 1)
    if not curves.truncated.size and not curves.signal_fraction.size:
        return {}
    t, rank = np.indices((curves.temperatures.size, columns))
    wide = {"train_signal_fraction": (curves.signal_fraction, 1), "train_rate": (curves.rate, 1)}
    wide |= {"test_distortion": (curves.truncated, 0)}
    found = {"temperature": curves.temperatures[t.ravel()], "rank": rank.ravel()}
    for name, (values, first) in wide.items():
        whole = np.full((curves.temperatures.size, columns), np.nan)
        if values.size:
            whole[:, first : first + values.shape[1]] = values
        found[name] = whole.ravel()
    return found


def _over_rank(curves: CellCurves) -> dict[str, Any]:
    count = max(curves.distortion.size, curves.utility.size + 1 if curves.utility.size else 0)
    found: dict[str, Any] = {"rank": np.arange(count)}
    shifted = {
        "test_distortion": (curves.distortion, 0),
        "train_utility": (curves.utility, 1),
        "train_threshold": (curves.threshold, 1),
        "train_rate_threshold": (curves.rate_threshold, 1),
    }
    for name, (values, first) in shifted.items():
        whole = np.full(count, np.nan)
        whole[first : first + values.size] = values
        found[name] = whole
    return found if count else {}


def _replicas(curves: CellCurves) -> dict[str, Any]:
    if not curves.marks:
        return {}
    return {
        "temperature": curves.temperatures, "mark": curves.marks, "updates": curves.updates,
        "ward_residual": curves.ward_residual, "edge_over_temperature": curves.edge,
    }  # fmt: skip


def _frame(names: Mapping[str, Any], columns: Mapping[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(dict(columns))
    for place, (name, value) in enumerate(names.items()):
        frame.insert(place, name, value)
    return frame


def _csv(frames: Sequence[pd.DataFrame]) -> str:
    filled = [frame for frame in frames if len(frame)]
    whole = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=pd.Index(_NAMES))
    text = io.StringIO()
    whole.to_csv(text, index=False, lineterminator="\n", float_format=f"%.{DIGITS}g")
    return text.getvalue()
