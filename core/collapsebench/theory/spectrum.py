"""Measure the modes of a scan: ranked curves, thresholds, exponents, utilities and effective dimensions.

Axes: `t` follows the temperatures that the caller passes; `rank` runs from the latent of largest signal fraction
(rank 1 is index 0); `K` is the number of latents that are decoded, from 0. Missing numbers (diverged replicas) are NaN
and are left out of fits. Source of the definitions: J. Hirn, arXiv 2605.22691 and 2608.10599.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from scipy import optimize, stats

from collapsebench.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from collapsebench.contracts import Floats, SplitName

_SAME = 1e-6  # eigenvalues whose relative difference is smaller belong to one eigenspace

ACTIVE = 0.1
"""The signal fraction M^2 above which a latent counts as active."""

TOLERANCES = (50.0, 30.0, 10.0, 5.0, 1.0, 0.5, 0.1, 0.01, 0.001)
"""Tolerated shares of D(0), in per cent, for which effective dimensions are reported."""

RESOLUTION = 10.0
"""The smallest ratio of a threshold to the lowest temperature at which a scan resolves the mode."""


@dataclass(frozen=True)
class RankDistortion:
    """The smallest distortion with K latents, D(K) = min over T of D_K(T), K = 0..latent_dim.

    temperature `(K,)`: the T that minimises D_K on the validation split, NaN if there is none. curves: for each split,
    D(K) `(K,)` at that temperature, over V; for the train split, at the T that minimises D_K on the train split.
    """

    temperature: Floats
    curves: Mapping[SplitName, Floats]


@dataclass(frozen=True)
class ExponentFit:
    """A fit of M = [1 - T / threshold]_+^exponent, with a confidence interval of the exponent.

    n: number of temperatures in the window. The exponent is NaN with fewer than two active temperatures, the interval
    is NaN if n < 4.
    """

    exponent: float
    threshold: float
    low: float
    high: float
    n: int


def grid(table: pd.DataFrame, split: str, temperatures: ArrayLike, quantity: str, axis: str = "latent") -> Floats:
    """Return one quantity of an observable's table as `(t, axis)`, in the order of the temperatures.

    A temperature that is missing in the table becomes a row of NaN.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"split": "train", "temperature": [0.5, 0.5, 0.1, 0.1], "latent": [0, 1, 0, 1],
    ...                       "rate": [0.0, 0.3, 0.8, 1.1]})
    >>> print(grid(table, "train", [0.1, 0.5], "rate"))
    [[0.8 1.1]
     [0.  0.3]]
    """
    absent = {"split", "temperature", axis, quantity} - set(table.columns)
    if absent:
        raise DataError(
            f"table has no column {', '.join(sorted(absent))}; found {', '.join(map(str, table.columns))}, expected "
            f"those of an observable that measures {quantity}. Pass the table of that observable."
        )
    rows = table[table["split"] == split]
    wide = rows.pivot(index="temperature", columns=axis, values=quantity).sort_index(axis=1)
    values = wide.reindex(np.asarray(temperatures, dtype=np.float64)).to_numpy(dtype=np.float64)
    if rows.empty or not wide.index.isin(np.asarray(temperatures)).any():
        splits = ", ".join(sorted(map(str, table["split"].unique())))
        raise DataError(
            f"table has no {quantity} on split '{split}' at the given temperatures; "
            f"its splits are {splits or 'none'}. "
            "Pass the temperatures of the same measurement, and a split on which it was observed."
        )
    return values


def ranked(table: pd.DataFrame, split: str, temperatures: ArrayLike, quantity: str) -> Floats:
    """Return a quantity of "latent-moments" `(t, rank)`, with latents ranked by signal fraction at each temperature.

    The largest signal fraction comes first and ties are broken by index; temperatures are in the order given. Diverged
    latents come last, as NaN.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"split": "train", "temperature": 0.1, "latent": [0, 1], "signal_fraction": [0.2, 0.9],
    ...                       "rate": [0.1, 1.2]})
    >>> print(ranked(table, "train", [0.1], "rate"))
    [[1.2 0.1]]
    """
    order = np.argsort(-grid(table, split, temperatures, "signal_fraction"), axis=1, kind="stable")
    return np.take_along_axis(grid(table, split, temperatures, quantity), order, axis=1)


def ranked_signal_fraction(table: pd.DataFrame, split: str, temperatures: ArrayLike) -> Floats:
    """Return M^2 of "latent-moments" `(t, rank)`, each row descending, temperatures in the order given.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"split": "train", "temperature": 0.1, "latent": [0, 1], "signal_fraction": [0.2, 0.9]})
    >>> print(ranked_signal_fraction(table, "train", [0.1]))
    [[0.9 0.2]]
    """
    return ranked(table, split, temperatures, "signal_fraction")


def rank_distortion(table: pd.DataFrame, temperatures: ArrayLike) -> RankDistortion:
    """Return D(K) of "truncated-distortion": on the train split its minimum over T, else D_K at the T of validation.

    On unseen samples, T must not be chosen by the samples that it is evaluated on, so validation chooses it. On the
    train split, D(K) is compared with the covariance of that split and must not depend on another split.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"split": "validation", "temperature": [0.5, 0.5, 0.1, 0.1], "rank": [0, 1, 0, 1],
    ...                       "normalised_distortion": [1.0, 0.6, 1.0, 0.2]})
    >>> least = rank_distortion(table, [0.5, 0.1])
    >>> print(least.curves["validation"], least.temperature)
    [1.  0.2] [0.5 0.1]
    """
    scale = np.asarray(temperatures, dtype=np.float64)
    chosen = grid(table, "validation", scale, "normalised_distortion", "rank")
    best = np.where(np.isnan(chosen), np.inf, chosen).argmin(axis=0)
    known = ~np.isnan(chosen).all(axis=0)
    curves: dict[SplitName, Floats] = {}
    for split in table["split"].unique():
        values = grid(table, split, scale, "normalised_distortion", "rank")
        if split == "train":
            values = np.where(np.isnan(values), np.inf, values).min(axis=0)
            curves["train"] = np.where(np.isfinite(values), values, np.nan)
        else:
            curves[cast("SplitName", split)] = np.where(known, values[best, np.arange(best.size)], np.nan)
    return RankDistortion(np.where(known, scale[best], np.nan), curves)


def utilities(curve: ArrayLike) -> Floats:
    """Return utility_k = D(k-1) - D(k), k = 1..latent_dim, of a rank-distortion curve `(K,)`.

    >>> print(utilities([1.0, 0.4, 0.1]).round(3))
    [0.6 0.3]
    """
    return -np.diff(np.asarray(curve, dtype=np.float64))


def effective_dimension(curve: ArrayLike, tolerance: float) -> float:
    """Return min { K : D(K) / D(0) <= tolerance }, or infinity if the curve never reaches the tolerance.

    >>> effective_dimension([1.0, 0.4, 0.1, 0.01], tolerance=0.1)
    2.0
    >>> effective_dimension([1.0, 0.4, 0.1, 0.01], tolerance=0.001)
    inf
    """
    values = np.asarray(curve, dtype=np.float64)
    reached = np.flatnonzero(values <= tolerance * values[0])
    return float(reached[0]) if reached.size else float("inf")


def resolved_ranks(reference_thresholds: ArrayLike, temperatures: ArrayLike, latent_dim: int) -> NDArray[np.bool_]:
    """Return, for each rank k, whether k <= latent_dim and T_k >= 10 times the lowest temperature.

    >>> print(resolved_ranks([0.5, 0.05, 0.005], temperatures=[1.0, 0.001], latent_dim=2))
    [ True  True False]
    """
    reference = np.asarray(reference_thresholds, dtype=np.float64)
    lowest = float(np.min(np.asarray(temperatures, dtype=np.float64)))
    # The margin makes sure that roundoff does not decide about a threshold at exactly ten times the lowest temperature.
    enough = (reference > 0) & (reference >= RESOLUTION * lowest * (1 - 1e-9))
    within: NDArray[np.bool_] = np.arange(reference.size) < latent_dim
    return enough & within


def fixed_exponent_threshold(temperatures: ArrayLike, signal_fraction: ArrayLike, active: float = ACTIVE) -> float:
    """Return T_c of the least-squares fit M^2 = [1 - T / T_c]_+, NaN for a mode that is never active.

    The minimum is global: for each set of temperatures below T_c, the best 1 / T_c has a closed form. Infinity if M^2
    is 1 at every temperature of the scan.

    >>> round(fixed_exponent_threshold([0.1, 0.2, 0.4, 0.8], [0.75, 0.5, 0.0, 0.0]), 3)
    0.4
    """
    t, y = _finite(temperatures, signal_fraction)
    if not t.size or y.max() <= active:
        return float("nan")
    slope = np.cumsum(t * (1.0 - y)) / np.cumsum(t * t)
    inverse = np.clip(slope, np.append(1.0 / t[1:], 0.0), 1.0 / t)
    errors = np.square(np.maximum(1.0 - t * inverse[:, None], 0.0) - y).sum(axis=1)
    best = float(inverse[errors.argmin()])
    return 1.0 / best if best > 0 else float("inf")


def free_exponent_fit(temperatures: ArrayLike, signal_fraction: ArrayLike, confidence: float = 0.95) -> ExponentFit:
    """Fit M^2 = [1 - T / T_c]_+^(2 a) by nonlinear least squares over T_c and a, the exponent of M.

    The window is T_c / 30 <= T <= 0.9 T_c. The fit is done twice: first in the window of the fixed-exponent T_c, then
    in the window of the first fit. Far below T_c, M^2 no longer depends on a; above 0.9 T_c, the kink makes intervals
    too short, and critical slowing down rounds it. The interval is a +- t_{n-2} sqrt(cov_aa) with
    cov = SSE / (n - 2) (J^T J)^-1, the covariance of nonlinear least squares for independent noise of M^2; NaN with
    fewer than four temperatures in the window.

    >>> t = np.geomspace(0.02, 0.35, 12)
    >>> fit = free_exponent_fit(t, 1 - t / 0.4)
    >>> round(fit.exponent, 3), round(fit.threshold, 3), fit.n
    (0.5, 0.4, 12)
    """
    t, y = _finite(temperatures, signal_fraction)
    threshold = fixed_exponent_threshold(t, y)
    no_fit = ExponentFit(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    fit = no_fit
    window = np.zeros(0, dtype=np.bool_)
    for _ in range(2):
        if not np.isfinite(threshold):
            break
        latest = (t >= threshold / 30.0) & (t <= 0.9 * threshold)
        if latest.sum() < 2 or np.array_equal(latest, window):
            break
        window = latest
        fit = _fit_exponent(t[window], y[window], threshold, confidence)
        threshold = fit.threshold
    return fit if np.isfinite(fit.exponent) else no_fit


def fixed_slope_rate_threshold(temperatures: ArrayLike, rate: ArrayLike, utility: float) -> float:
    """Return T_c of the fit R = -1/2 log(T / T_c) over 1e-2 utility <= T <= utility, rate in nats.

    The least-squares solution is log T_c = mean(log T + 2 R). NaN with fewer than two temperatures in the window.

    >>> t = np.array([0.05, 0.1, 0.2])
    >>> round(fixed_slope_rate_threshold(t, -0.5 * np.log(t / 0.4), utility=0.4), 3)
    0.4
    """
    t, r = _finite(temperatures, rate)
    window = (t >= 1e-2 * utility) & (t <= utility)
    if window.sum() < 2:
        return float("nan")
    return float(np.exp(np.mean(np.log(t[window]) + 2.0 * r[window])))


def one_shot_thresholds(snr: ArrayLike, temperature: ArrayLike) -> Floats:
    """Return T_c = T (1 + snr) of active latents at one temperature; exact where the linear oracle holds.

    >>> print(one_shot_thresholds([4.0, 1.0], temperature=0.1))
    [0.5 0.2]
    """
    return np.asarray(temperature, dtype=np.float64) * (1.0 + np.asarray(snr, dtype=np.float64))


def identity_r2(measured: ArrayLike, reference: ArrayLike) -> float:
    """Return 1 - sum (log u - log T_c)^2 / sum (log u - mean log u)^2, for references u and measured T_c.

    This is not a squared correlation: an offset lowers it. Pairs that are not both finite and positive are left out.
    NaN with fewer than two distinct references; references that agree to a relative 1e-6 belong to one eigenspace and
    are not distinct.

    >>> round(identity_r2([0.5, 0.2, 0.1], [0.5, 0.2, 0.1]), 3)
    1.0
    >>> round(identity_r2([1.0, 0.4, 0.2], [0.5, 0.2, 0.1]), 3)
    -0.106
    """
    error, log_reference = _log_pairs(measured, reference)
    if not error.size or np.ptp(log_reference) <= _SAME:
        return float("nan")
    return 1.0 - float(np.square(error).sum() / np.square(log_reference - log_reference.mean()).sum())


def max_log_error(measured: ArrayLike, reference: ArrayLike) -> float:
    """Return max |log measured - log reference| over the pairs that are finite and positive, NaN if there are none.

    >>> round(max_log_error([0.5, 0.22], [0.5, 0.20]), 3)
    0.095
    """
    error, _ = _log_pairs(measured, reference)
    return float(np.abs(error).max()) if error.size else float("nan")


def first_swapped_rank(thresholds: ArrayLike, tolerance: float = 0.0) -> int:
    """Return the first rank, from 1, whose threshold exceeds that of the rank before; one past the last rank if none.

    thresholds: in the order of the reference (descending utilities, or PCA). NaN, for a mode that never became active,
    counts as 0. tolerance: the largest relative excess that counts as equal.

    >>> first_swapped_rank([0.5, 0.2, 0.3, 0.1])
    3
    >>> first_swapped_rank([0.5, 0.3, 0.2, 0.1])
    5
    """
    values = np.nan_to_num(np.asarray(thresholds, dtype=np.float64), nan=0.0, posinf=np.inf)
    rises = np.flatnonzero(values[1:] > (1.0 + tolerance) * values[:-1])
    return int(rises[0]) + 2 if rises.size else values.size + 1


def _fit_exponent(t: Floats, y: Floats, guess: float, confidence: float) -> ExponentFit:
    start = _best_on_grid(t, y, guess)

    def residuals(x: Floats) -> Floats:
        inside = np.maximum(1.0 - t / np.exp(x[0]), 0.0)
        return np.asarray(inside ** (2.0 * np.exp(x[1])) - y, dtype=np.float64)

    def jacobian(x: Floats) -> Floats:
        fraction, power = t / np.exp(x[0]), 2.0 * np.exp(x[1])
        inside = np.where(fraction < 1.0, 1.0 - fraction, 1.0)
        below = fraction < 1.0
        by_threshold = np.where(below, power * inside ** (power - 1.0) * fraction, 0.0)
        by_exponent = np.where(below, power * inside**power * np.log(inside), 0.0)
        return np.stack([by_threshold, by_exponent], axis=1)

    tolerance = 1e-12
    solution = optimize.least_squares(
        residuals, np.array(start), jacobian, xtol=tolerance, ftol=tolerance, gtol=tolerance,
        bounds=([np.log(t.min()), np.log(1e-2)], [np.log(1e3 * t.max()), np.log(1e2)]),
    )  # fmt: skip
    exponent, threshold = float(np.exp(solution.x[1])), float(np.exp(solution.x[0]))
    low, high = _interval(exponent, residuals(solution.x), jacobian(solution.x), confidence)
    return ExponentFit(exponent, threshold, low, high, int(t.size))


def _interval(exponent: float, error: Floats, jacobian: Floats, confidence: float) -> tuple[float, float]:
    freedom = error.size - 2
    information = jacobian.T @ jacobian
    if error.size < 4 or np.linalg.cond(information) > 1e14:
        return float("nan"), float("nan")
    covariance = np.linalg.inv(information) * np.square(error).sum() / freedom
    # The second parameter is log a, hence the factor a (delta method).
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * exponent * float(np.sqrt(covariance[1, 1]))
    return exponent - half, exponent + half


def _best_on_grid(t: Floats, y: Floats, guess: float) -> tuple[float, float]:
    log_thresholds = np.log(guess) + np.linspace(np.log(0.3), np.log(6.0), 91)
    log_exponents = np.linspace(np.log(0.1), np.log(4.0), 25)
    inside = np.maximum(1.0 - t / np.exp(log_thresholds)[:, None], 0.0)
    model = inside[:, None, :] ** (2.0 * np.exp(log_exponents))[:, None]
    errors = np.square(model - y).sum(axis=-1)
    row, column = divmod(int(errors.argmin()), log_exponents.size)
    return float(log_thresholds[row]), float(log_exponents[column])


def _finite(temperatures: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    """Return the pairs without missing values, in ascending order of temperature."""
    t, y = np.asarray(temperatures, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if t.shape != y.shape or t.ndim != 1:
        raise DataError(
            f"a fit got temperatures of shape {t.shape} and values of shape {y.shape}. "
            "Expected one value per temperature; pass the column of one latent."
        )
    known = np.isfinite(y)
    order = np.argsort(t[known], kind="stable")
    return t[known][order], y[known][order]


def _log_pairs(measured: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats]:
    m, r = np.asarray(measured, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    usable = np.isfinite(m) & np.isfinite(r) & (m > 0) & (r > 0)
    log_reference = np.log(r[usable])
    return np.log(m[usable]) - log_reference, log_reference
