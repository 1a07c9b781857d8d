"""The dual ensemble: the rate is prescribed, and a multiplier finds the price of a nat that keeps it there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from collapsebench import Objective, Prediction, weighted_mean
from collapsebench_objectives.parameters import CapacityParameters

Floats = NDArray[np.float64]
_SPEED, _GAIN = 0.2, 4.0


class Capacity(Objective[CapacityParameters]):
    """Minimise distortion while the rate is C nats: D + beta (R - C), the multiplier beta rising while R > C.

        beta = V sigmoid(speed s + gain (R - C)),    s following R - C upwards with the optimiser,    C = R at the end

    with R the batch mean, so that the effective temperature beta / V stays between 0 and 1; the gain damps the
    oscillations of the multiplier. The capacity of a temperature T of the grid is the rate of the exact solution for a
    linear decoder at T,

        C(T) = sum_{k <= latent_dim} 1/2 [log(lambda_k / (T V))]_+

    so a linear decoder is predicted to end at the effective temperature T, with the thresholds of the beta-VAE.
    Source: Rezende and Viola 2018 (a multiplier, there for the distortion); Burgess et al. 2018 (a capacity).
    """

    dial: ClassVar[str] = "capacity"
    dial_is_price: ClassVar[bool] = False

    def dials(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Floats:
        """Return the capacity of each temperature `(t,)`, nats."""
        price = temperatures[:, None] * eigenvalues.sum()
        capacity: Floats = 0.5 * np.log(np.maximum(eigenvalues[:latent_dim] / price, 1.0)).sum(axis=1)
        return capacity

    def init_state(self, features: int, total_variance: float) -> dict[str, Tensor]:
        """Return s, and V."""
        first = self.parameters.first_temperature
        return {
            "multiplier": nn.Parameter(torch.tensor(math.log(first / (1 - first)) / _SPEED)),
            "total_variance": torch.tensor(total_variance),
        }

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return distortion + beta rate of each sample `(batch,)` at the current multiplier."""
        return distortion + self.price(dial, state).detach() * rate.sum(-1)

    def batch_loss(
        self,
        distortion: Tensor,
        rate: Tensor,
        weights: Tensor | None,
        dial: Tensor,
        state: Mapping[str, Tensor],
        progress: Tensor,
    ) -> Tensor:
        """Return distortion + beta rate of a batch, a scalar; the last term is zero and moves the multiplier."""
        total, multiplier = weighted_mean(rate.sum(-1), weights), state["multiplier"]
        excess = (total - dial).detach()
        price = state["total_variance"] * (_SPEED * multiplier.detach() + _GAIN * excess).sigmoid()
        return weighted_mean(distortion, weights) + price * total - (multiplier - multiplier.detach()) * excess

    def price(self, dial: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return beta where the rate is the capacity."""
        return state["total_variance"] * (_SPEED * state["multiplier"]).sigmoid()

    def prediction(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Prediction:
        """Return the exact solution; zero capacity leaves the effective temperature open, above T_1, given as NaN."""
        exact = Prediction.linear(temperatures, eigenvalues, latent_dim)
        known = self.dials(temperatures, eigenvalues, latent_dim) > 0
        return replace(exact, temperature=np.where(known, temperatures, np.nan))
