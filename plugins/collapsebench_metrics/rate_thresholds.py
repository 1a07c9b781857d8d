"""Whether thresholds fitted to rates are in the order of utilities, and agree with those of the signal fraction."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from collapsebench import (
    Evaluation,
    Measurement,
    Metric,
    Score,
    first_swapped_rank,
    fixed_slope_rate_threshold,
    max_log_error,
    rank_distortion,
    ranked,
    resolved_ranks,
    utilities,
)
from collapsebench_metrics.comparison import few_ranks, fitted_thresholds, missed
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import RateThresholdsParameters


class RateThresholds(Metric[RateThresholdsParameters]):
    """Fit R_k = -1/2 log(T / T_c) over 1e-2 utility_k <= T <= utility_k for the ranks whose utility the scan resolves.

    Ranks agree with the order of utilities up to the one before the first swapped rank, which is one past the last if
    none is swapped. `utility-threshold-duality` compares the thresholds with the utilities themselves.
    Source: Hirn 2026, arXiv 2608.10599.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments", "truncated-distortion")
    scores: ClassVar[tuple[Score, ...]] = (
        Score(
            "first-swapped-rank", "First rank whose threshold breaks the order of utilities.", "higher", "rank", low=2
        ),
        Score("kendall-tau", "Kendall's tau of thresholds and utilities.", "higher", low=-1, high=1),
        Score(
            "signal-fraction-max-log-error",
            "Largest |log T_c (rate) - log T_c (signal fraction)|.",
            "lower",
            low=0,
        ),
        Score("missed-ranks", "Resolved ranks without a rate threshold.", "lower", "ranks", low=0),
        Score("resolved-ranks", "Ranks whose utility the scan resolves.", "none", "ranks", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and utility and both thresholds by rank."""
        split, temperatures = self.parameters.split, measurement.temperatures
        moments = measurement.tables["latent-moments"]
        worth = utilities(rank_distortion(measurement.tables["truncated-distortion"], temperatures).curves[split])
        rates = ranked(moments, split, temperatures, "rate")
        pairs = zip(rates.T, worth, strict=True)
        thresholds = np.array([fixed_slope_rate_threshold(temperatures, rate, utility) for rate, utility in pairs])
        other = fitted_thresholds(temperatures, ranked(moments, split, temperatures, "signal_fraction"))
        resolved = resolved_ranks(worth, temperatures, measurement.latent_dim)
        count = int(resolved.sum())
        reason = f"needs two resolved ranks; {few_ranks(count, measurement)}"

        measured, expected = np.nan_to_num(thresholds[resolved]), worth[resolved]
        by_worth = measured[np.argsort(-expected, kind="stable")]
        digits = round(-np.log10(self.parameters.tolerance))
        logarithms = [np.round(np.log(np.maximum(values, 1e-300)), digits) for values in (measured, expected)]
        outcomes: dict[str, Outcome] = {
            "first-swapped-rank": float(first_swapped_rank(by_worth, self.parameters.tolerance))
            if count > 1
            else reason,
            "kendall-tau": value_or(float(kendalltau(*logarithms).statistic) if count > 1 else float("nan"), reason),
            "signal-fraction-max-log-error": value_or(max_log_error(thresholds[resolved], other[resolved]), reason),
            "missed-ranks": missed(thresholds, resolved),
            "resolved-ranks": float(count),
        }
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, worth.size + 1), "utility": worth, "rate_threshold": thresholds,
                "threshold": other, "resolved": resolved,
            }
        )  # fmt: skip
        return evaluation(outcomes, modes)
