"""Train a stack to equilibrium: draw a batch, update, check, retire, checkpoint.

Every update is a pure function of (weights, optimiser state, update number), so a run resumed from a checkpoint gives
the same numbers as an uninterrupted one. A replica leaves the stack when it has converged or is no longer finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from collapsebench.contracts import Objective, Progress
from collapsebench.data.batches import Batches
from collapsebench.data.standardise import Standardised
from collapsebench.process import returned_memory
from collapsebench.stack.in_place import InPlacePreconditioned
from collapsebench.stack.optimisers import Adam, Average, Preconditioned, StackOptimiser
from collapsebench.stack.stack import Stack
from collapsebench.stack.symmetry import Symmetry, find_symmetry
from collapsebench.stack.update import Update
from collapsebench.store import read_checkpoint, write_checkpoint
from collapsebench.suite.schema import EvaluationSettings, Exchange, Training
from collapsebench.theory.equilibrium import Equilibrium
from collapsebench.training.exchange import Parked, takeovers
from collapsebench.training.verdict import Flags, Judge, Mark, Record

if TYPE_CHECKING:
    from collapsebench.contracts import Floats, Tensors

_FIRST_PRICE = 0.1


class OutOfTimeError(Exception):
    """The time limit of a job has passed; its checkpoint has been written."""


@dataclass
class Trained:
    """The result of training: weights `(r, ...)` on the CPU, the record of each replica, and the log of all checks."""

    weights: Tensors
    records: list[Record]
    log: list[dict[str, Any]]

    @property
    def marks(self) -> list[Mark]:
        """The mark of each replica."""
        return [record.mark for record in self.records]

    @property
    def updates(self) -> list[int]:
        """The updates that each replica was trained for."""
        return [record.updates for record in self.records]

    @property
    def losses(self) -> list[float]:
        """The normalised loss of each replica over its last updates."""
        return [record.loss for record in self.records]

    @property
    def effective_temperatures(self) -> list[float]:
        """The price of a nat of each replica, as a share of V."""
        return [record.effective_temperature for record in self.records]


@dataclass
class Controls:
    """How a run reports its progress and is stopped; `stop` is called after every update."""

    checkpoint: Path | None = None
    report: Callable[[Progress], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False
    deadline: float = math.inf


class Trainer:
    """The training of one stack. temperatures: of each replica, `(r,)`. seeds: the training seeds by index.

    cells: the cell of each replica `(r,)`, by default one; within it, weights are exchanged. exchange: None if not.
    """

    def __init__(
        self,
        stack: Stack,
        data: Standardised,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        latent_dim: int,
        training: Training,
        evaluation: EvaluationSettings,
        cells: Sequence[int] = (),
        exchange: Exchange | None = None,
    ) -> None:
        self.stack, self.data, self.training = stack, data, training
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
        self.optimiser = make_optimiser(training, in_place=stack.computation.captured)
        self.one_update = Update(stack, self.optimiser)
        self.penalised = type(stack.objective).penalty is not Objective.penalty
        self.symmetry = find_symmetry(stack.plain, stack.shape, latent_dim)
        self.alive = np.arange(len(stack))
        self.finished: Tensors = {
            name: torch.zeros_like(value, device="cpu") for name, value in stack.weights().items()
        }
        self.cells, self.exchange, self.parked = list(cells) or [0] * len(stack), exchange, Parked()
        self._dials, self._seeds = stack.dials.clone(), stack.seeds.clone()
        self.records = [Record() for _ in range(len(stack))]
        self.log: list[dict[str, Any]] = []
        self.average = Average(stack.parameters, training.average) if training.average else None
        self.update = 0
        self._check_every = max(1, training.max_updates // training.convergence.checks)
        self.judge = Judge(
            data, temperatures, latent_dim, training, evaluation, self.symmetry, self.batches.size, self._check_every
        )
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
                settled = len(self.records) - len(self.alive)
                rate = (self.update - started_at) / elapsed
                controls.report(Progress(self.update, budget, settled, len(self.records), rate))
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
        return Trained(self.finished, self.records, self.log)

    def advance(self) -> None:
        """Do one update of every replica in the stack."""
        x, noise, weights = self.batches.draw(self.update)
        progress = min(1.0, self.update / self.training.max_updates)
        prices = self.prices(self.update)
        price = 1.0 if (prices == 1).all() else torch.from_numpy(prices).to(self.stack.dials, non_blocking=True)
        losses, _ = self.one_update.run((x, noise, weights), progress, price, self.learning_rate(self.update))
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
            rising = [not start or record.unstable for record in self.living]
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

    @property
    def living(self) -> list[Record]:
        """The records of the replicas in the stack, in its order."""
        return [self.records[replica] for replica in self.alive]

    def check(self, *, final: bool) -> None:
        """Check every replica in the stack for convergence, and retire those that have settled; if `final`, retire all.

        If weights are averaged, the averaged weights are checked and stored.
        """
        losses = (self._loss_sum / self._loss_count).double().cpu().numpy()
        settling = self.update < self.stack.objective.settles_at * self.training.max_updates
        early = self.exchange is not None and self._share_of_round() < self.exchange.start
        rising = ((self.prices(self.update - 1) < 1.0) | settling | early) & (not final)
        judged, living, cells = self.judged(), self.living, {self.cells[replica] for replica in self.alive}
        found = self.judge.look(judged, living, self.alive, losses, rising, self.update, final=final)
        self._record(found.measured, losses, judged)
        leaving = found.candidate | ~found.finite | final
        for index in np.flatnonzero(leaving):
            living[index].mark = found.mark(int(index))
        if self.update in self.training.rounds:
            for record, firm in zip(living, found.stable, strict=True):
                record.unstable = not firm
        if leaving.any():
            for index, line in zip(np.flatnonzero(leaving), self.judge.costs(judged, leaving, self.alive), strict=True):
                living[int(index)].line = line
            self._retire(leaving, judged)
        settles = self.training.settle_latents and not (settling or self.penalised)
        if self.symmetry is not None and settles and self.judge.rows(everything=final) is None and len(self.alive):
            self.settle(self.symmetry, found.measured.mean[~leaving], found.measured.scale[~leaving])
        if self.exchange is not None and not final:
            self._take_over(self.exchange, cells, rising[~leaving])
        self._loss_sum = torch.zeros(len(self.alive), device=self.stack.device, dtype=torch.float32)
        self._loss_count = 0

    def _share_of_round(self) -> float:
        """Return the share of the current round of training that is done."""
        start, end = self.training.round_of(self.update - 1)
        return (self.update - start) / (end - start)

    def _take_over(self, exchange: Exchange, cells: set[int], rising: Flags) -> None:
        """Let each replica that is undercut by another one of its cell continue from the weights of that one.

        cells: those that are still being trained. rising: which replicas in the stack have no final price yet.
        """
        if not exchange.start <= self._share_of_round() <= exchange.stop:
            return
        waiting = {int(replica) for replica, rises in zip(self.alive, rising, strict=True) if rises}
        eligible = [
            replica not in waiting and record.mark != "diverged" and self.cells[replica] in cells
            for replica, record in enumerate(self.records)
        ]
        taken = takeovers([record.cost for record in self.records], self.cells, eligible, exchange)
        if not taken:
            return
        for replica in taken:
            last = self.records[replica]
            self.records[replica] = Record(
                updates=self.update, loss=last.loss, effective_temperature=last.effective_temperature
            )
        self.log += [{"replica": taker, "update": self.update, "taken_from": donor} for taker, donor in taken.items()]
        present = {name: value[: len(self.alive)] for name, value in self._state().items()}
        alive, state = self.parked.mix([int(replica) for replica in self.alive], present, taken)
        self.alive = np.array(alive, dtype=np.int64)
        index = torch.from_numpy(self.alive).to(self._dials.device)
        self.stack.become(_named(state, "weights/"), self._dials[index], self._seeds[index])
        self.optimiser.load({**self._shared_state(), **_named(state, "optimiser/")})
        if self.average is not None:
            self.average.weights = _named(state, "average/")

    def _state(self) -> Tensors:
        """Return all that belongs to the replicas in the stack, by name `(r, ...)`."""
        state = {f"weights/{name}": value for name, value in self.stack.weights().items()}
        state |= {f"optimiser/{name}": value for name, value in self.optimiser.state().items() if value.dim()}
        if self.average is not None:
            state |= {f"average/{name}": value for name, value in self.average.weights.items()}
        return state

    def _shared_state(self) -> Tensors:
        """Return the state of the optimiser that all replicas share, such as the number of its updates."""
        return {name: value for name, value in self.optimiser.state().items() if not value.dim()}

    def judged(self) -> Stack:
        """Return the stack that is checked for convergence: with averaged weights, if weights are averaged."""
        return self.stack if self.average is None else self.stack.with_parameters(self.average.weights)

    def measure(self, stack: Stack | None = None) -> Equilibrium:
        """Measure the replicas in the stack, or those of another stack of the same replicas, on every row."""
        return self.judge.measure(stack or self.stack, self.alive, everything=True)

    def settle(self, symmetry: Symmetry, mean: Floats, scale: Floats) -> None:
        """Bring the latents to E mu = 0 and E mu^2 + E sigma^2 = 1. mean, scale: both as measured, `(r, k)`.

        The averaged weights are moved in the same way.
        """
        symmetry.settle(self.stack.parameters, mean, scale)
        if self.average is not None:
            symmetry.settle(self.average.weights, mean, scale)

    def _record(self, measured: Equilibrium, losses: Floats, judged: Stack) -> None:
        effective, prices = judged.effective_temperatures(), self.prices(self.update - 1)
        for index, (replica, record) in enumerate(zip(self.alive, self.living, strict=True)):
            record.updates, record.loss = self.update, float(losses[index])
            record.effective_temperature = float(effective[index])
            self.log.append(
                {
                    "replica": int(replica),
                    "update": self.update,
                    "loss": record.loss,
                    "effective_temperature": record.effective_temperature,
                    "ward_residual": float(measured.ward_residual[index]),
                    "residual_edge": float(measured.residual_edge[index]),
                    "price": float(prices[index]),
                    "active": int((measured.signal_fraction[index] > self.judge.evaluation.active_threshold).sum()),
                }
            )

    def _retire(self, leaving: Flags, judged: Stack) -> None:
        """Store the weights of the leaving replicas, and remove them from the stack."""
        indices = np.flatnonzero(leaving)
        targets = torch.from_numpy(self.alive[indices])
        for name, value in judged.weights().items():
            self.finished[name][targets] = value[torch.from_numpy(indices).to(value.device)].cpu()
        if self.exchange is not None:
            self.parked.add([int(replica) for replica in self.alive[indices]], self._state(), torch.from_numpy(indices))
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
        tensors |= {f"parked/{name}": value for name, value in self.parked.state.items()}
        meta = {
            "update": self.update,
            "alive": [int(replica) for replica in self.alive],
            "parked": self.parked.replicas,
            "loss_count": self._loss_count,
            "records": [vars(record) for record in self.records],
            "log": self.log,
        }
        write_checkpoint(path, tensors, meta)

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        tensors, meta = read_checkpoint(path, self.stack.device)
        self.update, self._loss_count = meta["update"], meta["loss_count"]
        self.records = [Record.of(record) for record in meta["records"]]
        self.log = meta["log"]
        self.alive = np.array(meta["alive"], dtype=np.int64)
        self.stack.keep(torch.from_numpy(self.alive).to(self.stack.device))
        self.stack.load(_named(tensors, "weights/"))
        self.optimiser.load(_named(tensors, "optimiser/"))
        self.finished = {name: value.cpu() for name, value in _named(tensors, "finished/").items()}
        parked = {name: value.cpu() for name, value in _named(tensors, "parked/").items()}
        self.parked = Parked(meta["parked"], parked)
        if self.average is not None:
            self.average.weights = _named(tensors, "average/")
        self._loss_sum = tensors["loss_sum"]


OPTIMISERS: dict[str, tuple[Callable[..., StackOptimiser], Callable[..., StackOptimiser]]] = {
    "adam": (Adam, partial(Adam, in_place=True)),
    "preconditioned": (Preconditioned, InPlacePreconditioned),
}
"""The optimisers by their name in suites, each also as one whose updates are recorded and replayed; they take their
settings there, except the learning rate."""


def make_optimiser(training: Training, *, in_place: bool = False) -> StackOptimiser:
    """Return the optimiser that a suite asks for. in_place: whether its updates are recorded and replayed."""
    settings = training.optimiser.model_dump(exclude={"use", "learning_rate"})
    return OPTIMISERS[training.optimiser.use][in_place](**settings)


def _named(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
