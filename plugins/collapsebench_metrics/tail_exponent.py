"""The power law with which distortion falls as weaker latents are added."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, crossover_rank, rank_distortion, tail_law
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import TailExponentParameters


class TailExponent(Metric[TailExponentParameters]):
    """Fit D(K) ~ K^-a over a window of ranks; the utilities of such a curve fall as K^-(a + 1).

    The interval is the t-interval of the slope in log-log coordinates: it says how closely the window follows a power
    law, not how much seeds differ. From the crossover rank to the end of the window the curve stays within `factor` of
    the fit. The temperature of each D(K) is chosen on the validation split. Source: Hirn 2026, arXiv 2608.10599.
    """

    requires: ClassVar[tuple[str, ...]] = ("truncated-distortion",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("exponent", "Exponent a of D(K) ~ K^-a over the window."),
        Score("exponent-low", "Lower end of the exponent's interval."),
        Score("exponent-high", "Upper end of the exponent's interval."),
        Score("utility-exponent", "Exponent a + 1 of the utilities."),
        Score("crossover-rank", "First rank from which the curve stays near the fit.", "none", "rank", low=1),
        Score("pca-exponent", "Exponent of PCA's curve over the same window."),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and the curve beside its fit and PCA by rank."""
        settings, split = self.parameters, self.parameters.split
        first, last = settings.window
        curve = rank_distortion(measurement.tables["truncated-distortion"], measurement.temperatures).curves[split]
        if last >= curve.size:
            reason = (
                f"the window ends at rank {last}, the scan has {curve.size - 1} latents: "
                f"set its window to end there, or latent_dim to at least {last}"
            )
            return evaluation({score.name: reason for score in self.scores})
        law = tail_law(curve, settings.window, settings.confidence)
        reference = measurement.pca.rank_distortion[split]
        pca = tail_law(reference, settings.window, settings.confidence)
        reason = f"fewer than three of the ranks {first} to {last} have a distortion above zero"
        crossover = crossover_rank(curve, law, settings.factor)
        outcomes: dict[str, Outcome] = {
            "exponent": value_or(law.exponent, reason),
            "exponent-low": value_or(law.low, reason),
            "exponent-high": value_or(law.high, reason),
            "utility-exponent": value_or(law.exponent + 1.0, reason),
            "crossover-rank": value_or(
                crossover,
                reason
                if np.isnan(law.exponent)
                else f"at rank {last} the curve is not within a factor {settings.factor:g} of the fit: no power law",
            ),
            "pca-exponent": value_or(pca.exponent, f"PCA: {reason}"),
        }
        ranks = np.arange(1, curve.size)
        padded = np.full(curve.size, reference[-1])
        padded[: reference.size] = reference[: curve.size]
        modes = pd.DataFrame(
            {
                "rank": ranks, "distortion": curve[1:], "fit": law.at(ranks), "pca_distortion": padded[1:],
                "in_window": (ranks >= first) & (ranks <= last),
            }
        )  # fmt: skip
        return evaluation(outcomes, modes)
