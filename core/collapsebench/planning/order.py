"""The order in which the replicas of a job are trained.

A scan is trained in waves of temperatures, which are split into pieces that fit into memory. fresh: there is one wave,
and every temperature starts from an independent initialisation. exchange: likewise, and a piece holds whole cells,
since the replicas of a cell take over weights from each other. up: the lowest temperatures come first and each wave
starts from the final weights of the one before, so that latents switch off one by one. down: the highest temperatures
come first; collapsed latents would stay at their saddle point, so the weights are perturbed at each start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collapsebench.suite.schema import Protocol


@dataclass(frozen=True)
class Piece:
    """Replicas of a job that are trained together as one stack.

    wave: the number of their wave, counted from zero. replicas: their numbers in the job, cell by cell, with
    temperatures in descending order within a cell. parents: for each replica, the replica of the previous wave whose
    weights it starts from; empty in the first wave.
    """

    wave: int
    replicas: tuple[int, ...]
    parents: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """A name that is unique among the pieces of a job."""
        return f"wave-{self.wave}-{self.replicas[0]}-{len(self.replicas)}"

    def cut(self, max_replicas: int, together: int = 1) -> list[Piece]:
        """Return pieces of nearly equal size with at most `max_replicas` replicas each.

        together: how many consecutive replicas are never separated, even if they are more than that.
        """
        units = len(self.replicas) // together
        count = -(-units // max(1, max_replicas // together))
        size = -(-units // count) * together
        return [
            Piece(self.wave, self.replicas[start : start + size], self.parents[start : start + size])
            for start in range(0, len(self.replicas), size)
        ]


def make_waves(protocol: Protocol, temperatures: int, size: int = 1) -> list[list[int]]:
    """Return the waves of a scan, as positions in its descending list of temperatures.

    >>> from collapsebench.planning.order import make_waves
    >>> make_waves("fresh", 4), make_waves("down", 4), make_waves("up", 4, size=2)
    ([[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 2], [1, 0]])
    """
    order = list(range(temperatures))
    if protocol in ("fresh", "exchange"):
        return [order]
    if protocol == "up":
        order.reverse()
    return [order[start : start + size] for start in range(0, temperatures, size)]


def make_pieces(
    waves: Sequence[Sequence[int]], cells: int, max_replicas: Callable[[int], int], *, whole_cells: bool = False
) -> list[Piece]:
    """Return the pieces of a job in the order in which they are trained.

    max_replicas: given the number of replicas wanted, returns how many may share a stack. A replica's parent is the
    last temperature of the previous wave in the same cell.
    """
    temperatures = sum(map(len, waves))
    pieces = []
    for number, wave in enumerate(waves):
        replicas = tuple(cell * temperatures + position for cell in range(cells) for position in wave)
        parents: tuple[int, ...] = ()
        if number:
            parents = tuple(replica // temperatures * temperatures + waves[number - 1][-1] for replica in replicas)
        together = temperatures if whole_cells else 1
        pieces += Piece(number, replicas, parents).cut(max_replicas(len(replicas)), together)
    return pieces
