"""How the published criteria of an active latent judge the same scan, and where each of them flips."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import CRITERIA, Criterion, Evaluation, Measurement, Metric, Score, ranked
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import CrosswalkParameters

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Flags, Floats

_QUANTITIES = ("signal_fraction", "mean_square", "mean", "variance", "rate", "largest_mean")


class Crosswalk(Metric[CrosswalkParameters]):
    """Apply every criterion to every latent at every temperature.

    flips-at-X: the signal fraction that separates the latents that X calls active from the others with the fewest
    errors: the middle of the gap between them, or of the middle gap if several are equally good. At the equilibrium of
    a linear decoder it is 0.1 for signal-fraction, 0.01 for active-units, 1 - exp(-2 R) for a rate R, 0.5 for
    posterior-variance, 0.1 and 0.9 for the polarised regime; for not-vanished it depends on the number of samples.
    error-of-X: the share of latents and temperatures at which X and that signal fraction disagree; 0 if X is a function
    of the order parameter. The table has, by rank, the highest temperature at which X calls the latent active.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments",)
    scores: ClassVar[tuple[Score, ...]] = (
        *(
            Score(
                f"flips-at-{one.name}",
                f"Signal fraction at which {one.active_when} becomes true or false.",
                "none",
                low=0,
                high=1,
            )
            for one in CRITERIA
        ),
        *(
            Score(f"error-of-{one.name}", f"Disagreement with that threshold: {one.active_when}.", low=0, high=1)
            for one in CRITERIA
        ),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the highest temperature at which each criterion calls the latent active."""
        table, temperatures = measurement.tables["latent-moments"], measurement.temperatures
        values = {name: ranked(table, self.parameters.split, temperatures, name) for name in _QUANTITIES}
        fraction = values["signal_fraction"]
        known = np.logical_and.reduce([np.isfinite(value) for value in values.values()])
        columns: dict[str, Floats] = {"rank": np.arange(1, fraction.shape[1] + 1)}
        outcomes: dict[str, Outcome] = {}
        for criterion in CRITERIA:
            active = self._verdict(criterion, values) & known
            flip, error = flips_at(fraction[known], active[known])
            outcomes[f"flips-at-{criterion.name}"] = flip
            outcomes[f"error-of-{criterion.name}"] = error
            highest = np.where(active, temperatures[:, None], -math.inf).max(axis=0)
            columns[criterion.name.replace("-", "_")] = np.where(np.isfinite(highest), highest, np.nan)
        return evaluation(outcomes, pd.DataFrame(columns))

    def _verdict(self, criterion: Criterion, values: dict[str, Floats]) -> Flags:
        frame = pd.DataFrame({name: value.ravel() for name, value in values.items()})
        return criterion.holds(frame).to_numpy(dtype=np.bool_).reshape(values["signal_fraction"].shape)


def flips_at(fractions: Floats, active: Flags) -> tuple[Outcome, Outcome]:
    """Return the signal fraction that best separates active from inactive latents, and the share it gets wrong.

    Both are a reason if no latent is active, or none is inactive.
    """
    if not active.size or active.all() or not active.any():
        kind = "active" if active.size and active.all() else "inactive"
        reason = (
            f"the criterion calls every latent {kind} at every temperature that was measured: take a wider range of "
            "temperatures, or more latents"
            if active.size
            else "no replica ended finite; lower the learning rate"
        )
        return reason, reason
    order = np.argsort(fractions, kind="stable")
    levels, verdicts = fractions[order], active[order]
    # The errors of a threshold before each position: active latents below it and inactive ones above.
    errors = (
        np.concatenate([[0], np.cumsum(verdicts)]) + (~verdicts).sum() - np.concatenate([[0], np.cumsum(~verdicts)])
    )
    apart = np.concatenate([[True], levels[1:] > levels[:-1], [True]])
    best = np.flatnonzero(apart & (errors == errors[apart].min()))
    position = int(best[len(best) // 2])
    low = levels[position - 1] if position > 0 else 0.0
    high = levels[position] if position < levels.size else 1.0
    return float(min(max(0.5 * (low + high), 0.0), 1.0)), float(errors[position] / levels.size)
