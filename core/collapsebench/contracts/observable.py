"""What a plugin with observables implements, and what an observable sees: trained replicas and a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from collapsebench.contracts.autoencoder import WARD_IDENTITIES, WardIdentity
from collapsebench.contracts.component import Configured, Curve, P
from collapsebench.contracts.dataset import SPLITS, SplitName

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from collapsebench.contracts.component import Floats


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
        """Return standard normal noise of the given shape; the same chunk number gives the same noise."""


class Samples(ABC):
    """A standardised split, which an observable reads in chunks, with weights that sum to one over the split."""

    name: SplitName
    count: int
    shape: tuple[int, ...]

    @abstractmethod
    def chunks(self, values_per_sample: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield x `(batch, *shape)` and weights `(batch,)`; the more values per sample, the smaller the chunks."""


class Observable(Configured[P]):
    """A quantity measured on stored weights and data.

    axis: what the second axis of the returned arrays counts. splits: the splits on which it is measured.
    exhaustive: whether it reads every row of a split, even if the suite limits the rows of an evaluation.
    published: whether published folders keep what it measured; leave this off for large tables, such as the directions
    of a decoder. curves: the quantities that get a figure for each dataset and a chart on the page.
    """

    axis: ClassVar[Literal["latent", "rank"] | None] = None
    splits: ClassVar[tuple[SplitName, ...]] = SPLITS
    exhaustive: ClassVar[bool] = False
    published: ClassVar[bool] = False
    curves: ClassVar[tuple[Curve, ...]] = ()

    @abstractmethod
    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return named arrays `(replica,)`, or `(replica, length)` if there is an axis."""
