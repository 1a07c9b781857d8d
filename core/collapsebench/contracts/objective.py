"""The contract of objectives: what a replica minimises, and what that predicts for a linear decoder.

Symbols: T temperature, V total variance, lambda_k eigenvalues of the train covariance (descending, their sum is V),
beta the price of a nat, sigma_dec^2 the variance of the decoder's Gaussian. This module imports neither torch nor NumPy
at run time, like `component`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from collapsebench.contracts.component import Configured, P

if TYPE_CHECKING:
    import torch

    from collapsebench.contracts.component import Floats


@dataclass(frozen=True)
class Prediction:
    """What an objective predicts for a linear decoder on the train split, latents ranked by signal fraction.

    signal_fraction `(t, latent)`: M^2, NaN where the objective does not determine it; a lower bound unless `exact`.
    thresholds `(latent,)`: the temperature of the grid above which each rank is collapsed, NaN where there is none.
    temperature `(t,)`: the effective temperature of a replica at the end, NaN where the objective does not determine
    it. any_encoder: False if the prediction holds for a linear encoder only.
    """

    signal_fraction: Floats
    thresholds: Floats
    temperature: Floats
    exact: bool = True
    any_encoder: bool = True

    @classmethod
    def linear(cls, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Prediction:
        """Return the exact solution of distortion + beta rate: M_k^2 = [1 - T / T_k]_+ with T_k = lambda_k / V.

        >>> import numpy as np
        >>> print(Prediction.linear(np.array([0.5, 0.1]), np.array([3.0, 1.0]), latent_dim=2).signal_fraction.round(3))
        [[0.333 0.   ]
         [0.867 0.6  ]]
        """
        import numpy as np

        thresholds = np.zeros(latent_dim)
        count = min(latent_dim, len(eigenvalues))
        thresholds[:count] = np.maximum(eigenvalues[:count], 0.0) / eigenvalues.sum()
        ratio = np.full((len(temperatures), latent_dim), np.inf)
        np.divide(temperatures[:, None], thresholds, out=ratio, where=thresholds > 0)
        return cls(np.maximum(1.0 - ratio, 0.0), np.where(thresholds > 0, thresholds, np.nan), temperatures)


class Objective(Configured[P]):
    """What a replica minimises.

    dial: the quantity that varies along the grid of temperatures: "temperature" if `loss` receives
    beta = T V / decoder_variance, else the name of what `dials` returns. dial_is_price: whether a larger dial makes a
    nat more expensive, so that `price_warm_up` may start with a smaller one. has_oracle: whether the exact theory of
    distortion + beta rate holds for it at the temperatures of the grid. batchable: as for encoders. affine: whether
    `loss` is affine in distortion and rates. Then the cost of a replica's weights at every other dial is known, so that
    replicas can be compared; and the kernel computes the gradient in one pass, unless there is a penalty, a trained
    state or another loss of a batch. Both are verified before use.
    """

    batchable: ClassVar[bool] = True
    dial: ClassVar[str] = "temperature"
    dial_is_price: ClassVar[bool] = True
    has_oracle: ClassVar[bool] = False
    affine: ClassVar[bool] = False

    @property
    def decoder_variance(self) -> float:
        """sigma_dec^2, by which the harness divides squared errors: distortion = |x - x_hat|^2 / (2 sigma_dec^2)."""
        return 1.0

    @property
    def settles_at(self) -> float:
        """The progress from which on the loss no longer depends on progress; no replica is called converged earlier."""
        return 0.0

    def dials(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Floats:
        """Return the dial for each temperature `(t,)`: beta, unless the objective has another dial.

        Another dial takes the value at which a linear decoder would end at temperature T, so that all objectives share
        one grid. eigenvalues: those of the train covariance `(d,)`, descending. Raise DataError if no value does that.
        """
        beta: Floats = temperatures * eigenvalues.sum() / self.decoder_variance
        return beta

    def init_state(self, features: int, total_variance: float) -> dict[str, torch.Tensor]:
        """Return the state that each replica has besides its weights.

        An `nn.Parameter` is trained like a weight (a learned variance, say, or a multiplier whose term in the loss has
        the sign that makes it rise); any other tensor stays constant. features: d. total_variance: V.
        """
        return {}

    @abstractmethod
    def loss(
        self,
        distortion: torch.Tensor,
        rate: torch.Tensor,
        dial: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        progress: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss of each sample `(batch,)`, in nats.

        distortion: `(batch,)` nats. rate: `(batch, latent)` nats. progress: updates done / budget, from 0 to 1.
        """

    def batch_loss(
        self,
        distortion: torch.Tensor,
        rate: torch.Tensor,
        weights: torch.Tensor | None,
        dial: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        progress: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss of a batch, a scalar: the mean of `loss`. Override it if it is not a mean over samples.

        weights: one per sample `(batch,)`, with mean one over the train split; None if they are equal.
        """
        return weighted_mean(self.loss(distortion, rate, dial, state, progress), weights)

    def penalty(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Return a penalty on the weights of a replica, a scalar in nats that is added to its loss, or None.

        weights: by name; those of the encoder start with `encoder.`, those of the decoder with `decoder.`.
        """
        return None

    def price(self, dial: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the price of a nat for a replica in units of |x - x_hat|^2 / 2, a scalar.

        It equals T V at the effective temperature T. Override it unless it is dial * decoder_variance, that is
        beta sigma_dec^2.
        """
        return dial * self.decoder_variance

    def edge(self, price: float) -> float:
        """Return the largest eigenvalue of the posterior-mean residual at which collapsed latents stay collapsed.

        It is a variance, like price, which is T V as `price` returns it. A mode with a larger eigenvalue makes the
        collapsed state a saddle. Override it if something besides the price, such as a penalty, holds latents at the
        prior.
        """
        return price

    def prediction(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Prediction | None:
        """Return the prediction for a linear decoder, or None; with `has_oracle` it is the exact solution."""
        return Prediction.linear(temperatures, eigenvalues, latent_dim) if self.has_oracle else None


def weighted_mean(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the mean over a batch `(batch, ...) -> (...)`; weights `(batch,)` of mean one, or None if they are equal.

    >>> import torch
    >>> weighted_mean(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([0.5, 1.5])).tolist()
    [2.5, 5.0]
    """
    if weights is None:
        return values.mean(0)
    return (values * weights.view(-1, *[1] * (values.dim() - 1))).mean(0)
