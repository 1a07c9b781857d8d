"""Optimisers of a stack: every replica is updated as if it were trained alone.

Shapes: the first axis of every parameter and gradient is the replica axis. No optimiser applies weight decay, so the
stationary points are those of the objective.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from collapsebench.stack.kernel.library import KernelError, UpdateCall, load_kernel

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors


RIDGE, DAMPING = 1e-3, 1e-6
_WIDEST = 256  # for larger matrices, PyTorch's blocked matrix products are faster


@dataclass(frozen=True)
class Phase:
    """A part of an update that only changes tensors in place, given parameters and gradients `(r, ...)`.

    feeds: whether later phases read what it returns or keeps, other than the state of the optimiser.
    """

    name: str
    run: Callable[[Tensors, Tensors], None]
    feeds: bool = True


class StackOptimiser(ABC):
    """The optimiser that the training loop expects. Its state is a dict of tensors, so that it can be stored.

    in_place: whether an update is made of phases, which can be recorded and replayed. generation: rises when the state
    moves to other tensors, so that what was recorded before is void.
    """

    in_place: bool = False
    generation: int = 0

    def begin(self, parameters: Tensors, learning_rate: float) -> list[Phase]:
        """Count an update, and return the phases that it consists of; only for an optimiser that works in place."""
        raise NotImplementedError

    @abstractmethod
    def step(self, parameters: Tensors, gradients: Tensors, learning_rate: float) -> None:
        """Update the parameters in place."""

    @abstractmethod
    def keep(self, replicas: Tensor) -> None:
        """Drop the state of every replica whose index is not listed."""

    @abstractmethod
    def state(self) -> Tensors:
        """Return the whole state; training continues from it unchanged after `load`."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""


class Adam(StackOptimiser):
    """Adam (Kingma and Ba 2015) over stacked parameters, with PyTorch's fused kernel where the device has one."""

    def __init__(
        self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, *, in_place: bool = False
    ) -> None:
        self._settings = {"betas": (beta1, beta2), "eps": epsilon}
        self.in_place = in_place
        self._state: dict[str, Tensors] = {}
        self._inner: tuple[tuple[int, ...], torch.optim.Adam] | None = None

    def step(self, parameters: Tensors, gradients: Tensors, learning_rate: float) -> None:
        """Update the parameters in place."""
        for phase in self.begin(parameters, learning_rate):
            phase.run(parameters, gradients)

    def begin(self, parameters: Tensors, learning_rate: float) -> list[Phase]:
        """Set the learning rate, and return the only phase; PyTorch's optimiser counts the update itself."""
        rates = self._bind(parameters).param_groups[0]
        if isinstance(rates["lr"], Tensor):
            rates["lr"].fill_(learning_rate)
        else:
            rates["lr"] = learning_rate
        return [Phase("move", self._move)]

    def _move(self, parameters: Tensors, gradients: Tensors) -> None:
        inner = self._bind(parameters)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].contiguous()  # the fused kernel pairs elements by address
        inner.step()
        for name, parameter in parameters.items():
            self._state[name] = inner.state[parameter]
            parameter.grad = None

    def _bind(self, parameters: Tensors) -> torch.optim.Adam:
        identity = tuple(id(p) for p in parameters.values())
        if self._inner is None or self._inner[0] != identity:
            first = next(iter(parameters.values()))
            fused = first.device.type in ("cpu", "cuda", "mps")
            rate = torch.zeros((), device=first.device) if self.in_place else 0.0
            capturable = self.in_place and first.device.type == "cuda"
            inner = torch.optim.Adam(
                list(parameters.values()),
                lr=rate,
                fused=fused,
                capturable=capturable,
                **self._settings,  # type: ignore[arg-type]
            )
            for name, parameter in parameters.items():
                if name in self._state:
                    inner.state[parameter] = self._state[name]
            self._inner = (identity, inner)
        return self._inner[1]

    def keep(self, replicas: Tensor) -> None:
        """Drop the state of every replica whose index is not listed."""
        self._inner = None
        self.generation += 1
        self._state = {
            name: {key: value if value.dim() == 0 else value[replicas] for key, value in entries.items()}
            for name, entries in self._state.items()
        }

    def state(self) -> Tensors:
        """Return the whole state, named `parameter/quantity`."""
        return {f"{name}/{key}": value for name, entries in self._state.items() for key, value in entries.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self._inner = None
        self.generation += 1
        self._state = {}
        for path, value in state.items():
            name, _, key = path.rpartition("/")
            self._state.setdefault(name, {})[key] = value


class Preconditioned(StackOptimiser):
    """Adam in the eigenbases of the two gradient covariances of each affine map, separately for each replica.

    For an affine map with gradient G `(out, in + 1)`, where the bias is the last column:

        L <- a L + (1 - a) G G^T        Q_L <- orthonormalise((L + r I) Q_L) every `refresh_every` updates, from I
        update = Q_L [ m / (sqrt(v) + e max sqrt(v)) ] Q_R^T,    m, v: running means of Q_L^T G Q_R and of its square

    and likewise for R and Q_R. The ridge r, 0.1 % of the mean eigenvalue, leaves the eigenvectors unchanged. Together
    with e = 1e-6, it prevents rounding errors from selecting directions without gradient, so that a replica hardly
    depends on the others in its stack. Larger values of either slow down the weakest modes.
    A side longer than `max_dimension` keeps the identity as its basis; a vector that belongs to no affine map is
    updated by plain Adam. Source: based on Vyas et al. 2024 (SOAP), here without weight decay.
    """

    def __init__(
        self,
        beta1: float = 0.95,
        beta2: float = 0.95,
        preconditioner_decay: float = 0.95,
        refresh_every: int = 10,
        max_dimension: int = 1024,
        epsilon: float = 1e-12,
    ) -> None:
        self.beta1, self.beta2, self.decay = beta1, beta2, preconditioner_decay
        self.refresh_every, self.max_dimension, self.epsilon = refresh_every, max_dimension, epsilon
        self._updates = 0
        self._state: Tensors = {}

    @torch.no_grad()
    def step(self, parameters: Tensors, gradients: Tensors, learning_rate: float) -> None:
        """Update the parameters in place."""
        self._updates += 1
        for names in affine_maps(parameters):
            if self._step_by_kernel(names, parameters, gradients, learning_rate):
                continue
            change = self._change(names[0], _join([gradients[name] for name in names]))
            for name, part in zip(names, _part(change, [parameters[name] for name in names]), strict=True):
                parameters[name].add_(part, alpha=-learning_rate)

    @torch.no_grad()
    def precondition(self, gradients: Tensors, damping: float) -> Tensors:
        """Return gradients `(r, ...)` divided by sqrt(v) in the eigenbases, without a change of the state.

        It is the step at learning rate one if these gradients stayed the same, and a symmetric positive definite map.
        damping: the share of the largest v that is added to each v. An error is raised before the first update.
        """
        changes: Tensors = {}
        for names in affine_maps(gradients):
            left, right, square = (self._state.get(f"{names[0]}/{key}") for key in ("left-basis", "right-basis", "v"))
            if square is None:
                raise RuntimeError(f"no second moments of {names[0]} yet, expected at least one update before.")
            square = square / (1 - self.beta2**self._updates)
            square = (square + damping * square.amax((-2, -1), keepdim=True)).add_(torch.finfo(square.dtype).tiny)
            rotated = _rotate(_join([gradients[name] for name in names]), left, right) / square.sqrt_()
            change = _rotate(rotated, _inverse(left), _inverse(right))
            changes |= zip(names, _part(change, [gradients[name] for name in names]), strict=True)
        return changes

    def _step_by_kernel(
        self, names: tuple[str, ...], parameters: Tensors, gradients: Tensors, learning_rate: float
    ) -> bool:
        """Make the same update of one affine map in one pass of the compiled kernel; return False if it cannot."""
        parts = [tensors[name] for tensors in (parameters, gradients) for name in names]
        weight, bias = parameters[names[0]], parameters[names[1]] if len(names) > 1 else None
        if weight.dim() != 3 or not all(_suits_kernel(part) for part in parts) or (kernel := _kernel()) is None:
            return False
        replicas, out, inputs = weight.shape
        columns = inputs + (bias is not None)
        if columns == 1 or max(out, columns) > min(_WIDEST, self.max_dimension):
            return False
        start = f"{names[0]}/m" not in self._state
        for key, shape in self._layout(names[0], out, columns).items():
            if key not in self._state:
                self._state[key] = weight.new_zeros(replicas, *shape)
            self._state[key] = self._state[key].contiguous()
        grads = [gradients[name].contiguous() for name in names]
        pointers = [weight, bias, grads[0], grads[1] if bias is not None else None]
        pointers += [
            self._state.get(f"{names[0]}/{key}") for key in ("m", "v", "left", "left-basis", "right", "right-basis")
        ]
        call = UpdateCall(
            replicas, out, inputs, start, self._updates % self.refresh_every == 0, learning_rate, self.beta1,
            self.beta2, self.decay, 1 - self.beta1**self._updates, 1 - self.beta2**self._updates, RIDGE, DAMPING,
            self.epsilon, *(None if part is None else part.data_ptr() for part in pointers),
        )  # fmt: skip
        if kernel.precondition_run(ctypes.byref(call)):
            raise MemoryError("no memory for the scratch space of a preconditioned update")
        return True

    def _layout(self, name: str, out: int, columns: int) -> dict[str, tuple[int, int]]:
        """Return the names of the state tensors of one affine map, with their shapes per replica."""
        layout = {f"{name}/m": (out, columns), f"{name}/v": (out, columns)}
        for side, size in (("left", out), ("right", columns)):
            if size > 1:
                layout |= {f"{name}/{side}": (size, size), f"{name}/{side}-basis": (size, size)}
        return layout

    def _change(self, name: str, gradient: Tensor) -> Tensor:
        left, right = (self._basis(name, side, gradient) for side in ("left", "right"))
        rotated = _rotate(gradient, left, right)
        momentum = self._running(f"{name}/m", rotated, self.beta1)
        square = self._running(f"{name}/v", rotated.square(), self.beta2)
        scale = (square / (1 - self.beta2**self._updates)).sqrt_()
        if left is not None or right is not None:
            scale = scale + DAMPING * scale.amax((-2, -1), keepdim=True)
        scale = scale.add_(self.epsilon)
        return _rotate(momentum / scale, _inverse(left), _inverse(right)).div_(1 - self.beta1**self._updates)

    def _basis(self, name: str, side: str, gradient: Tensor) -> Tensor | None:
        size = gradient.shape[1 if side == "left" else 2]
        if size == 1 or size > self.max_dimension or gradient.shape[2] == 1:
            return None
        outer = gradient @ gradient.mT if side == "left" else gradient.mT @ gradient
        covariance = self._running(f"{name}/{side}", outer, self.decay)
        key = f"{name}/{side}-basis"
        ridge = RIDGE * covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        if key not in self._state:
            eye = torch.eye(size, device=gradient.device, dtype=gradient.dtype)
            self._state[key] = torch.linalg.qr(covariance + ridge * eye)[0].contiguous()
        elif self._updates % self.refresh_every == 0:
            before = self._state[key]
            self._state[key] = after = torch.linalg.qr(covariance @ before + ridge * before)[0].contiguous()
            # The momentum is expressed in the basis, so it is rotated with it.
            turn = after.mT @ before
            momentum = self._state[f"{name}/m"]
            self._state[f"{name}/m"] = turn @ momentum if side == "left" else momentum @ turn.mT
        return self._state[key]

    def _running(self, key: str, value: Tensor, decay: float) -> Tensor:
        if key not in self._state:
            self._state[key] = torch.zeros_like(value)
        return self._state[key].lerp_(value, 1 - decay)

    def keep(self, replicas: Tensor) -> None:
        """Drop the state of every replica whose index is not listed."""
        self._state = {key: value[replicas] for key, value in self._state.items()}

    def state(self) -> Tensors:
        """Return the whole state, including the number of updates done."""
        return {"updates": torch.tensor(self._updates), **self._state}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self._state = {key: value for key, value in state.items() if key != "updates"}
        self._updates = int(state["updates"])


@cache
def _kernel() -> ctypes.CDLL | None:
    try:
        return load_kernel()
    except KernelError:
        return None


def _suits_kernel(part: Tensor) -> bool:
    return part.device.type == "cpu" and part.dtype == torch.float32


def affine_maps(parameters: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Group stacked parameters into affine maps: each weight with its module's bias, if that has one entry per row."""
    partner = {}
    for name, value in parameters.items():
        bias = f"{name.removesuffix('weight')}bias"
        if not name.endswith("weight") or value.dim() < 3 or bias not in parameters:
            continue
        if parameters[bias].shape == value.shape[:2]:
            partner[name] = bias
    taken = set(partner.values())
    return [(name, partner[name]) if name in partner else (name,) for name in parameters if name not in taken]


def _join(parts: list[Tensor]) -> Tensor:
    matrix = parts[0].reshape(*parts[0].shape[:2], -1) if parts[0].dim() > 1 else parts[0].reshape(-1, 1, 1)
    return matrix if len(parts) == 1 else torch.cat([matrix, parts[1].unsqueeze(-1)], dim=-1)


def _part(matrix: Tensor, like: list[Tensor]) -> list[Tensor]:
    if len(like) == 1:
        return [matrix.reshape(like[0].shape)]
    return [matrix[..., :-1].reshape(like[0].shape), matrix[..., -1]]


def _rotate(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    if left is not None:
        matrix = left.mT @ matrix
    return matrix if right is None else matrix @ right


def _inverse(basis: Tensor | None) -> Tensor | None:
    return None if basis is None else basis.mT


class Average:
    """An exponentially weighted mean of stacked parameters `(r, ...)` over about the last `share` of the updates.

    Averaging cancels fluctuations due to batches and noise. It moves no stationary point, and comes closer to one at
    the same learning rate. Source: Polyak and Juditsky 1992, with a horizon that grows with the number of updates, so
    that early updates are forgotten.
    """

    def __init__(self, parameters: Mapping[str, Tensor], share: float) -> None:
        self.share = share
        self.weights = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def add(self, parameters: Mapping[str, Tensor], update: int) -> None:
        """Include the parameters after an update, where updates are counted from one."""
        newest = 1 / (1 + self.share * (update - 1))
        torch._foreach_lerp_(list(self.weights.values()), [parameters[name] for name in self.weights], newest)

    def keep(self, replicas: Tensor) -> None:
        """Drop every replica whose index is not listed."""
        self.weights = {name: value[replicas] for name, value in self.weights.items()}
