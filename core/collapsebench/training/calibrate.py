"""Find out which way of computing a stack is the fastest on this machine, in a few interleaved updates."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from collapsebench.stack.stack import Computation, Stack
from collapsebench.training.allocator import keep_freed_memory

REPLICAS = 16
_ROUNDS, _SECONDS, _HOPELESS, _LARGE = 4, 6.0, 1.5, 1.1
_WHOLE: tuple[Computation, ...] = ("chained", "batched")


def time_paths(stacks: Mapping[Computation, Stack], x: Tensor, noise: Tensor | None) -> dict[Computation, float]:
    """Return the shortest time of an update along every path, in milliseconds per replica.

    stacks: by path, alike in all else. x `(b, *shape)`, noise `(b, k)`. After the first round, those far behind the
    best are not run again.
    """
    keep_freed_memory()
    best: dict[Computation, float] = {}
    started = time.perf_counter()
    for turn in range(_ROUNDS + 1):  # the first is a warm-up: caches, and code that is compiled on first use
        for path, stack in stacks.items():
            if turn > 1 and best[path] > _HOPELESS * min(best.values()):
                continue
            if turn > 1 and time.perf_counter() - started > _SECONDS:
                return best
            before = time.perf_counter()
            stack.gradients(x, noise, None, 0.0)
            taken = (time.perf_counter() - before) / len(stack) * 1e3
            if turn:
                best[path] = min(taken, best.get(path, taken))
    return best


def fastest(times: Mapping[Computation, float]) -> Computation:
    """Return the path to take: the fastest, if a stack computed as a whole is fastest by a tenth or more.

    Larger stacks than the measured one fill memory only where all replicas are computed at once.

    >>> fastest({"batched": 1.0, "grouped": 1.05})
    'grouped'
    """
    return min(times, key=lambda path: times[path] * (_LARGE if path in _WHOLE else 1))


def report(times: Mapping[Computation, float], replicas: int) -> str:
    """Return the measurement as a sentence, the fastest first."""
    listed = ", ".join(f"{path} {times[path]:.3g}" for path in sorted(times, key=lambda path: times[path]))
    return f"measured with {replicas} replicas on {torch.get_num_threads()} threads, ms per replica-update: {listed}"


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Compute on a number of threads, if one is given, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
