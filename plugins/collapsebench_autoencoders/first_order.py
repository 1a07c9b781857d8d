"""A decoder whose latents collapse by a jump: small signals are suppressed, large ones pass."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn

from collapsebench import Decoder, WardIdentity
from collapsebench_autoencoders.parameters import FirstOrderParameters


class Gated(nn.Module):
    """Each latent drives column w_k of an affine map through a noise gate that opens as the column grows:

        x_hat = b + sum_k w_k g_k(z_k)
        g_k(z) = z |z|^p / (1 + (|w_k| / level)^2 |z|^(2 p + 2))^(p / (2 p + 2))

    so that w_k g_k(z_k) = w_k / |w_k| level H(t_k), with t_k = (|w_k| / level)^(1 / (p + 1)) z_k and
    H(t) = t |t|^p / (1 + |t|^(2 p + 2))^(p / (2 p + 2)), which is t |t|^p for small t and t for large t.
    """

    def __init__(self, latent_dim: int, shape: tuple[int, ...], level: float, power: float) -> None:
        super().__init__()
        self.columns = nn.Linear(latent_dim, math.prod(shape))
        self.shape, self.level, self.power = shape, level, power

    def forward(self, z: Tensor) -> Tensor:
        """Map z `(batch, latent)` to x_hat `(batch, *shape)`."""
        opening = self.columns.weight.square().sum(0) / self.level**2
        muted, high = z.abs() ** self.power, 2 * self.power + 2
        x_hat: Tensor = self.columns(z * muted / (1 + opening * z.abs() ** high) ** (self.power / high))
        return x_hat.reshape(-1, *self.shape)


class FirstOrderDecoder(Decoder[FirstOrderParameters]):
    """A counter-example to collapse as spectral pruning: order parameters jump, with hysteresis.

    On Gaussian data with a linear mean, the loss of a single mode of eigenvalue lambda at signal fraction m is

        L(m) - L(0) = -U(m) - beta/2 log(1 - m)
        U(m) = max_v [ sqrt(lambda m) E z h - 1/2 E h^2 ],    h = level H(v z),  z ~ N(0, 1)
             = kappa lambda m / 2 + C (lambda m)^2 / level^2 + ...,    C > 0

    The collapsed state is stable down to kappa lambda / V, below PCA's lambda / V, with

        kappa = (E |z|^(p + 2))^2 / E |z|^(2 p + 2) = 0.849, 0.6, 0.388    for p = 1, 2, 3

    and the active one up to a higher temperature, set by lambda / level^2 and p: the transition is first order, with
    hysteresis, unless lambda / level^2 is small (below 0.05 for p = 2). For p = 2, in units of lambda / V:

        lambda / level^2                             0.3      1        3
        T rises: M^2 jumps to 0 at, from             0.674 from 0.10    0.779 from 0.11    0.869 from 0.08
        both states have equal loss at                 0.661    0.754    0.838
        T falls: M^2 jumps from 0 at, to             0.6 to 0.30        0.6 to 0.38        0.6 to 0.40

    A column can absorb the scale of its latent, so that E mu^2 + E sigma^2 = 1 holds at equilibrium. There is no free
    shift before the gate, so that E mu = 0 holds for symmetric data only, and no free scale behind it, so that
    E x_hat . (x - x_hat) = 0 does not hold.
    """

    ward_identities: ClassVar[tuple[WardIdentity, ...]] = ("scale", "residual-mean")

    @property
    def collapse_limit(self) -> float:
        """The share kappa of lambda / V down to which the collapsed state is stable."""
        p = self.parameters.power
        return _absolute_moment(p + 2) ** 2 / _absolute_moment(2 * p + 2)

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        return Gated(latent_dim, shape, self.parameters.level, self.parameters.power)


def _absolute_moment(power: float) -> float:
    """Return E |z|^power for a standard normal z."""
    return 2 ** (power / 2) * math.gamma((power + 1) / 2) / math.sqrt(math.pi)
