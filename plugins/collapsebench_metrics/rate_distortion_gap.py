"""How far the rate of each replica exceeds the Gaussian rate-distortion function."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from collapsebench import Evaluation, Measurement, Metric, Score, reverse_water_filling
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import RateDistortionGapParameters
from collapsebench_metrics.replicas import by_replica


class RateDistortionGap(Metric[RateDistortionGapParameters]):
    """Compare the rate R of each replica with reverse water-filling at the same distortion:

        gap = R - 1/2 sum_k [log(lambda_k / theta)]_+   with   sum_k min(lambda_k, theta) = E |x - x_hat|^2

    With sampled decoding; lambda_k are the eigenvalues of the split's second moment about the train mean (on the train
    split, of its covariance). For Gaussian data no model has a gap below 0, and the linear optimum has 0. For other
    data with that covariance the function is an upper bound on the best possible rate, so an expressive decoder may lie
    below it. A model with fewer latents than there are components above theta has a larger gap.
    """

    requires: ClassVar[tuple[str, ...]] = ("losses",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("median", "Median gap over temperatures.", "lower", "nats"),
        Score("max", "Largest gap over temperatures.", "lower", "nats"),
        Score("below-share", "Share of temperatures at which the rate is below the Gaussian bound.", low=0, high=1),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores."""
        split, losses = self.parameters.split, measurement.tables["losses"]
        rate = by_replica(losses, split, measurement, "rate")
        error = 2.0 * measurement.decoder_variance * by_replica(losses, split, measurement, "distortion")
        known = np.isfinite(rate) & np.isfinite(error)
        if not known.any():
            reason = f"no replica that ended finite has a rate and a distortion on split '{split}'"
            return evaluation({score.name: reason for score in self.scores})
        spectrum = np.linalg.eigvalsh(measurement.second_moments[split])
        gap = rate[known] - reverse_water_filling(spectrum, np.maximum(error[known], 0.0))
        outcomes: dict[str, Outcome] = {
            "median": float(np.median(gap)),
            "max": float(gap.max()),
            "below-share": float((gap < -self.parameters.tolerance).mean()),
        }
        return evaluation(outcomes)
