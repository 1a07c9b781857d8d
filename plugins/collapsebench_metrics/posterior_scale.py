"""How far the second moment of each latent is from that of the prior."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from collapsebench import Evaluation, Measurement, Metric, Score, ranked
from collapsebench_metrics.outcome import evaluation
from collapsebench_metrics.parameters import PosteriorScaleParameters
from collapsebench_metrics.worst_latents import worst_latents


class PosteriorScale(Metric[PosteriorScaleParameters]):
    """Return the largest |A_k^2 - 1| over latents and temperatures, A_k^2 = E mu_k^2 + E sigma_k^2.

    On the train split A^2 is 1 at equilibrium, for active and for collapsed latents alike; on another split it follows
    that split's variance. Source: Hirn 2026, arXiv 2605.22691.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("max-deviation-active", "Largest |A_k^2 - 1| over active latents.", "lower", low=0),
        Score("max-deviation", "Largest |A_k^2 - 1| over all latents.", "lower", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and the largest deviations by rank."""
        split, active = self.parameters.split, self.parameters.active
        scale = ranked(measurement.tables["latent-moments"], split, measurement.temperatures, "posterior_scale")
        among_active, among_all, modes = worst_latents(measurement, np.abs(scale - 1.0), split, active, "max_deviation")
        return evaluation({"max-deviation-active": among_active, "max-deviation": among_all}, modes)
