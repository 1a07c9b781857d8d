"""Run jobs in this process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from collapsebench import Executor, Parameters, Progress, execute_job


class Local(Executor[Parameters]):
    """Run jobs in this process: a stack already uses every core of the machine, or the whole device."""

    def run(self, jobs: Sequence[Path], report: Callable[[str, Progress], None], stop: Callable[[], bool]) -> None:
        """Run every job file to its end, in order."""
        for job in jobs:
            execute_job(job, report, stop)
