"""The stacks that a run would train: path, size and memory of each scan's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import ByteSize

from collapsebench.contracts import Registry
from collapsebench.planning.cells import Names, Plan, adopted_keys, waves_of
from collapsebench.stack.stack import Computation
from collapsebench.store import Store
from collapsebench.training.choose import choose_path, predict_memory, predict_seconds
from collapsebench.training.memory import Footprint, room

_TIMED_REPLICAS = 64


@dataclass(frozen=True)
class PlannedStack:
    """How the stacks of a scan are computed. wanted, replicas: of its largest wave, and how many of them fit at once.

    predicted: the peak of such a stack in bytes, None where it cannot be told. room: the bytes that it may take.
    """

    name: str
    path: Computation
    why: str
    wanted: int
    most: Callable[[int], int]
    predicted: Callable[[int], int] | None
    room: float

    @property
    def replicas(self) -> int:
        """How many replicas a stack has at most."""
        return self.most(self.wanted)

    @property
    def manner(self) -> str:
        """How it is computed, in words."""
        alone = self.path == "one-by-one"
        return "its replicas run one by one" if alone else f"its stacks are computed {self.path}"

    @property
    def memory(self) -> str:
        """What a stack takes and may take, in words."""
        if self.predicted is None:
            return "its memory cannot be predicted"
        limit = "" if math.isinf(self.room) else f", of {_as_text(self.room)} that it may take"
        return f"{_as_text(self.predicted(self.replicas))} predicted{limit}"


def plan_stacks(plan: Plan, store: Store, device: str, registry: Registry) -> dict[Names, PlannedStack]:
    """Return how the stacks of every scan with a cell to train would be computed; nothing is written.

    What an interrupted run froze is left out: it keeps what it has.
    """
    compute, frozen = plan.suite.compute, adopted_keys(plan, store)
    new = [cell for cell in plan.missing if cell.key not in frozen]
    missing = [(cell.dataset, cell.architecture, cell.objective) for cell in new]
    stacks = {}
    for names in sorted(set(missing)):
        path, why = choose_path(plan, names, device, registry)
        found = predict_memory(plan, names, device, path, registry)
        left = room(device, compute.memory_limit)
        wave = len(waves_of(plan.suite, names[1])[0])
        wanted = wave * min(missing.count(names), max(1, compute.max_replicas_per_stack // wave))

        def most(wanted: int, found: Footprint | None = found, left: float = left) -> int:
            return wanted if found is None else found.most(left, wanted)

        name = "/".join(names)
        stacks[names] = PlannedStack(name, path, why, wanted, most, found.bytes if found else None, left)
    return stacks


def seconds_at_most(
    plan: Plan, store: Store, stacks: Mapping[Names, PlannedStack], device: str, registry: Registry
) -> float | None:
    """Return the seconds that training takes if every new replica needs its whole budget; None if none can be timed."""
    frozen, scan = adopted_keys(plan, store), plan.suite.scan
    total = 0.0
    for names, stack in stacks.items():
        cells = [
            cell
            for cell in plan.missing
            if cell.key not in frozen and (cell.dataset, cell.architecture, cell.objective) == names
        ]
        each = predict_seconds(plan, names, device, stack.path, registry, min(_TIMED_REPLICAS, stack.replicas))
        total += (each or 0.0) * len(cells) * len(scan.temperatures) * plan.suite.training.rounds[-1]
    return total or None


def _as_text(amount: float) -> str:
    return ByteSize(amount).human_readable(separator=" ")
