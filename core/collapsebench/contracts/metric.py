"""What a plugin with metrics implements, and everything that a metric may look at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from collapsebench.contracts.component import Configured, Curve, P
from collapsebench.contracts.dataset import SplitName

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from collapsebench.contracts.component import Floats
    from collapsebench.contracts.objective import Prediction


@dataclass(frozen=True)
class Score:
    """The declaration of one number that a metric reports under `metric-id/name`.

    column: whether boards may show it; of each metric they show the first score that allows it.
    """

    name: str
    summary: str
    direction: Literal["higher", "lower", "none"] = "none"
    unit: str = ""
    low: float = float("-inf")
    high: float = float("inf")
    column: bool = True


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
    """Everything a metric may look at: one cell, that is, one scan with one seed.

    tables: observable id -> frame. Columns: split, temperature, `latent` or `rank` if there is an axis (rank counts
    from 0, where nothing is kept), then the observable's quantities. The table "replicas" is always there: temperature,
    mark (converged, metastable, budget, unstable, diverged), updates, loss, effective_temperature, the objective's
    scalar state; dial, intercept, slope, constant, error: what its weights cost, intercept + slope dial in nats on the
    train split, of which `constant` is neither distortion nor rate; envelope_gap: by what share of its cost the weights
    of another replica of the scan would be cheaper.
    second_moments: per split, E (x - train mean)(x - train mean)^T `(d, d)`; its "train" entry is the covariance.
    has_oracle: whether it has a linear decoder and the plain objective, for which the exact theory holds.
    protocol: fresh, up, down or exchange. counterparts: the same scan under the other protocols that the suite has.
    prediction: what the objective predicts for a linear decoder; None if it predicts nothing or the decoder is
    nonlinear.
    shape: the shape of a sample, if it is known; `(h, w)` and `(c, h, w)` are images.
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
    counterparts: Mapping[str, Measurement] = field(default_factory=dict)
    prediction: Prediction | None = None
    shape: tuple[int, ...] = ()

    @cached_property
    def effective_temperatures(self) -> Floats:
        """The price of a nat for each replica, as a share of V `(t,)`: T, unless the objective sets its own price."""
        rows = self.tables["replicas"].set_index("temperature").reindex(self.temperatures)
        if "effective_temperature" not in rows:
            return self.temperatures
        temperatures: Floats = rows["effective_temperature"].to_numpy(dtype="float64")
        return temperatures

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Which replicas are at equilibrium `(t,)`."""
        marks = self.tables["replicas"].set_index("temperature")["mark"]
        at_rest: NDArray[np.bool_] = (marks.reindex(self.temperatures) == "converged").to_numpy(dtype=bool)
        return at_rest

    def only(self, chosen: NDArray[np.bool_]) -> Measurement:
        """Return the measurement of some of the replicas `(t,)`, as if no others had been trained."""
        temperatures, prediction = self.temperatures[chosen], self.prediction
        if prediction is not None:
            prediction = replace(
                prediction,
                signal_fraction=prediction.signal_fraction[chosen],
                temperature=prediction.temperature[chosen],
            )
        tables = {
            name: table[table["temperature"].isin(temperatures)].reset_index(drop=True)
            if "temperature" in table
            else table
            for name, table in self.tables.items()
        }
        return replace(self, temperatures=temperatures, tables=tables, prediction=prediction)

    def table_of(self, *quantities: str, axis: Literal["latent", "rank"] | None = None) -> pd.DataFrame | None:
        """Return the first table that holds a quantity per latent, per rank or per replica; None if none was measured.

        >>> import numpy as np, pandas as pd
        >>> from collapsebench import Measurement, Pca
        >>> moments = pd.DataFrame({"temperature": [0.1], "latent": [0], "rate": [1.2]})
        >>> pca = Pca(np.ones(1), np.eye(1), {})
        >>> scan = Measurement(np.array([0.1]), 1, 1.0, {"moments": moments}, pca, {}, has_oracle=False)
        >>> scan.table_of("rate", axis="latent") is moments, scan.table_of("rate")
        (True, None)
        """
        return table_of(self.tables, *quantities, axis=axis)

    @cached_property
    def covariance(self) -> Floats:
        """The covariance of the standardised train split `(d, d)`."""
        return self.second_moments["train"]


def table_of(
    tables: Mapping[str, pd.DataFrame], *quantities: str, axis: Literal["latent", "rank"] | None = None
) -> pd.DataFrame | None:
    """Return the first table of an observable that holds all of these quantities, or None.

    axis: what they are measured for: each latent, each rank, or, without an axis, each replica.
    """
    for name, table in tables.items():
        counted = next((column for column in ("latent", "rank") if column in table), None)
        if name != "replicas" and counted == axis and set(quantities) <= set(table):
            return table
    return None


@dataclass(frozen=True)
class Evaluation:
    """What a metric makes of one cell.

    values: score name -> number; infinity for "not reached". modes: an optional frame, one row per rank, or per
    temperature and rank.
    reasons: score name -> sentence, for each declared score that has no value here.
    """

    values: Mapping[str, float]
    modes: pd.DataFrame | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


class Metric(Configured[P]):
    """A pure function of the observables, the PCA reference and the oracle.

    requires: ids of the observables that it reads. ranks: whether boards rank by its first score that has a direction,
    if a suite does not say what to rank by. claim: how a comparison says that one architecture is better, as in "Agrees
    more with PCA". curves: the columns of its `modes` that get a figure for each dataset and a chart on the page.
    sees_all: whether it looks at replicas that are not at equilibrium, even where a suite makes scores of the others.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    scores: ClassVar[tuple[Score, ...]] = ()
    ranks: ClassVar[bool] = True
    claim: ClassVar[str] = ""
    curves: ClassVar[tuple[Curve, ...]] = ()
    sees_all: ClassVar[bool] = False

    @abstractmethod
    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return a value, or the reason why there is none, for every declared score."""
