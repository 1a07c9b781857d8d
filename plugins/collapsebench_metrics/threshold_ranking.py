"""Whether modes collapse in the order of their eigenvalues, and ranks in the order of their utilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.stats import kendalltau

from collapsebench import (
    Evaluation,
    Measurement,
    Metric,
    Score,
    first_swapped_rank,
    grid,
    rank_distortion,
    ranked_signal_fraction,
    resolved_ranks,
    utilities,
)
from collapsebench_metrics.comparison import few_ranks, fitted_thresholds
from collapsebench_metrics.directions import unit_directions
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import ThresholdRankingParameters

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Flags, Floats


class ThresholdRanking(Metric[ThresholdRankingParameters]):
    """Compare the order of collapse with the order of PCA (by mode) and of utilities (by rank).

    Curves sorted at every temperature cannot cross. So a mode is tracked by its latent: at each temperature, latents
    are matched with principal components by the squared cosine of their decoder directions. Modes that never became
    active count with threshold 0. Ranks agree with the reference up to the one before the first swapped rank, which
    is one past the last resolved rank if none is swapped.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments", "truncated-distortion", "decoder-directions")
    scores: ClassVar[tuple[Score, ...]] = (
        Score(
            "kendall-tau",
            "Kendall's tau of the modes' thresholds and PCA eigenvalues.",
            "higher",
            low=-1,
            high=1,
        ),
        Score(
            "kendall-tau-utility",
            "Kendall's tau of thresholds and utilities by rank.",
            "higher",
            low=-1,
            high=1,
        ),
        Score(
            "first-swapped-rank",
            "First rank whose threshold breaks the order of utilities.",
            "higher",
            "rank",
            low=2,
        ),
        Score(
            "first-swapped-mode",
            "First mode whose threshold breaks the order of PCA.",
            "higher",
            "rank",
            low=2,
        ),
        Score("resolved-ranks", "Ranks whose lambda_k / V the scan resolves.", "none", "ranks", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and the thresholds by mode and by rank."""
        split, temperatures = self.parameters.split, measurement.temperatures
        count = min(measurement.latent_dim, measurement.pca.eigenvalues.size)
        spectrum = measurement.pca.eigenvalues[:count]
        by_mode = fitted_thresholds(temperatures, self._mode_signal_fraction(measurement)[:, :count])
        moments = measurement.tables["latent-moments"]
        by_rank = fitted_thresholds(temperatures, ranked_signal_fraction(moments, split, temperatures)[:, :count])
        curve = rank_distortion(measurement.tables["truncated-distortion"], temperatures).curves[split]
        worth = utilities(curve)[:count]

        resolved_modes = resolved_ranks(spectrum, temperatures, measurement.latent_dim)
        resolved_worth = resolved_ranks(worth, temperatures, measurement.latent_dim)
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, count + 1), "eigenvalue": spectrum, "mode_threshold": by_mode,
                "utility": worth, "threshold": by_rank, "resolved": resolved_modes,
            }
        )  # fmt: skip
        outcomes: dict[str, Outcome] = {
            "kendall-tau": self._tau(by_mode, spectrum, resolved_modes, measurement),
            "kendall-tau-utility": self._tau(by_rank, worth, resolved_worth, measurement),
            "first-swapped-rank": self._first_swap(by_rank, worth, resolved_worth, measurement),
            "first-swapped-mode": self._first_swap(by_mode, spectrum, resolved_modes, measurement),
            "resolved-ranks": float(resolved_modes.sum()),
        }
        return evaluation(outcomes, modes)

    def _mode_signal_fraction(self, measurement: Measurement) -> Floats:
        """Return M^2 cos^2 of the latent matched with each principal component `(t, d)`.

        cos^2 is that of the angle between the latent's decoder direction and the eigenspace of the component,
        which for repeated eigenvalues has several dimensions. The matching maximises the sum of M^2 cos^2.
        """
        pca, split = measurement.pca, self.parameters.split
        spectrum = pca.eigenvalues
        larger = np.maximum(spectrum[:, None], spectrum)
        same_space = (np.abs(spectrum[:, None] - spectrum) <= self.parameters.gap * larger).astype(np.float64)
        fractions = grid(measurement.tables["latent-moments"], split, measurement.temperatures, "signal_fraction")
        tracked = np.full((measurement.temperatures.size, spectrum.size), np.nan)
        directions = unit_directions(measurement)
        for row, (fraction, direction) in enumerate(zip(fractions, directions, strict=True)):
            weight = fraction[:, None] * (np.square(direction @ pca.components.T) @ same_space)
            if np.isfinite(weight).all():
                latents, matched = linear_sum_assignment(weight, maximize=True)
                tracked[row] = 0.0
                tracked[row, matched] = np.minimum(weight[latents, matched], 1.0)
        return tracked

    def _tau(self, thresholds: Floats, reference: Floats, resolved: Flags, measurement: Measurement) -> Outcome:
        if resolved.sum() < 2:
            return f"needs two resolved ranks; {few_ranks(int(resolved.sum()), measurement)}"
        digits = round(-np.log10(self.parameters.tolerance))
        measured = np.nan_to_num(thresholds[resolved], nan=0.0)
        ordered = [np.round(np.log(np.maximum(values, 1e-300)), digits) for values in (measured, reference[resolved])]
        tau = float(kendalltau(*ordered).statistic)
        return value_or(tau, "thresholds or references are all equal, so that they have no order")

    def _first_swap(self, thresholds: Floats, reference: Floats, resolved: Flags, measurement: Measurement) -> Outcome:
        if resolved.sum() < 2:
            return f"needs two resolved ranks; {few_ranks(int(resolved.sum()), measurement)}"
        measured, expected = thresholds[resolved], reference[resolved]
        return float(first_swapped_rank(measured[np.argsort(-expected, kind="stable")], self.parameters.tolerance))
