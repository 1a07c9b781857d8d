"""The beta-VAE whose decoder variance is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from collapsebench import DataError, Objective, Parameters, Prediction

Floats = NDArray[np.float64]
_ZERO = 1e-9


class LearnedVariance(Objective[Parameters]):
    """The negative log-likelihood of a Gaussian decoder with a learned variance gamma, plus beta times rate.

        L = |x - x_hat|^2 / (2 gamma) + d/2 log gamma + beta R

    For a linear decoder with q active latents, gamma = sum_{i > q} lambda_i / (d - q beta), and the effective
    temperature is beta gamma / V. The dial of a temperature T of the grid is the beta for which training ends at T,

        beta(T) = d T V / (sum_{k <= latent_dim} min(lambda_k, T V) + sum_{k > latent_dim} lambda_k)

    With as many latents as the data have dimensions r, L is unbounded below for beta < d / r and flat at d / r, to
    which all temperatures below the last threshold correspond: these are refused. Source: Lucas et al. 2019; Rybkin
    et al. 2021.
    """

    dial: ClassVar[str] = "beta"
    affine: ClassVar[bool] = True

    def dials(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Floats:
        """Return beta of each temperature `(t,)`; raises DataError if the variance has no minimum there."""
        rank = int((eigenvalues > _ZERO * eigenvalues[0]).sum())
        price = temperatures * eigenvalues.sum()
        if latent_dim >= rank and price.min() <= eigenvalues[rank - 1]:
            least = eigenvalues[rank - 1] / eigenvalues.sum()
            raise DataError(
                f"with {latent_dim} latents for data of rank {rank}, the learned variance has no minimum at "
                f"T = {temperatures.min():.3g}: below T = {least:.3g} beta falls to d / rank = "
                f"{eigenvalues.size / rank:.4g}, and it may shrink to zero at no cost. Expected "
                f"fewer latents or higher temperatures; set latent_dim to at most {rank - 1}."
            )
        held = np.minimum(eigenvalues[:latent_dim], price[:, None]).sum(axis=1) + eigenvalues[latent_dim:].sum()
        beta: Floats = eigenvalues.size * price / held
        return beta

    def init_state(self, features: int, total_variance: float) -> dict[str, Tensor]:
        """Return log gamma, initially that of total collapse, V / d, and d."""
        return {
            "log_variance": nn.Parameter(torch.tensor(math.log(total_variance / features))),
            "features": torch.tensor(float(features)),
        }

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return the loss of each sample `(batch,)`; distortion is |x - x_hat|^2 / 2."""
        log_variance = state["log_variance"]
        likelihood = distortion * (-log_variance).exp() + 0.5 * state["features"] * log_variance
        return likelihood + dial * rate.sum(-1)

    def price(self, dial: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return beta gamma."""
        return dial * state["log_variance"].exp()

    def prediction(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Prediction:
        """Return the exact solution: with the learned variance, every replica ends at its temperature of the grid."""
        return Prediction.linear(temperatures, eigenvalues, latent_dim)
