"""Which replica's edge of stability foretells the threshold of which rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Flags, Floats


def foretold(
    temperatures: Floats, edges: Floats, fractions: Floats, usable: Flags, collapsed: float, margin: float
) -> Floats:
    """Return the temperature and the edge that foretell each rank `(rank, 2)`, NaN where none does.

    Rank k is foretold by the coldest usable replica whose k - 1 strongest latents alone have a signal fraction above
    `collapsed`. The weakest of them, of signal fraction M^2, leaves T (1 - M^2) of its own: an edge that does not
    exceed that by a share `margin` says nothing. Shapes: temperatures, edges, usable `(t,)`, fractions `(t, rank)`.
    """
    found = np.full((fractions.shape[1], 2), np.nan)
    known = usable & np.isfinite(fractions).all(axis=1)
    awake = (fractions > collapsed).sum(axis=1)
    for rank in range(fractions.shape[1]):
        rows = np.flatnonzero(known & (awake == rank))
        if not rows.size:
            continue
        coldest = rows[temperatures[rows].argmin()]
        left = temperatures[coldest] * (1.0 - fractions[coldest, rank - 1]) if rank else 0.0
        if edges[coldest] > (1.0 + margin) * left:
            found[rank] = temperatures[coldest], edges[coldest]
    return found
