"""Progress on standard error: one live line per running stack in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from collapsebench.contracts import Progress

_SECONDS_BETWEEN_LINES = 5.0


class ProgressLines:
    """A context in which `say` and `report` may be called."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        self._bars = Bars(*columns, console=self._console)
        self._tasks: dict[str, Any] = {}
        self._last: dict[str, float] = {}

    def __enter__(self) -> ProgressLines:
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        if self._live:
            self._console.print(text, highlight=False, markup=False)
        else:
            click.echo(text, err=True)

    def report(self, name: str, progress: Progress) -> None:
        """Show how far a stack is."""
        text = describe(progress)
        if self._live:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=progress.budget, text=text)
            done = progress.budget if progress.settled == progress.replicas else progress.update
            self._bars.update(self._tasks[name], completed=done, text=text)
            return
        now = time.monotonic()
        finished = progress.settled == progress.replicas
        if finished or now - self._last.get(name, -1e9) >= _SECONDS_BETWEEN_LINES:
            self._last[name] = now
            click.echo(f"{name}: {text}", err=True)


def describe(progress: Progress) -> str:
    """Return a stack's progress in words: replicas settled, updates, speed, time left at most."""
    left = (progress.budget - progress.update) / max(progress.updates_per_second, 1e-9)
    time_left = "" if progress.settled == progress.replicas else f", at most {left:.0f} s left"
    return (
        f"{progress.settled}/{progress.replicas} replicas settled, update {progress.update}/{progress.budget}, "
        f"{progress.updates_per_second:.0f} updates/s{time_left}"
    )
