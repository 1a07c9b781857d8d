"""The criteria by which the literature calls a latent active, and the signal fraction at which each one flips.

At the equilibrium of a linear decoder the posterior mean of latent k has variance m = M_k^2, its posterior variance is
1 - m and its rate -1/2 log(1 - m). So a criterion on any of these is a threshold on the signal fraction m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from collapsebench.theory.spectrum import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Criterion:
    """A criterion of an active latent.

    holds: which rows of a frame of latents count as active. flips_at: the signal fraction at which it flips, at the
    equilibrium of a linear decoder; NaN if that depends on the number of samples.
    """

    name: str
    active_when: str
    source: str
    flips_at: float
    holds: Callable[[pd.DataFrame], pd.Series[bool]]


def _of_rate(nats: float) -> float:
    """Return the signal fraction M^2 = 1 - exp(-2 R) of a latent whose rate is R nats."""
    return 1.0 - math.exp(-2.0 * nats)


CRITERIA: Sequence[Criterion] = (
    Criterion("signal-fraction", f"M^2 > {ACTIVE}", "Hirn 2026", ACTIVE, lambda f: f["signal_fraction"] > ACTIVE),
    Criterion(
        "active-units", "Var_x(E z) > 0.01", "Burda et al. 2016", 0.01,
        lambda f: f["mean_square"] - f["mean"] ** 2 > 0.01,
    ),
    Criterion("rate-0.001", "KL > 0.001 nats", "Li 2026", _of_rate(1e-3), lambda f: f["rate"] > 1e-3),
    Criterion("rate-0.01", "KL > 0.01 nats", "common use", _of_rate(1e-2), lambda f: f["rate"] > 1e-2),
    Criterion("posterior-variance", "E sigma^2 < 0.5", "Dinnage 2023", 0.5, lambda f: f["variance"] < 0.5),
    Criterion(
        "polarised-not-passive", "E sigma^2 outside [0.9, 1.1]", "Bonheme & Grzes 2021", 0.1,
        lambda f: ~f["variance"].between(0.9, 1.1),
    ),
    Criterion(
        "polarised-active", "E sigma^2 <= 0.1", "Bonheme & Grzes 2021", 0.9, lambda f: f["variance"] <= 0.1
    ),
    Criterion("not-vanished", "max |E z| >= 0.5", "scvi-tools DRVI", math.nan, lambda f: f["largest_mean"] >= 0.5),
)  # fmt: skip


def verdicts(latents: pd.DataFrame) -> pd.DataFrame:
    """Return split, rank, latent and one column of booleans per criterion, row by row.

    latents: columns split, rank, latent, signal_fraction, mean, mean_square, variance, rate, largest_mean (max |E z|
    over the samples).
    """
    columns = {criterion.name: criterion.holds(latents) for criterion in CRITERIA}
    return pd.concat([latents[["split", "rank", "latent"]], pd.DataFrame(columns)], axis=1)


def crosswalk(latents: pd.DataFrame) -> pd.DataFrame:
    """Return one row per split and criterion: how many latents it calls active, and where it flips."""
    by_criterion = verdicts(latents)
    rows = [
        {
            "split": split,
            "criterion": criterion.name,
            "active_when": criterion.active_when,
            "source": criterion.source,
            "active": int(part[criterion.name].sum()),
            "flips_at": criterion.flips_at,
        }
        for split, part in by_criterion.groupby("split", sort=False)
        for criterion in CRITERIA
    ]
    return pd.DataFrame(rows)
