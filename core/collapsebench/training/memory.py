"""Predict the memory that training a stack needs from two small stacks, and how many replicas fit.

Memory grows linearly with the number of replicas, so stacks of two and of three replicas predict a stack of a hundred.
They are trained with the computation that will be used, so weights, gradients, optimiser state and activations are all
counted, whatever the modules are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from collapsebench.data.samples import VALUES_AT_ONCE, rows_at_once, values_for
from collapsebench.data.standardise import Standardised
from collapsebench.training.trainer import Trainer
from collapsebench.training.trial import TRIAL_BATCH, descend

_SMALL, _ROWS = (2, 3), 512
_SHARE = 0.8
_HEAP = 1.25  # on the CPU, relative to the live memory of updates, due to fragmentation; measured 1.15 to 1.35
_HEAP_OF_DEVICE = 1.1  # of the allocator's blocks; what runs before a recording is freed before
MakeTrainer = Callable[[int, Standardised, Mapping[str, Any]], Trainer]


@dataclass(frozen=True)
class Phase:
    """The peak of one phase of training, in bytes: fixed + replicas (each + rows a_row) + rows shared."""

    fixed: float
    each: float
    a_row: float
    shared: float

    def bytes(self, replicas: int, rows: int) -> float:
        """Return the peak, in bytes, of a stack of this many replicas that processes this many rows at once."""
        return self.fixed + replicas * (self.each + rows * self.a_row) + rows * self.shared


@dataclass(frozen=True)
class Footprint:
    """The memory that a stack adds to that of the process.

    rows: number of rows in a batch. all_rows: number of rows in the train split. width: the values per row from which
    `SplitSamples` derives the size of its chunks, with `values` at once. data: bytes of the data, which each job loads
    again. heap: bytes that the process takes from the machine for each live byte of an update.
    """

    update: Phase
    trial: Phase
    check: Phase
    keep: Phase
    rows: int
    all_rows: int
    width: int
    data: int
    heap: float
    values: int = VALUES_AT_ONCE

    def bytes(self, replicas: int) -> int:
        """Return the predicted peak of a stack in bytes, over updates, trials, checks, saving and repacking."""
        chunk = min(self.all_rows, rows_at_once(replicas * self.width * 4, self.values))
        peaks = (
            self.heap * self.update.bytes(replicas, self.rows),
            self.heap * self.trial.bytes(replicas, 2 * min(TRIAL_BATCH, self.rows)),
            self.check.bytes(replicas, chunk),
            self.keep.bytes(replicas, self.rows),
        )
        return self.data + int(max(peaks))

    def on_cores(self, count: int) -> Footprint:
        """Return the footprint when each core holds its own activations, instead of all replicas sharing one set."""
        return replace(self, update=replace(self.update, shared=count * self.update.shared))

    def max_replicas(self, available: float, wanted: int) -> int:
        """Return how many of the wanted replicas fit into the available bytes, but at least one."""
        fit = range(1, wanted + 1)
        return max((replicas for replicas in fit if self.bytes(replicas) <= available), default=1)


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all live storages that operators have returned. peak: the maximum of this count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count the storages of the tensors it returns."""
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and result.device.type != "meta":
                self._follow(result.untyped_storage())
        return results

    def _follow(self, storage: torch.UntypedStorage) -> None:
        identity = storage._cdata
        if identity not in self._known:
            self._known.add(identity)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, identity, storage.nbytes())

    def _forget(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.live -= size

    def restart(self) -> None:
        """Restart the peak at the current count."""
        self.peak = self.live


def footprint(make: MakeTrainer, data: Standardised, batch_size: int | str, width: int, device: str) -> Footprint:
    """Measure small stacks and return the footprint fitted to them.

    make: returns a trainer, given a number of replicas, the data, and changes to the training settings.
    """
    all_rows = len(data.splits["train"].values)
    rows = all_rows if isinstance(batch_size, str) else min(batch_size, all_rows)
    sizes = [min(rows, _ROWS), max(1, min(rows, _ROWS) // 2)]
    measured = {(r, n): _peaks(make, data, width, r, n) for r in _SMALL for n in sizes}
    update, trial, check, keep = (_fitted({key: peaks[phase] for key, peaks in measured.items()}) for phase in range(4))
    held = sum(split.values.nbytes for split in data.splits.values())
    heap = _HEAP if device == "cpu" else _HEAP_OF_DEVICE
    values = values_for(torch.device(device))
    return Footprint(update, trial, check, keep, rows, all_rows, width, held, heap, values)


def _peaks(make: MakeTrainer, data: Standardised, width: int, replicas: int, rows: int) -> tuple[float, ...]:
    """Return four peaks in bytes: of updates, of a trial descent on copies of all replicas with as many draws of z as
    there are rows, of a check, and of the copies made by saving and repacking."""
    few, twice = (
        replace(data, splits={**data.splits, "train": data.splits["train"].first(count)}) for count in (rows, 2 * rows)
    )
    memory = LiveMemory()
    with memory:
        trainer = make(replicas, few, {"batch_size": "full", "max_updates": 10**6})
        for _ in range(2):
            trainer.advance()
        update = memory.peak
        memory.restart()
        descend(trainer.stack, few, trainer.latent_dim, 1, batch=max(1, rows // 2))
        trial = memory.peak
        memory.restart()
        judge = trainer.judge
        judge.data = twice  # two chunks: the first is still in memory while the second is computed
        judge.values_at_once = rows * replicas * width * 4
        # Two pairs of draws per row: more take no more memory, and the suite may ask for hundreds.
        draws = min(judge.evaluation.samples, 4 * len(twice.splits["train"].values))
        judge.evaluation = judge.evaluation.model_copy(update={"samples": draws})
        trainer.measure()
        check = memory.peak
    state = sum(
        value.nbytes
        for part in (trainer.stack.weights(), trainer.optimiser.state(), trainer.finished)
        for value in part.values()
    )
    # A checkpoint copies everything into bytes; repacking copies it as tensors.
    return update, trial, check, 2 * state


def _fitted(peaks: Mapping[tuple[int, int], float]) -> Phase:
    """Solve for the coefficients of a phase from its peaks at (replicas, rows)."""
    (low, high), sizes = _SMALL, sorted({rows for _, rows in peaks})
    slopes = [(peaks[high, rows] - peaks[low, rows]) / (high - low) for rows in sizes]
    origins = [peaks[low, rows] - low * slope for rows, slope in zip(sizes, slopes, strict=True)]
    span = sizes[-1] - sizes[0]
    a_row, shared = ((part[-1] - part[0]) / span if span else 0.0 for part in (slopes, origins))
    return Phase(origins[0] - shared * sizes[0], slopes[0] - a_row * sizes[0], a_row, shared)


def memory_available(device: str, limit: int | None) -> float:
    """Return the bytes that a stack may take.

    With a limit, it is what the process has left of it, but no more than is free; otherwise, a share of what is free.
    """
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info()
        held = torch.cuda.memory_allocated()
        return _SHARE * free if limit is None else min(limit - held, free)
    available = available_bytes()
    return _SHARE * available if limit is None else min(limit - resident_bytes(), available)


def resident_bytes() -> int:
    """Return the bytes of physical memory that this process occupies now."""
    return int(psutil.Process().memory_info().rss)


def available_bytes() -> int:
    """Return the bytes that this process may still take, given the machine, its control group and its own limits."""
    limits = [_left_in_control_group(), _left_of_own_limits()]
    known = [int(psutil.virtual_memory().available), *(amount for amount in limits if amount is not None)]
    return max(0, min(known))


def _left_in_control_group() -> int | None:
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used)


def _left_of_own_limits() -> int | None:
    """Return the bytes left of this process's limits on address space and data segment, or None if it has none."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):
        return None
    used = process.memory_info()
    limits = ((psutil.RLIMIT_AS, used.vms), (psutil.RLIMIT_DATA, used.data))
    left = [
        limit - held for kind, held in limits for limit in process.rlimit(kind)[:1] if limit != psutil.RLIM_INFINITY
    ]
    return min(left) if left else None
