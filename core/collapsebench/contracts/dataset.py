"""What a dataset plugin implements, and what it loads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from collapsebench.contracts.component import Configured, P

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from collapsebench.contracts.component import Floats

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """One part of a dataset: values `(n, *shape)` float32 and, if samples differ in weight, weights `(n,)`."""

    values: NDArray[np.float32]
    weights: NDArray[np.float32] | None = None

    def first(self, rows: int) -> Split:
        """Return the split cut to its first rows."""
        return Split(self.values[:rows], None if self.weights is None else self.weights[:rows])


@dataclass(frozen=True)
class Data:
    """What a dataset loads: three splits that share no sample, and the facts that accompany them into every result.

    scaling: how the harness scales the data, from the train split: each feature by its own standard deviation, all
    features by a single one, or not at all (the train mean is subtracted in every case).
    covariance: the population covariance `(d, d)` in the units of the data, where it is known exactly.
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
        """Return the data; the same seed gives the same arrays. The seed decides the split and nothing else."""
