"""How well a scan agrees with PCA, mode by mode, and with the exact solution where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import (
    Evaluation,
    Measurement,
    Metric,
    Score,
    grid,
    oracle,
    rank_distortion,
    ranked_signal_fraction,
    resolved_ranks,
    utilities,
)
from collapsebench_metrics.comparison import fitted_thresholds, identity, missed
from collapsebench_metrics.directions import largest_angle, unit_directions
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import PcaAgreementParameters

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Flags, Floats


class PcaAgreement(Metric[PcaAgreementParameters]):
    """Compare thresholds and utilities with PCA over the ranks k whose lambda_k / V the scan resolves.

    Thresholds are fixed-exponent fits of the rank-k signal fraction, against lambda_k / V of the train split.
    Utilities are drops of the rank-distortion curve, against those of PCA's own curve on the same split.
    Where the exact solution holds, every rank-sorted signal fraction is compared with it at temperatures away
    from thresholds.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments", "truncated-distortion", "decoder-directions")
    claim: ClassVar[str] = "Agrees more with PCA"
    scores: ClassVar[tuple[Score, ...]] = (
        Score("threshold-identity-r2", "Identity R^2 of log T_c against log lambda_k / V.", "higher", high=1),
        Score("threshold-max-log-error", "Largest |log T_c - log lambda_k / V|.", "lower", low=0),
        Score("utility-identity-r2", "Identity R^2 of log utilities against those of PCA.", "higher", high=1),
        Score("utility-max-log-error", "Largest |log utility - log PCA utility|.", "lower", low=0),
        Score("missed-ranks", "Resolved ranks that never became active.", "lower", "ranks", low=0),
        Score("signal-fraction-max-error", "Largest |M^2 - exact M^2|.", "lower", low=0, high=1),
        Score(
            "subspace-angle", "Median over T of the largest angle between active decoder directions and PCA.",
            "lower", "rad", low=0, high=float(np.pi / 2),
        ),
    )  # fmt: skip

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and thresholds and utilities beside PCA's by rank."""
        split = self.parameters.split
        temperatures = measurement.temperatures
        count = min(measurement.latent_dim, measurement.pca.eigenvalues.size)
        fractions = ranked_signal_fraction(measurement.tables["latent-moments"], split, temperatures)
        spectrum = measurement.pca.eigenvalues[:count]
        resolved = resolved_ranks(spectrum, temperatures, measurement.latent_dim)

        thresholds = fitted_thresholds(temperatures, fractions[:, :count])
        curve = rank_distortion(measurement.tables["truncated-distortion"], temperatures).curves[split]
        worth = utilities(curve)[:count]
        reference = utilities(measurement.pca.rank_distortion[split])[:count]
        threshold_r2, threshold_error = identity(thresholds, spectrum, resolved, measurement)
        utility_r2, utility_error = identity(worth, reference, resolved, measurement)
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, count + 1), "eigenvalue": spectrum, "threshold": thresholds,
                "pca_utility": reference, "utility": worth, "resolved": resolved,
            }
        )  # fmt: skip
        outcomes: dict[str, Outcome] = {
            "threshold-identity-r2": threshold_r2,
            "threshold-max-log-error": threshold_error,
            "utility-identity-r2": utility_r2,
            "utility-max-log-error": utility_error,
            "missed-ranks": missed(thresholds, resolved),
            "signal-fraction-max-error": self._signal_fraction_error(measurement, fractions, resolved),
            "subspace-angle": self._subspace_angle(measurement),
        }
        return evaluation(outcomes, modes)

    def _signal_fraction_error(self, measurement: Measurement, fractions: Floats, resolved: Flags) -> Outcome:
        if not measurement.has_oracle:
            return "needs the exact solution: a linear decoder with the plain objective"
        exact = oracle(
            measurement.covariance,
            measurement.temperatures,
            measurement.latent_dim,
            decoder_variance=measurement.decoder_variance,
            evaluation=measurement.second_moments[self.parameters.split],
        )
        # On another split ranks need not follow the eigenvalues, so each rank's mode is looked up.
        mode_of_rank = np.argsort(-exact.signal_fraction, axis=1, kind="stable")
        expected = np.take_along_axis(exact.signal_fraction, mode_of_rank, axis=1)
        scored = np.zeros(measurement.latent_dim, dtype=np.bool_)
        scored[: resolved.size] = resolved
        distance = measurement.temperatures[:, None] / np.maximum(exact.thresholds, 1e-300) - 1.0
        usable = scored & (np.abs(distance) > self.parameters.margin)
        errors = np.abs(fractions - expected)[np.take_along_axis(usable, mode_of_rank, axis=1)]
        errors = errors[~np.isnan(errors)]
        return float(errors.max()) if errors.size else "needs a resolved rank and a temperature away from its threshold"

    def _subspace_angle(self, measurement: Measurement) -> Outcome:
        split, pca = self.parameters.split, measurement.pca
        moments = measurement.tables["latent-moments"]
        fractions = grid(moments, split, measurement.temperatures, "signal_fraction")
        rank = int((pca.eigenvalues > 1e-9 * pca.eigenvalues[0]).sum())
        angles = []
        for fraction, directions in zip(fractions, unit_directions(measurement), strict=True):
            active = directions[fraction > self.parameters.active]
            count = len(active)
            if not 1 <= count < rank or not np.isfinite(active).all():
                continue
            above, below = pca.eigenvalues[count - 1], pca.eigenvalues[count]
            if above - below > self.parameters.gap * above:
                angles.append(largest_angle(active, pca.components[:count]))
        reason = (
            f"no temperature on split '{split}' where between 1 and {rank - 1} latents are active "
            "and PCA has a gap after as many components"
        )
        return value_or(float(np.median(angles)) if angles else float("nan"), reason)
