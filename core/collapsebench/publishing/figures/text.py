"""What figures say in words: which data, how many temperatures and runs, how they ended, why nothing is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.lines import Line2D

from collapsebench.contracts import SplitName
from collapsebench.publishing.curves import Stack
from collapsebench.publishing.figures.style import Layout
from collapsebench.ranking.standings import Group


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption, or no figure and the caption that says why."""

    caption: str
    layout: Layout | None = None


def omitted(groups: Sequence[Group], stacks: Sequence[Stack]) -> Drawing:
    """Return no figure, and the reason of each architecture."""
    reasons = "; ".join(f"{group.architecture}: {stack.reason}" for group, stack in zip(groups, stacks, strict=True))
    return Drawing(f"Not drawn, nothing to show. {reasons}.")


def where(groups: Sequence[Group], split: SplitName) -> str:
    """Return the split, the dataset and the objective that a figure is about."""
    return f"{split} split of {groups[0].dataset}, objective {groups[0].objective}."


def facts(groups: Sequence[Group]) -> str:
    """Return how many temperatures and runs there are, how the runs ended and how many replicas converged."""
    cells = [cell for group in groups for cell in group.cells]
    measured = [cell.measurement for cell in cells if cell.measurement is not None]
    temperatures = np.unique([t for measurement in measured for t in measurement.temperatures])
    marks = [mark for measurement in measured for mark in measurement.tables["replicas"]["mark"]]
    ended = ", ".join(f"{count} {status}" for status, count in Counter(cell.status for cell in cells).items())
    seeds = len({cell.seed for cell in cells})
    return (
        f"{count_of(temperatures.size, 'temperature')} from {temperatures.max():.3g} to {temperatures.min():.3g}; "
        f"{count_of(len(cells), 'independent run')} ({count_of(len(groups), 'architecture')}, "
        f"{count_of(seeds, 'seed')}): {ended}; {marks.count('converged')} of {len(marks)} measured replicas converged"
        + (f", {marks.count('diverged')} diverged and are left out." if "diverged" in marks else ".")
    )


def suited(groups: Sequence[Group]) -> tuple[list[Group], str]:
    """Return the architectures that are meant for the data, each worth a panel, and a sentence on the others."""
    others = [group.architecture for group in groups if group.is_unsuited]
    if not others or len(others) == len(groups):
        return list(groups), ""
    return [group for group in groups if not group.is_unsuited], f" Not meant for these data: {', '.join(others)}."


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is due."""
    return f"{number} {noun}{'s' * (number != 1)}"


def name_of(group: Group, stack: Stack) -> str:
    """Return an architecture's name, with what is missing of it."""
    if stack.reason:
        return f"{group.architecture} (not drawn)"
    ok, planned = len(group.ok), len(group.cells)
    return group.architecture if ok == planned else f"{group.architecture} ({ok} of {planned} runs ok)"


def labels(handles: Sequence[Line2D]) -> list[str]:
    """Return the labels of a legend's entries."""
    return [str(handle.get_label()) for handle in handles]
