"""Whether a single temperature predicts the whole spectrum of thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import (
    Evaluation,
    Measurement,
    Metric,
    Score,
    one_shot_thresholds,
    ranked,
    ranked_signal_fraction,
    resolved_ranks,
)
from collapsebench_metrics.comparison import few_ranks, fitted_thresholds
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import OneShotSpectrumParameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from collapsebench_metrics.comparison import Floats


class OneShotSpectrum(Metric[OneShotSpectrumParameters]):
    """Predict T_c = T (1 + snr_k) from the active latents at every temperature, and compare it with the scan's T_c.

    Exact for a linear decoder at equilibrium, at every T below T_c. Its drift, the slope of log T_c over log T at the
    temperatures at which the rank is active, comes from the decoder's nonlinearity. If drift and error vanish, a single
    temperature is enough and no scan is needed. The scan's T_c are fixed-exponent fits of M^2.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score(
            "median-log-error",
            "Median |log T_c (one shot) - log T_c (scan)| over resolved ranks and T.",
            "lower",
            "e-folds",
            low=0,
        ),
        Score(
            "max-log-error",
            "Largest |log T_c (one shot) - log T_c (scan)| over resolved ranks and T.",
            "lower",
            "e-folds",
            low=0,
        ),
        Score(
            "coldest-log-error",
            "Largest |log T_c (one shot) - log T_c (scan)| at the lowest temperature.",
            "lower",
            "e-folds",
            low=0,
        ),
        Score("drift", "Median over resolved ranks of d log T_c / d log T.", "none"),
        Score("max-drift", "Largest |d log T_c / d log T| over resolved ranks.", "lower", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the scan's threshold beside the one-shot thresholds."""
        split, temperatures = self.parameters.split, measurement.temperatures
        table = measurement.tables["latent-moments"]
        fractions = ranked_signal_fraction(table, split, temperatures)
        snr = ranked(table, split, temperatures, "snr")
        shots = np.where(fractions > self.parameters.active, one_shot_thresholds(snr, temperatures[:, None]), np.nan)
        thresholds = fitted_thresholds(temperatures, fractions)
        resolved = resolved_ranks(np.nan_to_num(thresholds, posinf=0.0), temperatures, measurement.latent_dim)
        error = np.abs(np.log(shots) - np.log(np.where(resolved, thresholds, np.nan)))
        drifts = np.array([_slope(np.log(temperatures), np.log(column)) for column in shots.T])
        reason = f"no resolved rank is active anywhere; {few_ranks(int(resolved.sum()), measurement)}"
        coldest = error[temperatures.argmin()]
        known_drifts = drifts[resolved & np.isfinite(drifts)]
        slopes = f"needs a resolved rank that is active at three temperatures; {reason}"
        outcomes: dict[str, Outcome] = {
            "median-log-error": float(np.nanmedian(error)) if np.isfinite(error).any() else reason,
            "max-log-error": float(np.nanmax(error)) if np.isfinite(error).any() else reason,
            "coldest-log-error": float(np.nanmax(coldest))
            if np.isfinite(coldest).any()
            else f"no resolved rank is active at the lowest temperature, {temperatures.min():.3g}, or it diverged",
            "drift": float(np.median(known_drifts)) if known_drifts.size else slopes,
            "max-drift": float(np.abs(known_drifts).max()) if known_drifts.size else slopes,
        }
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, thresholds.size + 1), "threshold": thresholds,
                "one_shot_coldest": shots[temperatures.argmin()], "one_shot_low": _over_known(shots, np.min),
                "one_shot_high": _over_known(shots, np.max), "drift": drifts, "resolved": resolved,
            }
        )  # fmt: skip
        return evaluation(outcomes, modes)


def _slope(x: Floats, y: Floats) -> float:
    """Return the least-squares slope of y over x where both are known, NaN for fewer than three points."""
    known = np.isfinite(x) & np.isfinite(y)
    return float(np.polyfit(x[known], y[known], 1)[0]) if known.sum() >= 3 else float("nan")


def _over_known(values: Floats, reduce: Callable[[Floats], float]) -> Floats:
    """Return a reduction of what is known of every column, NaN if nothing is, `(t, rank) -> (rank,)`."""
    return np.array([reduce(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in values.T])
