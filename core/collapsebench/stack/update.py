"""One update of a stack, again and again: on a CUDA device, recorded once as graphs and replayed.

A small network is bound by the time that it takes to start operations, not by arithmetic. A recorded update starts all
of them with one call for each phase: loss and gradients, and the phases of the optimiser. Whatever changes between
updates lives in tensors that stay where they are: batch, noise, prices, progress and learning rate. Numbers are those
of the same operations called one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from collapsebench.stack.groups import Batch
from collapsebench.stack.in_place import InPlacePreconditioned
from collapsebench.stack.optimisers import Phase, Preconditioned, StackOptimiser
from collapsebench.stack.stack import Prices, Stack

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors

_CALLS_BEFORE = 2
"""How often a phase runs by itself first: libraries allocate workspaces, kernels are compiled and inputs found."""


class Recording(Protocol):
    """Operations that have been recorded, to be replayed on the same tensors."""

    def replay(self) -> None:
        """Do the recorded operations."""


Record = Callable[[Callable[[], None]], Recording]
"""Records what a function does on the device, without doing it. Raises RuntimeError if it cannot be recorded."""


def cuda_recorder() -> Record:
    """Return what records CUDA graphs that share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def record(function: Callable[[], None]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what calls before the recording used is not in the pool
        with torch.cuda.graph(graph, pool=pool):
            function()
        return graph

    return record


class Update:
    """The update of a stack by an optimiser.

    names: the parameters that are updated; all by default. record: None if operations are called one by one. why_not:
    for each phase that could not be recorded, the reason; it is called instead, with the same result.
    """

    def __init__(
        self, stack: Stack, optimiser: StackOptimiser, names: list[str] | None = None, record: Record | None = None
    ) -> None:
        self.stack, self.optimiser, self._names = stack, optimiser, names
        if record is None and stack.computation.captured and stack.device.type == "cuda":
            record = cuda_recorder()
        self._record = record
        self.why_not: dict[str, str] = {}
        self._start()

    def _start(self) -> None:
        """Forget what has been recorded."""
        self._bound = self._tensors()
        self._generation = self.optimiser.generation
        self._by_shape: dict[Any, _Recorded] = {}

    def _tensors(self) -> list[Tensor]:
        """Return all tensors of the stack that recorded operations refer to."""
        stack = self.stack
        return [*stack.parameters.values(), *stack.buffers.values(), stack.seeds]

    def run(self, batch: Batch, progress: float, price: Tensor | float, learning_rate: float) -> tuple[Tensor, Tensors]:
        """Update the stack; return losses `(r,)` and gradients `(r, ...)`, as `Stack.gradients` does."""
        stack, optimiser = self.stack, self.optimiser
        if not stack.computation.captured:
            x, noise, weights = batch
            assert x is not None
            losses, gradients = stack.gradients(x, noise, weights, progress, price)
            optimiser.step(*self._updated(gradients), learning_rate)
            return losses, gradients
        bound = self._tensors()
        moved = len(bound) != len(self._bound) or any(a is not b for a, b in zip(bound, self._bound, strict=True))
        if moved or optimiser.generation != self._generation:
            self._start()
        shapes = tuple(None if part is None else part.shape for part in batch)
        recorded = self._by_shape.get(shapes)
        if recorded is None or not recorded.take(batch, progress, price):
            recorded = self._by_shape[shapes] = _Recorded(stack)
            recorded.take(batch, progress, price)
        self._phase(recorded, "gradients", recorded.find_gradients)
        for phase in optimiser.begin(self._updated(recorded.gradients)[0], learning_rate):
            self._phase(recorded, phase.name, partial(self._part, recorded, phase), feeds=phase.feeds)
        return recorded.losses, recorded.gradients

    def _part(self, recorded: _Recorded, phase: Phase) -> None:
        phase.run(*self._updated(recorded.gradients))

    def _updated(self, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Return the parameters that are updated, and their gradients."""
        if self._names is None:
            return self.stack.parameters, gradients
        return {n: self.stack.parameters[n] for n in self._names}, {n: gradients[n] for n in self._names}

    def _phase(self, recorded: _Recorded, name: str, function: Callable[[], None], *, feeds: bool = True) -> None:
        if (recording := recorded.recordings.get(name)) is not None:
            recording.replay()
            return
        recorded.calls[name] = recorded.calls.get(name, 0) + 1
        if self._record is not None and name not in self.why_not and recorded.calls[name] > _CALLS_BEFORE:
            recorded.frozen = True
            try:
                recorded.recordings[name] = recording = self._record(function)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.why_not[name] = str(error).strip().splitlines()[0]
                if feeds:  # what follows would be recorded on the tensors of one call
                    self._record = None
                    self._by_shape = {}
                    recorded.recordings = {}
            else:
                recording.replay()
                return
        function()


class _Recorded:
    """What has been recorded for batches of one shape, and its inputs, in tensors that stay where they are."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._own = stack, stack.dials
        self.dials = stack.dials.clone()
        self.progress = torch.zeros((), device=stack.device, dtype=stack.dtype)
        self.batch: Batch = (None, None, None)
        self._copied = [False, False, False]
        self.frozen = False
        self.recordings: dict[str, Recording] = {}
        self.calls: dict[str, int] = {}
        self.prices: Prices | None = None
        self._priced_at: float | None = None
        self.losses: Tensor = self.dials
        self.gradients: Tensors = {}

    def find_gradients(self) -> None:
        """Compute losses `(r,)` and gradients `(r, ...)`."""
        at = self.batch, self.dials, self.progress
        self.losses, self.gradients = self._stack.gradients_at(*at, self.prices)

    def take(self, batch: Batch, progress: float, price: Tensor | float) -> bool:
        """Take over the inputs of an update; return False if an input that has been recorded is another tensor now."""
        placed: list[Tensor | None] = []
        for number, (held, given) in enumerate(zip(self.batch, batch, strict=True)):
            if given is None or held is None or held is given:
                placed.append(given)
            elif self._copied[number]:
                placed.append(held.copy_(given))
            elif self.frozen:
                return False
            else:  # a batch that is the same tensor every time, such as all data, is never copied
                self._copied[number] = True
                placed.append(given.clone())
        self.batch = (placed[0], placed[1], placed[2])
        self.progress.fill_(progress)
        self.dials.copy_(self._own * price)
        self._take_prices(progress, price)
        return True

    def _take_prices(self, progress: float, price: Tensor | float) -> None:
        """Compute the prices of errors and rates if they may have changed."""
        settled = progress >= self._stack.objective.settles_at
        if settled and isinstance(price, float) and price == self._priced_at:
            return
        noise = self.batch[1]
        found = None if noise is None else self._stack.prices_at(self.dials, self.progress, noise.shape[-1])
        if self.prices is None or found is None:
            self.prices = found
        else:
            for held, new in zip(self.prices, found, strict=True):
                held.copy_(new)
        self._priced_at = price if settled and isinstance(price, float) else None


def preconditioned(stack: Stack, **settings: Any) -> Preconditioned:
    """Return a preconditioned optimiser that suits the computation of a stack."""
    return (InPlacePreconditioned if stack.computation.captured else Preconditioned)(**settings)
