"""The beta-VAE under weight decay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from collapsebench import Objective, Prediction
from collapsebench_objectives.parameters import WeightDecayParameters

Floats = NDArray[np.float64]


class WeightDecay(Objective[WeightDecayParameters]):
    """Distortion plus beta times rate plus omega / 2 times the squared weights of the mean's encoder and the decoder.

    Biases and the log-variance head are not decayed. With a linear encoder and decoder the modes decouple. For gains a
    of the encoder and v of the decoder along its component, and the posterior variance beta / (beta + v^2),

        L = 1/2 [lambda (1 - a v)^2 + beta log(1 + v^2 / beta) + beta lambda a^2 + omega (a^2 + v^2)]

    The collapsed state loses stability at (beta lambda + omega)(1 + omega) = lambda^2, below lambda; there the onset is
    continuous only if lambda^2 (1 + 2 omega) > 2 omega (1 + omega)^2. Weaker modes jump and have two stable states;
    nothing is predicted for them. The Ward identities of the plain objective do not hold, and A^2 is not 1.
    """

    affine: ClassVar[bool] = True

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return the loss of each sample `(batch,)`, without the penalty."""
        return distortion + dial * rate.sum(-1)

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return omega / 2 times the sum of squares of the decayed weights, a scalar."""
        decayed = [
            value.square().sum()
            for name, value in weights.items()
            if name.endswith("weight") and "log_variance" not in name
        ]
        return 0.5 * self.parameters.omega * torch.stack(decayed).sum()

    def edge(self, price: float) -> float:
        """Return the eigenvalue lambda beyond which the collapsed state is no longer stable, for a linear decoder.

        The positive root of (beta lambda + omega)(1 + omega) = lambda^2.
        """
        omega = self.parameters.omega
        middle = price * (1 + omega) / 2
        return middle + math.sqrt(middle**2 + omega * (1 + omega))

    def prediction(self, temperatures: Floats, eigenvalues: Floats, latent_dim: int) -> Prediction:
        """Return the solution for a linear encoder, mode by mode; NaN for modes whose onset is not continuous."""
        omega, total = self.parameters.omega, eigenvalues.sum()
        values = np.full(latent_dim, np.nan)
        count = min(latent_dim, len(eigenvalues))
        values[:count] = eigenvalues[:count]
        values[~(values**2 * (1 + 2 * omega) > 2 * omega * (1 + omega) ** 2)] = np.nan
        fractions = np.array([[_signal_fraction(value, t * total, omega) for value in values] for t in temperatures])
        return Prediction(fractions, (values / (1 + omega) - omega / values) / total, temperatures, any_encoder=False)


def _signal_fraction(eigenvalue: float, beta: float, omega: float) -> float:
    """Return M^2 = lambda a^2 / (lambda a^2 + s^2) of a mode at the minimum of the loss.

    lambda^2 c / (lambda v^2 + c)^2 = beta / (beta + v^2) + omega    with c = beta lambda + omega,
    a = lambda v / (lambda v^2 + c),    s^2 = beta / (beta + v^2)
    """
    held = beta * eigenvalue + omega
    if not eigenvalue**2 > held * (1 + omega):
        return math.nan if math.isnan(eigenvalue) else 0.0

    def slope(square: float) -> float:
        return beta / (beta + square) + omega - eigenvalue**2 * held / (eigenvalue * square + held) ** 2

    square = float(brentq(slope, 0.0, math.sqrt(held / omega), xtol=1e-14))
    signal = eigenvalue * square * (eigenvalue / (eigenvalue * square + held)) ** 2
    return signal / (signal + beta / (beta + square))
