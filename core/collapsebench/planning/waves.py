"""The order in which a scan is trained: waves of temperatures, cut into pieces that fit into memory.

fresh: one wave, every temperature from its own initialisation. up: the lowest temperatures first, each wave from the
weights that the one before it ended with, so that latents switch off. down: the highest first; collapsed latents sit
on a saddle and would stay there, so each start is perturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collapsebench.suite.schema import Protocol


@dataclass(frozen=True)
class Piece:
    """Replicas of a job that are trained together as one stack.

    wave: which wave they are of, counted from zero. replicas: their numbers in the job, cell after cell, the
    temperatures in descending order within each. parents: for each, the replica of the wave before whose weights it
    starts from; none in a first wave.
    """

    wave: int
    replicas: tuple[int, ...]
    parents: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """A name that no other piece of a job has."""
        return f"wave-{self.wave}-{self.replicas[0]}-{len(self.replicas)}"

    def cut(self, max_replicas: int) -> list[Piece]:
        """Return pieces of nearly equal size with at most so many replicas each."""
        count = -(-len(self.replicas) // max(1, max_replicas))
        size = -(-len(self.replicas) // count)
        return [
            Piece(self.wave, self.replicas[start : start + size], self.parents[start : start + size])
            for start in range(0, len(self.replicas), size)
        ]


def make_waves(protocol: Protocol, temperatures: int, size: int = 1) -> list[list[int]]:
    """Return the waves of a scan, as places in its descending list of temperatures.

    >>> from collapsebench.planning.waves import make_waves
    >>> make_waves("fresh", 4), make_waves("down", 4), make_waves("up", 4, size=2)
    ([[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 2], [1, 0]])
    """
    order = list(range(temperatures))
    if protocol == "fresh":
        return [order]
    if protocol == "up":
        order.reverse()
    return [order[start : start + size] for start in range(0, temperatures, size)]


def make_pieces(waves: Sequence[Sequence[int]], cells: int, max_replicas: Callable[[int], int]) -> list[Piece]:
    """Return the pieces of a job in the order in which they are trained.

    max_replicas: how many replicas may share a stack of which so many are wanted. A replica's parent is the last
    temperature of the wave before, in its own cell.
    """
    temperatures = sum(map(len, waves))
    pieces = []
    for number, wave in enumerate(waves):
        replicas = tuple(cell * temperatures + place for cell in range(cells) for place in wave)
        parents: tuple[int, ...] = ()
        if number:
            parents = tuple(replica // temperatures * temperatures + waves[number - 1][-1] for replica in replicas)
        pieces += Piece(number, replicas, parents).cut(max_replicas(len(replicas)))
    return pieces
