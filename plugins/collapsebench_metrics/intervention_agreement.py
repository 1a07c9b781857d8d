"""Whether a scan ends where its objective predicts, given a linear decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import (
    Evaluation,
    Measurement,
    Metric,
    Prediction,
    Score,
    max_log_error,
    ranked_signal_fraction,
    resolved_ranks,
)
from collapsebench_metrics.comparison import few_ranks, fitted_thresholds, missed
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import InterventionAgreementParameters

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Flags, Floats

_UNSAID = "the objective predicts nothing for this decoder"


class InterventionAgreement(Metric[InterventionAgreementParameters]):
    """Compare a scan with the prediction of its objective on the train split, which depends on the covariance only.

    Thresholds are fixed-exponent fits of the rank-k signal fraction, over the ranks that the scan resolves. Measured
    and predicted curves are fitted alike: if the law below a threshold differs (weight decay), the fit is off by the
    same amount in both. Signal fractions are compared at temperatures away from predicted thresholds. An objective that
    sets the price of a nat itself (a capacity, a learned variance) predicts the effective temperature, too; one that
    predicts a floor (free bits) has no thresholds.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("signal-fraction-max-error", "Largest |M^2 - predicted M^2|, or shortfall below a floor.", "lower", low=0,
              high=1),
        Score("threshold-max-log-error", "Largest |log T_c - log predicted T_k|.", "lower", low=0),
        Score("missed-ranks", "Ranks with a predicted, resolved threshold that never became active.", "lower", "ranks",
              low=0),
        Score("temperature-max-log-error", "Largest |log effective T - log predicted T|.", "lower", low=0),
    )  # fmt: skip

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the threshold beside the predicted one."""
        predicted = measurement.prediction
        if predicted is None:
            return evaluation({score.name: _UNSAID for score in self.scores})
        temperatures = measurement.temperatures
        fractions = ranked_signal_fraction(measurement.tables["latent-moments"], "train", temperatures)
        thresholds = fitted_thresholds(temperatures, fractions)
        expected = fitted_thresholds(temperatures, predicted.signal_fraction)
        is_predicted = np.isfinite(predicted.thresholds)
        resolved = is_predicted & resolved_ranks(
            np.where(is_predicted, predicted.thresholds, 0.0), temperatures, thresholds.size
        )
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, thresholds.size + 1), "threshold": thresholds,
                "predicted": expected, "predicted_onset": predicted.thresholds, "resolved": resolved,
            }
        )  # fmt: skip
        outcomes = {
            "signal-fraction-max-error": self._fraction_error(measurement, predicted, fractions),
            **_thresholds(measurement, expected if is_predicted.any() else None, thresholds, resolved),
            "temperature-max-log-error": _temperature_error(measurement, predicted),
        }
        return evaluation(outcomes, modes)

    def _fraction_error(self, measurement: Measurement, predicted: Prediction, fractions: Floats) -> Outcome:
        apart = predicted.signal_fraction - fractions
        if not predicted.exact:
            return _largest(np.maximum(apart, 0.0))
        known = predicted.thresholds > 0
        distance = measurement.temperatures[:, None] / np.where(known, predicted.thresholds, np.nan) - 1.0
        return _largest(np.abs(apart)[~(np.abs(distance) <= self.parameters.margin)])


def _thresholds(
    measurement: Measurement, expected: Floats | None, thresholds: Floats, resolved: Flags
) -> dict[str, Outcome]:
    error, lost = "threshold-max-log-error", "missed-ranks"
    if expected is None:
        reason = "the objective predicts that there are no thresholds"
        return {error: reason, lost: reason}
    largest_error = max_log_error(thresholds[resolved], expected[resolved])
    return {
        error: value_or(largest_error, few_ranks(int(resolved.sum()), measurement)),
        lost: missed(thresholds, resolved),
    }


def _temperature_error(measurement: Measurement, predicted: Prediction) -> Outcome:
    effective = measurement.effective_temperatures
    ended = np.isfinite(effective)
    if np.allclose(effective[ended], measurement.temperatures[ended], rtol=1e-6):
        return "the objective does not set the price of a nat itself"
    reason = "no replica ended finite at a temperature that the objective predicts"
    return value_or(max_log_error(effective, predicted.temperature), reason)


def _largest(values: Floats) -> Outcome:
    known = values[np.isfinite(values)]
    return float(known.max()) if known.size else "no replica ended finite at a temperature away from a threshold"
