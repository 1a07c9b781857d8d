"""Train a stack to equilibrium: draw a batch, update, check, retire, checkpoint.

Every update is a pure function of (weights, optimiser state, update number), so a run resumed from a checkpoint gives
the same numbers as an uninterrupted one. A replica leaves the stack when it has converged or is no longer finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapsebench.contracts import Objective, Progress
from collapsebench.data.batches import Batches
from collapsebench.data.samples import VALUES_AT_ONCE, SplitSamples
from collapsebench.data.standardise import Standardised
from collapsebench.process import returned_memory
from collapsebench.stack.optimisers import Adam, Average, Preconditioned, StackOptimiser
from collapsebench.stack.stack import Stack, StackModel
from collapsebench.store import read_checkpoint, write_checkpoint
from collapsebench.suite.schema import EvaluationSettings, Training
from collapsebench.theory.equilibrium import Equilibrium, measure_equilibrium, signal_drift
from collapsebench.training.symmetry import Symmetry, find_symmetry, less_penalty

if TYPE_CHECKING:
    from collapsebench.contracts import Floats, Tensors

Mark = Literal["running", "converged", "budget", "unstable", "diverged"]
_SCREEN_ROWS = 4096
_FIRST_PRICE = 0.1


class OutOfTimeError(Exception):
    """The time limit of a job has passed; its checkpoint has been written."""


@dataclass
class Trained:
    """The result of training: weights `(r, ...)` on the CPU, and for each replica its mark, updates, normalised loss
    and effective temperature.

    losses: the mean over the updates between the last two checks, at the weights of each update, without averaging.
    """

    weights: Tensors
    marks: list[Mark]
    updates: list[int]
    losses: list[float]
    effective_temperatures: list[float]
    log: list[dict[str, Any]]


@dataclass
class Controls:
    """How a run reports its progress and is stopped; `stop` is called after every update."""

    checkpoint: Path | None = None
    report: Callable[[Progress], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False
    deadline: float = math.inf


@dataclass
class _Track:
    """What is recorded for each replica of the original stack."""

    marks: list[Mark]
    updates: list[int]
    losses: list[float]
    effective_temperatures: list[float]
    best: list[float]
    best_update: list[int]
    fractions: list[list[tuple[int, list[float]]]]
    unstable: list[bool]
    log: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, replicas: int) -> _Track:
        infinite = [math.inf] * replicas
        return cls(
            ["running"] * replicas, [0] * replicas, infinite[:], infinite[:], infinite[:], [0] * replicas,
            [[] for _ in range(replicas)], [False] * replicas,
        )  # fmt: skip


class Trainer:
    """The training of one stack. temperatures: of each replica, `(r,)`. seeds: the training seeds by index."""

    def __init__(
        self,
        stack: Stack,
        data: Standardised,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        latent_dim: int,
        training: Training,
        evaluation: EvaluationSettings,
    ) -> None:
        self.stack, self.data, self.training, self.evaluation = stack, data, training, evaluation
        self.temperatures, self.latent_dim = np.asarray(temperatures), latent_dim
        self.batches = Batches(
            data,
            seeds,
            training.batch_size,
            latent_dim,
            device=stack.device,
            dtype=stack.dtype,
            noisy=not stack.linear,
            antithetic=training.antithetic,
        )
        self.optimiser = make_optimiser(training)
        self.penalised = type(stack.objective).penalty is not Objective.penalty
        self.symmetry = find_symmetry(stack.plain, stack.shape, latent_dim)
        self.alive = np.arange(len(stack))
        self.finished: Tensors = {
            name: torch.zeros_like(value, device="cpu") for name, value in stack.weights().items()
        }
        self.track = _Track.of(len(stack))
        self.average = Average(stack.parameters, training.average) if training.average else None
        self.update = 0
        self._check_every = max(1, training.max_updates // training.convergence.checks)
        self.values_at_once = VALUES_AT_ONCE
        self._loss_sum = torch.zeros(len(stack), device=stack.device, dtype=torch.float32)
        self._loss_count = 0

    def run(self, controls: Controls) -> Trained:
        """Train until every replica has settled or the budget is spent, and return the result."""
        if controls.checkpoint is not None and controls.checkpoint.exists():
            self.restore(controls.checkpoint)
        rounds = self.training.rounds
        budget = rounds[-1]
        clock = saved = time.monotonic()
        started_at = self.update
        while self.update < budget and len(self.alive):
            self.advance()
            if self.update % self._check_every == 0 or self.update in rounds:
                with returned_memory():
                    self.check(final=self.update == budget)
                elapsed = max(time.monotonic() - clock, 1e-9)
                settled = len(self.track.marks) - len(self.alive)
                rate = (self.update - started_at) / elapsed
                controls.report(Progress(self.update, budget, settled, len(self.track.marks), rate))
            now = time.monotonic()
            stopping, late = controls.stop(), now > controls.deadline
            due = now - saved > self.training.checkpoint_every_seconds
            if controls.checkpoint is not None and (due or stopping or late):
                with returned_memory():
                    self.save(controls.checkpoint)
                saved = now
            if stopping:
                raise KeyboardInterrupt
            if late:
                raise OutOfTimeError(f"{self.update} of {budget} updates done when the time limit passed")
        track = self.track
        return Trained(self.finished, track.marks, track.updates, track.losses, track.effective_temperatures, track.log)

    def advance(self) -> None:
        """Do one update of every replica in the stack."""
        x, noise, weights = self.batches.draw(self.update)
        progress = min(1.0, self.update / self.training.max_updates)
        prices = self.prices(self.update)
        price = 1.0 if (prices == 1).all() else torch.from_numpy(prices).to(self.stack.dials)
        losses, gradients = self.stack.gradients(x, noise, weights, progress, price)
        self.optimiser.step(self.stack.parameters, gradients, self.learning_rate(self.update))
        self._loss_sum += losses
        self._loss_count += 1
        self.update += 1
        if self.average is not None:
            self.average.add(self.stack.parameters, self.update)

    def prices(self, update: int) -> Floats:
        """Return the fraction of its dial that each replica in the stack pays at an update: below one during a warm-up.

        The warm-up is at the start, and again at the start of an extension for a replica that was unstable. While the
        price is low, a latent can take a mode worth its rate that no latent has taken yet. A dial that is not a price
        is never reduced: a lower capacity, for example, would cost more.
        """
        start, end = self.training.round_of(update)
        rise = self.training.price_warm_up * (end - start) if self.stack.objective.dial_is_price else 0.0
        prices = np.ones(len(self.alive))
        if update - start < rise:
            rising = [not start or self.track.unstable[replica] for replica in self.alive]
            prices[rising] = _FIRST_PRICE + (1 - _FIRST_PRICE) * (update - start) / rise
        return prices

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of an update: a linear warm-up, then the schedule, to zero at the end of the round.

        Every extension starts at half the learning rate, without a warm-up.
        """
        training = self.training
        start, end = training.round_of(update)
        rise = 0.5 if start else min(1.0, (update + 1) / max(1, training.warm_up))
        fall = 0.5 * (1 + math.cos(math.pi * (update - start) / (end - start)))
        return float(training.optimiser.learning_rate) * rise * (fall if training.schedule == "cosine" else 1.0)

    def check(self, *, final: bool) -> None:
        """Check every replica in the stack for convergence, and retire those that have settled; if `final`, retire all.

        If weights are averaged, the averaged weights are checked and stored.
        """
        losses = (self._loss_sum / self._loss_count).double().cpu().numpy()
        settling = self.update < self.stack.objective.settles_at * self.training.max_updates
        rising = ((self.prices(self.update - 1) < 1.0) | settling) & (not final)
        judged = self.judged()
        measured = self.measure(everything=final, stack=judged)
        stable = self._is_stable(measured, judged)
        calm = self._is_calm(measured, losses, ~rising)
        slack = 0.0 if self._rows(final) is None else 3 / math.sqrt(_SCREEN_ROWS)
        tolerance = self.training.convergence.ward_residual
        candidate = stable & calm & (measured.ward_residual <= tolerance + slack)
        finite = np.isfinite(losses) & np.isfinite(measured.ward_residual)
        if slack and candidate.any():
            candidate = self._confirm(candidate, judged)
        self._record(measured, losses, judged)
        leaving = candidate | ~finite | final
        for index in np.flatnonzero(leaving):
            mark: Mark = "budget" if stable[index] else "unstable"
            if candidate[index]:
                mark = "converged"
            if not finite[index]:
                mark = "diverged"
            self.track.marks[self.alive[index]] = mark
        if self.update in self.training.rounds:
            for number, firm in zip(self.alive, stable, strict=True):
                self.track.unstable[number] = not firm
        if leaving.any():
            self._retire(leaving, judged)
        settles = self.training.settle_latents and not (settling or self.penalised)
        if self.symmetry is not None and settles and self._rows(final) is None and len(self.alive):
            self.settle(self.symmetry, measured.mean[~leaving], measured.scale[~leaving])
        self._loss_sum = torch.zeros(len(self.alive), device=self.stack.device, dtype=torch.float32)
        self._loss_count = 0

    def judged(self) -> Stack:
        """Return the stack that is checked for convergence: with averaged weights, if weights are averaged."""
        return self.stack if self.average is None else self.stack.with_parameters(self.average.weights)

    def settle(self, symmetry: Symmetry, mean: Floats, scale: Floats) -> None:
        """Bring the latents to E mu = 0 and E mu^2 + E sigma^2 = 1. mean, scale: both as measured, `(r, k)`.

        The averaged weights are moved in the same way.
        """
        symmetry.settle(self.stack.parameters, mean, scale)
        if self.average is not None:
            symmetry.settle(self.average.weights, mean, scale)

    def measure(self, *, everything: bool, stack: Stack | None = None) -> Equilibrium:
        """Measure both conditions of equilibrium: on every row, or on a sample if that would take longer than training.

        A penalty on weights shifts the Ward identities; its contribution is subtracted.
        """
        stack = stack or self.stack
        samples = SplitSamples(
            self.data, "train", replicas=len(stack), width=4 * self.latent_dim, device=stack.device,
            dtype=stack.dtype, max_rows=self._rows(everything), values_at_once=self.values_at_once,
        )  # fmt: skip
        model = StackModel(stack, self.temperatures[self.alive][: len(stack)], self.latent_dim)
        try:
            measured = measure_equilibrium(model, samples, self.evaluation.samples)
        finally:
            stack.template.train()
        if self.penalised and self.symmetry is not None:
            return less_penalty(measured, stack, self.symmetry)
        return measured

    def _rows(self, everything: bool) -> int | None:
        rows, trained = len(self.data.splits["train"].values), self.batches.size * self._check_every
        return None if everything or rows <= max(4 * _SCREEN_ROWS, trained) else _SCREEN_ROWS

    def _is_stable(self, measured: Equilibrium, stack: Stack) -> NDArray[np.bool_]:
        prices = stack.effective_temperatures() * stack.total_variance / stack.decoder.collapse_limit
        edges = np.array([stack.objective.edge(float(price)) for price in prices])
        return measured.is_stable(edges / stack.total_variance, self.training.convergence.edge_tolerance)

    def _is_calm(self, measured: Equilibrium, losses: Floats, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return where the signal fractions have stopped drifting and the loss has stopped falling, within `mask`."""
        settings = self.training.convergence
        patience = settings.patience * self.training.max_updates
        calm = np.zeros(len(self.alive), dtype=bool)
        for index in np.flatnonzero(mask):
            replica = int(self.alive[index])
            history = self.track.fractions[replica]
            now = measured.signal_fraction[index]
            history.append((self.update, [float(value) for value in now]))
            drift = signal_drift(history)
            if drift is not None:
                waited = self.update - self.track.best_update[replica] >= patience
                calm[index] = drift <= settings.drift and waited
            best = self.track.best[replica]
            if len(history) == 1 or losses[index] < best - settings.relative_tolerance * abs(best):
                self.track.best[replica], self.track.best_update[replica] = float(losses[index]), self.update
        return calm

    def _confirm(self, candidate: NDArray[np.bool_], judged: Stack) -> NDArray[np.bool_]:
        """Measure the candidates on every row of the train split."""
        indices = torch.from_numpy(np.flatnonzero(candidate)).to(self.stack.device)
        alone = judged.select(indices)
        alive, self.alive = self.alive, self.alive[candidate]
        try:
            measured = self.measure(everything=True, stack=alone)
            good = self._is_stable(measured, alone)
        finally:
            self.alive = alive
        confirmed = candidate.copy()
        confirmed[candidate] = good & (measured.ward_residual <= self.training.convergence.ward_residual)
        return confirmed

    def _record(self, measured: Equilibrium, losses: Floats, judged: Stack) -> None:
        effective, prices = judged.effective_temperatures(), self.prices(self.update - 1)
        for index, replica in enumerate(self.alive):
            self.track.updates[replica] = self.update
            self.track.losses[replica] = float(losses[index])
            self.track.effective_temperatures[replica] = float(effective[index])
            self.track.log.append(
                {
                    "replica": int(replica),
                    "update": self.update,
                    "loss": float(losses[index]),
                    "effective_temperature": float(effective[index]),
                    "ward_residual": float(measured.ward_residual[index]),
                    "residual_edge": float(measured.residual_edge[index]),
                    "price": float(prices[index]),
                    "active": int((measured.signal_fraction[index] > self.evaluation.active_threshold).sum()),
                }
            )

    def _retire(self, leaving: NDArray[np.bool_], judged: Stack) -> None:
        """Store the weights of the leaving replicas, and remove them from the stack."""
        indices = np.flatnonzero(leaving)
        targets = torch.from_numpy(self.alive[indices])
        for name, value in judged.weights().items():
            self.finished[name][targets] = value[torch.from_numpy(indices).to(value.device)].cpu()
        staying = torch.from_numpy(np.flatnonzero(~leaving)).to(self.stack.device)
        self.alive = self.alive[~leaving]
        if len(self.alive):
            self.stack.keep(staying)
            self.optimiser.keep(staying)
            if self.average is not None:
                self.average.keep(staying)

    def save(self, path: Path) -> None:
        """Write everything that `restore` needs, atomically."""
        tensors = {
            **{f"weights/{name}": value for name, value in self.stack.weights().items()},
            **{f"optimiser/{name}": value for name, value in self.optimiser.state().items()},
            **{f"finished/{name}": value for name, value in self.finished.items()},
            "loss_sum": self._loss_sum,
        }
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.weights.items()}
        meta = {
            "update": self.update,
            "alive": [int(replica) for replica in self.alive],
            "loss_count": self._loss_count,
            "track": vars(self.track),
        }
        write_checkpoint(path, tensors, meta)

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        tensors, meta = read_checkpoint(path, self.stack.device)
        self.update, self._loss_count = meta["update"], meta["loss_count"]
        self.track = _Track(**meta["track"])
        self.alive = np.array(meta["alive"], dtype=np.int64)
        self.stack.keep(torch.from_numpy(self.alive).to(self.stack.device))
        self.stack.load(_named(tensors, "weights/"))
        self.optimiser.load(_named(tensors, "optimiser/"))
        self.finished = {name: value.cpu() for name, value in _named(tensors, "finished/").items()}
        if self.average is not None:
            self.average.weights = _named(tensors, "average/")
        self._loss_sum = tensors["loss_sum"]


OPTIMISERS: dict[str, type[Adam | Preconditioned]] = {"adam": Adam, "preconditioned": Preconditioned}
"""The optimisers by their name in suites; each takes its settings there, except the learning rate."""


def make_optimiser(training: Training) -> StackOptimiser:
    """Return the optimiser that a suite asks for."""
    settings = training.optimiser.model_dump(exclude={"use", "learning_rate"})
    return OPTIMISERS[training.optimiser.use](**settings)


def _named(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
