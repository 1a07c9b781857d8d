"""The statistics of a board: intervals over seeds, and ranks that claim no more than the seeds decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from collapsebench.components import Floats

CONFIDENCE = 0.95
"""The confidence of every interval on a board."""


@dataclass(frozen=True)
class PairedRank:
    """Where an architecture stands among those ranked with it; 1 is the best.

    mean, low, high: the mean rank over scores and seeds with its t-interval over seeds, NaN with fewer than two.
    best, worst: the ranks left open by ties: one more than the number of architectures that are decidedly better, and
    the number of all less those that are decidedly worse.
    """

    mean: float
    low: float
    high: float
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
    found = np.asarray(values, dtype=np.float64).ravel()
    known = found[~np.isnan(found)]
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


def paired_ranks(values: ArrayLike, higher: Sequence[bool], confidence: float = CONFIDENCE) -> list[PairedRank]:
    """Rank architectures by several scores over seeds that they share: `(architecture, seed, score)`, no NaN.

    higher: per score, whether more is better. Within a seed each score ranks the architectures, equal values sharing
    their mean rank; the mean over scores is the seed's rank. Two architectures are tied unless both hold:
    the t-interval over seeds of their paired difference in rank excludes 0, and so does that of their paired
    difference in some score, in the same direction, at 1 - (1 - confidence) / scores. The second condition is needed
    because ranks that agree over a few seeds have no spread at all: two equal architectures would be told apart by the
    first alone with probability 2^(1 - seeds), a quarter for three. With fewer than two seeds all are tied.
    """
    cost = np.asarray(values, dtype=np.float64) * np.where(np.asarray(higher, dtype=np.bool_), -1.0, 1.0)
    ranks: Floats = stats.rankdata(cost, axis=0).mean(axis=2)
    count = len(cost)
    better = np.array(
        [
            [_decidedly_better(cost[a], cost[b], ranks[a], ranks[b], confidence) for b in range(count)]
            for a in range(count)
        ]
    )
    return [
        PairedRank(
            *t_interval(ranks[a], confidence), best=1 + int(better[:, a].sum()), worst=count - int(better[a].sum())
        )
        for a in range(count)
    ]


def _decidedly_better(cost: Floats, other_cost: Floats, rank: Floats, other_rank: Floats, confidence: float) -> bool:
    """Return whether the first of two architectures is better; costs `(seed, score)`, ranks `(seed,)`."""
    if not t_interval(other_rank - rank, confidence)[1] > 0:
        return False
    with np.errstate(invalid="ignore"):
        excess = np.where(cost == other_cost, 0.0, other_cost - cost)
    strict = 1.0 - (1.0 - confidence) / cost.shape[1]
    return any(np.isposinf(score).all() or t_interval(score, strict)[1] > 0 for score in excess.T)
