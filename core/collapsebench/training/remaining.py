"""Predict by how much an objective would still fall: a criterion of convergence that no schedule can satisfy falsely.

A flat loss, small drifts and small Ward residuals can all be had from a learning rate that falls to zero. The gradient
of the objective cannot: at given weights it is what it is. To second order, the objective L can still fall by the
Newton decrement

    1/2 g^T H^-1 g,    g: gradient, H: Hessian of L at these weights

which does not depend on any learning rate. It is computed in the Krylov space of g and H, which is where a few steps of
preconditioned conjugate gradients would go. The space is small, so the prediction is a lower bound that grows with its
dimension: directions of little curvature are found last, and they matter most. Three times as many updates as had been
done lowered the objectives of nonlinear networks by some fourteen times as much as predicted here (median of 88
replicas; 1.3 to 160 times for nine in ten), so a tolerance must be far below the decrease that matters. Far from
equilibrium the number may exceed one: it is a criterion, not a forecast. `trial` is the finer test.

Legend: r replica, p parameter of a replica, k vector of the Krylov space, b block of batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapsebench.data.samples import values_for
from collapsebench.data.standardise import Standardised
from collapsebench.seeds import seed_of
from collapsebench.stack.stack import Stack
from collapsebench.stack.update import Update, preconditioned

if TYPE_CHECKING:
    from collapsebench.contracts import Floats, Tensors

ROWS = 65_536
_DIMENSION = 16
_CURVATURE_ROWS = 1024
_BLOCKS = 8
_FLATTEST = 1e-4
_DAMPING = 1e-6
_STEP = 1e-3
_STATE = "objective."

Part = tuple[Tensor, Tensor | None, Tensor | None]
"""x `(b, *shape)`, noise `(b, latent)` or None, weights `(b,)` or None: the same for every replica."""


@dataclass(frozen=True)
class RemainingDecrease:
    """A prediction for every replica.

    decrease `(r,)`: by what share of its absolute value the objective can still fall, to second order; noise can make
    it slightly negative. error `(r,)`: its standard error, zero if neither rows nor noise were sampled.
    """

    decrease: Floats
    error: Floats

    def is_below(self, tolerance: float) -> NDArray[np.bool_]:
        """Return whether the decrease is at most the tolerance, one standard error included `(r,)`; false for NaN."""
        return np.asarray(self.decrease + self.error <= tolerance)


def predict_decrease(
    stack: Stack, data: Standardised, latent_dim: int, *, batch: int = 256, rows: int = ROWS, seed: int = 0
) -> RemainingDecrease:
    """Predict the relative decrease of the objective on the train split that is left, for every replica of a stack.

        1/2 g_1^T Z |Z^T H Z|^-1 Z^T g_2 / |L|,    Z: 16 vectors, spanned by P g_1, P H P g_1, ...

    g_1 and g_2 are the gradients of two independent halves of `rows` rows each, with antithetic noise. Their noise is
    independent, so its product vanishes on average, while g^T H^-1 g of one gradient would mostly measure noise. P is
    the preconditioner of `Preconditioned`, from the gradients of batches at these weights: an update of the learning
    rate zero. H times a vector is a difference of gradients on 1,024 fixed rows and noise. The modulus of the
    eigenvalues of Z^T H Z counts negative curvature as an opportunity, and those below 1e-4 of the largest are set to
    that. For a linear decoder, whose expectation over z has a closed form, and at most `rows` rows, both halves are the
    exact gradient.

    The loss is that of the end of training: full price, progress one, every penalty included. Modules are in evaluation
    mode, trained states of the objective stay fixed, and nothing is changed. At an exact saddle point the gradient
    vanishes and so does the prediction; `theory.equilibrium` says whether collapsed latents are stable, and
    `alignment` whether those of a linear decoder are aligned.

    batch: number of different rows whose gradient is computed at once. Cost: 2 `rows` + 17,408 rows, each decoded twice
    unless the decoder is linear; at the default that is as much as 580 updates of 256 rows with antithetic noise. Works
    with every computation, because it only takes gradients. Raises no errors of its own: a replica that is not finite
    gets NaN.
    Source: Boyd and Vandenberghe 2004, section 9.5 (decrement); Dauphin et al. 2014 (modulus of the curvature).
    """
    size = sum(value[0].numel() for value in stack.parameters.values())
    at_once = max(1, values_for(stack.device) // (2 * _DIMENSION * size))
    found = [
        _predict(stack.select(replicas), _Sampler(stack, data, latent_dim, batch, seed), rows)
        for replicas in torch.split(torch.arange(len(stack), device=stack.device), at_once)
    ]
    return RemainingDecrease(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


class _Sampler:
    """Draws rows of the train split, and noise in antithetic pairs; always the same for a seed."""

    def __init__(self, stack: Stack, data: Standardised, latent_dim: int, batch: int, seed: int) -> None:
        split = data.splits["train"]
        self._x, self._weights = split.values, split.weights
        self._device, self._dtype = stack.device, stack.dtype
        self._latent_dim, self._noisy = latent_dim, not stack.linear
        self._generator = torch.Generator().manual_seed(seed_of(use="remaining", seed=seed))
        self.count = len(split.values)
        self._few = batch if self._noisy else 2 * batch
        # Where the rows are passed once, P must still see several batches.
        self._batch = min(batch, self.count if self._noisy else max(1, self.count // 16))

    def halves(self, rows: int) -> list[Tensor]:
        """Return two lists of rows: whole passes over the split if it has at most `rows` rows, else two samples."""
        if self.count > rows:
            order = self._permutation()
            other = order[rows:] if 2 * rows <= self.count else self._permutation()
            return [order[:rows], other[:rows]]
        if not self._noisy:
            return [self._permutation()]
        passes = rows // self.count
        return [torch.cat([self._permutation() for _ in range(passes)]) for _ in range(2)]

    def _permutation(self) -> Tensor:
        return torch.randperm(self.count, generator=self._generator)

    def few(self, rows: int) -> list[Part]:
        """Return a fixed sample of at most `rows` rows with their noise, in parts."""
        return list(self.parts(self._permutation()[:rows], self._few))

    def parts(self, rows: Tensor, size: int | None = None) -> Iterator[Part]:
        """Yield listed rows with their noise in parts, each row twice with opposite noise if the decoder is sampled."""
        for part in torch.split(rows, size or self._batch):
            x = torch.from_numpy(self._x[part.numpy()]).to(self._device, self._dtype)
            weights = None
            if self._weights is not None:
                weights = torch.from_numpy(self._weights[part.numpy()]).to(self._device, self._dtype)
            if not self._noisy:
                yield x, None, weights
                continue
            noise = torch.randn(len(x), self._latent_dim, generator=self._generator).to(self._device, self._dtype)
            twice = None if weights is None else torch.cat([weights, weights])
            yield torch.cat([x, x]), torch.cat([noise, -noise]), twice


class _Slopes:
    """Gradients of a stack's own copy of its weights `(r, p)`, and the preconditioner that is learned from them."""

    def __init__(self, stack: Stack) -> None:
        self._names = [name for name in stack.parameters if not name.startswith(_STATE)]
        self.start: Tensors = {name: stack.parameters[name].detach().clone() for name in self._names}
        self.stack = stack.with_parameters(
            {name: value.detach().clone().requires_grad_() for name, value in stack.parameters.items()}
        )
        self._optimiser = preconditioned(stack, beta2=0.98, preconditioner_decay=0.98, max_dimension=256)
        self._update = Update(self.stack, self._optimiser, self._names)

    def at(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return losses `(r,)` and gradients `(r, p)` on a part."""
        losses, gradients = self.stack.gradients(*part, 1.0)
        return _exact(losses), self._flat(gradients)

    def learn(self, part: Part) -> tuple[Tensor, Tensor]:
        """Do the same, and include the gradients in the preconditioner."""
        losses, gradients = self._update.run(part, 1.0, 1.0, 0.0)
        return _exact(losses), self._flat(gradients)

    def precondition(self, vector: Tensor) -> Tensor:
        """Return P times a vector `(r, p)`."""
        return self._flat(self._optimiser.precondition(self._parts(vector), _DAMPING))

    @torch.no_grad()
    def move(self, along: Tensor | None) -> None:
        """Move the weights from where they were by a vector `(r, p)`; None for back."""
        changes = None if along is None else self._parts(along)
        for name, value in self.start.items():
            self.stack.parameters[name].copy_(value if changes is None else value + changes[name])

    @property
    def length(self) -> Tensor:
        """The norm of the weights `(r, 1)`."""
        length: Tensor = torch.linalg.vector_norm(self._flat(self.start), dim=1, keepdim=True)
        return length

    def _flat(self, tensors: Tensors) -> Tensor:
        return _exact(torch.cat([tensors[name].detach().flatten(1) for name in self._names], 1))

    def _parts(self, vector: Tensor) -> Tensors:
        sizes = [self.start[name][0].numel() for name in self._names]
        parts = zip(self._names, torch.split(vector, sizes, 1), strict=True)
        return {name: part.reshape(self.start[name].shape).to(self.start[name].dtype) for name, part in parts}


def _predict(stack: Stack, sampler: _Sampler, rows: int) -> tuple[Floats, Floats]:
    was_training = stack.template.training
    stack.template.eval()
    buffers = {name: value.clone() for name, value in stack.buffers.items()}
    try:
        slopes = _Slopes(stack)
        means = [_mean_slope(slopes, sampler, half) for half in sampler.halves(rows)]
        first, second, blocks = means[0][1], means[-1][1], means[-1][2]
        curvature = _curvature(slopes, sampler.few(_CURVATURE_ROWS))
        vectors, matrix, length = _krylov(first, slopes.precondition, curvature)
    finally:
        stack.template.train(was_training)
        for name, value in buffers.items():
            stack.buffers[name].copy_(value)
    best = _newton_step(matrix, length)
    scale = 0.5 / torch.stack([losses for losses, _, _ in means]).mean(0).abs()
    decrease = scale * torch.einsum("rk,krp,rp->r", best, vectors, second)
    spread = scale * torch.einsum("rk,krp,brp->br", best, vectors, blocks)
    error = spread.std(0) / math.sqrt(len(spread)) if len(means) > 1 else torch.zeros_like(decrease)
    return np.asarray(decrease.cpu().numpy()), np.asarray(error.cpu().numpy())


def _mean_slope(slopes: _Slopes, sampler: _Sampler, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean losses `(r,)`, the mean gradients `(r, p)`, and those of each block `(b, r, p)`."""
    loss: Tensor | float = 0.0
    blocks = []
    for block in rows.tensor_split(min(_BLOCKS, len(rows))):
        total: Tensor | float = 0.0
        for part in sampler.parts(block):
            share = len(part[0]) / (len(block) * (1 if part[1] is None else 2))
            losses, gradients = slopes.learn(part)
            loss, total = loss + losses * share * len(block) / len(rows), total + gradients * share
        blocks.append((torch.as_tensor(total), len(block) / len(rows)))
    mean = torch.stack([total * share for total, share in blocks]).sum(0)
    return torch.as_tensor(loss), mean, torch.stack([total for total, _ in blocks])


def _curvature(slopes: _Slopes, sample: list[Part]) -> Callable[[Tensor], Tensor]:
    """Return the function that multiplies a vector `(r, p)` by the Hessian, a difference of gradients on a sample."""
    total = sum(len(part[0]) for part in sample)

    def slope() -> Tensor:
        return torch.stack([slopes.at(part)[1] * (len(part[0]) / total) for part in sample]).sum(0)

    here, length = slope(), slopes.length

    def product(vector: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        # Where the gradient vanishes, as at total collapse, so do all vectors, and their products.
        step = torch.where(norm > 0, _STEP * length.clamp_min(_STEP) / norm, 1.0)
        slopes.move(step * vector)
        there = slope()
        slopes.move(None)
        bent: Tensor = (there - here) / step
        return bent

    return product


def _krylov(
    first: Tensor, precondition: Callable[[Tensor], Tensor], curvature: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors Z `(k, r, p)` with Z^T P^-1 Z = 1, Z^T H Z `(r, k, k)`, and the length of `first` `(r,)`.

    The first vector is P times `first` over that length. Lanczos with complete orthogonalisation, twice.
    """
    tiny = torch.finfo(first.dtype).tiny
    raw, vector = first, precondition(first)
    length = _norm(raw, vector, tiny)
    raw, vector = raw / length, vector / length
    raws, vectors = [raw], [vector]
    matrix = first.new_zeros(len(first), _DIMENSION, _DIMENSION)
    for number in range(_DIMENSION):
        raw = curvature(vectors[number])
        for other, known in enumerate(vectors):
            matrix[:, number, other] = matrix[:, other, number] = (known * raw).sum(1)
        if number == _DIMENSION - 1:
            break
        for _ in range(2):
            for known, before in zip(vectors, raws, strict=True):
                raw = raw - (known * raw).sum(1, keepdim=True) * before
        vector = precondition(raw)
        norm = _norm(raw, vector, tiny)
        raws.append(raw / norm)
        vectors.append(vector / norm)
    return torch.stack(vectors), matrix, length[:, 0]


def _norm(raw: Tensor, vector: Tensor, tiny: float) -> Tensor:
    return (raw * vector).sum(1, keepdim=True).clamp_min(tiny).sqrt()


def _newton_step(matrix: Tensor, length: Tensor) -> Tensor:
    """Return |Z^T H Z|^-1 Z^T g of the first half in the basis Z `(r, k)`, with a floor for the curvature."""
    finite = torch.isfinite(matrix).all(-1).all(-1)
    values, axes = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, torch.zeros_like(matrix)))
    size = values.abs()
    size = torch.maximum(size, _FLATTEST * size.amax(1, keepdim=True))
    along = axes[:, 0] * length[:, None] / size.clamp_min(torch.finfo(size.dtype).tiny)
    step = torch.einsum("rki,ri->rk", axes, along)
    return torch.where(finite[:, None], step, torch.full_like(step, math.nan))


def _exact(value: Tensor) -> Tensor:
    return value.double() if value.device.type != "mps" else value
