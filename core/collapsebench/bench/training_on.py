"""Train a sample of replicas that were called converged on, and measure what they had left.

No criterion of convergence is proof of it. This experiment tests one: every sampled replica is trained for several
times its updates more, from the initial learning rate, which decays again, on other batches and noise. If it had
converged, its objective and its thresholds hardly move. At that rate a replica can leave sharp minima and diverge: it
is then trained on once more, and again, at half the rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from collapsebench.contracts import Registry
from collapsebench.data.samples import SplitSamples
from collapsebench.data.standardise import Standardised
from collapsebench.errors import UserError
from collapsebench.planning.cells import Cell, ScanName, make_plan
from collapsebench.planning.jobs import ScanSpec
from collapsebench.planning.order import Piece
from collapsebench.process import matrix_precision
from collapsebench.seeds import seed_of
from collapsebench.stack.computation import COMPUTATIONS
from collapsebench.stack.optimisers import Average
from collapsebench.stack.stack import Stack, StackModel
from collapsebench.store import Store
from collapsebench.suite.resolve import Suite
from collapsebench.theory.equilibrium import Equilibrium, measure_equilibrium
from collapsebench.theory.spectrum import one_shot_thresholds
from collapsebench.training.build import make_trainer
from collapsebench.training.choose import choose_computation
from collapsebench.training.remaining import predict_decrease
from collapsebench.training.trainer import Controls, Trainer
from collapsebench.training.trial import TRIAL_BATCH, TRIAL_SHARE, measured_decrease, try_descent

if TYPE_CHECKING:
    import pandas as pd


WORTH_KNOWING = 2e-3
"""A further relative decrease that a converged replica should not reach."""
WORTH_SEEING = 0.02
"""A shift of log T_k that the thresholds of a converged replica should not reach."""
_HALVINGS = 3


@dataclass(frozen=True)
class TrainedOn:
    """One replica before and after.

    updates: when it was called converged. decrease: (L before - L after) / |L before| on the whole train split, with
    the same noise for both; error: its standard error over passes, zero if the expectation over z has a closed form.
    predicted, predicted_error: what `training.remaining` predicted of it from the weights before. tried, tried_error:
    what `training.trial` found in a fifth of its updates. threshold_shift: the largest |log T_k after - log T_k before|
    of a rank that is active in both, T_k = T (1 + snr_k); NaN if none is.
    """

    dataset: str
    architecture: str
    objective: str
    seed: int
    temperature: float
    updates: int
    decrease: float
    error: float
    predicted: float
    predicted_error: float
    tried: float
    tried_error: float
    threshold_shift: float
    learning_rate: float


@dataclass(frozen=True)
class TrainingOn:
    """What a sample of a suite's converged replicas had left. converged: how many there were to sample from."""

    replicas: tuple[TrainedOn, ...]
    converged: int
    factor: float

    @property
    def table(self) -> pd.DataFrame:
        """One row per replica, the largest decrease first."""
        import pandas as pd

        return pd.DataFrame([asdict(each) for each in self.replicas]).sort_values("decrease", ascending=False)

    @property
    def ended(self) -> list[TrainedOn]:
        """The replicas that did not diverge."""
        return [each for each in self.replicas if math.isfinite(each.decrease)]

    @property
    def share_above(self) -> float:
        """The share of replicas whose objective fell by more than `WORTH_KNOWING`, among those that did not diverge."""
        return float(np.mean([each.decrease > WORTH_KNOWING for each in self.ended])) if self.ended else math.nan

    @property
    def share_moved(self) -> float:
        """The share whose objective fell by more than that, or with a threshold that moved by over `WORTH_SEEING`."""
        moved = [each.decrease > WORTH_KNOWING or each.threshold_shift > WORTH_SEEING for each in self.ended]
        return float(np.mean(moved)) if moved else math.nan

    def rank_correlation(self, name: str) -> float:
        """Spearman's correlation of a column with the measured decrease, NaN for fewer than three replicas."""
        from scipy.stats import spearmanr

        pairs = [(getattr(each, name), each.decrease) for each in self.ended]
        return float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else math.nan

    def quantiles(self, name: str) -> tuple[float, float, float]:
        """Return median, 95 % quantile and maximum of a column, NaN left out."""
        values = np.array([getattr(each, name) for each in self.replicas], dtype=np.float64)
        values = values[np.isfinite(values)]
        return (float(np.median(values)), float(np.quantile(values, 0.95)), float(values.max())) if len(values) else (
            math.nan, math.nan, math.nan,
        )  # fmt: skip


class _Group(NamedTuple):
    """Replicas of one cell that were called converged after the same number of updates; places: in its grid."""

    cell: Cell
    updates: int
    places: tuple[int, ...]


def bench_training_on(
    suite: Suite,
    store: Store,
    registry: Registry,
    device: str = "cpu",
    replicas: int = 30,
    factor: float = 3.0,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> TrainingOn:
    """Train a random sample of a suite's converged replicas on for `factor` times their updates, and measure them.

    The suite must have been run into the store; nothing there is changed. seed: of the choice, and of the new batches
    and noise. Raises UserError if no replica of the suite is stored as converged.
    """
    plan = make_plan(suite, store, registry)
    found = [
        (cell, place)
        for cell in plan.cells
        for place, replica in enumerate(cell.record.replicas if cell.record else ())
        if replica["mark"] == "converged" and cell.dataset in plan.data
    ]
    if not found:
        raise UserError(
            f"suite '{suite.id}': found no converged replica in {store.root}, expected those of a run. Run the suite "
            "into this store first."
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(len(found))[:replicas])
    measured: list[TrainedOn] = []
    with matrix_precision(suite.compute.precision):
        for group in _groups([found[index] for index in chosen]):
            measured += _train_on(suite, store, registry, device, plan.data[group.cell.dataset], group, factor, seed)
        say(f"{group.cell.name}: {len(group.places)} replicas, {int(factor * group.updates)} updates more")
    return TrainingOn(tuple(measured), len(found), factor)


def _groups(sample: Sequence[tuple[Cell, int]]) -> list[_Group]:
    places: dict[tuple[str, int], list[int]] = {}
    cells = {cell.name: cell for cell, _ in sample}
    for cell, place in sample:
        assert cell.record is not None
        places.setdefault((cell.name, int(cell.record.replicas[place]["updates"])), []).append(place)
    return [_Group(cells[name], updates, tuple(listed)) for (name, updates), listed in places.items()]


def _train_on(
    suite: Suite,
    store: Store,
    registry: Registry,
    device: str,
    data: Standardised,
    group: _Group,
    factor: float,
    seed: int,
    halvings: int = 0,
) -> list[TrainedOn]:
    cell, places = group.cell, group.places
    assert cell.record is not None
    scan = ScanSpec.of(suite, ScanName(*cell.scan), device).at(cell.description["temperatures"])
    rate = scan.training.optimiser.learning_rate / 2**halvings
    training = scan.training.model_copy(
        update={
            "max_updates": max(1, int(factor * group.updates)),
            "extensions": 0,
            "price_warm_up": 0.0,
            "convergence": scan.training.convergence.model_copy(update={"checks": 1}),
            "optimiser": scan.training.optimiser.model_copy(update={"learning_rate": rate}),
        }
    )
    longer = scan.model_copy(update={"training": training, "exchange": None})
    name, _ = choose_computation(scan, data, registry, suite.compute)
    other = seed_of(use="training-on", seed=cell.seed, choice=seed)
    trainer = make_trainer(longer, (other,), Piece(0, places), COMPUTATIONS[name.name], data, registry)
    stored = store.read_weights(cell.record)
    trainer.stack.load({key: value[list(places)].clone() for key, value in stored.items()})
    if trainer.average is not None:
        trainer.average = Average(trainer.stack.parameters, training.average)
    before = trainer.stack.select(torch.arange(len(places), device=trainer.stack.device))
    predicted = predict_decrease(before, data, scan.latent_dim)
    length, rows = max(1, round(TRIAL_SHARE * group.updates)), min(TRIAL_BATCH, trainer.batches.size)
    tried = try_descent(before, data, scan.latent_dim, length, batch=rows)
    first = _observe(trainer, before)
    after = before.select(torch.arange(len(places), device=trainer.stack.device))
    after.load(trainer.run(Controls()).weights)
    measured = measured_decrease(before, after, data, scan.latent_dim)
    shifts = _shifts(first, _observe(trainer, after), scan, places)
    diverged = tuple(place for place, fell in zip(places, measured.decrease, strict=True) if not math.isfinite(fell))
    again: dict[int, TrainedOn] = {}
    if diverged and halvings < _HALVINGS:
        slower = group._replace(places=diverged)
        calmer = _train_on(suite, store, registry, device, data, slower, factor, seed, halvings + 1)
        again = dict(zip(diverged, calmer, strict=True))
    return [
        again.get(place)
        or TrainedOn(
            *cell.scan, cell.seed, scan.temperatures[place], group.updates,
            decrease=float(measured.decrease[index]), error=float(measured.error[index]),
            predicted=float(predicted.decrease[index]), predicted_error=float(predicted.error[index]),
            tried=float(tried.decrease[index]), tried_error=float(tried.error[index]), threshold_shift=shifts[index],
            learning_rate=rate,
        )
        for index, place in enumerate(places)
    ]  # fmt: skip


def _observe(trainer: Trainer, stack: Stack) -> Equilibrium:
    samples = SplitSamples(
        trainer.data, "train", replicas=len(stack), width=4 * trainer.latent_dim, device=stack.device,
        dtype=stack.dtype,
    )  # fmt: skip
    try:
        model = StackModel(stack, trainer.temperatures, trainer.latent_dim)
        return measure_equilibrium(model, samples, trainer.judge.evaluation.samples)
    finally:
        stack.template.train()


def _shifts(before: Equilibrium, after: Equilibrium, scan: ScanSpec, places: Sequence[int]) -> list[float]:
    """Return the largest |log T_k after - log T_k before| of each replica over ranks that are active in both."""
    shifts = []
    for index, place in enumerate(places):
        ranked = [-np.sort(-found.signal_fraction[index]) for found in (before, after)]
        active = np.logical_and(*(fraction > scan.evaluation.active_threshold for fraction in ranked))
        snrs = (fraction[active] / np.maximum(1 - fraction[active], 1e-12) for fraction in ranked)
        first, second = (one_shot_thresholds(snr, scan.temperatures[place]) for snr in snrs)
        shifts.append(float(np.abs(np.log(second / first)).max()) if active.any() else math.nan)
    return shifts
