"""How far apart an up-scan and a down-scan see each latent collapse."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, ranked_signal_fraction
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import HysteresisParameters

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Floats

_NO_COUNTERPART = (
    "the suite has no scan of this architecture and seed in the opposite direction: "
    'sweep "scan.protocol" over ["up", "down"]'
)


class Hysteresis(Metric[HysteresisParameters]):
    """Compare with the scan in the opposite direction: width_k = log T_k (up) - log T_k (down), in e-folds of T.

    T_k: the temperature above which the signal fraction of rank k stays below `collapsed`, interpolated in log T
    between two neighbours of the grid. A continuous transition has width 0; at a first-order one latents stay on
    when T rises, off when it falls, past the temperature at which both states cost the same. A width within one step
    of the grid, the resolution, is no evidence. Slow relaxation gives widths as well: look at the converged share.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("max-width", "Largest log T_k (up) - log T_k (down) over ranks.", "none", "e-folds"),
        Score("median-width", "Median of it over ranks.", "none", "e-folds"),
        Score("hysteretic-ranks", "Ranks whose width exceeds the resolution.", "none", "ranks", low=0),
        Score("compared-ranks", "Ranks that collapse within the grid in both directions.", "none", "ranks", low=0),
        Score("resolution", "Largest step of the grid in log T.", "none", "e-folds", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank both temperatures and the width."""
        steps = np.abs(np.diff(np.sort(np.log(measurement.temperatures))))
        resolution = float(steps.max()) if steps.size else 0.0
        other = measurement.counterpart
        if other is None or measurement.protocol not in ("up", "down"):
            absent: dict[str, Outcome] = {score.name: _NO_COUNTERPART for score in self.scores}
            return evaluation({**absent, "resolution": resolution})
        up, down = (measurement, other) if measurement.protocol == "up" else (other, measurement)
        rising, falling = (self._collapse_temperatures(scan) for scan in (up, down))
        widths = np.log(rising) - np.log(falling)
        found = widths[np.isfinite(widths)]
        reason = "no rank collapses between two temperatures of the grid in both directions: take a wider grid"
        outcomes: dict[str, Outcome] = {
            "max-width": float(found.max()) if found.size else reason,
            "median-width": float(np.median(found)) if found.size else reason,
            "hysteretic-ranks": float((found > resolution).sum()) if found.size else reason,
            "compared-ranks": float(found.size),
            "resolution": resolution,
        }
        ranks = np.arange(1, widths.size + 1)
        modes = pd.DataFrame({"rank": ranks, "up": rising, "down": falling, "width": widths})
        return evaluation(outcomes, modes)

    def _collapse_temperatures(self, scan: Measurement) -> Floats:
        """Return T_k of every rank, NaN where it does not collapse within the grid."""
        order = np.argsort(scan.temperatures)
        logarithms = np.log(scan.temperatures[order])
        table = scan.tables["latent-moments"]
        fractions = ranked_signal_fraction(table, self.parameters.split, scan.temperatures)[order]
        return np.array([self._crossing(logarithms, column) for column in fractions.T])

    def _crossing(self, logarithms: Floats, fractions: Floats) -> float:
        level = self.parameters.collapsed
        on = np.flatnonzero(fractions > level)
        if not np.isfinite(fractions).all() or not on.size or on[-1] + 1 == fractions.size:
            return float("nan")
        last = on[-1]
        share = (fractions[last] - level) / (fractions[last] - fractions[last + 1])
        return float(np.exp(logarithms[last] + share * (logarithms[last + 1] - logarithms[last])))
