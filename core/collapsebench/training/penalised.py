"""The Ward identities of an objective that punishes weights.

Where a term P is added to the loss, what moves a latent or what is decoded without moving anything else also moves P:

    beta E mu_k = dP/da_k    beta (E mu_k^2 + E sigma_k^2 - 1) = -dP/dlog c_k    E x_hat . (x - x_hat) = dP/dlog s

for z_k -> c_k (z_k - a_k), absorbed by the affine maps before and after the latents, and for x_hat -> s x_hat. With
P = 0 these are the identities of `equilibrium`, of which the fourth, E (x - x_hat) = 0, holds where output biases are
not punished. Distortions and dP are in nats, beta is the price of one, and sigma_dec^2 = 1 in the last identity.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.func import grad, vmap

from collapsebench.stack.stack import Stack
from collapsebench.theory.equilibrium import Equilibrium, Floats
from collapsebench.training.symmetry import Symmetry, Tensors


def less_penalty(found: Equilibrium, stack: Stack, symmetry: Symmetry) -> Equilibrium:
    """Return what was found with the terms of the penalty taken off, so that all identities read as without it.

    The last identity is corrected where the decoder is linear, whose first affine map is its output; elsewhere it is
    left as it was found, and a replica for which it then fails is not called converged.
    """
    weights: Tensors = {name: value.detach() for name, value in {**stack.parameters, **stack.buffers}.items()}
    slopes: Tensors = vmap(grad(stack.objective.penalty))(weights)
    moves = {name: (slopes[name] * weights[name]).double() for name in slopes}
    prices = stack.effective_temperatures() * stack.total_variance / stack.objective.decoder_variance
    mean, first = symmetry.mean, symmetry.first
    stretch = moves[f"{mean}.weight"].sum(-1) + moves[f"{mean}.bias"] - moves[f"{first}.weight"].sum(-2)
    stretch += 2 * slopes[f"{symmetry.log_variance}.bias"]
    along = torch.einsum("rf,rfk->rk", slopes[f"{first}.bias"], weights[f"{first}.weight"])
    shift = along - slopes[f"{mean}.bias"]
    output = moves[f"{first}.weight"].sum((-2, -1)) + moves[f"{first}.bias"].sum(-1)
    pull = _numbers(output) / (2 * found.distortion) if stack.linear else 0.0
    return replace(
        found,
        mean=found.mean - _numbers(shift) / prices[:, None],
        scale=found.scale + _numbers(stretch) / prices[:, None],
        orthogonality=found.orthogonality - pull,
    )


def _numbers(value: torch.Tensor) -> Floats:
    return np.asarray(value.double().cpu().numpy())
