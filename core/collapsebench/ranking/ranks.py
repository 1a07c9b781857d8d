"""The statistics of a board: intervals over seeds, and ranks that claim no more than the seeds decide.

docs/statistics.md says in full what is estimated, what the intervals promise and how that was checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from collapsebench.contracts import Floats

CONFIDENCE = 0.95
"""The confidence of every interval on a board."""

WHOLE = 1 / 6
"""The least variance granted to the difference of two whole numbers, since rounding hides up to 1/12 of each."""

ENOUGH = 20
"""Blocks, each a dataset with a seed, from which on a bootstrap may judge them. Fewer can all agree by luck, or nearly:
then they have hardly any spread, and intervals made of it cover too little (docs/statistics.md)."""

ROUNDOFF = 1e-12
"""A standard error below this share of the largest difference is none: the differences are all the same."""

PER_ARCHITECTURE = 4
"""Degrees of freedom for every architecture, blocks less datasets, from which on their covariance is known well enough
to say how large the largest t of all pairs may be; with fewer, each pair has its share of the doubt."""

_DRAWS = 4000
"""Draws of the bootstrap: the level of its quantile is off by a third of a per cent, standard error."""

_FLIPS = 2**17
"""Ways to flip signs that are drawn where all would be too many."""

_DECIMALS = 9
"""Decimals that differences of mean ranks are rounded to: they are fractions, and a tie must be an exact zero."""


@dataclass(frozen=True)
class PairedRank:
    """Where an architecture stands among those ranked with it; 1 is the best.

    mean: the mean rank over datasets, seeds and scores, by which a board is sorted. best, worst: the rank interval: one
    more than the number of architectures that are decidedly better, and the number of all less those that are decidedly
    worse. All intervals of a board together cover the true ranks with the confidence of the board, or more.
    """

    mean: float
    best: int
    worst: int

    @property
    def text(self) -> str:
        """The rank as a board shows it: "2", or "1-3" where it is tied."""
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Return the mean of `(n,)` values and its interval under normal errors of unknown variance.

        mean +- t_{n-1} s / sqrt(n),    s^2 = sum (x - mean)^2 / (n - 1)

    NaN values are left out. Fewer than two values have no interval (NaN bounds), nor have infinite ones, whose mean is
    infinite; none at all, or infinities of both signs, give NaN. Source: Student 1908.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    known = array[~np.isnan(array)]
    nothing = float("nan")
    infinite = np.unique(known[np.isinf(known)])
    if not known.size or infinite.size > 1:
        return nothing, nothing, nothing
    if infinite.size:
        return float(infinite[0]), nothing, nothing
    if np.ptp(known) == 0:  # equal values must not get an interval made of roundoff
        mean, half = float(known[0]), 0.0
    else:
        mean = float(known.mean())
        quantile = float(stats.t.ppf(0.5 + confidence / 2, known.size - 1))
        half = quantile * float(known.std(ddof=1)) / float(np.sqrt(known.size))
    return (mean, nothing, nothing) if known.size < 2 else (mean, mean - half, mean + half)


def stratified_mean(parts: Sequence[ArrayLike]) -> tuple[Floats, Floats, Floats]:
    """Return the mean over strata of means over the last axis, its standard error and its degrees of freedom.

        mean = 1/D sum_d mean_d,    se^2 = 1/D^2 sum_d s_d^2 / n_d
        df = (sum_d s_d^2 / n_d)^2 / sum_d (s_d^2 / n_d)^2 / (n_d - 1)

    Strata are datasets, the last axis counts seeds; the datasets are those of the suite, not a sample of others, so
    what differs between them is no error. NaN errors where a stratum has fewer than two seeds.
    Shapes: D times `(..., n_d)` -> `(...)` each. Source: Satterthwaite 1946, Welch 1947.
    """
    values = [np.asarray(part, dtype=np.float64) for part in parts]
    mean = np.mean([value.mean(axis=-1) for value in values], axis=0)
    if min(value.shape[-1] for value in values) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    errors = np.array([value.var(axis=-1, ddof=1) / value.shape[-1] for value in values])
    freedom = np.array([value.shape[-1] - 1 for value in values]).reshape(-1, *[1] * (errors.ndim - 1))
    total, spread = errors.sum(axis=0), (errors**2 / freedom).sum(axis=0)
    df = np.where(spread > 0, total**2 / np.where(spread > 0, spread, 1.0), freedom.min())
    return mean, np.sqrt(total) / len(values), df


def paired_ranks(
    datasets: Sequence[ArrayLike], higher: Sequence[bool], confidence: float = CONFIDENCE
) -> list[PairedRank]:
    """Rank architectures by several scores over the datasets and seeds that they share, with rank intervals.

    datasets: `(architecture, seed, score)` each, no NaN. higher: per score, whether more is better. Within a dataset
    and seed each score ranks the architectures, equal values sharing their mean rank; the mean over scores is the rank
    of that block. Two architectures are tied unless both hold:

    1. the t-interval of their difference in mean rank excludes 0: paired by block, stratified by dataset, and so wide
       that all pairs hold together: by the bootstrap of the largest t of all pairs; where blocks are too few for that
       (`ENOUGH`, `PER_ARCHITECTURE`), at 1 - (1 - confidence) / pairs each.
    2. where blocks are too few for the bootstrap, and may all agree by luck: flipping the signs of the blocks'
       differences, in all ways or from `ENOUGH` blocks on in 2^17 drawn ones, gives one as large in at most
       (1 - confidence) / pairs of them. With so few blocks that none of the ways
       is that rare, more scores must differ in that direction than in the other, each by its own t-interval over seeds,
       at 1 - (1 - confidence) / (pairs * datasets * scores).

    Sources: ranks from simultaneous intervals of all differences: Al Mohamad, Goeman and van Zwet 2022; Mogstad,
    Romano, Shaikh and Wilhelm 2024. The largest t: Romano and Wolf 2005. The level of each: Dunn 1961. Flipped signs:
    Fisher 1935.
    """
    sign = np.where(np.asarray(higher, dtype=np.bool_), -1.0, 1.0)
    costs = [np.asarray(values, dtype=np.float64) * sign for values in datasets]
    ranks = [stats.rankdata(cost, axis=0).mean(axis=2) for cost in costs]
    count = len(costs[0])
    pairs = np.triu_indices(count, 1)
    leads = _decided(costs, ranks, pairs, confidence)
    ahead = np.zeros((count, count), dtype=np.bool_)
    ahead[pairs] = leads > 0
    ahead.T[pairs] = leads < 0
    means = np.mean([rank.mean(axis=1) for rank in ranks], axis=0)
    return [
        PairedRank(float(means[a]), best=1 + int(ahead[:, a].sum()), worst=count - int(ahead[a].sum()))
        for a in range(count)
    ]


def _decided(
    costs: Sequence[Floats], ranks: Sequence[Floats], pairs: tuple[np.ndarray, ...], confidence: float
) -> Floats:
    """Return per pair 1 where the first is decidedly better, -1 where the second is, else 0."""
    first, second = pairs
    if not first.size:
        return np.zeros(0)
    if min(rank.shape[1] for rank in ranks) < 2:
        return np.zeros(first.size)
    parts = [(rank[second] - rank[first]).round(_DECIMALS) for rank in ranks]
    blocks = sum(part.shape[1] for part in parts)
    mean, error, df = stratified_mean(parts)
    chance = (1 - confidence) / first.size
    together = blocks >= ENOUGH and blocks - len(parts) >= PER_ARCHITECTURE * len(costs[0])
    quantile = _largest_t(parts, confidence) if together else stats.t.ppf(1 - chance / 2, df)
    lead = np.where(np.abs(mean.round(_DECIMALS)) > quantile * error, np.sign(mean), 0.0)
    if together:
        return lead
    if 2.0 ** (1 - blocks) <= chance:
        weighted = np.concatenate([part / part.shape[1] for part in parts], axis=1)
        candidates = np.flatnonzero(lead)
        lead[candidates] *= _share_as_large(weighted[candidates]) <= chance
        return lead
    level = chance / (len(costs) * costs[0].shape[2])
    votes = sum(_votes(cost[second], cost[first], level) for cost in costs)
    return np.where(np.sign(votes) == lead, lead, 0.0)


def _largest_t(parts: Sequence[Floats], confidence: float) -> float:
    """Return the quantile of the largest |t| over all pairs if all mean ranks were equal; `(pair, seed)` each.

    By parametric bootstrap: in every dataset normal ranks with the covariance that its seeds show, from which all t are
    made anew, errors included. That pairs share architectures is thus taken into account, and that each has an error of
    its own.
    """
    # In sorted order the same datasets meet the same draws, whichever comes first.
    apart = sorted((part - part.mean(axis=1, keepdims=True) for part in parts), key=_spread)
    mean = np.zeros((len(parts[0]), _DRAWS))
    variance = np.zeros_like(mean)
    for place, part in enumerate(apart):
        seeds = part.shape[1]
        drawn = (part @ _normal(place, seeds)).reshape(len(part), seeds, _DRAWS)
        # Of n seeds, one direction is their mean and n - 1 are their spread.
        mean += drawn[:, 0] / np.sqrt(seeds * (seeds - 1))
        variance += (drawn[:, 1:] ** 2).sum(axis=1) / (seeds * (seeds - 1) ** 2)
    error = np.sqrt(variance)
    t = np.divide(np.abs(mean), error, out=np.zeros_like(mean), where=error > ROUNDOFF)
    return float(np.quantile(t.max(axis=0), confidence, method="higher"))


def _spread(part: Floats) -> list[float]:
    """Return a sort key of a dataset that ignores the order of architectures: the spread of every pair, sorted."""
    return sorted((part**2).sum(axis=1).round(_DECIMALS).tolist())


@lru_cache(maxsize=64)
def _normal(place: int, seeds: int) -> Floats:
    """Return standard normal numbers, the same every time, `(seeds, seeds * draws)`."""
    return np.random.default_rng((place, seeds)).standard_normal((seeds, seeds * _DRAWS))


def _share_as_large(blocks: Floats) -> Floats:
    """Return per pair the share of ways to flip signs whose sum is at least as large; `(pair, block)`."""
    totals = (np.abs(pair @ _signs(len(pair))) for pair in blocks)
    return np.array([(total >= total[0] - 10.0**-_DECIMALS).mean() for total in totals], dtype=np.float64)


@lru_cache(maxsize=2)
def _signs(blocks: int) -> Floats:
    """Return signs of blocks, a way to flip them in each column, the first all +1: `(blocks, ways)`.

    Of fewer than `ENOUGH` blocks all ways, up to a common sign; of more, ways drawn at random, the same every time.
    """
    if blocks < ENOUGH:
        ways = np.arange(2 ** (blocks - 1))
        return np.where((ways[None, :] >> np.arange(blocks)[:, None]) & 1, -1.0, 1.0)
    drawn = np.random.default_rng(blocks).integers(0, 2, (blocks, _FLIPS), dtype=np.int8)
    drawn[:, 0] = 0
    return np.where(drawn == 1, -1.0, 1.0)


def _votes(worse: Floats, better: Floats, level: float) -> Floats:
    """Return per pair how many more scores differ decidedly in one direction than in the other; `(pair, seed, score)`.

    Differences that are all the same decide nothing; of whole numbers, at least the spread that rounding hides is
    granted. Infinite ones have no t-interval: if the two are equal, all n seeds of one architecture and none of the
    other reach a value with probability at most 2 4^-n.
    """
    with np.errstate(invalid="ignore"):
        excess = np.where(worse == better, 0.0, worse - better)
    seeds = excess.shape[1]
    finite = np.isfinite(excess).all(axis=1, keepdims=True)
    known = np.where(finite, excess, 0.0)
    whole = (known == known.round()).all(axis=1)
    variance = known.var(axis=1, ddof=1)
    error = np.sqrt(np.where(whole, np.maximum(variance, WHOLE), variance) / seeds)
    mean = known.mean(axis=1)
    varies = error > ROUNDOFF * np.abs(known).max(axis=1)
    clear = np.abs(mean) > stats.t.ppf(1 - level / 2, seeds - 1) * error
    decided = np.where(varies & clear, np.sign(mean), 0.0)
    if 2 * 4.0**-seeds <= level:
        decided += np.isposinf(excess).all(axis=1)
        decided -= np.isneginf(excess).all(axis=1)
    return np.asarray(decided.sum(axis=1), dtype=np.float64)
