"""The curves behind the figures: what the runs of one architecture measured, one array per run.

Axes: `run` the cells that can be drawn, `t` ascending temperatures, `rank` and `K` as in `theory.spectrum`.
Replicas that diverged are NaN. Of the curves that components declare, values that are not finite, and on a logarithmic
axis those that are not above 0, are NaN as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from collapsebench.contracts import Curve, SplitName
from collapsebench.errors import DataError
from collapsebench.scoring.results import CellResult, SuiteResults
from collapsebench.theory.oracle import Oracle, oracle
from collapsebench.theory.scaling import TAIL_WINDOW, TailLaw, tail_law
from collapsebench.theory.spectrum import (
    fixed_exponent_threshold,
    fixed_slope_rate_threshold,
    grid,
    rank_distortion,
    ranked,
    resolved_ranks,
    utilities,
)

if TYPE_CHECKING:
    from collapsebench.contracts import Floats, Measurement

    Reading = Callable[[pd.DataFrame, Floats], Floats]
    Fit = Callable[[Floats, Floats, float], float]

Quantity = tuple[tuple[str, ...], Literal["latent", "rank"] | None]
"""Quantities of one table and what they are measured for; whichever observable provides them is read."""

FRACTIONS: Quantity = (("signal_fraction",), "latent")
TRUNCATED: Quantity = (("normalised_distortion",), "rank")

MODES = "modes-"
"""How the name of a table begins that holds a metric's rows per rank."""

Order = Literal["signal", "index", "kept", "modes"]
"""What a rank is: the place of a latent by its signal fraction or by its index, the latents kept, a metric's row."""


@dataclass(frozen=True)
class ScanCurves:
    """Curves of one architecture: x, and one array per run, with the reason where there is nothing to draw."""

    x: Floats
    y: Floats
    reason: str = ""

    @property
    def mean(self) -> Floats:
        """The mean over runs, of those that are not NaN."""
        count = (~np.isnan(self.y)).sum(axis=0)
        total = np.where(np.isnan(self.y), 0.0, self.y).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    @property
    def extremes(self) -> tuple[Floats, Floats]:
        """The least and the largest value over runs, of those that are not NaN."""
        low = np.where(np.isnan(self.y), np.inf, self.y).min(axis=0)
        high = np.where(np.isnan(self.y), -np.inf, self.y).max(axis=0)
        return np.where(np.isinf(low), np.nan, low), np.where(np.isinf(high), np.nan, high)


@dataclass(frozen=True)
class DeclaredCurve:
    """A curve that a component declares. name: of its figure. order: what its ranks are; None for one per replica."""

    name: str
    table: str
    curve: Curve
    order: Order | None

    @property
    def component(self) -> str:
        """The id of the observable or metric that declares it."""
        return self.table.removeprefix(MODES)

    @property
    def first(self) -> int:
        """The number of the first rank: 0 stands for nothing kept."""
        return 0 if self.order == "kept" else 1

    @property
    def heading(self) -> str:
        """What the curve shows, as the beginning of a sentence."""
        return self.curve.label[:1].upper() + self.curve.label[1:]

    @property
    def file(self) -> str:
        """The file of a published folder that holds its values."""
        return f"tables/{self.component}.csv" if self.order == "modes" else f"data/{self.table}.parquet"

    def explanation(self, split: SplitName | None = None) -> str:
        """Return what is shown, of what, by whom it was measured and on which split."""
        what = {
            None: "of each replica",
            "signal": "of each latent, ranked by signal fraction at each temperature",
            "index": "of each latent, in the order of their indices, since signal fractions were not measured",
            "kept": "at each rank",
            "modes": "at each rank",
        }[self.order]
        if self.order == "modes":
            return f"{self.heading}, {what}, as the metric {self.component} found it."
        measured = f"measured by the observable {self.component} on the {split or self.curve.split} split"
        return f"{self.heading}, {what}, {measured}."


def ranked_moments(cells: Sequence[CellResult], split: SplitName, quantity: str) -> ScanCurves:
    """Return a quantity of the latents `(run, t, rank)`, ranked by signal fraction at each temperature."""
    both = tuple(dict.fromkeys(("signal_fraction", quantity)))
    return _over_temperatures(cells, (both, "latent"), lambda table, t: ranked(table, split, t, quantity))


def signal_fractions(cells: Sequence[CellResult], split: SplitName) -> ScanCurves:
    """Return M^2 `(run, t, rank)`."""
    return ranked_moments(cells, split, "signal_fraction")


def fitted_thresholds(fractions: ScanCurves) -> Floats:
    """Return the fixed-exponent T_c of each rank of M^2, the geometric mean over runs `(rank,)`; NaN for none."""
    fitted = [[fixed_exponent_threshold(fractions.x, column) for column in run.T] for run in fractions.y]
    logarithms = np.log(np.array(fitted))
    return np.exp(ScanCurves(np.zeros(0), np.where(np.isfinite(logarithms), logarithms, np.nan)).mean)


def truncated_distortions(cells: Sequence[CellResult], split: SplitName) -> ScanCurves:
    """Return D_K(T) / V `(run, t, K)`, K = 0..latent_dim."""
    return _over_temperatures(cells, TRUNCATED, lambda table, t: grid(table, split, t, "normalised_distortion", "rank"))


def rank_distortions(cells: Sequence[CellResult], split: SplitName) -> ScanCurves:
    """Return D(K) / V `(run, K)`, its temperature chosen on the validation split; x counts K."""
    found, reason = [], _absent(cells, TRUNCATED)
    for measurement in _measured(cells, TRUNCATED):
        try:
            curves = rank_distortion(_table(measurement, TRUNCATED), measurement.temperatures).curves
        except DataError as error:
            reason = str(error)
            continue
        if split in curves:
            found.append(curves[split])
        else:
            reason = f"{_named(TRUNCATED)} was not observed on the {split} split"
    return _scan_curves(np.arange(float(len(found[0]))) if found else np.zeros(0), found, reason)


def thresholds_and_utilities(cells: Sequence[CellResult], split: SplitName) -> tuple[ScanCurves, ScanCurves]:
    """Return the fixed-exponent T_c of M^2 and the utility of every rank `(run, rank)`, NaN where not resolved.

    A rank is resolved where its utility is at least ten times the lowest temperature.
    """
    return _with_utilities(cells, split, "signal_fraction", lambda t, y, worth: fixed_exponent_threshold(t, y))


def rate_thresholds_and_utilities(cells: Sequence[CellResult], split: SplitName) -> tuple[ScanCurves, ScanCurves]:
    """Return the fixed-slope T_c of the rate and the utility of every rank `(run, rank)`, NaN where not resolved."""
    return _with_utilities(cells, split, "rate", fixed_slope_rate_threshold)


def rates_and_utilities(cells: Sequence[CellResult], split: SplitName) -> tuple[ScanCurves, Floats]:
    """Return R_k `(run, t, rank)` in nats, and the utilities of the resolved ranks `(run, rank)`, NaN for others."""
    return _moments_and_utilities(cells, split, "rate")


def tail_laws(curves: ScanCurves) -> list[TailLaw]:
    """Return the power law of each run's rank-distortion curve, the window cut to the ranks that there are."""
    window = (TAIL_WINDOW[0], min(TAIL_WINDOW[1], curves.x.size - 1))
    return [tail_law(curve, window) for curve in curves.y]


def exact(cells: Sequence[CellResult], temperatures: Floats, split: SplitName) -> Oracle | None:
    """Return the exact solution on a split where it holds for these cells, at given temperatures."""
    for measurement in _measured(cells):
        if measurement.has_oracle and split in measurement.second_moments:
            return oracle(
                measurement.covariance, temperatures, measurement.latent_dim,
                decoder_variance=measurement.decoder_variance, evaluation=measurement.second_moments[split],
            )  # fmt: skip
    return None


def pca_curve(cells: Sequence[CellResult], split: SplitName) -> Floats | None:
    """Return PCA's rank-distortion curve on a split `(d + 1,)`."""
    for measurement in _measured(cells):
        if split in measurement.pca.rank_distortion:
            return measurement.pca.rank_distortion[split]
    return None


def declared_curves(results: SuiteResults, taken: Sequence[str] = ()) -> list[DeclaredCurve]:
    """Return every curve that a component of a suite declares. taken: names that other figures have."""
    found: list[DeclaredCurve] = []
    names = set(taken)
    for table, curves in results.curves.items():
        for curve in curves:
            stem = f"{table.removeprefix(MODES)}-{curve.quantity}"
            name = next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, len(names) + 3))) if n not in names)
            names.add(name)
            found.append(DeclaredCurve(name, table, curve, _order(results.cells, table, curve)))
    return found


def values_of(cells: Sequence[CellResult], declared: DeclaredCurve, split: SplitName) -> ScanCurves:
    """Return a declared curve of some runs: `(run, t)` or `(run, t, rank)`; of a metric, `(run, rank)`, x its ranks."""
    if declared.order == "modes":
        rows, reason = _modes(cells, declared)
        x = np.unique([rank for row in rows for rank in row.index]).astype(np.float64)
        arrays = [row.reindex(x).to_numpy() for row in rows]
    else:
        x, arrays, reason = _declared_over_temperatures(cells, declared, split)
    return _declared_scan(x, [_showable(array, declared.curve) for array in arrays], declared, reason)


def _with_utilities(
    cells: Sequence[CellResult], split: SplitName, quantity: str, fit: Fit
) -> tuple[ScanCurves, ScanCurves]:
    moments, worth = _moments_and_utilities(cells, split, quantity)
    fitted = np.full(worth.shape, np.nan)
    for run, rank in np.argwhere(np.isfinite(worth)):
        fitted[run, rank] = fit(moments.x, moments.y[run, :, rank], float(worth[run, rank]))
    usable = np.isfinite(fitted)
    ranks = np.arange(1, worth.shape[1] + 1)
    missing = moments.reason or "no rank is resolved with a threshold"
    return (
        _scan_curves(ranks, list(np.where(usable, fitted, np.nan)), missing),
        _scan_curves(ranks, list(np.where(usable, worth, np.nan)), missing),
    )


def _moments_and_utilities(cells: Sequence[CellResult], split: SplitName, quantity: str) -> tuple[ScanCurves, Floats]:
    """Return a ranked quantity and the utilities of the resolved ranks, NaN for others, of the runs that have both."""
    both = [cell for cell in cells if _measured([cell], FRACTIONS) and _measured([cell], TRUNCATED)]
    moments, curves = ranked_moments(both or cells, split, quantity), rank_distortions(both or cells, split)
    reason = moments.reason or curves.reason
    if not reason and len(moments.y) != len(curves.y):
        reason = "runs lack one of the two observables"
    if reason:
        return _scan_curves(np.zeros(0), [], reason), np.zeros((0, 0))
    worth = np.array([utilities(curve) for curve in curves.y])
    resolved = np.array([resolved_ranks(row, moments.x, row.size) for row in worth])
    if not resolved.any():
        return _scan_curves(np.zeros(0), [], "the scan resolves no rank"), np.zeros((0, 0))
    return moments, np.where(resolved, worth, np.nan)


def _over_temperatures(cells: Sequence[CellResult], quantity: Quantity, read: Reading) -> ScanCurves:
    measured = _measured(cells, quantity)
    temperatures = np.unique([t for measurement in measured for t in measurement.temperatures])
    found, reason = [], _absent(cells, quantity)
    for measurement in measured:
        try:
            found.append(read(_table(measurement, quantity), temperatures))
        except DataError as error:
            reason = str(error)
    return _scan_curves(temperatures, found, reason)


def _scan_curves(x: Floats, found: list[Floats], reason: str) -> ScanCurves:
    y = np.array(found, dtype=np.float64)
    if not found or np.isnan(y).all():
        return ScanCurves(np.zeros(0), np.zeros((0, 0)), reason or "every replica diverged")
    return ScanCurves(np.asarray(x, dtype=np.float64), y)


def _measured(cells: Sequence[CellResult], quantity: Quantity | None = None) -> list[Measurement]:
    found = [cell.measurement for cell in cells if cell.measurement is not None]
    return [one for one in found if quantity is None or _found(one, quantity) is not None]


def _table(measurement: Measurement, quantity: Quantity) -> pd.DataFrame:
    table = _found(measurement, quantity)
    assert table is not None
    return table


def _found(measurement: Measurement, quantity: Quantity) -> pd.DataFrame | None:
    names, axis = quantity
    return measurement.table_of(*names, axis=axis)


def _named(quantity: Quantity) -> str:
    names, axis = quantity
    listed = " and ".join(name.replace("_", " ") for name in names)
    return f"{listed} per {axis}" if axis else listed


def _absent(cells: Sequence[CellResult], quantity: Quantity) -> str:
    """Return why no run can be drawn, "" if some run has the quantity."""
    if _measured(cells, quantity):
        return ""
    if _measured(cells):
        return f"no metric of the suite asked for {_named(quantity)}"
    return why_unmeasured(cells)


def why_unmeasured(cells: Sequence[CellResult]) -> str:
    """Return why nothing was measured of some runs, by how they ended."""
    why = dict.fromkeys(f"{cell.status} ({cell.reason.rstrip('.')})" if cell.reason else cell.status for cell in cells)
    return shorten(f"nothing was measured: {', '.join(why)}", 200, placeholder=" ...")


def _declared_scan(x: Floats, arrays: Sequence[Floats], declared: DeclaredCurve, reason: str) -> ScanCurves:
    if arrays and any(np.isfinite(array).any() for array in arrays):
        longest = max((array.shape for array in arrays), key=lambda shape: shape[-1])
        return ScanCurves(x, np.stack([_padded(array, longest[-1]) for array in arrays]))
    lacking = f"no value of {declared.curve.quantity} is {'above 0' if declared.curve.logarithmic else 'finite'}"
    return ScanCurves(np.zeros(0), np.zeros((0, 0)), reason or lacking)


def _order(cells: Sequence[CellResult], table: str, curve: Curve) -> Order | None:
    if table.startswith(MODES):
        return "modes"
    measured = [cell.measurement for cell in cells if cell.measurement and table in cell.measurement.tables]
    columns = {name for measurement in measured for name in measurement.tables[table]}
    if "rank" in columns:
        return "kept"
    if "latent" not in columns:
        return None
    return "signal" if all(_has_fractions(measurement, curve.split) for measurement in measured) else "index"


def _has_fractions(measurement: Measurement, split: SplitName) -> bool:
    table = measurement.table_of("signal_fraction", axis="latent")
    return table is not None and bool((table["split"] == split).any())


def _declared_over_temperatures(
    cells: Sequence[CellResult], declared: DeclaredCurve, split: SplitName
) -> tuple[Floats, list[Floats], str]:
    measured = [cell.measurement for cell in cells if cell.measurement is not None]
    kept = [measurement for measurement in measured if declared.table in measurement.tables]
    x = np.unique([t for measurement in kept for t in measurement.temperatures])
    reason = "" if kept else f"no published table holds what {declared.component} measured"
    found = []
    for measurement in kept:
        try:
            found.append(_declared_curve(measurement, declared, split, x))
        except (DataError, ValueError) as error:
            reason = str(error).rstrip(".")
    return x, found, reason if measured else why_unmeasured(cells)


def _declared_curve(
    measurement: Measurement, declared: DeclaredCurve, split: SplitName, temperatures: Floats
) -> Floats:
    table, quantity = measurement.tables[declared.table], declared.curve.quantity
    if declared.order == "signal":
        fractions = measurement.table_of("signal_fraction", axis="latent")
        assert fractions is not None
        order = np.argsort(-grid(fractions, split, temperatures, "signal_fraction"), axis=1, kind="stable")
        return np.take_along_axis(grid(table, split, temperatures, quantity), order, axis=1)
    if declared.order is None:
        return grid(table.assign(replica=0), split, temperatures, quantity, "replica")[:, 0]
    return grid(table, split, temperatures, quantity, "rank" if declared.order == "kept" else "latent")


def _modes(cells: Sequence[CellResult], declared: DeclaredCurve) -> tuple[list[pd.Series], str]:
    """Return the column of each run, by rank, and why there is none."""
    found: list[pd.Series] = []
    reasons: dict[str, None] = {}
    for cell in cells:
        evaluation = cell.evaluations.get(declared.component)
        if evaluation is None:
            reasons[cell.metric_failures.get(declared.component) or why_unmeasured([cell])] = None
        elif evaluation.modes is None or declared.curve.quantity not in evaluation.modes:
            reasons[f"{declared.component} left no rows with {declared.curve.quantity}"] = None
        else:
            found.append(_by_rank(evaluation.modes, declared.curve.quantity))
    return found, "; ".join(reason.rstrip(".") for reason in reasons)


def _by_rank(modes: pd.DataFrame, quantity: str) -> pd.Series:
    """Return a column by rank, which is that of its rows where they name one, and their number from 1 elsewhere."""
    ranks = modes["rank"] if "rank" in modes else pd.Series(np.arange(1, len(modes) + 1), index=modes.index)
    column = pd.to_numeric(modes[quantity], errors="coerce").astype("float64")
    column.index = pd.Index(pd.to_numeric(ranks, errors="coerce").astype("float64"))
    return column[column.index.notna() & ~column.index.duplicated()]


def _showable(values: Floats, curve: Curve) -> Floats:
    shown = np.isfinite(values) & ((values > 0) if curve.logarithmic else True)
    return np.where(shown, values, np.nan)


def _padded(values: Floats, length: int) -> Floats:
    """Return values with NaN behind the last rank, where another run has more."""
    lacking = [(0, 0)] * (values.ndim - 1) + [(0, length - values.shape[-1])]
    return np.pad(values, lacking, constant_values=np.nan)
