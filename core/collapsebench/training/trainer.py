"""Train a stack to equilibrium: draw, step, check, retire, checkpoint.

Every update is a pure function of (weights, optimiser state, update number), so a run continues from a checkpoint with
the numbers it would have had. A replica leaves the stack when it has converged or is no longer finite.
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
from collapsebench.stack.optimisers import Adam, Average, Preconditioned, StackOptimiser
from collapsebench.stack.stack import Stack, StackModel
from collapsebench.store import read_checkpoint, write_checkpoint
from collapsebench.suite.schema import EvaluationSettings, Training
from collapsebench.theory.equilibrium import Equilibrium, measure_equilibrium, signal_drift
from collapsebench.training.allocator import returned_memory
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
    """What training leaves: weights `(r, ...)` on the CPU, and per replica its mark, updates, normalised loss and
    effective temperature.

    losses: the mean over the updates between the last two checks, of the weights as they were then, not averaged.
    """

    weights: Tensors
    marks: list[Mark]
    updates: list[int]
    losses: list[float]
    effective_temperatures: list[float]
    log: list[dict[str, Any]]


@dataclass
class Controls:
    """How a run is watched and stopped; `stop` is asked after every update."""

    checkpoint: Path | None = None
    report: Callable[[Progress], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False
    deadline: float = math.inf


@dataclass
class _Track:
    """What is remembered of each replica of the original stack."""

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
    """One stack on its way to equilibrium. temperatures: of each replica `(r,)`. seeds: the training seeds by index."""

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
        """Train until every replica has settled or the budget is spent, and return what is left."""
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
        """Return the share of its dial that each replica in the stack pays at an update: below one while it rises.

        It rises at the start, and once more at the start of an extension for a replica that was unstable: a mode that
        pays but that no latent has taken is found while it is cheap. A dial that is no price is never turned down: less
        of a capacity would cost more, not less.
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

        Every extension starts at half of the learning rate, without a warm-up.
        """
        training = self.training
        start, end = training.round_of(update)
        rise = 0.5 if start else min(1.0, (update + 1) / max(1, training.warm_up))
        fall = 0.5 * (1 + math.cos(math.pi * (update - start) / (end - start)))
        return float(training.optimiser.learning_rate) * rise * (fall if training.schedule == "cosine" else 1.0)

    def check(self, *, final: bool) -> None:
        """Judge every replica in the stack; retire those that have settled, all of them at the end of the budget.

        What is judged, and left behind, are the averaged weights where there is an average.
        """
        losses = (self._loss_sum / self._loss_count).double().cpu().numpy()
        settling = self.update < self.stack.objective.settles_at * self.training.max_updates
        rising = ((self.prices(self.update - 1) < 1.0) | settling) & (not final)
        judged = self.judged()
        found = self.measure(everything=final, stack=judged)
        stable = self._is_stable(found, judged)
        calm = self._is_calm(found, losses, ~rising)
        slack = 0.0 if self._rows(final) is None else 3 / math.sqrt(_SCREEN_ROWS)
        tolerance = self.training.convergence.ward_residual
        candidate = stable & calm & (found.ward_residual <= tolerance + slack)
        finite = np.isfinite(losses) & np.isfinite(found.ward_residual)
        if slack and candidate.any():
            candidate = self._confirm(candidate, judged)
        self._record(found, losses, judged)
        leaving = candidate | ~finite | final
        for place in np.flatnonzero(leaving):
            mark: Mark = "budget" if stable[place] else "unstable"
            if candidate[place]:
                mark = "converged"
            if not finite[place]:
                mark = "diverged"
            self.track.marks[self.alive[place]] = mark
        if self.update in self.training.rounds:
            for number, firm in zip(self.alive, stable, strict=True):
                self.track.unstable[number] = not firm
        if leaving.any():
            self._retire(leaving, judged)
        settles = self.training.settle_latents and not (settling or self.penalised)
        if self.symmetry is not None and settles and self._rows(final) is None and len(self.alive):
            self.settle(self.symmetry, found.mean[~leaving], found.scale[~leaving])
        self._loss_sum = torch.zeros(len(self.alive), device=self.stack.device, dtype=torch.float32)
        self._loss_count = 0

    def judged(self) -> Stack:
        """Return the stack as it is judged: with averaged weights, where there is an average."""
        return self.stack if self.average is None else self.stack.with_parameters(self.average.weights)

    def settle(self, symmetry: Symmetry, mean: Floats, scale: Floats) -> None:
        """Bring the latents to E mu = 0 and E mu^2 + E sigma^2 = 1, given both as judged `(r, k)`.

        The average moves with the weights that it averages, by the same symmetry.
        """
        symmetry.settle(self.stack.parameters, mean, scale)
        if self.average is not None:
            symmetry.settle(self.average.weights, mean, scale)

    def measure(self, *, everything: bool, stack: Stack | None = None) -> Equilibrium:
        """Measure both conditions of equilibrium: on every row, or on a sample where that would outlast training.

        Under a penalty on weights, which shifts the Ward identities, what it shifts them by is taken off.
        """
        stack = stack or self.stack
        samples = SplitSamples(
            self.data, "train", replicas=len(stack), width=4 * self.latent_dim, device=stack.device,
            dtype=stack.dtype, max_rows=self._rows(everything), values_at_once=self.values_at_once,
        )  # fmt: skip
        model = StackModel(stack, self.temperatures[self.alive][: len(stack)], self.latent_dim)
        try:
            found = measure_equilibrium(model, samples, self.evaluation.samples)
        finally:
            stack.template.train()
        return less_penalty(found, stack, self.symmetry) if self.penalised and self.symmetry is not None else found

    def _rows(self, everything: bool) -> int | None:
        rows, trained = len(self.data.splits["train"].values), self.batches.size * self._check_every
        return None if everything or rows <= max(4 * _SCREEN_ROWS, trained) else _SCREEN_ROWS

    def _is_stable(self, found: Equilibrium, stack: Stack) -> NDArray[np.bool_]:
        prices = stack.effective_temperatures() * stack.total_variance / stack.decoder.collapse_limit
        edges = np.array([stack.objective.edge(float(price)) for price in prices])
        return found.is_stable(edges / stack.total_variance, self.training.convergence.edge_tolerance)

    def _is_calm(self, found: Equilibrium, losses: Floats, places: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether the signal fractions have stopped drifting and the loss has stopped falling, of those at `places`."""
        settings = self.training.convergence
        patience = settings.patience * self.training.max_updates
        calm = np.zeros(len(self.alive), dtype=bool)
        for place in np.flatnonzero(places):
            replica = int(self.alive[place])
            history = self.track.fractions[replica]
            now = found.signal_fraction[place]
            history.append((self.update, [float(value) for value in now]))
            drift = signal_drift(history)
            if drift is not None:
                waited = self.update - self.track.best_update[replica] >= patience
                calm[place] = drift <= settings.drift and waited
            best = self.track.best[replica]
            if len(history) == 1 or losses[place] < best - settings.relative_tolerance * abs(best):
                self.track.best[replica], self.track.best_update[replica] = float(losses[place]), self.update
        return calm

    def _confirm(self, candidate: NDArray[np.bool_], judged: Stack) -> NDArray[np.bool_]:
        """Measure the candidates on every row of the train split."""
        places = torch.from_numpy(np.flatnonzero(candidate)).to(self.stack.device)
        alone = judged.select(places)
        alive, self.alive = self.alive, self.alive[candidate]
        try:
            found = self.measure(everything=True, stack=alone)
            good = self._is_stable(found, alone)
        finally:
            self.alive = alive
        confirmed = candidate.copy()
        confirmed[candidate] = good & (found.ward_residual <= self.training.convergence.ward_residual)
        return confirmed

    def _record(self, found: Equilibrium, losses: Floats, judged: Stack) -> None:
        effective, prices = judged.effective_temperatures(), self.prices(self.update - 1)
        for place, replica in enumerate(self.alive):
            self.track.updates[replica] = self.update
            self.track.losses[replica] = float(losses[place])
            self.track.effective_temperatures[replica] = float(effective[place])
            self.track.log.append(
                {
                    "replica": int(replica),
                    "update": self.update,
                    "loss": float(losses[place]),
                    "effective_temperature": float(effective[place]),
                    "ward_residual": float(found.ward_residual[place]),
                    "residual_edge": float(found.residual_edge[place]),
                    "price": float(prices[place]),
                    "active": int((found.signal_fraction[place] > self.evaluation.active_threshold).sum()),
                }
            )

    def _retire(self, leaving: NDArray[np.bool_], judged: Stack) -> None:
        """Move replicas out of the stack and close the ranks."""
        places = np.flatnonzero(leaving)
        targets = torch.from_numpy(self.alive[places])
        for name, value in judged.weights().items():
            self.finished[name][targets] = value[torch.from_numpy(places).to(value.device)].cpu()
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
"""The optimisers by the name that suites use; each takes the settings of its name, save the learning rate."""


def make_optimiser(training: Training) -> StackOptimiser:
    """Return the optimiser that a suite asks for."""
    settings = training.optimiser.model_dump(exclude={"use", "learning_rate"})
    return OPTIMISERS[training.optimiser.use](**settings)


def _named(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
