"""The distortion that each number of latents leaves, as a multiple of PCA's."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, rank_distortion
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import RankDistortionRatioParameters


class RankDistortionRatio(Metric[RankDistortionRatioParameters]):
    """Return D(K) / D_PCA(K) for K = 1..latent_dim, both on the same split: below 1 the latents beat PCA.

    Every K at which PCA leaves less than `least` of D(0) is left out: there, both are rounding errors or the scan does
    not reach low enough temperatures. Decoding is at the posterior mean; the temperature of each D(K) is chosen on the
    validation split.
    """

    requires: ClassVar[tuple[str, ...]] = ("truncated-distortion",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("geometric-mean", "Geometric mean of D(K) / D_PCA(K) over K.", "lower", low=0),
        Score("min", "Smallest D(K) / D_PCA(K) over K.", "lower", low=0),
        Score("max", "Largest D(K) / D_PCA(K) over K.", "lower", low=0),
        Score(
            "ranks-better",
            "Share of K at which latents leave less than PCA, by more than `tolerance`.",
            "higher",
            low=0,
            high=1,
        ),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and both curves with their ratio from rank 1."""
        split = self.parameters.split
        distortions = rank_distortion(measurement.tables["truncated-distortion"], measurement.temperatures)
        curve, reference = distortions.curves[split], measurement.pca.rank_distortion[split]
        compared = min(curve.size, reference.size)
        remaining, pca = curve[1:compared], reference[1:compared]
        usable = np.isfinite(remaining) & (pca > self.parameters.least * reference[0])
        ratio = np.divide(remaining, pca, out=np.full(remaining.size, np.nan), where=usable)
        modes = pd.DataFrame(
            {"rank": np.arange(1, compared), "distortion": remaining, "pca_distortion": pca, "ratio": ratio}
        )
        known = ratio[usable]
        if not known.size:
            reason = (
                f"no K on split '{split}' at which a replica ended finite and PCA leaves more than "
                f"{self.parameters.least:g} of the distortion: lower `least`"
            )
            return evaluation({score.name: reason for score in self.scores}, modes)
        outcomes: dict[str, Outcome] = {
            "geometric-mean": float(np.exp(np.log(np.maximum(known, 1e-300)).mean())),
            "min": float(known.min()),
            "max": float(known.max()),
            "ranks-better": float((known < 1.0 - self.parameters.tolerance).mean()),
        }
        return evaluation(outcomes, modes)
