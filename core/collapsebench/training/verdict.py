"""Decide what a check of a stack finds: which replicas are stationary, stable and at rest.

The conditions are those of `theory/equilibrium`, on averaged weights if weights are averaged. If every row would take
longer than the training between two checks, a sample of rows screens the replicas, and those that pass are measured on
every row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from collapsebench.contracts import Objective
from collapsebench.data.samples import SplitSamples
from collapsebench.data.standardise import Standardised
from collapsebench.stack.stack import Stack, StackModel
from collapsebench.stack.symmetry import Symmetry, less_penalty
from collapsebench.suite.schema import EvaluationSettings, Training
from collapsebench.theory.envelope import Line
from collapsebench.theory.equilibrium import Equilibrium, measure_equilibrium, signal_drift
from collapsebench.training.trial import TRIAL_BATCH, has_little_left

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

Mark = Literal["running", "converged", "budget", "unstable", "diverged"]
Flags = NDArray[np.bool_]
_SCREEN_ROWS = 4096
_UNKNOWN = Line()


@dataclass
class Record:
    """What is known of a replica: its outcome so far, and the history by which it is judged.

    loss: the mean over the updates between the last two checks, at the weights of each update, without averaging.
    best, best_update: the lowest such loss, and when it was reached. fractions: (update, signal fractions) of each
    check. unstable: whether it was at the end of the last round. line: its cost as a function of the dial, on every row
    of the train split, when its training ended. screened: the same at the last check, on the rows of that check.
    """

    mark: Mark = "running"
    updates: int = 0
    loss: float = math.inf
    effective_temperature: float = math.inf
    best: float = math.inf
    best_update: int = 0
    fractions: list[tuple[int, list[float]]] = field(default_factory=list)
    unstable: bool = False
    line: Line = _UNKNOWN
    screened: Line = _UNKNOWN

    @property
    def cost(self) -> Line:
        """Its cost as precisely as it is known: on every row if its training has ended, else as last checked."""
        return self.line if math.isfinite(self.line.intercept) else self.screened

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Record:
        """Return a record that was stored as JSON."""
        lines = {name: Line(*stored[name]) for name in ("line", "screened")}
        fractions = [(update, values) for update, values in stored["fractions"]]
        return cls(**{**stored, **lines, "fractions": fractions})


@dataclass(frozen=True)
class Finding:
    """What a check finds of the replicas in a stack: the measurement, and the conditions they meet `(r,)`.

    candidate: stationary, stable and at rest.
    """

    measured: Equilibrium
    stable: Flags
    candidate: Flags
    finite: Flags

    def mark(self, index: int) -> Mark:
        """Return the mark of a replica if its training ends with this check."""
        if not self.finite[index]:
            return "diverged"
        if self.candidate[index]:
            return "converged"
        return "budget" if self.stable[index] else "unstable"


class Judge:
    """Measures the replicas of a stack, and says which conditions they meet.

    temperatures: of each replica of the original stack `(r,)`. batch: rows of an update. check_every: updates between
    two checks.
    """

    def __init__(
        self,
        data: Standardised,
        temperatures: Sequence[float],
        latent_dim: int,
        training: Training,
        evaluation: EvaluationSettings,
        symmetry: Symmetry | None,
        batch: int,
        check_every: int,
    ) -> None:
        self.data, self.latent_dim, self.training, self.evaluation = data, latent_dim, training, evaluation
        self.temperatures = np.asarray(temperatures)
        self.symmetry = symmetry
        self.values_at_once: int | None = None
        self.batch, self._check_every, self._trained_rows = batch, check_every, batch * check_every

    def look(
        self, stack: Stack, records: Sequence[Record], alive: NDArray[np.int64], losses: Floats, rising: Flags,
        update: int, *, final: bool,
    ) -> Finding:  # fmt: skip
        """Check the replicas of a stack, and note in their records what they cost.

        records, alive: their records, and their numbers in the original stack. losses: of the updates since the last
        check. rising: whose price has not reached its value, so that they cannot be at rest. final: whether no check
        follows, so that every row counts.
        """
        measured = self.measure(stack, alive, everything=final)
        for record, line in zip(records, stack.lines(measured), strict=True):
            record.screened = line
        stable = self.is_stable(measured, stack)
        calm = self.is_calm(measured, losses, records, update, ~rising)
        candidate = stable & calm & self.is_stationary(measured, everything=final)
        if not final:
            candidate = self.confirm(candidate, stack, alive)
        candidate = self.has_little_left(candidate, stack, update, final=final)
        finite = np.isfinite(losses) & np.isfinite(measured.ward_residual)
        return Finding(measured, stable, candidate, finite)

    def has_little_left(self, candidate: Flags, stack: Stack, update: int, *, final: bool) -> Flags:
        """Return which candidates have little left to gain, which no schedule can feign `(r,)`; see `trial`.

        They are asked at the first check after each power of 1.5 updates, and at the end of a round.
        """
        before = max(1, update - self._check_every)
        due = final or update in self.training.rounds or _power_below(update) > _power_below(before)
        passing: Flags = candidate & due
        if passing.any():
            alone = stack.select(torch.from_numpy(np.flatnonzero(passing)).to(stack.device))
            batch = min(TRIAL_BATCH, self.batch)
            passing[passing] = has_little_left(
                alone, self.data, self.latent_dim, update, self.training.convergence, batch
            )
        return passing

    def costs(self, stack: Stack, leaving: Flags, alive: NDArray[np.int64]) -> list[Line]:
        """Return the cost of the leaving replicas as a function of the dial, on every row and with many draws."""
        alone = stack.select(torch.from_numpy(np.flatnonzero(leaving)).to(stack.device))
        measured = self.measure(alone, alive[leaving], everything=True, draws=self.evaluation.cost_samples)
        return alone.lines(measured)

    def measure(
        self, stack: Stack, alive: NDArray[np.int64], *, everything: bool, draws: int | None = None
    ) -> Equilibrium:
        """Measure the replicas of a stack, on every row or on those that screen.

        alive: their numbers in the original stack. draws: of z, at least; by default those of an evaluation.
        A penalty on weights shifts the Ward identities; its contribution is subtracted.
        """
        samples = SplitSamples(
            self.data, "train", replicas=len(stack), width=4 * self.latent_dim, device=stack.device,
            dtype=stack.dtype, max_rows=self.rows(everything=everything), values_at_once=self.values_at_once,
        )  # fmt: skip
        model = StackModel(stack, self.temperatures[alive], self.latent_dim)
        try:
            measured = measure_equilibrium(model, samples, draws or self.evaluation.samples)
        finally:
            stack.template.train()
        if type(stack.objective).penalty is not Objective.penalty and self.symmetry is not None:
            return less_penalty(measured, stack, self.symmetry)
        return measured

    def rows(self, *, everything: bool) -> int | None:
        """Return how many rows are measured, or None for all of them."""
        rows = len(self.data.splits["train"].values)
        return None if everything or rows <= max(4 * _SCREEN_ROWS, self._trained_rows) else _SCREEN_ROWS

    def is_stationary(self, measured: Equilibrium, *, everything: bool) -> Flags:
        """Return where the Ward residual is within its tolerance, which is wider on a sample of rows `(r,)`."""
        slack = 0.0 if self.rows(everything=everything) is None else 3 / math.sqrt(_SCREEN_ROWS)
        return np.asarray(measured.ward_residual <= self.training.convergence.ward_residual + slack)

    def is_stable(self, measured: Equilibrium, stack: Stack) -> Flags:
        """Return where no collapsed latent could lower the objective `(r,)`."""
        prices = stack.effective_temperatures() * stack.total_variance / stack.decoder.collapse_limit
        edges = np.array([stack.objective.edge(float(price)) for price in prices])
        return measured.is_stable(edges / stack.total_variance, self.training.convergence.edge_tolerance)

    def is_calm(
        self, measured: Equilibrium, losses: Floats, records: Sequence[Record], update: int, mask: Flags
    ) -> Flags:
        """Return where the signal fractions have stopped drifting and the loss has stopped falling, within `mask`."""
        settings = self.training.convergence
        patience = settings.patience * self.training.max_updates
        calm = np.zeros(len(records), dtype=bool)
        for index in np.flatnonzero(mask):
            record = records[int(index)]
            record.fractions.append((update, [float(value) for value in measured.signal_fraction[index]]))
            drift = signal_drift(record.fractions)
            if drift is not None:
                calm[index] = drift <= settings.drift and update - record.best_update >= patience
            falls = losses[index] < record.best - settings.relative_tolerance * abs(record.best)
            if len(record.fractions) == 1 or falls:
                record.best, record.best_update = float(losses[index]), update
        return calm

    def confirm(self, candidate: Flags, stack: Stack, alive: NDArray[np.int64]) -> Flags:
        """Return which candidates are stationary and stable on every row of the train split `(r,)`."""
        if self.rows(everything=False) is None or not candidate.any():
            return candidate
        alone = stack.select(torch.from_numpy(np.flatnonzero(candidate)).to(stack.device))
        measured = self.measure(alone, alive[candidate], everything=True)
        confirmed = candidate.copy()
        confirmed[candidate] = self.is_stable(measured, alone) & self.is_stationary(measured, everything=True)
        return confirmed


def _power_below(update: int) -> int:
    """Return the largest n with 1.5^n <= update."""
    return int(math.log(update) / math.log(1.5) + 1e-9)
