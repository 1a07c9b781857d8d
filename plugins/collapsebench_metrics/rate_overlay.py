"""How far rates deviate from the law of a single mode, each scaled by its utility."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import (
    Evaluation,
    Measurement,
    Metric,
    Score,
    rank_distortion,
    ranked,
    rate_law,
    resolved_ranks,
    utilities,
)
from collapsebench_metrics.comparison import few_ranks
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import RateOverlayParameters


class RateOverlay(Metric[RateOverlayParameters]):
    """Compare R_k(T) with [-1/2 log(T / utility_k)]_+, in nats; nothing is fitted.

    Points are the ranks whose utility the scan resolves, at the temperatures at which they are active. A utility is a
    drop of the rank-distortion curve, decoded at posterior means. Source: Hirn 2026, arXiv 2608.10599.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments", "truncated-distortion")
    scores: ClassVar[tuple[Score, ...]] = (
        Score("max-deviation", "Largest |R_k - law| over resolved ranks and active points.", "lower", "nats", low=0),
        Score("rms-deviation", "Root mean square of R_k - law over the same points.", "lower", "nats", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the utility, the mean, rms and largest deviation and the number of points."""
        split, temperatures = self.parameters.split, measurement.temperatures
        moments = measurement.tables["latent-moments"]
        curve = rank_distortion(measurement.tables["truncated-distortion"], temperatures).curves[split]
        worth = utilities(curve)
        resolved = resolved_ranks(worth, temperatures, measurement.latent_dim)
        fractions = ranked(moments, split, temperatures, "signal_fraction")
        excess = ranked(moments, split, temperatures, "rate") - rate_law(temperatures[:, None], worth)
        usable = resolved & (fractions > self.parameters.active) & np.isfinite(excess)
        by_rank = [excess[used, rank] for rank, used in enumerate(usable.T)]
        nothing = np.array([np.nan])
        filled = [points if points.size else nothing for points in by_rank]
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, worth.size + 1), "utility": worth, "resolved": resolved,
                "points": [points.size for points in by_rank],
                "mean_deviation": [float(points.mean()) for points in filled],
                "rms_deviation": [float(np.sqrt(np.square(points).mean())) for points in filled],
                "max_deviation": [float(np.abs(points).max()) for points in filled],
            }
        )  # fmt: skip
        points = excess[usable]
        reason = f"no resolved rank is active anywhere; {few_ranks(int(resolved.sum()), measurement)}"
        outcomes: dict[str, Outcome] = {
            "max-deviation": float(np.abs(points).max()) if points.size else reason,
            "rms-deviation": float(np.sqrt(np.square(points).mean())) if points.size else reason,
        }
        return evaluation(outcomes, modes)
