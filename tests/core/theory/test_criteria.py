"""Criteria of an active latent flip where they say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from collapsebench.theory.criteria import CRITERIA, crosswalk


def test_each_criterion_flips_at_the_signal_fraction_that_the_crosswalk_states():
    """Latents of the linear equilibrium just below and just above each threshold."""
    for criterion in CRITERIA:
        if np.isnan(criterion.flips_at):
            continue
        m = criterion.flips_at * np.array([0.999, 1.001])
        frame = pd.DataFrame({
            "split": "train", "rank": [1, 2], "latent": [0, 1], "signal_fraction": m, "mean": 0.0, "mean_square": m,
            "variance": 1 - m, "rate": -0.5 * np.log1p(-m), "largest_mean": 1.0,
        })  # fmt: skip
        assert list(criterion.holds(frame)) == [False, True], criterion.name
        row = crosswalk(frame).set_index("criterion").loc[criterion.name]
        assert row["active"] == 1
