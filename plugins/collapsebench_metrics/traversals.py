"""Whether a latent, moved alone, moves the reconstruction along a straight line."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, grid
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import TraversalsParameters

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Floats

_VALUES = np.arange(-3, 4)


class Traversals(Metric[TraversalsParameters]):
    """Fit f(v e_k) - f(0) = v g by least squares over v = -3 .. 3, for every active latent, the others at 0:

        curvature_k = sum_v |f(v e_k) - f(0) - v g|^2 / sum_v |f(v e_k) - f(0)|^2

    0 for an affine decoder, 1 if both signs of a latent move the reconstruction in the same way. For data that are
    images, suites with this metric get the figure `traversals`, which shows the decoded images.
    """

    requires: ClassVar[tuple[str, ...]] = ("traversals", "latent-moments")
    scores: ClassVar[tuple[Score, ...]] = (
        Score("curvature", "Median curvature over active latents and temperatures.", "none", low=0, high=1),
        Score("max-curvature", "Largest curvature of an active latent.", "none", low=0, high=1),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the median curvature over the temperatures at which it is active."""
        table, temperatures = measurement.tables["traversals"].query("split == 'train'"), measurement.temperatures
        moments = measurement.tables["latent-moments"]
        fractions = grid(moments, self.parameters.split, temperatures, "signal_fraction")
        count = sum(str(name).startswith("at_0_") for name in table)
        curvature = np.full(fractions.shape, np.nan)
        for row, temperature in enumerate(temperatures):
            rows = table[table["temperature"] == temperature].sort_values("latent")
            if len(rows) == measurement.latent_dim:
                values = [rows[[f"at_{v}_{i}" for i in range(count)]].to_numpy(dtype=np.float64) for v in _VALUES]
                curvature[row] = curvature_of(np.stack(values))
        order = np.argsort(-fractions, axis=1, kind="stable")
        strongest = np.take_along_axis(fractions, order, axis=1) > self.parameters.active
        by_rank = np.where(strongest, np.take_along_axis(curvature, order, axis=1), np.nan)
        known = by_rank[np.isfinite(by_rank)]
        reason = f"no latent that the decoder uses has a signal fraction above {self.parameters.active:g} anywhere"
        outcomes: dict[str, Outcome] = {
            "curvature": float(np.median(known)) if known.size else reason,
            "max-curvature": float(known.max()) if known.size else reason,
        }
        medians = [np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in by_rank.T]
        modes = pd.DataFrame({"rank": np.arange(1, fractions.shape[1] + 1), "curvature": medians})
        return evaluation(outcomes, modes)


def curvature_of(decoded: Floats) -> Floats:
    """Return the curvature of traversals `(v, latent, d) -> (latent,)`, NaN if nothing moves."""
    moved = decoded - decoded[len(_VALUES) // 2]
    slope = np.einsum("v,vkd->kd", _VALUES, moved) / np.square(_VALUES).sum()
    bent = np.square(moved - _VALUES[:, None, None] * slope).sum(axis=(0, 2))
    total = np.square(moved).sum(axis=(0, 2))
    share: Floats = np.divide(bent, total, out=np.full(len(total), np.nan), where=total > 0)
    return share
