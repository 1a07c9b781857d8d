"""What a plugin with metrics implements, and everything that a metric may look at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from collapsebench.contracts.component import Configured, P
from collapsebench.contracts.dataset import SplitName

if TYPE_CHECKING:
    import pandas as pd

    from collapsebench.contracts.component import Floats
    from collapsebench.contracts.objective import Prediction


@dataclass(frozen=True)
class Score:
    """The declaration of one number that a metric reports under `metric-id/name`."""

    name: str
    summary: str
    direction: Literal["higher", "lower", "none"] = "none"
    unit: str = ""
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class Pca:
    """Principal component analysis of the standardised train split, the reference of every metric.

    eigenvalues: lambda_k / V, descending, float64 `(d,)`. components: rows are unit vectors `(d, d)`.
    rank_distortion: per split, E ||x - x_hat^(K)||^2 / V for K = 0..d `(d + 1,)`.
    """

    eigenvalues: Floats
    components: Floats
    rank_distortion: Mapping[SplitName, Floats]


@dataclass(frozen=True)
class Measurement:
    """Everything a metric may look at: one cell, that is one scan with one seed.

    tables: observable id -> frame. Columns: split, temperature, `latent` or `rank` where there is an axis (rank counts
    from 0 = nothing kept), then the observable's quantities. The table "replicas" is always there: temperature, mark
    (converged, budget, unstable, diverged), updates, loss, effective_temperature, the objective's scalar state.
    second_moments: per split, E (x - train mean)(x - train mean)^T `(d, d)`; its "train" entry is the covariance.
    has_oracle: a linear decoder with the plain objective, for which the exact theory holds.
    protocol: fresh, up or down. counterpart: the same scan in the opposite direction, where the suite has it.
    prediction: what the objective foretells for a linear decoder; None where it says nothing or the decoder is another.
    shape: of a sample, where it is known; `(h, w)` and `(c, h, w)` are images.
    """

    temperatures: Floats
    latent_dim: int
    total_variance: float
    tables: Mapping[str, pd.DataFrame]
    pca: Pca
    second_moments: Mapping[SplitName, Floats]
    has_oracle: bool
    decoder_variance: float = 1.0
    protocol: str = "fresh"
    counterpart: Measurement | None = None
    prediction: Prediction | None = None
    shape: tuple[int, ...] = ()

    @cached_property
    def effective_temperatures(self) -> Floats:
        """What a nat costs each replica, as a share of V `(t,)`: T itself, unless the objective sets its own price."""
        rows = self.tables["replicas"].set_index("temperature").reindex(self.temperatures)
        if "effective_temperature" not in rows:
            return self.temperatures
        found: Floats = rows["effective_temperature"].to_numpy(dtype="float64")
        return found

    @cached_property
    def covariance(self) -> Floats:
        """The covariance of the standardised train split `(d, d)`."""
        return self.second_moments["train"]


@dataclass(frozen=True)
class Evaluation:
    """What a metric makes of one cell.

    values: score name -> number; infinity for "not reached". modes: an optional frame, one row per rank.
    reasons: score name -> sentence, for each declared score that has no value here.
    """

    values: Mapping[str, float]
    modes: pd.DataFrame | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


class Metric(Configured[P]):
    """A pure function of observables, PCA reference and oracle."""

    requires: ClassVar[tuple[str, ...]] = ()
    scores: ClassVar[tuple[Score, ...]] = ()

    @abstractmethod
    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return a value, or the reason why there is none, for every declared score."""
