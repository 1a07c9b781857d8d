"""The beta-VAE under weight decay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from collapsebench import Objective, Prediction
from collapsebench_objectives.parameters import WeightDecayParameters

Floats = NDArray[np.float64]


class WeightDecay(Objective[WeightDecayParameters]):
    """Distortion plus beta times rate plus omega / 2 times the squared weights of the mean's encoder and the decoder.

    Biases and the log-variance head are not decayed. With a linear encoder and decoder each mode is alone: for gains a
    of the encoder and v of the decoder along its component, posterior variance beta / (beta + v^2),

        L = 1/2 [lambda (1 - a v)^2 + beta log(1 + v^2 / beta) + beta lambda a^2 + omega (a^2 + v^2)]

    which has its threshold at (beta lambda + omega)(1 + omega) = lambda^2, below lambda. The Ward identities of the
    plain objective do not hold, and A^2 is not 1.
    """

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return the loss of each sample `(batch,)`, without the penalty."""
        return distortion + dial * rate.sum(-1)

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return omega / 2 times the sum of squares of what is decayed, a scalar."""
        decayed = [
            value.square().sum()
            for name, value in weights.items()
            if name.endswith("weight") and "log_variance" not in name
        ]
        return 0.5 * self.parameters.omega * torch.stack(decayed).sum()

    def prediction(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Prediction:
        """Return the solution for a linear encoder, mode by mode: v by numerical minimisation, the rest exactly."""
        omega, total = self.parameters.omega, eigenvalues.sum()
        values = np.zeros(latent_dim)
        count = min(latent_dim, len(eigenvalues))
        values[:count] = eigenvalues[:count]
        fractions = np.array([[_fraction(value, t * total, omega) for value in values] for t in temperatures])
        with np.errstate(divide="ignore", invalid="ignore"):
            thresholds = (values / (1 + omega) - omega / values) / total
        return Prediction(fractions, np.where(thresholds > 0, thresholds, np.nan), temperatures)


def _fraction(eigenvalue: float, beta: float, omega: float) -> float:
    """Return M^2 of a mode: lambda a^2 / (lambda a^2 + s^2) at the least cost."""
    if eigenvalue**2 <= (beta * eigenvalue + omega) * (1 + omega):
        return 0.0

    def encoder(v: float) -> float:
        return eigenvalue * v / (eigenvalue * (v * v + beta) + omega)

    def cost(v: float) -> float:
        a = encoder(v)
        kept = eigenvalue * (1 - a * v) ** 2 + beta * np.log1p(v * v / beta)
        return float(kept + beta * eigenvalue * a * a + omega * (a * a + v * v))

    v = float(minimize_scalar(cost, bounds=(0.0, eigenvalue**0.5), method="bounded", options={"xatol": 1e-10}).x)
    signal = eigenvalue * encoder(v) ** 2
    return signal / (signal + beta / (beta + v * v))
