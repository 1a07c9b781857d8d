"""How far apart in temperature each latent collapses in an up-scan and in a down-scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, ranked_signal_fraction
from collapsebench_metrics.onsets import last_crossing
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
    between two neighbours of the grid. A continuous transition has width 0. At a first-order transition, latents stay
    active when T rises past the temperature at which both states have the same loss, and stay collapsed when T falls
    past it. A width of at most one step of the grid, the resolution, is no evidence. Slow relaxation also produces a
    width, so check the converged share.
    """

    sees_all: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("max-width", "Largest log T_k (up) - log T_k (down) over ranks.", "none", "e-folds"),
        Score("median-width", "Median log T_k (up) - log T_k (down) over ranks.", "none", "e-folds"),
        Score("hysteretic-ranks", "Ranks whose width exceeds the resolution.", "none", "ranks", low=0),
        Score("compared-ranks", "Ranks that collapse within the grid in both directions.", "none", "ranks", low=0),
        Score("resolution", "Largest step of the grid in log T.", "none", "e-folds", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank both temperatures and the width."""
        steps = np.abs(np.diff(np.sort(np.log(measurement.temperatures))))
        resolution = float(steps.max()) if steps.size else 0.0
        other = measurement.counterparts.get({"up": "down", "down": "up"}.get(measurement.protocol, ""))
        if other is None:
            absent: dict[str, Outcome] = {score.name: _NO_COUNTERPART for score in self.scores}
            return evaluation({**absent, "resolution": resolution})
        up, down = (measurement, other) if measurement.protocol == "up" else (other, measurement)
        rising, falling = (self._collapse_temperatures(scan) for scan in (up, down))
        widths = np.log(rising) - np.log(falling)
        known_widths = widths[np.isfinite(widths)]
        reason = "no rank collapses between two temperatures of the grid in both directions: take a wider grid"
        outcomes: dict[str, Outcome] = {
            "max-width": float(known_widths.max()) if known_widths.size else reason,
            "median-width": float(np.median(known_widths)) if known_widths.size else reason,
            "hysteretic-ranks": float((known_widths > resolution).sum()) if known_widths.size else reason,
            "compared-ranks": float(known_widths.size),
            "resolution": resolution,
        }
        ranks = np.arange(1, widths.size + 1)
        modes = pd.DataFrame({"rank": ranks, "up": rising, "down": falling, "width": widths})
        return evaluation(outcomes, modes)

    def _collapse_temperatures(self, scan: Measurement) -> Floats:
        """Return T_k of every rank, NaN if it does not collapse within the grid."""
        order = np.argsort(scan.temperatures)
        logarithms = np.log(scan.temperatures[order])
        table = scan.tables["latent-moments"]
        fractions = ranked_signal_fraction(table, self.parameters.split, scan.temperatures)[order]
        return np.array([last_crossing(logarithms, column, self.parameters.collapsed) for column in fractions.T])
