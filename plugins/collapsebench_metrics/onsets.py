"""Where a rank switches on, and which replica's edge of stability predicts that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Flags, Floats


def predicted_onsets(
    temperatures: Floats, edges: Floats, fractions: Floats, usable: Flags, collapsed: float, margin: float
) -> Floats:
    """Return the temperature and the edge that predict the threshold of each rank `(rank, 2)`, NaN if none does.

    Rank k is predicted by the coldest usable replica in which only the k - 1 strongest latents have a signal fraction
    above `collapsed`. The weakest of them, of signal fraction M^2, itself leaves an eigenvalue T (1 - M^2): an edge
    that does not exceed it by a share `margin` is no prediction. Shapes: temperatures, edges, usable `(t,)`, fractions
    `(t, rank)`.
    """
    predictions = np.full((fractions.shape[1], 2), np.nan)
    known = usable & np.isfinite(fractions).all(axis=1)
    active = (fractions > collapsed).sum(axis=1)
    for rank in range(fractions.shape[1]):
        rows = np.flatnonzero(known & (active == rank))
        if not rows.size:
            continue
        coldest = rows[temperatures[rows].argmin()]
        left = temperatures[coldest] * (1.0 - fractions[coldest, rank - 1]) if rank else 0.0
        if edges[coldest] > (1.0 + margin) * left:
            predictions[rank] = temperatures[coldest], edges[coldest]
    return predictions


def last_crossing(logarithms: Floats, values: Floats, level: float) -> float:
    """Return the temperature above which a quantity stays at most at a level, interpolated in log T.

    logarithms: log T, ascending `(t,)`. values: of the quantity `(t,)`. NaN if it does not fall below the level within
    the grid, or if a value is not known.
    """
    on = np.flatnonzero(values > level)
    if not np.isfinite(values).all() or not on.size or on[-1] + 1 == values.size:
        return float("nan")
    last = on[-1]
    share = (values[last] - level) / (values[last] - values[last + 1])
    return float(np.exp(logarithms[last] + share * (logarithms[last + 1] - logarithms[last])))
