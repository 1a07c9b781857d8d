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

    batchable: set it to False if replicas cannot be stacked (data-dependent control flow, batch statistics) and you
    accept that. The harness detects it anyway; the conformance checks test the declaration.
    example_shape: a sample shape that its modules can be built for; the conformance checks use it.
    """

    linear: ClassVar[bool] = False
    batchable: ClassVar[bool] = True
    example_shape: ClassVar[tuple[int, ...]] = (8,)

    @abstractmethod
    def build(self, shape: tuple[int, ...], latent_dim: int) -> torch.nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""


class Decoder(Configured[P]):
    """A family of decoders. For a linear one (affine in z), the expectation over z is taken in closed form.

    batchable, example_shape: as for encoders.
    ward_identities: the identities that hold wherever the objective is stationary; replicas are judged by them. All
    four hold where the first and the last map of the decoder are affine with free weights: in this order, E mu = 0,
    E mu^2 + E sigma^2 = 1, E (x - x_hat) = 0 and E x_hat . (x - x_hat) = 0. Leave out those that the decoder breaks at
    its own optimum.
    """

    linear: ClassVar[bool] = False
    batchable: ClassVar[bool] = True
    example_shape: ClassVar[tuple[int, ...]] = (8,)
    ward_identities: ClassVar[tuple[WardIdentity, ...]] = WARD_IDENTITIES

    @property
    def collapse_limit(self) -> float:
        """The factor kappa: a latent at the prior is stable against a mode lambda while T >= kappa lambda / V.

        It is 1 wherever the decoder is differentiable and its slope at z = 0 is free. Override it for a decoder that
        mutes small signals: replicas are then called unstable only below T = kappa lambda / V.
        """
        return 1.0

    @abstractmethod
    def build(self, latent_dim: int, shape: tuple[int, ...]) -> torch.nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
