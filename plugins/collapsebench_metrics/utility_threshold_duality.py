"""Whether each rank collapses at the temperature that equals its utility."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import (
    Evaluation,
    Measurement,
    Metric,
    Score,
    fixed_slope_rate_threshold,
    rank_distortion,
    ranked,
    ranked_signal_fraction,
    resolved_ranks,
    utilities,
)
from collapsebench_metrics.comparison import fitted_thresholds, identity, missed
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import UtilityThresholdDualityParameters


class UtilityThresholdDuality(Metric[UtilityThresholdDualityParameters]):
    """Compare T_c of each rank with its utility D(k-1) - D(k), over the ranks whose utility the scan
    resolves.

    Two thresholds: fixed-exponent fits of the signal fraction, and fixed-slope fits of the rate over
    1e-2 utility <= T <= utility. PCA does not enter, so it applies to any architecture.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments", "truncated-distortion")
    scores: ClassVar[tuple[Score, ...]] = (
        Score("identity-r2", "Identity R^2 of log thresholds against log utilities.", "higher", high=1),
        Score("max-log-error", "Largest |log T_c - log utility|.", "lower", low=0),
        Score(
            "identity-r2-rate",
            "Identity R^2 of log thresholds fitted to rates against log utilities.",
            "higher",
            high=1,
        ),
        Score("max-log-error-rate", "Largest |log T_c (rate) - log utility|.", "lower", low=0),
        Score("missed-ranks", "Resolved ranks that never became active.", "lower", "ranks", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and utility and both thresholds by rank."""
        split, temperatures = self.parameters.split, measurement.temperatures
        moments = measurement.tables["latent-moments"]
        curve = rank_distortion(measurement.tables["truncated-distortion"], temperatures).curves[split]
        worth = utilities(curve)
        thresholds = fitted_thresholds(temperatures, ranked_signal_fraction(moments, split, temperatures))
        rates = ranked(moments, split, temperatures, "rate")
        by_rate = np.array(
            [
                fixed_slope_rate_threshold(temperatures, rate, utility)
                for rate, utility in zip(rates.T, worth, strict=True)
            ]
        )
        resolved = resolved_ranks(worth, temperatures, measurement.latent_dim)
        r2, error = identity(thresholds, worth, resolved, measurement)
        rate_r2, rate_error = identity(by_rate, worth, resolved, measurement)
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, worth.size + 1), "utility": worth, "threshold": thresholds,
                "rate_threshold": by_rate, "resolved": resolved,
            }
        )  # fmt: skip
        outcomes: dict[str, Outcome] = {
            "identity-r2": r2,
            "max-log-error": error,
            "identity-r2-rate": rate_r2,
            "max-log-error-rate": rate_error,
            "missed-ranks": missed(thresholds, resolved),
        }
        return evaluation(outcomes, modes)
