"""The verbs that plan and run: run, plan, status, explain, prepare; and the progress of a run, line by line."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from collapsebench.cli.options import AS_JSON, suite_options
from collapsebench.contracts import Progress
from collapsebench.errors import UserError
from collapsebench.verbs.run import Session, open_session, prepare_session, run_session
from collapsebench.verbs.run import explain as explain_cell

if TYPE_CHECKING:
    from collapsebench.planning.cells import Cell, Plan
    from collapsebench.training.choose import PlannedStack

_SECONDS_BETWEEN_LINES = 5.0


@click.command()
@suite_options
@click.option("--dry-run", is_flag=True, help="Show the plan and stop; nothing is written.")
@click.option("--strict", is_flag=True, help="Exit with 1 unless every replica converged.")
def run(dry_run: bool, strict: bool, **options: Any) -> None:
    """Run SUITE, an id that ships or a path: train what is missing, observe, score, rank. Run again to resume."""
    session = open_session(**options)
    if dry_run:
        _show_plan(session, as_json=False)
        return
    with ProgressLines() as progress:
        outcome = run_session(session, progress.report, progress.say)
    click.echo(outcome.text())
    click.echo(f"\nBoard, tables and {len(outcome.figures)} figure files: {outcome.folder}")
    sys.exit(0 if outcome.ok and (outcome.converged or not strict) else 1)


@click.command()
@suite_options
@AS_JSON
def plan(as_json: bool, **options: Any) -> None:
    """Show every cell of SUITE, what is done and what would run."""
    _show_plan(open_session(**options), as_json=as_json)


@click.command()
@suite_options
@AS_JSON
def status(as_json: bool, **options: Any) -> None:
    """Show the state of every cell of SUITE, with the traceback of those that failed."""
    session = open_session(**options)
    current = _plan(session)
    rows = _rows(session, current)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    _echo_table(rows, ("cell", "status", "converged", "computation", "key"))
    for cell in current.cells:
        if cell.record is not None and cell.record.reason:
            click.echo(f"\n{cell.name}: {cell.record.status}\n{cell.record.reason}")


@click.command()
@suite_options
@click.argument("cell", required=False)
def explain(cell: str | None, **options: Any) -> None:
    """Say of every cell of SUITE, or of CELL (dataset/architecture/objective/seed, or a key), why it would run."""
    session = open_session(**options)
    cells = _plan(session).cells
    chosen = [c for c in cells if cell is None or c.name == cell or (c.key or "").startswith(cell)]
    if not chosen:
        names = ", ".join(c.name for c in cells)
        raise UserError(f"no cell '{cell}' in suite '{session.suite.id}'. Its cells: {names}.")
    for each in chosen:
        click.echo(explain_cell(session, each))


@click.command()
@suite_options
def prepare(**options: Any) -> None:
    """Fetch and verify the data of SUITE."""
    session = open_session(**options)
    failures = prepare_session(session, click.echo)
    for dataset, (_, reason) in failures.items():
        click.echo(f"error: {dataset}: {reason}", err=True)
    if not failures:
        click.echo(f"{len(session.suite.datasets)} datasets are ready")
    sys.exit(1 if failures else 0)


def _plan(session: Session) -> Plan:
    from collapsebench.planning.cells import make_plan

    return make_plan(session.suite, session.store, session.registry)


def _rows(session: Session, current: Plan) -> list[dict[str, Any]]:
    from collapsebench.planning.jobs import frozen_computations

    frozen = frozen_computations(session.store)
    return [_row(cell, frozen) for cell in current.cells]


def _row(cell: Cell, frozen: Mapping[str, str]) -> dict[str, Any]:
    """A cell as a row; frozen: how cells of interrupted jobs are computed, by key."""
    replicas = cell.record.replicas if cell.record else ()
    about = cell.record.provenance if cell.record else {}
    marks = Counter(replica["mark"] for replica in replicas)
    metastable = f" ({marks['metastable']} metastable)" if marks["metastable"] else ""
    return {
        "cell": cell.name,
        "status": cell.status,
        "converged": f"{marks['converged']}/{len(replicas)}{metastable}" if replicas else "",
        "computation": frozen.get(cell.key or "", about.get("computation", about.get("path", ""))),
        "key": (cell.key or "")[:12],
    }


def _stack(stack: PlannedStack) -> dict[str, Any]:
    predicted = None if stack.predicted_bytes is None else stack.predicted_bytes(stack.replicas)
    return {
        "scan": stack.label,
        "computation": stack.computation,
        "replicas_wanted": stack.replicas_wanted,
        "replicas": stack.replicas,
        "predicted_bytes": predicted,
        "available_bytes": None if math.isinf(stack.memory_available) else round(stack.memory_available),
    }


def _show_plan(session: Session, *, as_json: bool) -> None:
    from collapsebench.training.choose import plan_elsewhere, plan_stacks, seconds_at_most

    current = _plan(session)
    suite = session.suite
    if session.is_elsewhere:
        device = "cuda"
        planned, seconds = plan_elsewhere(current, session.store, device, session.registry)
    else:
        device = session.device
        planned = plan_stacks(current, session.store, device, session.registry)
        seconds = seconds_at_most(current, session.store, planned, device, session.registry)
    stacks = list(planned.values())
    rows = _rows(session, current)
    missing = len(current.missing)
    replicas = missing * suite.scan.count
    summary = {
        "suite": suite.id,
        "suite_hash": suite.suite_hash,
        "store": str(session.store.root),
        "device": device,
        "cells": len(rows),
        "to_train": missing,
        "replicas": replicas,
        "updates_at_most": replicas * suite.training.rounds[-1],
        "seconds_at_most": seconds,
    }
    if as_json:
        failures = {dataset: reason for dataset, (_, reason) in current.failures.items()}
        click.echo(
            json.dumps(
                {**summary, "plan": rows, "stacks": [_stack(each) for each in stacks], "failures": failures}, indent=1
            )
        )
        return
    _echo_table(rows, ("cell", "status", "converged", "computation", "key"))
    if stacks:
        click.echo("")
    for each in stacks:
        size = f"{each.replicas} of {each.replicas_wanted} replicas at a time"
        click.echo(f"{each.label}: {each.computation}, {size}, {each.memory}")
    for dataset, (_, reason) in current.failures.items():
        click.echo(f"dataset {dataset} cannot be loaded: {reason}")
    click.echo(
        f"\n{summary['cells']} cells, {missing} to train: {replicas} replicas, at most {suite.training.rounds[-1]} "
        f"updates each, on {device}. Nothing was written."
    )
    if seconds and session.is_elsewhere:
        click.echo(
            f"There is no {device} device here. On an H100, training takes about {_duration(seconds)}, judged by its "
            "operations and the time of small updates there; checks and scores come on top."
        )
    elif seconds:
        click.echo(
            f"Training takes {_duration(seconds)} at most if all else is quiet, by a few updates of "
            "each scan; checks and scores come on top."
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _echo_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from tabulate import tabulate

    click.echo(tabulate([[row[name] for name in columns] for row in rows], headers=columns))


class ProgressLines:
    """Progress on standard error: one live line per running stack in a terminal, plain lines elsewhere.

    `say` and `report` may be called within its context.
    """

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
    """Describe a stack's progress: replicas settled, updates, speed, and at most how much time is left."""
    left = (progress.budget - progress.update) / max(progress.updates_per_second, 1e-9)
    time_left = "" if progress.settled == progress.replicas else f", at most {left:.0f} s left"
    return (
        f"{progress.settled}/{progress.replicas} replicas settled, update {progress.update}/{progress.budget}, "
        f"{progress.updates_per_second:.0f} updates/s{time_left}"
    )
