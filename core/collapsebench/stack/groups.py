"""Losses and gradients of a stack, group of replicas by group: one after the other, or one group on each core.

Batching pays by sharing the cost of a call. Where calls are long, as convolutions on a CPU are, it only drives
activations out of the caches; then each core takes a group of its own, and threads need not wait for each other within
an operation. A group of one runs its module as a plain loop does: the parameters of its copy are views of the stack's,
their gradients views of the stack's gradients.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import vmap

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors

Loss = Callable[..., Tensor]
GROUPS = {"one-by-one": 1, "side-by-side": 1, "grouped": 4}


class Group:
    """Neighbouring replicas of a stack, with a copy of its modules that is their own.

    loss_of: a pair of modules -> the loss of a state `(state, dial, progress, x, noise, weights) -> ()`.
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
        place = part.start if self.alone else part
        self._state = {name: value[place] for name, value in buffers.items()}
        for name, value in parameters.items():
            self._state[name] = value.detach()[place].requires_grad_()
            self._state[name].grad = gradients[name][place]
        if self.alone:
            self._hand_over(pair)

    def _hand_over(self, pair: nn.ModuleDict) -> None:
        """Make the state that modules own their own: what is left in it is the objective's."""
        for name, parameter in pair.named_parameters():
            own = self._state[name]
            parameter.data, parameter.grad = own.data, own.grad
        for name, buffer in pair.named_buffers():
            if name in self._state:
                buffer.data = self._state[name]
        self._state = {name: value for name, value in self._state.items() if name.startswith("objective.")}

    def run(
        self, dials: Tensor, seeds: Tensor, progress: Tensor, batch: tuple[Tensor | None, ...], axes: tuple[int, ...]
    ) -> Tensor:
        """Add the gradients of the replicas' losses to the stack's and return the losses `(g,)`.

        batch: x, noise, weights; axes: how many axes each has without a leading seed axis.
        """
        arguments, differs = [], []
        for value, own_axes in zip(batch, axes, strict=True):
            by_seed = value is not None and value.dim() > own_axes
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


class SideBySide:
    """All groups of a stack, for as long as it keeps its replicas. path: a key of GROUPS."""

    def __init__(
        self,
        path: str,
        loss_of: Callable[[nn.ModuleDict], Loss],
        template: nn.ModuleDict,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
    ) -> None:
        self._path, self._on_each_core = path, path != "one-by-one"
        self._parameters = dict(parameters)
        self._gradients = {name: torch.zeros_like(value) for name, value in parameters.items()}
        replicas, size = len(next(iter(parameters.values()))), GROUPS[path]
        self._groups = [
            Group(loss_of, template, parameters, buffers, self._gradients, slice(r, min(r + size, replicas)))
            for r in range(0, replicas, size)
        ]

    def serves(self, path: str, parameters: Mapping[str, Tensor]) -> bool:
        """Return whether these are the tensors that the groups are views of, and this the path."""
        return path == self._path and all(self._parameters[name] is value for name, value in parameters.items())

    def gradients(
        self, dials: Tensor, seeds: Tensor, progress: Tensor, batch: tuple[Tensor | None, ...], axes: tuple[int, ...]
    ) -> tuple[Tensor, Tensors]:
        """Return losses `(r,)` and gradients `(r, ...)`, which are overwritten by the next call."""
        for value in self._gradients.values():
            value.zero_()

        def run(group: Group) -> Tensor:
            return group.run(dials, seeds, progress, batch, axes)

        workers = torch.get_num_threads()
        if self._on_each_core and workers > 1 and len(self._groups) > 1:
            losses = list(_pool(workers, os.getpid()).map(run, self._groups))
        else:
            losses = [run(group) for group in self._groups]
        return torch.cat(losses), self._gradients


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads whose own operations are not split further. process: its id; a forked one inherits no threads."""
    pool, started = ThreadPoolExecutor(workers, "replicas"), Barrier(workers)

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes over the process's number on its first question: let it be this one
        started.wait()

    for waiting in [pool.submit(alone) for _ in range(workers)]:
        waiting.result()
    torch.set_num_threads(workers)  # new threads elsewhere would inherit the workers' one
    return pool
