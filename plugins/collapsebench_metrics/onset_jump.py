"""Whether order parameters grow continuously from zero, or jump."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, ranked_signal_fraction, resolved_ranks
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import OnsetJumpParameters

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Flags, Floats


class OnsetJump(Metric[OnsetJumpParameters]):
    """Compare every step of M^2 between neighbouring temperatures with the largest that a continuous onset allows.

    If M^2 = [1 - T / T_c]_+, then M^2 changes from T_1 to T_2 > T_1 by at most 1 - T_1 / T_2, whatever T_c is. The jump
    of a step is its excess over that. A fine grid shows small jumps; a grid so coarse that M^2 may fall from 1 to 0 in
    one step shows none. The onset of a latent is the geometric mean of the two temperatures between which its M^2 last
    exceeds `active`; it is compared with PCA's lambda_k / V. Scores cover the ranks whose lambda_k / V is resolved.
    """

    sees_all: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("largest-jump", "Largest step of M^2 beyond that of a continuous onset.", "lower", low=-1, high=1),
        Score("largest-step", "Largest step of M^2 between neighbouring temperatures.", "none", low=0, high=1),
        Score("jumping-ranks", "Resolved ranks with a jump above `tolerance`.", "lower", "ranks", low=0),
        Score("onset-ratio", "Median onset temperature / (lambda_k / V), resolved ranks.", "none", low=0),
        Score("persistence", "Largest M^2 at temperatures above 1.1 lambda_k / V.", "lower", low=0, high=1),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the largest step, the largest jump and the onset."""
        order = np.argsort(measurement.temperatures)
        temperatures = measurement.temperatures[order]
        table = measurement.tables["latent-moments"]
        fractions = ranked_signal_fraction(table, self.parameters.split, measurement.temperatures)[order]
        spectrum = np.zeros(fractions.shape[1])
        count = min(spectrum.size, measurement.pca.eigenvalues.size)
        spectrum[:count] = measurement.pca.eigenvalues[:count]
        resolved = resolved_ranks(spectrum, temperatures, measurement.latent_dim)
        steps, jumps = self._steps(temperatures, fractions)
        onsets = np.array([self._onset(temperatures, column) for column in fractions.T])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(resolved, onsets / spectrum, np.nan)
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, spectrum.size + 1), "eigenvalue": spectrum, "onset": onsets,
                "largest_step": steps, "largest_jump": jumps, "resolved": resolved,
            }
        )  # fmt: skip
        nothing = (
            "needs a resolved rank and two neighbouring temperatures that ended finite: take more temperatures, or "
            "lower the learning rate"
        )
        known = resolved & np.isfinite(jumps)
        outcomes: dict[str, Outcome] = {
            "largest-jump": float(jumps[known].max()) if known.any() else nothing,
            "largest-step": float(steps[known].max()) if known.any() else nothing,
            "jumping-ranks": float((jumps[known] > self.parameters.tolerance).sum()) if known.any() else nothing,
            "onset-ratio": float(np.nanmedian(ratios))
            if np.isfinite(ratios).any()
            else "no resolved rank sets in between two temperatures of the grid: scan higher, lower, or train longer",
            "persistence": self._persistence(temperatures, fractions, spectrum, resolved),
        }
        return evaluation(outcomes, modes)

    def _steps(self, temperatures: Floats, fractions: Floats) -> tuple[Floats, Floats]:
        """Return each rank's largest step and largest jump, NaN if no two neighbours are known `(rank,)`."""
        falls = np.abs(np.diff(fractions, axis=0))
        jumps = falls - (1.0 - temperatures[:-1] / temperatures[1:])[:, None]
        known = np.isfinite(falls)
        largest = [np.where(known, part, -np.inf).max(axis=0, initial=-np.inf) for part in (falls, jumps)]
        return np.where(np.isfinite(largest[0]), largest[0], np.nan), np.where(
            np.isfinite(largest[1]), largest[1], np.nan
        )

    def _onset(self, temperatures: Floats, fractions: Floats) -> float:
        """Return the onset temperature of a rank, NaN if it lies outside the grid."""
        known = np.isfinite(fractions)
        on = np.flatnonzero(fractions[known] > self.parameters.active)
        if not on.size or on[-1] + 1 == known.sum():
            return float("nan")
        return float(np.sqrt(temperatures[known][on[-1]] * temperatures[known][on[-1] + 1]))

    def _persistence(self, temperatures: Floats, fractions: Floats, spectrum: Floats, resolved: Flags) -> Outcome:
        above = (temperatures[:, None] > 1.1 * spectrum) & resolved & np.isfinite(fractions)
        return float(fractions[above].max()) if above.any() else "no temperature of the grid is above a resolved mode"
