"""How much the posterior variances of each latent depend on the sample."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from collapsebench import Evaluation, Measurement, Metric, Score, ranked
from collapsebench_metrics.outcome import evaluation
from collapsebench_metrics.parameters import JensenGapParameters
from collapsebench_metrics.worst_latents import worst_latents


class JensenGap(Metric[JensenGapParameters]):
    """Return the largest J_k = log E sigma_k^2 - E log sigma_k^2 over latents and temperatures.

    Zero if the posterior variance is the same for every sample, as it is for a linear decoder at equilibrium.
    Source: Hirn 2026, arXiv 2605.22691.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("max-active", "Largest J_k over active latents.", "lower", "nats", low=0),
        Score("max", "Largest J_k over all latents.", "lower", "nats", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and the largest gaps by rank."""
        split, active = self.parameters.split, self.parameters.active
        gap = ranked(measurement.tables["latent-moments"], split, measurement.temperatures, "jensen_gap")
        # Jensen's inequality holds up to roundoff.
        among_active, among_all, modes = worst_latents(measurement, np.maximum(gap, 0.0), split, active, "max_gap")
        return evaluation({"max-active": among_active, "max": among_all}, modes)
