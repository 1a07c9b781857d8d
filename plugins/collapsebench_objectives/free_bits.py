"""Free bits: the first nats of each latent are free of charge."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from collapsebench import Objective, Prediction, weighted_mean
from collapsebench_objectives.parameters import FreeBitsParameters

Floats = NDArray[np.float64]


class FreeBits(Objective[FreeBitsParameters]):
    """Distortion plus beta times the rate of each latent, of which the first kappa nats are free.

        L = D + beta sum_k max(kappa, R_k),    R_k the batch mean (convention "batch") or of each sample

    A latent with a rate below kappa gains by raising it. So the prediction for the batch mean is R_k >= kappa and
    M^2 >= 1 - exp(-2 kappa) for every latent at every temperature: there are no thresholds. Source: Kingma et al. 2016.
    """

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return the loss of each sample `(batch,)`, every sample with free nats for each one."""
        return distortion + dial * rate.clamp(min=self.parameters.kappa).sum(-1)

    def batch_loss(
        self,
        distortion: Tensor,
        rate: Tensor,
        weights: Tensor | None,
        dial: Tensor,
        state: Mapping[str, Tensor],
        progress: Tensor,
    ) -> Tensor:
        """Return the loss of a batch, a scalar."""
        if self.parameters.convention == "sample":
            return super().batch_loss(distortion, rate, weights, dial, state, progress)
        paid = weighted_mean(rate, weights).clamp(min=self.parameters.kappa)
        return weighted_mean(distortion, weights) + dial * paid.sum()

    def prediction(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Prediction | None:
        """Return the lower bound of every signal fraction, for the batch mean."""
        if self.parameters.convention == "sample":
            return None
        floor = np.full((len(temperatures), latent_dim), -np.expm1(-2 * self.parameters.kappa))
        return Prediction(floor, np.full(latent_dim, np.nan), temperatures, exact=False)
