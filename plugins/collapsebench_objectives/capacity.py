"""The dual ensemble: a prescribed rate, and a multiplier that finds the price which holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from collapsebench import Objective, Prediction
from collapsebench_objectives.parameters import CapacityParameters

Floats = NDArray[np.float64]


class Capacity(Objective[CapacityParameters]):
    """Minimise distortion while the rate is C nats: D + beta (R - C), the multiplier beta following R - C upwards.

    The multiplier is beta = V sigmoid(s), so that its effective temperature sigmoid(s) stays between 0 and 1; s is
    trained with the weights, its gradient reversed. The capacity of a temperature T of the grid is the rate that the
    exact solution for a linear decoder has there,

        C(T) = sum_{k <= latent_dim} 1/2 [log(lambda_k / (T V))]_+

    so it predicts that a linear decoder ends at the effective temperature T, with the thresholds of the beta-VAE.
    Source: Rezende and Viola 2018 (a multiplier, there for the distortion); Burgess et al. 2018 (a capacity).
    """

    dial: ClassVar[str] = "capacity"

    def dials(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Floats:
        """Return the capacity of each temperature `(t,)`, nats."""
        price = temperatures[:, None] * eigenvalues.sum()
        capacity: Floats = 0.5 * np.log(np.maximum(eigenvalues[:latent_dim] / price, 1.0)).sum(axis=1)
        return capacity

    def init_state(self, features: int, total_variance: float) -> dict[str, Tensor]:
        """Return s, and V."""
        first = self.parameters.first_temperature
        return {
            "logit": nn.Parameter(torch.tensor(math.log(first / (1 - first)))),
            "total_variance": torch.tensor(total_variance),
        }

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return distortion + beta rate of each sample `(batch,)`; the last term is zero and moves the multiplier."""
        total, logit = rate.sum(-1), state["logit"]
        ascent = (logit - logit.detach()) * (dial - total.detach())
        return distortion + self.price(dial, state).detach() * total + ascent

    def price(self, dial: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return beta, the multiplier."""
        return state["total_variance"] * state["logit"].sigmoid()

    def prediction(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Prediction:
        """Return the exact solution; where the capacity is zero, any effective temperature from T_1 up will do."""
        exact = Prediction.linear(temperatures, eigenvalues, latent_dim)
        known = self.dials(temperatures, eigenvalues, latent_dim) > 0
        return replace(exact, temperature=np.where(known, temperatures, np.nan))
