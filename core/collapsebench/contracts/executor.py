"""What a plugin with executors implements."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from collapsebench.contracts.component import Configured, P


@dataclass(frozen=True)
class Progress:
    """What a running stack reports: updates done out of the budget, replicas settled out of all, updates per second."""

    update: int
    budget: int
    settled: int
    replicas: int
    updates_per_second: float


class Executor(Configured[P]):
    """A way to run jobs, on any machine that can read and write the store."""

    @abstractmethod
    def run(self, jobs: Sequence[Path], report: Callable[[str, Progress], None], stop: Callable[[], bool]) -> None:
        """Run every job file to its end; a job that fails is recorded in the store and does not stop the others.

        report(job name, progress) is called at every check. Once `stop()` is true, running jobs write a checkpoint
        and KeyboardInterrupt is raised.
        """
