"""What a plugin with encoders or decoders implements."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from collapsebench.contracts.component import Configured, P

if TYPE_CHECKING:
    import torch

WardIdentity = Literal["mean", "scale", "residual-mean", "orthogonality"]
WARD_IDENTITIES: tuple[WardIdentity, ...] = ("mean", "scale", "residual-mean", "orthogonality")


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
