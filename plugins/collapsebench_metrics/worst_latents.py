"""The largest value of a quantity over a scan: over the active latents, over all latents, and by rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from collapsebench import ranked_signal_fraction
from collapsebench_metrics.outcome import Outcome

if TYPE_CHECKING:
    from collapsebench import Measurement
    from collapsebench_metrics.comparison import Floats


def worst_latents(
    measurement: Measurement, values: Floats, split: str, active: float, name: str
) -> tuple[Outcome, Outcome, pd.DataFrame]:
    """Return the largest of `(t, rank)` values over active points and over all, and a frame with both by rank.

    values: ranked as in `collapsebench.ranked`; NaN if a replica diverged. name: the name of the frame's columns.
    """
    fractions = ranked_signal_fraction(measurement.tables["latent-moments"], split, measurement.temperatures)
    known = np.where(np.isnan(values), -np.inf, values)
    known_active = np.where(fractions > active, known, -np.inf)
    modes = pd.DataFrame(
        {
            "rank": np.arange(1, values.shape[1] + 1),
            f"{name}_active": _or_nan(known_active.max(axis=0)),
            name: _or_nan(known.max(axis=0)),
        }
    )
    among_active, among_all = float(known_active.max()), float(known.max())
    return (
        among_active if np.isfinite(among_active) else f"no latent has a signal fraction above {active:g} anywhere",
        among_all if np.isfinite(among_all) else "every replica diverged; lower the learning rate",
        modes,
    )


def _or_nan(largest: Floats) -> Floats:
    return np.where(np.isneginf(largest), np.nan, largest)
