"""The preconditioned optimiser for devices: all affine maps of one shape at once, in tensors that stay in place.

A device is slow to start many small operations, so maps of the same shape are updated together; and an update that only
changes tensors in place can be recorded once and replayed. The state has the names of `Preconditioned`, so that a
checkpoint of either can be continued by the other.

Legend: r replica, g map of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from collapsebench.stack.optimisers import DAMPING, RIDGE, Phase, Preconditioned, affine_maps

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors

_SIDES = ("left", "right")


def cholesky_qr(matrix: Tensor) -> Tensor:
    """Return the orthogonal factor Q of matrices `(..., n, n)`, with a positive diagonal of R, by a Cholesky factor.

    Q = A L^-T with L L^T = A^T A in float64, after the columns of A have been scaled to length one. Its columns are
    orthogonal within 1e-16 times the square of the condition number; with the ridge of the preconditioner, whose
    condition number is below 1e5, that is the rounding of float32. Many small matrices take a few operations, where
    Householder QR takes a kernel per column. The Q of a matrix that is not finite is not finite.
    Source: Yamamoto et al. 2015, Roundoff error analysis of the CholeskyQR2 algorithm.
    """
    exact = matrix.double()
    exact = exact / torch.linalg.vector_norm(exact, dim=-2, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    factor = torch.linalg.cholesky_ex(exact.mT @ exact)[0]
    orthogonal: Tensor = torch.linalg.solve_triangular(factor.mT, exact, upper=True, left=False).to(matrix.dtype)
    return orthogonal


@dataclass
class _Group:
    """Affine maps of one shape as matrices, whatever their tensors look like and whether the last column is a bias.

    names: of each map, its weight and bias. state: by quantity, `(g r, ...)`. gradient: of the last update, likewise,
    in a place of its own, so that updates recorded for batches of several shapes share it.
    """

    names: list[tuple[str, ...]]
    shape: tuple[int, int]
    sides: tuple[str, ...]
    state: dict[str, Tensor] = field(default_factory=dict)
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))

    def maps(self, tensor: Tensor) -> list[tuple[tuple[str, ...], Tensor]]:
        """Return the names of each map with its part of a tensor of the group `(r, ...)`."""
        return list(zip(self.names, tensor.chunk(len(self.names)), strict=True))

    def join(self, gradients: Tensors) -> None:
        """Take over the gradients of the maps, the bias as the last column."""
        for names, place in self.maps(self.gradient):
            weight = place[..., :-1] if len(names) > 1 else place
            weight.copy_(gradients[names[0]].reshape(weight.shape))
            if len(names) > 1:
                place[..., -1].copy_(gradients[names[1]])


class InPlacePreconditioned(Preconditioned):
    """`Preconditioned`, with the same numbers up to rounding, in three phases that only change tensors in place.

    learn: the gradient covariances. turn: their eigenbases, and the momentum with them, every `refresh_every` updates.
    move: the running means and the parameters.
    """

    in_place = True

    def __init__(
        self,
        beta1: float = 0.95,
        beta2: float = 0.95,
        preconditioner_decay: float = 0.95,
        refresh_every: int = 10,
        max_dimension: int = 1024,
        epsilon: float = 1e-12,
    ) -> None:
        super().__init__(beta1, beta2, preconditioner_decay, refresh_every, max_dimension, epsilon)
        self._groups: list[_Group] | None = None

    def step(self, parameters: Tensors, gradients: Tensors, learning_rate: float) -> None:
        """Update the parameters in place."""
        for phase in self.begin(parameters, learning_rate):
            phase.run(parameters, gradients)

    @torch.no_grad()
    def begin(self, parameters: Tensors, learning_rate: float) -> list[Phase]:
        """Count an update, and return the phases that it consists of."""
        if self._groups is None:
            self._groups = self._grouped(parameters)
        self._updates += 1
        self._rate.fill_(learning_rate / (1 - self.beta1**self._updates))
        self._correction.fill_(1 / (1 - self.beta2**self._updates))
        phases = [Phase("learn", self._learn), Phase("turn", self._turn, feeds=False), Phase("move", self._move)]
        return phases if self._updates == 1 or self._updates % self.refresh_every == 0 else phases[::2]

    def _grouped(self, parameters: Tensors) -> list[_Group]:
        first = next(iter(parameters.values()))
        self._rate, self._correction = (torch.zeros((), device=first.device, dtype=first.dtype) for _ in range(2))
        groups: dict[tuple[int, int, bool], _Group] = {}
        for names in affine_maps(parameters):
            weight = parameters[names[0]]
            rows = weight.shape[1] if weight.dim() > 1 else 1
            columns = weight[0].numel() // rows + len(names) - 1
            is_map = columns > 1
            sides = tuple(
                side for side, size in zip(_SIDES, (rows, columns), strict=True)
                if is_map and 1 < size <= self.max_dimension
            )  # fmt: skip
            group = groups.setdefault((rows, columns, is_map), _Group([], (rows, columns), sides))
            group.names.append(names)
        for group in groups.values():
            self._fill(group, len(first), first)
        return list(groups.values())

    def _fill(self, group: _Group, replicas: int, like: Tensor) -> None:
        """Put the state of a group's maps into common tensors, of which the state by name becomes views."""
        rows = len(group.names) * replicas
        group.gradient = torch.zeros(rows, *group.shape, device=like.device, dtype=like.dtype)
        shapes = {"m": group.shape, "v": group.shape}
        for side in group.sides:
            size = group.shape[_SIDES.index(side)]
            shapes |= {side: (size, size), f"{side}-basis": (size, size)}
        for key, shape in shapes.items():
            start = torch.zeros(len(group.names), replicas, *shape, device=like.device, dtype=like.dtype)
            if key.endswith("-basis"):
                start += torch.eye(shape[0], device=like.device, dtype=like.dtype)
            for number, names in enumerate(group.names):
                name = f"{names[0]}/{key}"
                if name in self._state:
                    start[number] = self._state[name]
                self._state[name] = start[number]
            group.state[key] = start.flatten(0, 1)

    @torch.no_grad()
    def _learn(self, parameters: Tensors, gradients: Tensors) -> None:
        for group in self._groups or ():
            group.join(gradients)
            for side in group.sides:
                left, right = group.gradient, group.gradient.mT
                left, right = (left, right) if side == "left" else (right, left)
                group.state[side].baddbmm_(left, right, beta=self.decay, alpha=1 - self.decay)

    @torch.no_grad()
    def _turn(self, parameters: Tensors, gradients: Tensors) -> None:
        for group in self._groups or ():
            for side in group.sides:
                covariance, basis = group.state[side], group.state[f"{side}-basis"]
                ridge = RIDGE * covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
                ridge = ridge.clamp_min(torch.finfo(ridge.dtype).tiny)
                after = _orthonormalised(covariance @ basis + ridge * basis)
                turn, momentum = after.mT @ basis, group.state["m"]
                momentum.copy_(turn @ momentum if side == "left" else momentum @ turn.mT)
                basis.copy_(after)

    @torch.no_grad()
    def _move(self, parameters: Tensors, gradients: Tensors) -> None:
        for group in self._groups or ():
            left, right = (group.state.get(f"{side}-basis") for side in _SIDES)
            rotated = group.gradient if left is None else left.mT @ group.gradient
            rotated = rotated if right is None else rotated @ right
            momentum, square = group.state["m"], group.state["v"]
            momentum.lerp_(rotated, 1 - self.beta1)
            square.mul_(self.beta2).addcmul_(rotated, rotated, value=1 - self.beta2)
            scale = (square * self._correction).sqrt_()
            if group.sides:
                scale += DAMPING * scale.amax((-2, -1), keepdim=True)
            change = momentum / scale.add_(self.epsilon)
            change = change if left is None else left @ change
            change = (change if right is None else change @ right.mT).mul_(self._rate)
            for names, part in group.maps(change):
                weight = parameters[names[0]]
                weight.sub_((part[..., :-1] if len(names) > 1 else part).reshape(weight.shape))
                if len(names) > 1:
                    parameters[names[1]].sub_(part[..., -1])

    def keep(self, replicas: Tensor) -> None:
        """Drop the state of every replica whose index is not listed."""
        super().keep(replicas)
        self._forget()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        super().load(state)
        self._forget()

    def _forget(self) -> None:
        """Let the next update build its tensors anew."""
        self._groups = None
        self.generation += 1


def _orthonormalised(matrix: Tensor) -> Tensor:
    """Return the orthogonal factor; by Householder reflections where they are fast, or without float64."""
    return cholesky_qr(matrix) if matrix.device.type == "cuda" else torch.linalg.qr(matrix)[0]
