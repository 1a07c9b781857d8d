"""Scaling formulas that the curves of a scan are compared with: the rate of one mode, and the power law of the tail.

`K` is the number of latents that are decoded, from 0, as in `collapsebench.theory.spectrum`. Source: J. Hirn, arXiv
2605.22691 and 2608.10599.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from collapsebench.contracts import Floats

TAIL_WINDOW = (4, 17)
"""The first and the last rank of the fit to the tail of a rank-distortion curve, both included."""

ROUNDOFF = 1e-12
"""The share of D(0) below which a distortion counts as zero up to roundoff."""


@dataclass(frozen=True)
class TailLaw:
    """D(K) = prefactor K^-exponent, fitted over window[0] <= K <= window[1], with an interval of the exponent.

    low, high: the confidence interval. NaN if the window has fewer than three usable ranks.
    """

    exponent: float
    low: float
    high: float
    prefactor: float
    window: tuple[int, int]

    def at(self, ranks: ArrayLike) -> Floats:
        """Return D(K) of the fit, in the shape of the ranks."""
        value: Floats = self.prefactor * np.asarray(ranks, dtype=np.float64) ** -self.exponent
        return value


def rate_law(temperatures: ArrayLike, threshold: ArrayLike) -> Floats:
    """Return the rate of one mode, [-1/2 log(T / threshold)]_+ in nats; the arguments broadcast.

    It is exact for a linear decoder on the train split, where the threshold is lambda_k / V. Figures of measured rates
    use the utility of the mode as threshold, without a fit. NaN where the threshold is not positive.

    >>> print(rate_law([0.5, 0.1, 0.01], threshold=0.2).round(3))
    [0.    0.347 1.498]
    """
    t, scale = np.asarray(temperatures, dtype=np.float64), np.asarray(threshold, dtype=np.float64)
    rate: Floats = np.maximum(0.5 * (np.log(np.where(scale > 0, scale, np.nan)) - np.log(t)), 0.0)
    return rate


def tail_exponent(curve: ArrayLike, window: tuple[int, int], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return a, low, high of D(K) ~ K^-a by log-log least squares over window[0] <= K <= window[1].

    The interval is the t-interval of the slope. NaN with fewer than three usable ranks.

    >>> curve = [1.0, *(k**-2.0 for k in range(1, 11))]
    >>> round(tail_exponent(curve, (4, 10))[0], 3)
    2.0
    """
    values = np.asarray(curve, dtype=np.float64)
    ranks = np.arange(values.size)
    usable = (ranks >= max(window[0], 1)) & (ranks <= window[1]) & (values > 0) & np.isfinite(values)
    if usable.sum() < 3:
        return float("nan"), float("nan"), float("nan")
    line = stats.linregress(np.log(ranks[usable]), np.log(values[usable]))
    half = float(stats.t.ppf(0.5 + confidence / 2, usable.sum() - 2)) * float(line.stderr)
    exponent = -float(line.slope)
    return exponent, exponent - half, exponent + half


def tail_law(curve: ArrayLike, window: tuple[int, int] = TAIL_WINDOW, confidence: float = 0.95) -> TailLaw:
    """Fit D(K) = c K^-a to a rank-distortion curve `(K,)` by log-log least squares over a window.

    The interval is the t-interval of the slope, which assumes that the residuals of the ranks are independent.
    Distortions below 1e-12 D(0) are left out.

    >>> law = tail_law([1.0, *(0.5 * k**-2.0 for k in range(1, 11))], window=(4, 10))
    >>> round(law.exponent, 3), round(law.prefactor, 3)
    (2.0, 0.5)
    """
    values = _known(curve)
    exponent, low, high = tail_exponent(values, window, confidence)
    first = max(window[0], 1)
    logs = np.log(values[first : window[1] + 1])
    intercepts = logs + exponent * np.log(np.arange(first, first + logs.size))
    known = intercepts[~np.isnan(intercepts)]
    prefactor = float(np.exp(known.mean())) if known.size else float("nan")
    return TailLaw(exponent, low, high, prefactor, window)


def crossover_rank(curve: ArrayLike, law: TailLaw, factor: float = 1.5) -> float:
    """Return the first rank K >= 1 from which a curve stays within a factor of a power law, up to the window's end.

    NaN if the last rank of the window is further away or cannot be compared.

    >>> curve = [1.0, 0.9, *(0.5 * k**-2.0 for k in range(2, 11))]
    >>> crossover_rank(curve, tail_law(curve, window=(4, 10)))
    2.0
    """
    values = _known(curve)[: law.window[1] + 1]
    with np.errstate(divide="ignore"):
        distance = np.abs(np.log(values) - np.log(law.at(np.arange(values.size))))
    outside = np.flatnonzero(~(distance <= np.log(factor)))
    first = int(outside[-1]) + 1 if outside.size else 1
    return float(first) if first < values.size else float("nan")


def _known(curve: ArrayLike) -> Floats:
    """Return a curve with NaN in place of the values that are zero up to roundoff and have no logarithm."""
    values = np.asarray(curve, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(values > ROUNDOFF * values[0], values, np.nan)
