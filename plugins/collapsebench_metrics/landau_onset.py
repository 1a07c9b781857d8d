"""Whether the residual at a temperature predicts where the next latent becomes active."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, ranked_signal_fraction, resolved_ranks
from collapsebench_metrics.comparison import few_ranks, fitted_thresholds
from collapsebench_metrics.onsets import predicted_onsets
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import LandauOnsetParameters
from collapsebench_metrics.replicas import by_replica


class LandauOnset(Metric[LandauOnsetParameters]):
    """Compare the residual edge, the top eigenvalue of the posterior-mean residual's covariance over V, with T_c.

    A collapsed latent becomes unstable when T falls below the edge. So the edge of a replica with k - 1 active latents
    predicts the threshold of rank k; it is read from the coldest such replica, in which the signal fraction of rank k
    is at most `collapsed`. The weakest active latent, of signal fraction M^2, itself leaves an eigenvalue T (1 - M^2);
    an edge that does not exceed it is no prediction. It is compared with the fixed-exponent T_c of the scan.

    Exact for a linear decoder; for any other, the edge is what a linear readout of the residual can detect. Source:
    Z. Li 2026, Residual spectral instabilities in representation learning.
    """

    requires: ClassVar[tuple[str, ...]] = ("equilibrium", "latent-moments")
    scores: ClassVar[tuple[Score, ...]] = (
        Score("median-log-error", "Median |log edge - log T_c| over predicted ranks.", "lower", low=0),
        Score("max-log-error", "Largest |log edge - log T_c| over predicted ranks.", "lower", low=0),
        Score("predicted-ranks", "Resolved ranks whose threshold an edge predicts.", "none", "ranks", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the edge, the temperature it was read at and the threshold."""
        split, temperatures = self.parameters.split, measurement.temperatures
        edges = by_replica(measurement.tables["equilibrium"], split, measurement, "residual_edge")
        fractions = ranked_signal_fraction(measurement.tables["latent-moments"], split, temperatures)
        thresholds = fitted_thresholds(temperatures, fractions)
        usable = np.isfinite(edges)
        settings = self.parameters
        predictions = predicted_onsets(temperatures, edges, fractions, usable, settings.collapsed, settings.margin)
        resolved = resolved_ranks(thresholds, temperatures, measurement.latent_dim)
        error = np.abs(np.log(predictions[:, 1]) - np.log(thresholds))
        scored = error[resolved & np.isfinite(error)]
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, thresholds.size + 1), "threshold": thresholds, "edge": predictions[:, 1],
                "edge_temperature": predictions[:, 0], "resolved": resolved,
            }
        )  # fmt: skip
        reason = (
            "no resolved rank has a replica just above its threshold with an edge of its own: take more temperatures; "
            + few_ranks(int(resolved.sum()), measurement)
        )
        outcomes: dict[str, Outcome] = {
            "median-log-error": float(np.median(scored)) if scored.size else reason,
            "max-log-error": float(scored.max()) if scored.size else reason,
            "predicted-ranks": float(scored.size),
        }
        return evaluation(outcomes, modes)
