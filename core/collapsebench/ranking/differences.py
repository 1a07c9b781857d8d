"""The difference between two things that were measured with the same seeds, and whether it is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from collapsebench.ranking.ranks import CONFIDENCE, ROUNDOFF, WHOLE, stratified_mean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from collapsebench.contracts import Floats

_NONE = float("nan")


@dataclass(frozen=True)
class Difference:
    """First minus second: value, the ends of its interval (NaN: there is none), n pairs, p-value of no difference.

    decided: whether the interval excludes 0, or without one the p-value is at most 1 - confidence. note: a sentence
    where the interval is not the plain paired one.
    """

    value: float
    low: float
    high: float
    n: int
    p: float
    decided: bool
    note: str = ""


def paired_difference(
    first: Sequence[ArrayLike], second: Sequence[ArrayLike], confidence: float = CONFIDENCE
) -> Difference:
    """Return the mean over datasets of the mean paired difference over seeds, with its t-interval.

    One array of values per dataset, `(seed,)` each, the seeds of both in the same order; a t-interval with the degrees
    of freedom of `stratified_mean`. Whole numbers, such as counts of latents, get at least the spread that rounding
    hides. Where there is no interval, since a value is infinite or nothing varies, n pairs of one sign have
    p = 2^(1 - n).
    """
    parts = [_excess(ours, theirs) for ours, theirs in zip(first, second, strict=True)]
    pairs = np.concatenate([np.zeros(0), *parts])
    n = int(pairs.size)
    if not n:
        return no_difference(0, "no seed has both values")
    if not np.isfinite(pairs).all():
        infinite = np.unique(pairs[np.isinf(pairs)])
        value = float(infinite[0]) if infinite.size == 1 else _NONE
        return _by_signs(value, pairs, confidence, "a value is infinite: decided by signs alone")
    means, errors, freedom = stratified_mean(parts)
    mean, error, df = float(means), float(errors), float(freedom)
    if np.isnan(error):
        return Difference(mean, _NONE, _NONE, n, _NONE, False, "no interval: fewer than two seeds")
    note = ""
    if error <= ROUNDOFF * float(np.abs(pairs).max()):
        error = 0.0
    if (pairs == pairs.round()).all():
        floor = float(np.sqrt(sum(WHOLE / part.size for part in parts))) / len(parts)
        if error < floor and mean != 0:
            error, df, note = floor, pairs.size - len(parts), "whole numbers: at least the spread that rounding hides"
    if error == 0:
        if mean == 0:
            return Difference(0.0, 0.0, 0.0, n, 1.0, False)
        return _by_signs(mean, pairs, confidence, "the same in every seed: decided by signs alone")
    return _by_t(mean, error, df, n, confidence, note)


def no_difference(n: int, note: str) -> Difference:
    """Return the difference of what cannot be compared, with the sentence that says why."""
    return Difference(_NONE, _NONE, _NONE, n, _NONE, False, note)


def unpaired_difference(
    first: tuple[float, float, float, int], second: tuple[float, float, float, int], confidence: float = CONFIDENCE
) -> Difference:
    """Return the difference of two means that are known with their t-intervals alone: (mean, low, high, n) each.

    Both intervals are at `confidence`, from which the standard errors follow. Source: Welch 1947.
    """
    (mean, low, high, n), (other, other_low, other_high, m) = first, second
    count = min(n, m)
    if not count or np.isnan(mean) or np.isnan(other):
        return no_difference(0, "one of the two has no value")
    if np.isinf(mean) and mean == other:
        return Difference(0.0, _NONE, _NONE, count, _NONE, False, "infinite in both")
    if np.isnan([low, other_low]).any():
        return Difference(mean - other, _NONE, _NONE, count, _NONE, False, "no interval in one of the two")
    errors = np.array(
        [
            (end - start) / 2 / stats.t.ppf(0.5 + confidence / 2, size - 1)
            for start, end, size in ((low, high, n), (other_low, other_high, m))
        ]
    )
    total = float((errors**2).sum())
    if total == 0:
        equal = mean == other
        note = "" if equal else "nothing varies: no interval"
        ends = (0.0, 0.0) if equal else (_NONE, _NONE)
        return Difference(mean - other, *ends, count, 1.0 if equal else _NONE, False, note)
    df = total**2 / float((errors**4 / np.array([n - 1, m - 1])).sum())
    return _by_t(mean - other, float(np.sqrt(total)), df, count, confidence, "not paired: from the two intervals alone")


def holm(p: ArrayLike) -> Floats:
    """Return adjusted p-values; the chance of any false rejection at a level is at most that level.

    NaN stays NaN and does not count. Source: Holm 1979.
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full_like(values, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted


def _excess(first: ArrayLike, second: ArrayLike) -> Floats:
    ours, theirs = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(ours == theirs, 0.0, ours - theirs)


def _by_t(mean: float, error: float, df: float, n: int, confidence: float, note: str) -> Difference:
    half = float(stats.t.ppf(0.5 + confidence / 2, df)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, df))
    return Difference(mean, mean - half, mean + half, n, p, abs(mean) > half, note)


def _by_signs(value: float, pairs: Floats, confidence: float, note: str) -> Difference:
    """Decide by signs: by chance, n pairs all have the same sign with probability 2^(1 - n)."""
    same = bool((pairs > 0).all() or (pairs < 0).all())
    p = 2.0 ** (1 - pairs.size) if same else 1.0
    return Difference(value, _NONE, _NONE, int(pairs.size), p, p <= 1 - confidence, note)
