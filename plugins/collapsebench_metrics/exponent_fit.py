"""The exponent with which each mode's order parameter M vanishes as T approaches its threshold."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import (
    Evaluation,
    Measurement,
    Metric,
    Score,
    free_exponent_fit,
    max_log_error,
    ranked_signal_fraction,
    resolved_ranks,
)
from collapsebench_metrics.comparison import few_ranks, fitted_thresholds, missed
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import ExponentFitParameters


class ExponentFit(Metric[ExponentFitParameters]):
    """Fit M = [1 - T / T_c]_+^a for every rank; mean-field theory has a = 1/2.

    Exponents are summarised over the ranks whose threshold the scan resolves: lambda_k / V where the exact
    solution holds, the rank's own fixed-exponent threshold elsewhere. Intervals are those of
    `free_exponent_fit`.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("exponent", "Median exponent of M over resolved ranks; 1/2 is mean field.", "none", low=0),
        Score("exponent-max-deviation", "Largest |a - 1/2| over resolved ranks.", "lower", low=0),
        Score("threshold-max-log-error", "Largest |log T_c - log lambda_k / V| of the same fit.", "lower", low=0),
        Score("missed-ranks", "Resolved ranks without a fit.", "lower", "ranks", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and exponent, interval and threshold by rank."""
        temperatures = measurement.temperatures
        table = measurement.tables["latent-moments"]
        fractions = ranked_signal_fraction(table, self.parameters.split, temperatures)
        fits = [free_exponent_fit(temperatures, column, self.parameters.confidence) for column in fractions.T]
        modes = pd.DataFrame(fits)
        modes.insert(0, "rank", np.arange(1, len(fits) + 1))

        size = measurement.latent_dim
        spectrum = np.zeros(size)
        count = min(size, measurement.pca.eigenvalues.size)
        spectrum[:count] = measurement.pca.eigenvalues[:count]
        expected = spectrum if measurement.has_oracle else fitted_thresholds(temperatures, fractions)
        resolved = resolved_ranks(expected, temperatures, size)
        modes["resolved"] = resolved
        against_pca = resolved & resolved_ranks(spectrum, temperatures, size)

        exponents = modes["exponent"].to_numpy()[resolved]
        exponents = exponents[np.isfinite(exponents)]
        thresholds = modes["threshold"].to_numpy()
        reason = f"no resolved rank with a fit; {few_ranks(int(resolved.sum()), measurement)}"
        outcomes: dict[str, Outcome] = {
            "exponent": float(np.median(exponents)) if exponents.size else reason,
            "exponent-max-deviation": float(np.abs(exponents - 0.5).max()) if exponents.size else reason,
            "threshold-max-log-error": value_or(max_log_error(thresholds[against_pca], spectrum[against_pca]), reason),
            "missed-ranks": missed(thresholds, resolved),
        }
        return evaluation(outcomes, modes)
