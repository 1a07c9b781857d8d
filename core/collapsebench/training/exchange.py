"""Let replicas of a cell take over the weights of each other, where those cost less at their own price.

What the weights of any replica cost at any price is known (`theory/envelope`). A replica that rests in a metastable
state is undercut by another one of its cell; with its weights, averages and optimiser state it goes on from there.
Replicas that have left the stack can donate and be revived, so the whole state of each is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from collapsebench.suite.schema import Exchange
from collapsebench.theory.envelope import Line, envelope

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors


def takeovers(
    lines: Sequence[Line], cells: Sequence[int], eligible: Sequence[bool], settings: Exchange
) -> dict[int, int]:
    """Return the replicas that take over weights, each with its donor.

    lines: what each costs. cells: the cell of each; only replicas of the same cell are compared. eligible: which may
    take over weights; all may donate.
    """
    found = envelope(lines, cells)
    saves = found.excess > settings.margin
    return {int(i): int(found.cheapest[i]) for i in np.flatnonzero(saves & np.asarray(eligible, dtype=bool))}


class Parked:
    """The whole state of the replicas that have left a stack, on the CPU."""

    def __init__(self, replicas: Sequence[int] = (), state: Mapping[str, Tensor] | None = None) -> None:
        self.replicas, self.state = list(replicas), dict(state or {})

    def add(self, replicas: Sequence[int], state: Tensors, rows: Tensor) -> None:
        """Keep the given rows of a state as that of these replicas."""
        leaving = {name: value[rows.to(value.device)].detach().cpu().clone() for name, value in state.items()}
        if self.replicas:
            leaving = {name: torch.cat([self.state[name], value]) for name, value in leaving.items()}
        self.replicas, self.state = [*self.replicas, *replicas], leaving

    def mix(self, alive: Sequence[int], state: Tensors, taken: Mapping[int, int]) -> tuple[list[int], Tensors]:
        """Return the replicas of the new stack and their state, in which takers have that of their donors.

        alive: the replicas of the stack. state: theirs, by name, `(r, ...)`. taken: taker -> donor. Takers that were
        parked are back in the stack, and no longer kept here.
        """
        known = [*alive, *self.replicas]
        revived = sorted({*alive, *taken})
        rows = torch.tensor([known.index(taken.get(replica, replica)) for replica in revived])
        mixed = {}
        for name, value in state.items():
            whole = torch.cat([value, self.state[name].to(value.device)]) if self.replicas else value
            mixed[name] = whole[rows.to(value.device)]
        left = [place for place, replica in enumerate(self.replicas) if replica not in taken]
        self.state = {name: value[left] for name, value in self.state.items()}
        self.replicas = [self.replicas[place] for place in left]
        return revived, mixed
