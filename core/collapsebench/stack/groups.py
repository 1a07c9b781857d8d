"""How many replicas of a stack are computed at once: all of them, some on each core, or one after the other.

Batching replicas saves overhead per call. If calls are long, such as convolutions on a CPU, this gains little, and the
activations no longer fit into the caches. It is then faster to give each core a separate group, so that threads do not
wait for each other within an operation. A group of one runs its module as in an ordinary training loop: the parameters
of its copy are views of the stack's parameters, and their gradients are views of the stack's gradients.
"""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Barrier
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors
    from collapsebench.stack.stack import Stack

Loss = Callable[..., Tensor]
Batch = tuple[Tensor | None, Tensor | None, Tensor | None]
"""x, noise and weights of an update; each may carry a leading seed axis."""


class Grouping(ABC):
    """How many replicas are computed at once."""

    as_a_whole: ClassVar[bool] = False
    """Whether each operation computes all replicas, so that a larger stack saves more overhead."""

    @abstractmethod
    def map(
        self, function: Callable[..., Any], state: Tensors, arguments: tuple[Any, ...], axes: tuple[int | None, ...]
    ) -> Any:
        """Apply a function of one replica's state and arguments to every replica, and stack the results.

        state: `(r, ...)`. axes: the replica axis of each argument, or None if all replicas share the argument.
        """

    @abstractmethod
    def gradients(self, stack: Stack, batch: Batch, dials: Tensor, progress: Tensor) -> tuple[Tensor, Tensors]:
        """Return the losses `(r,)` of a stack on a batch, and their gradients `(r, ...)`, valid until the next call."""


class AllAtOnce(Grouping):
    """Each operation computes all replicas at once."""

    as_a_whole = True

    def map(
        self, function: Callable[..., Any], state: Tensors, arguments: tuple[Any, ...], axes: tuple[int | None, ...]
    ) -> Any:
        """Map the function over the replica axis with torch.func."""
        return vmap(function, in_dims=(0, *axes))(state, *arguments)

    def gradients(self, stack: Stack, batch: Batch, dials: Tensor, progress: Tensor) -> tuple[Tensor, Tensors]:
        """Differentiate the sum of the losses; replicas are independent, so each gets the gradient of its own loss."""
        losses = stack.mapped_losses(batch, dials, progress)
        parameters = stack.parameters
        gradients = torch.autograd.grad(losses.sum(), list(parameters.values()), allow_unused=True)
        return losses.detach(), {
            name: torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
        }


@dataclass(frozen=True)
class OnCores(Grouping):
    """Groups of consecutive replicas, one group on each core. size: number of replicas in a group."""

    size: int

    def map(
        self, function: Callable[..., Any], state: Tensors, arguments: tuple[Any, ...], axes: tuple[int | None, ...]
    ) -> Any:
        """Map the function over the replica axis with torch.func, `size` replicas at a time."""
        return vmap(function, in_dims=(0, *axes), chunk_size=self.size)(state, *arguments)

    def gradients(self, stack: Stack, batch: Batch, dials: Tensor, progress: Tensor) -> tuple[Tensor, Tensors]:
        """Distribute the groups over the cores; each core computes one group at a time."""
        return stack.groups(self.size).gradients(dials, stack.seeds, progress, batch, on_each_core=True)


class OneByOne(Grouping):
    """One replica after the other, for modules that cannot be batched."""

    def map(
        self, function: Callable[..., Any], state: Tensors, arguments: tuple[Any, ...], axes: tuple[int | None, ...]
    ) -> Any:
        """Call the function for each replica in turn."""
        mapped = [*state.values(), *(value for value, axis in zip(arguments, axes, strict=True) if axis is not None)]
        replicas = len(mapped[0])
        # One slice per replica through `unbind`, whose gradient is a single stack.
        slices = {name: value.unbind(0) for name, value in state.items()}
        results = [
            function(
                {name: parts[r] for name, parts in slices.items()},
                *(value if axis is None else value[r] for value, axis in zip(arguments, axes, strict=True)),
            )
            for r in range(replicas)
        ]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return torch.stack(results)

    def gradients(self, stack: Stack, batch: Batch, dials: Tensor, progress: Tensor) -> tuple[Tensor, Tensors]:
        """Compute the loss and gradient of each replica in turn, with a separate copy of the modules."""
        return stack.groups(1).gradients(dials, stack.seeds, progress, batch, on_each_core=False)


class ReplicaGroup:
    """Consecutive replicas of a stack, with their own copy of its modules.

    loss_of: returns the loss function of a pair of modules, `(state, dial, progress, x, noise, weights) -> ()`.
    """

    def __init__(
        self,
        loss_of: Callable[[nn.ModuleDict], Loss],
        template: nn.ModuleDict,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        part: slice,
    ) -> None:
        self.part, self.alone = part, part.stop - part.start == 1
        pair = copy.deepcopy(template)
        self._loss = loss_of(pair)
        index = part.start if self.alone else part
        self._state = {name: value[index] for name, value in buffers.items()}
        for name, value in parameters.items():
            self._state[name] = value.detach()[index].requires_grad_()
            self._state[name].grad = gradients[name][index]
        if self.alone:
            self._hand_over(pair)

    def _hand_over(self, pair: nn.ModuleDict) -> None:
        """Make the views the parameters and buffers of the modules, and keep only the state of the objective here."""
        for name, parameter in pair.named_parameters():
            view = self._state[name]
            parameter.data, parameter.grad = view.data, view.grad
        for name, buffer in pair.named_buffers():
            if name in self._state:
                buffer.data = self._state[name]
        self._state = {name: value for name, value in self._state.items() if name.startswith("objective.")}

    def run(self, dials: Tensor, seeds: Tensor, progress: Tensor, batch: Batch, axes: tuple[int, ...]) -> Tensor:
        """Add the gradients of the group's losses to those of the stack, and return the losses `(g,)`.

        axes: number of axes of each part of the batch without a leading seed axis.
        """
        arguments, differs = [], []
        for value, plain_axes in zip(batch, axes, strict=True):
            by_seed = value is not None and value.dim() > plain_axes
            several = by_seed and value is not None and len(value) > 1
            if by_seed and value is not None:
                value = value[seeds[self.part.start if self.alone else self.part]] if several else value[0]
            arguments.append(value)
            differs.append(0 if several else None)
        if self.alone:
            loss = self._loss(self._state, dials[self.part.start], progress, *arguments)
            torch.autograd.backward(loss)
            return loss.detach()[None]
        mapped = vmap(self._loss, in_dims=(0, 0, None, *differs))
        losses: Tensor = mapped(self._state, dials[self.part], progress, *arguments)
        torch.autograd.backward(losses.sum())
        return losses.detach()


class GroupedGradients:
    """All groups of a stack, valid as long as no replica leaves it.

    size: number of replicas in a group. axes: numbers of axes of x, noise and weights without a leading seed axis.
    """

    def __init__(
        self,
        size: int,
        loss_of: Callable[[nn.ModuleDict], Loss],
        template: nn.ModuleDict,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        axes: tuple[int, int, int],
    ) -> None:
        self._size, self._axes = size, axes
        self._parameters = dict(parameters)
        self._gradients = {name: torch.zeros_like(value) for name, value in parameters.items()}
        replicas = len(next(iter(parameters.values())))
        self._groups = [
            ReplicaGroup(loss_of, template, parameters, buffers, self._gradients, slice(r, min(r + size, replicas)))
            for r in range(0, replicas, size)
        ]

    def serves(self, size: int, parameters: Mapping[str, Tensor]) -> bool:
        """Return whether the groups have this size and are views of these tensors."""
        return size == self._size and all(self._parameters[name] is value for name, value in parameters.items())

    def gradients(
        self, dials: Tensor, seeds: Tensor, progress: Tensor, batch: Batch, *, on_each_core: bool
    ) -> tuple[Tensor, Tensors]:
        """Return losses `(r,)` and gradients `(r, ...)`, which are overwritten by the next call."""
        for value in self._gradients.values():
            value.zero_()

        def run(group: ReplicaGroup) -> Tensor:
            return group.run(dials, seeds, progress, batch, self._axes)

        workers = torch.get_num_threads()
        if on_each_core and workers > 1 and len(self._groups) > 1:
            losses = list(_pool(workers, os.getpid()).map(run, self._groups))
        else:
            losses = [run(group) for group in self._groups]
        return torch.cat(losses), self._gradients


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Return threads that each run PyTorch single-threaded. process: its id, since a fork inherits no threads."""
    pool, started = ThreadPoolExecutor(workers, "replicas"), Barrier(workers)

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first call in a thread adopts the number of the process; make it here
        started.wait()

    for waiting in [pool.submit(alone) for _ in range(workers)]:
        waiting.result()
    torch.set_num_threads(workers)  # new threads elsewhere would otherwise be limited to one as well
    return pool
