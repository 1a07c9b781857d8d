"""The contracts between the harness and its plugins.

A plugin describes what it offers with light `Component` descriptors and implements the abstract classes below. Every
component class is constructed with its validated parameters, `Class(parameters)`, and nothing else. This module
imports neither torch nor pandas nor NumPy at run time, so that listing and checking stay fast.

Axis order everywhere: replica, batch, latent (or feature).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from collapsebench.errors import PluginError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from collapsebench.contracts.objective import Prediction

    Floats = NDArray[np.float64]

Kind = Literal["dataset", "encoder", "decoder", "objective", "observable", "metric", "executor"]
KINDS: tuple[Kind, ...] = ("dataset", "encoder", "decoder", "objective", "observable", "metric", "executor")

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

WardIdentity = Literal["mean", "scale", "residual-mean", "orthogonality"]
WARD_IDENTITIES: tuple[WardIdentity, ...] = ("mean", "scale", "residual-mean", "orthogonality")


class Parameters(BaseModel):
    """The base of every component's parameters: frozen, and closed to unknown keys.

    places: names of the parameters that say where something lies (a path, an address); they are part of no key.
    """

    places: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Component:
    """Describe one component without importing it.

    id: lower case, hyphenated, unique within its kind. target: `module:Class`, imported when the component is used.
    parameters: `module:Model`, a `Parameters` subclass in a module that imports no torch; None for no parameters.
    version: raise it when the same parameters give other numbers; it is part of every key that depends on it.
    requires: distributions beyond collapsebench's own that the component needs, as in pyproject.toml.

    >>> moons = Component("two-moons", "two_moons:TwoMoons", "two interleaved half circles")
    >>> moons.id, moons.version, moons.requires
    ('two-moons', 1, ())
    """

    id: str
    target: str
    summary: str
    parameters: str | None = None
    version: int = 1
    requires: tuple[str, ...] = ()

    def load(self) -> type[Any]:
        """Import and return the component's class."""
        found: type[Any] = _import(self.target, self.id)
        return found

    def parameters_model(self) -> type[Parameters]:
        """Import and return the model of the component's parameters."""
        model = Parameters if self.parameters is None else _import(self.parameters, self.id)
        if not (isinstance(model, type) and issubclass(model, Parameters)):
            raise PluginError(
                f"component '{self.id}': {self.parameters} is not a subclass of collapsebench.Parameters."
            )
        return model

    def create(self, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the component, constructed with validated parameters."""
        return self.load()(self.parameters_model().model_validate(dict(parameters or {})))


def _import(target: str, owner: str) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise PluginError(f"component '{owner}': module {module} has no {name}; correct its target.") from error


class Configured(ABC, Generic[P]):
    """A component that keeps the parameters it was constructed with."""

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters


@dataclass(frozen=True)
class Split:
    """One part of a dataset: values `(n, *shape)` float32 and, if samples differ in weight, weights `(n,)`."""

    values: NDArray[np.float32]
    weights: NDArray[np.float32] | None = None

    def first(self, rows: int) -> Split:
        """Return the first rows."""
        return Split(self.values[:rows], None if self.weights is None else self.weights[:rows])


@dataclass(frozen=True)
class Data:
    """What a dataset loads: three splits that share no sample, and what travels with them into every result.

    scaling: how the harness standardises with the train split: each feature by its own standard deviation, all by one,
    or not at all (the train mean is subtracted in every case).
    covariance: the population covariance `(d, d)` in the data's own units, where it is known exactly.
    """

    train: Split
    validation: Split
    test: Split
    feature_names: tuple[str, ...]
    scaling: Literal["per-feature", "global", "none"] = "per-feature"
    revision: str = ""
    licence: str = ""
    citation: str = ""
    covariance: Floats | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Dataset(Configured[P]):
    """A source of data. `prepare` is the only place that may use the network."""

    def prepare(self, cache: Path) -> None:
        """Put everything that `load` needs into the folder `cache`; verify it; resume what was interrupted."""

    def is_prepared(self, cache: Path) -> bool:
        """Return whether `load` would work without `prepare`."""
        return True

    @abstractmethod
    def load(self, seed: int, cache: Path) -> Data:
        """Return the data; the same seed gives the same arrays. The seed decides the split, nothing else."""


class Encoder(Configured[P]):
    """A family of encoders. A linear one has a mean that is affine in x.

    batchable: False says that replicas cannot be stacked (data-dependent control flow, batch statistics) and that this
    is meant. The harness finds out by itself; conformance checks hold a component to what it says.
    example_shape: of samples that its modules can be built for; conformance checks build them for it.
    """

    linear: ClassVar[bool] = False
    batchable: ClassVar[bool] = True
    example_shape: ClassVar[tuple[int, ...]] = (8,)

    @abstractmethod
    def build(self, shape: tuple[int, ...], latent_dim: int) -> torch.nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""


class Decoder(Configured[P]):
    """A family of decoders. A linear one (affine in z) has its expectation over z taken in closed form.

    batchable, example_shape: as for encoders.
    ward_identities: those that hold wherever the objective is stationary, by which replicas are judged: all four where
    the first and the last map of the decoder are affine and free (E mu = 0, E mu^2 + E sigma^2 = 1, E (x - x_hat) = 0,
    E x_hat . (x - x_hat) = 0, in this order). Leave out those that the decoder breaks at its own optimum.
    """

    linear: ClassVar[bool] = False
    batchable: ClassVar[bool] = True
    example_shape: ClassVar[tuple[int, ...]] = (8,)
    ward_identities: ClassVar[tuple[WardIdentity, ...]] = WARD_IDENTITIES

    @property
    def collapse_limit(self) -> float:
        """The share kappa of lambda / V down to which a latent at the prior is stable against a mode lambda.

        One wherever the decoder is differentiable and its slope at z = 0 is free. Override it for a decoder that mutes
        small signals: replicas are then called unstable below T = kappa lambda / V only.
        """
        return 1.0

    @abstractmethod
    def build(self, latent_dim: int, shape: tuple[int, ...]) -> torch.nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""


class Model(ABC):
    """A stack of trained replicas as an observable sees it."""

    temperatures: Floats
    latent_dim: int
    total_variance: float
    decoder_variance: float
    linear_decoder: bool
    ward_identities: tuple[WardIdentity, ...] = WARD_IDENTITIES

    @abstractmethod
    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x `(batch, *shape)` to mean and log_variance, each `(replica, batch, latent)`."""

    @abstractmethod
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Map z `(replica, batch, latent)` to x_hat `(replica, batch, *shape)`."""

    @abstractmethod
    def noise(self, chunk: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Return standard normal noise of a shape, the same for the same chunk number."""


class Samples(ABC):
    """A split, standardised, as an observable reads it: in chunks, with weights that sum to one over the split."""

    name: SplitName
    count: int
    shape: tuple[int, ...]

    @abstractmethod
    def chunks(self, values_per_sample: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield x `(batch, *shape)` and weights `(batch,)`; ask for smaller chunks with a larger footprint."""


class Observable(Configured[P]):
    """A quantity measured on stored weights and data.

    axis: what the second axis of the returned arrays counts. splits: those on which it is measured.
    exhaustive: read every row of a split, also where the suite limits the rows of an evaluation.
    """

    axis: ClassVar[Literal["latent", "rank"] | None] = None
    splits: ClassVar[tuple[SplitName, ...]] = SPLITS
    exhaustive: ClassVar[bool] = False

    @abstractmethod
    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return named arrays `(replica,)`, or `(replica, length)` if there is an axis."""


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


@dataclass(frozen=True)
class Progress:
    """What a running stack reports: updates done of the budget, replicas settled of all, updates per second."""

    update: int
    budget: int
    settled: int
    replicas: int
    updates_per_second: float


class Executor(Configured[P]):
    """A way to run jobs: anywhere that sees the store."""

    @abstractmethod
    def run(self, jobs: Sequence[Path], report: Callable[[str, Progress], None], stop: Callable[[], bool]) -> None:
        """Run every job file to its end; a job that fails is recorded in the store and does not stop the others.

        report(job name, progress) is called at every check. Once `stop()` is true, running jobs write a checkpoint
        and KeyboardInterrupt is raised.
        """
