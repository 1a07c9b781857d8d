"""Compare the latents of a linear decoder with those that a rotation of them would give, in closed form.

A diagonal posterior wants orthogonal columns, which are then the principal directions of what they span. Two latents
that share two modes half and half rest at a saddle, where the gradient vanishes; and where the two modes are worth
nearly the same, hardly anything is lost, although the thresholds read from the latents are off by half their distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from collapsebench.stack.stack import Stack

if TYPE_CHECKING:
    from collapsebench.contracts import Floats


@dataclass(frozen=True)
class Misalignment:
    """What the best rotation of its latents would change about each replica; NaN for one that is not finite.

    decrease `(r,)`: the share of the objective that it would save. shift `(r,)`: the largest |change of log T_k|, where
    T_k = T (1 + snr_k) of the latents ranked by snr.
    """

    decrease: Floats
    shift: Floats


@torch.no_grad()
def measure_misalignment(stack: Stack, eigenvalues: Floats, latent_dim: int) -> Misalignment:
    """Return what the best rotation of the latents of a linear decoder would save, and how far thresholds would shift.

    With W the decoder's columns and b = T V the price of a nat, a latent whose mean and variance are at their optimum
    for W has 1 + snr_k = 1 + |w_k|^2 / b: the diagonal of A = 1 + W^T W / b. A rotation to the eigenvectors of A gives
    the eigenvalues instead. So log T_k shifts by the logarithm of their ratio, rank by rank, and since a diagonal
    posterior pays for an A that is not diagonal (Hadamard's inequality), the rotation saves

        b / 2 [ sum_k log A_kk - log det A ] / L*

    For two modes at an angle theta to two latents it is b / 2 log[1 + (lambda_1 - lambda_2)^2 sin^2(2 theta) /
    (4 lambda_1 lambda_2)], stationary at 45 degrees: a saddle that a prediction from the gradient passes over.
    eigenvalues: of the train covariance `(d,)`, which only give L*, the exact minimum of the plain objective
    (`theory.oracle`). sigma_dec^2 = 1.
    """
    ends = torch.cat([torch.eye(latent_dim), torch.zeros(1, latent_dim)]).to(stack.device, stack.dtype)
    decoded = stack.decode(ends.expand(len(stack), -1, -1)).flatten(2).double().cpu().numpy()
    columns = decoded[:, :-1] - decoded[:, -1:]
    prices = np.maximum(stack.effective_temperatures() * stack.total_variance, np.finfo(np.float64).tiny)
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = columns @ columns.transpose(0, 2, 1) / prices[:, None, None] + np.eye(latent_dim)
    finite = np.isfinite(matrix).all(axis=(1, 2))
    matrix[~finite] = np.eye(latent_dim)
    here = np.log(np.sort(np.diagonal(matrix, axis1=1, axis2=2), axis=1))
    turned = np.log(np.maximum(np.linalg.eigvalsh(matrix), 1.0))
    kept, left = eigenvalues[:latent_dim], eigenvalues[latent_dim:]
    ratios = np.maximum(kept / prices[:, None], 1.0)
    least = np.minimum(kept, prices[:, None]).sum(1) + prices * np.log(ratios).sum(1) + left.sum()
    decrease = prices * (here.sum(1) - turned.sum(1)) / least
    shift = np.abs(here - turned).max(1)
    return Misalignment(np.where(finite, decrease, np.nan), np.where(finite, shift, np.nan))
