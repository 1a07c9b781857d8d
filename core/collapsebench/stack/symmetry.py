"""The exact symmetries of a latent, and the point along them with the lowest rate.

Scaling and shifting a latent, z -> c (z - a), leaves the reconstruction unchanged if the adjacent affine maps absorb
it: the mean and log-variance heads, and the first affine map of the decoder. Only the rate changes, and its minimum is
where E mu = 0 and E mu^2 + E sigma^2 = 1. Gradients along these directions are T times smaller than others and are lost
in noise. Moving straight to the minimum is an exact step of coordinate descent at no cost: it never raises the
objective and moves no stationary point.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from collapsebench.stack.stack import Stack
from collapsebench.theory.equilibrium import Equilibrium

if TYPE_CHECKING:
    from collapsebench.contracts import Floats, Tensors


@dataclass(frozen=True)
class Symmetry:
    """The names of the three affine maps, each with weight and bias, that absorb a scaling and shift of the latents."""

    mean: str
    log_variance: str
    first: str

    @torch.no_grad()
    def move(self, parameters: Tensors, shift: Tensor, factor: Tensor) -> None:
        """Replace every latent z by factor (z - shift), in place. shift, factor: `(r, k)`; parameters `(r, ...)`."""
        for part in ("weight", "bias"):
            parameters[f"{self.mean}.{part}"].copy_(
                parameters[f"{self.mean}.{part}"] * (factor[..., None] if part == "weight" else factor)
            )
        parameters[f"{self.mean}.bias"].sub_(factor * shift)
        parameters[f"{self.log_variance}.bias"].add_(2 * factor.log())
        weight = parameters[f"{self.first}.weight"]
        parameters[f"{self.first}.bias"].add_((weight @ shift[..., None])[..., 0])
        weight.div_(factor[..., None, :])

    def settle(self, parameters: Tensors, mean: Floats, scale: Floats) -> None:
        """Bring every latent to E mu = 0 and E mu^2 + E sigma^2 = 1. mean, scale: both as measured, `(r, k)`."""
        like = parameters[f"{self.mean}.bias"]
        spread = np.maximum(scale - mean**2, 1e-12)
        shift, factor = (torch.from_numpy(part).to(like.device, like.dtype) for part in (mean, spread**-0.5))
        self.move(parameters, shift, factor)


def find_symmetry(pair: nn.ModuleDict, shape: tuple[int, ...], latent_dim: int) -> Symmetry | None:
    """Return the symmetry of a pair's latents, or None: each candidate is tested on random inputs."""
    device = next((parameter.device for parameter in pair.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, *shape, generator=generator).to(device)
    z, shift = (torch.randn(rows, latent_dim, generator=generator).to(device) for rows in (4, 1))
    factor = 0.5 + torch.rand(1, latent_dim, generator=generator).to(device)
    was_training = pair.training
    pair.eval()
    try:
        return next((each for each in _candidates(pair, latent_dim) if _holds(pair, each, x, z, shift, factor)), None)
    finally:
        pair.train(was_training)


def _candidates(pair: nn.ModuleDict, latent_dim: int) -> Iterator[Symmetry]:
    heads, firsts = [], []
    for name, module in pair.named_modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            if name.startswith("encoder") and module.out_features == latent_dim:
                heads.append(name)
            if name.startswith("decoder") and module.in_features == latent_dim:
                firsts.append(name)
    for (mean, log_variance), first in itertools.product(itertools.permutations(heads, 2), firsts):
        yield Symmetry(mean, log_variance, first)


@torch.no_grad()
def _holds(pair: nn.ModuleDict, symmetry: Symmetry, x: Tensor, z: Tensor, shift: Tensor, factor: Tensor) -> bool:
    before = pair.state_dict()
    dtype = before[f"{symmetry.first}.weight"].dtype
    x, z, shift, factor = (part.to(dtype) for part in (x, z, shift, factor))
    mean, log_variance = pair["encoder"](x)
    expected = (factor * (mean - shift), log_variance + 2 * factor.log(), pair["decoder"](z))
    stacked = {name: value[None].clone() for name, value in before.items()}
    symmetry.move(stacked, shift, factor)
    moved = {name: value[0] for name, value in stacked.items()}
    actual = (*_call(pair, "encoder", moved, x), _call(pair, "decoder", moved, factor * (z - shift)))
    return all(
        torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(1 + theirs.abs().max()))
        for ours, theirs in zip(actual, expected, strict=True)
    )


def _call(pair: nn.ModuleDict, part: str, state: Tensors, value: Tensor) -> Any:
    weights = {name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(f"{part}.")}
    return functional_call(pair[part], weights, (value,))


def less_penalty(found: Equilibrium, stack: Stack, symmetry: Symmetry) -> Equilibrium:
    """Return the measurement less the contribution of a penalty on weights, so that the usual Ward identities apply.

    If a penalty P is added to the loss, moving a latent or the decoder's output also changes P, and the Ward identities
    of `theory/equilibrium` become

        beta E mu_k = dP/da_k
        beta (E mu_k^2 + E sigma_k^2 - 1) = -dP/dlog c_k
        E x_hat . (x - x_hat) = dP/dlog s

    for z_k -> c_k (z_k - a_k), absorbed by the affine maps before and after the latents, and for x_hat -> s x_hat. The
    fourth, E (x - x_hat) = 0, still holds if output biases are not penalised. Distortions and dP are in nats, beta is
    the price of a nat of rate, and sigma_dec^2 = 1 in the last identity. That identity is corrected only if the decoder
    is linear, because then its first affine map is its output. Otherwise it is left uncorrected, and a replica that
    violates it is not marked as converged.
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
