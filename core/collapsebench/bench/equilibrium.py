"""How much sooner the preconditioned optimiser reaches equilibrium than Adam, in wall time, the stacks being equal.

linear: the exact objective of a covariance; the time until the signal fractions are those of the oracle. mlp: the time
until a replica's objective is what Adam leaves after its whole budget, temperature by temperature.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from collapsebench.bench.throughput import Networks, bench_scan, networks
from collapsebench.bench.timing import Spread
from collapsebench.contracts import Data, Split, load_registry
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.planning.jobs import ScanSpec
from collapsebench.process import keep_freed_memory
from collapsebench.stack.computation import Computation
from collapsebench.suite.schema import ComputeSettings, Training
from collapsebench.theory.oracle import oracle
from collapsebench.training.build import trainer_of
from collapsebench.training.choose import choose_computation
from collapsebench.training.trainer import Trainer

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

SPECTRUM = (
    0.521846, 0.255571, 0.072220, 0.055175, 0.028966, 0.023592, 0.017553, 0.012215, 0.005980, 0.003593, 0.001617,
    0.000912, 0.000268, 0.000181, 0.000163, 0.000118, 2.58e-05, 5.52e-06, 0.0,
)  # fmt: skip
"""Normalised PCA spectrum of the 19 variables of WorldClim 1.4 at 10 arc-minutes, unweighted, as measured here."""
TOLERANCE = 0.005
DEFAULT_RATE = 1e-3
"""Adam's learning rate where nobody chose one: PyTorch's default."""
_LOOKS = 40


@dataclass(frozen=True)
class Setting:
    """How a stack is trained. budget: in updates, over which the schedule runs. average, antithetic: as in a suite."""

    optimiser: str
    learning_rate: float
    schedule: str
    budget: int
    average: float = 0.0
    antithetic: bool = False

    def training(self, batch_size: int | str) -> Training:
        """Return it as training settings."""
        return Training.model_validate(
            {
                "optimiser": {"use": self.optimiser, "learning_rate": self.learning_rate},
                "schedule": self.schedule, "max_updates": self.budget, "batch_size": batch_size,
                "average": self.average, "antithetic": self.antithetic,
            }
        )  # fmt: skip


@dataclass(frozen=True)
class Contest:
    """What both contenders share: the network, its temperatures, batches, and how a stack of it is computed."""

    parts: Networks
    temperatures: Floats
    batch_size: int | str
    computation: Computation
    why_this_computation: str

    @property
    def sentence(self) -> str:
        """How both are computed, and why."""
        why = f": {self.why_this_computation}" if self.why_this_computation else ""
        return f"both are computed {self.computation.description}{why}"


@dataclass(frozen=True)
class Run:
    """One training. seconds: of its updates alone, until the target was met or, if not `reached`, until it ended."""

    setting: Setting
    seconds: float
    updates: int
    error: float
    reached: bool


@dataclass(frozen=True)
class LinearEquilibrium:
    """Wall time until the mean of |M^2 - theory| over temperatures and latents is below a tolerance.

    equilibrium_speedup_linear: Adam's time over ours, run by run in turn. is_lower_bound: the best Adam setting of the
    search had not got there when it was stopped. search: every run of the search, ours and Adam's.
    """

    equilibrium_speedup_linear: Spread
    is_lower_bound: bool
    tolerance: float
    ours: Run
    adam: Run
    search: tuple[Run, ...]
    computation: str
    why_this_computation: str


@dataclass(frozen=True)
class Race:
    """Per temperature, Adam's time for its whole budget over our time to the objective that it left.

    against: Adam's learning rate, or the best of all at each temperature. objective: what Adam left, over V / 2. A
    temperature that we never reach counts with our whole time. ours: the setting that misses fewest temperatures, and
    of these the one with the largest geometric mean; one for all temperatures.
    """

    against: str
    geometric_mean: float
    worst: float
    not_reached: int
    speedups: tuple[float, ...]
    objective: tuple[float, ...]
    ours: Setting


@dataclass(frozen=True)
class MlpEquilibrium:
    """A race against each learning rate of Adam, and against the best of them at each temperature.

    equilibrium_speedup_mlp: the geometric mean of the race against `DEFAULT_RATE`. adam_seconds: median over rates.
    computation: how the stacks of both are computed, as a run would.
    """

    equilibrium_speedup_mlp: float
    races: tuple[Race, ...]
    temperatures: tuple[float, ...]
    adam_updates: int
    adam_seconds: float
    computation: str
    why_this_computation: str


def exact_data(spectrum: Sequence[float] | None = None, covariance: Floats | None = None) -> Standardised:
    """Return 2 d rows whose second moment is a covariance exactly; a full batch of them is its linear objective."""
    if covariance is None:
        values = np.array(SPECTRUM if spectrum is None else spectrum) * len(SPECTRUM if spectrum is None else spectrum)
        axes = np.linalg.qr(np.random.default_rng(0).standard_normal((values.size, values.size)))[0]
    else:
        values, axes = np.linalg.eigh(covariance)
    half = math.sqrt(len(values)) * np.sqrt(np.maximum(values, 0.0))[:, None] * axes.T
    rows = Split(np.concatenate([half, -half]).astype(np.float32))
    names = tuple(f"x{i}" for i in range(len(values)))
    return standardise(Data(rows, rows, rows, feature_names=names, scaling="none"), "bench")


def bench_linear_equilibrium(
    covariance: Floats | None = None,
    temperatures: int = 41,
    repeats: int = 3,
    patience: float = 40.0,
    rates: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2),
    our_rates: Sequence[float] = (0.05, 0.1, 0.2),
    budgets: Sequence[int] = (500, 1000, 2000, 4000),
    say: Callable[[str], None] = lambda text: None,
) -> LinearEquilibrium:
    """Search both optimisers on the very target, twelve settings each, then run the best of each in turn.

    Ours: `our_rates` with cosine decay over each of `budgets`. Adam: `rates`, and is stopped after `patience` times
    our time; its schedules: constant, and cosine decay over the updates that fit into a quarter and the whole of it.
    """
    keep_freed_memory()
    data, grid = exact_data(covariance=covariance), np.logspace(0, -6, temperatures)
    target = oracle(data.second_moments["train"], grid, data.shape[0]).signal_fraction

    contest = _contest(data, networks("linear"), grid, "full")
    say(contest.sentence)

    def run(setting: Setting, limit: float) -> Run:
        found = _run_linear(data, contest, target, setting, limit)
        say(f"{setting}: {found.seconds:.2f} s, error {found.error:.4f}{'' if found.reached else ', not reached'}")
        return found

    ours = [run(Setting("preconditioned", rate, "cosine", n), math.inf) for n in budgets for rate in our_rates]
    best = _best(ours)
    limit = patience * best.seconds
    probe = _advance(_trainer(data, contest, Setting("adam", rates[0], "constant", 500)), 500)
    fit = max(400, int(500 * limit / probe))
    plans = [("constant", 10 * fit), ("cosine", fit // 4), ("cosine", fit)]
    theirs = [run(Setting("adam", rate, schedule, n), limit) for rate in rates for schedule, n in plans]
    adam = _best(theirs)
    pairs = [(run(best.setting, math.inf), run(adam.setting, limit)) for _ in range(repeats)]
    ratios = [adams.seconds / mine.seconds for mine, adams in pairs]
    bound = not all(adams.reached for _, adams in pairs)
    return LinearEquilibrium(
        Spread.of(ratios), bound, TOLERANCE, pairs[0][0], pairs[0][1], (*ours, *theirs), contest.computation.name,
        contest.why_this_computation,
    )  # fmt: skip


def _best(runs: Sequence[Run]) -> Run:
    """The first to get there; if none did, the one that came closest."""
    return min(runs, key=lambda run: (not run.reached, run.seconds if run.reached else run.error))


def _run_linear(data: Standardised, contest: Contest, target: Floats, setting: Setting, limit: float) -> Run:
    trainer = _trainer(data, contest, setting)
    every, seconds, error = max(1, setting.budget // (4 * _LOOKS)), 0.0, math.inf
    while trainer.update < setting.budget and seconds < limit:
        seconds += _advance(trainer, min(every, setting.budget - trainer.update))
        fractions = -np.sort(-trainer.measure().signal_fraction, axis=1)
        error = float(np.abs(fractions - target).mean())
        if error < TOLERANCE:
            return Run(setting, seconds, trainer.update, error, True)
    return Run(setting, seconds, trainer.update, error, False)


def bench_mlp_equilibrium(
    data: Standardised | None = None,
    temperatures: int = 11,
    updates: int = 10_000,
    rates: Sequence[float] = (3e-4, DEFAULT_RATE, 3e-3, 1e-2),
    our_rates: Sequence[float] = (0.01, 0.02, 0.04),
    budgets: Sequence[int] = (1_000, 2_000, 4_000),
    average: float = 0.05,
    rows: int = 50_000,
    say: Callable[[str], None] = lambda text: None,
) -> MlpEquilibrium:
    """Train a 2 x 64 MLP at T from 1 to 1e-5 with Adam for its whole budget, cosine decay, at several learning rates.

    What each leaves is a target. Ours: the preconditioned optimiser with averaged weights, each of `our_rates` with
    cosine decay over each of `budgets`, without and with antithetic noise. Latents are settled by neither: objectives
    hardly change by it.
    """
    keep_freed_memory()
    data, grid = data or _gaussian(rows), np.logspace(0, -5, temperatures)
    contest = _contest(data, networks("mlp"), grid, 256)
    say(contest.sentence)
    targets, times = {}, []
    for rate in rates:
        trainer = _trainer(data, contest, Setting("adam", rate, "cosine", updates))
        times.append(_advance(trainer, updates))
        targets[f"{rate:g}"] = _objective(trainer)
        say(f"adam at {rate:g}: {times[-1]:.1f} s")
    targets["best of these"] = np.fmin.reduce(list(targets.values()))
    courses = []
    for rate, budget, antithetic in itertools.product(our_rates, budgets, (False, True)):
        setting = Setting("preconditioned", rate, "cosine", budget, average, antithetic)
        courses.append((setting, _course(_trainer(data, contest, setting))))
        say(f"{setting}: {courses[-1][1][0][-1]:.1f} s")
    seconds = float(np.median(times))
    races = tuple(_race(against, target, seconds, courses) for against, target in targets.items())
    headline = next((race for race in races if race.against == f"{DEFAULT_RATE:g}"), races[0])
    return MlpEquilibrium(
        headline.geometric_mean,
        races,
        tuple(grid),
        updates,
        seconds,
        contest.computation.name,
        contest.why_this_computation,
    )


def _course(trainer: Trainer) -> tuple[Floats, Floats]:
    """Train to the end of the budget; return seconds of updates `(look,)` and objectives `(look, replica)`."""
    seconds, objectives, budget = [0.0], [], trainer.training.max_updates
    while trainer.update < budget:
        spent = _advance(trainer, min(max(1, budget // _LOOKS), budget - trainer.update))
        seconds.append(seconds[-1] + spent)
        objectives.append(_objective(trainer))
    return np.array(seconds[1:]), np.array(objectives)


def _race(
    against: str, target: Floats, adam_seconds: float, courses: Sequence[tuple[Setting, tuple[Floats, Floats]]]
) -> Race:
    found = []
    for setting, (seconds, objectives) in courses:
        met = objectives <= target
        reached = met.any(axis=0)
        speedups = adam_seconds / np.where(reached, seconds[met.argmax(axis=0)], seconds[-1])
        mean = float(np.exp(np.log(speedups).mean()))
        found.append(Race(against, mean, float(speedups.min()), int((~reached).sum()), tuple(speedups), tuple(target),
                          setting))  # fmt: skip
    return min(found, key=lambda race: (race.not_reached, -race.geometric_mean))


def _objective(trainer: Trainer) -> Floats:
    """Return L over V / 2 of every replica, on the train split."""
    found = trainer.measure(trainer.judged())
    total = trainer.data.total_variance
    return np.asarray((found.distortion + trainer.temperatures * total * found.rate) / (total / 2))


def _advance(trainer: Trainer, updates: int) -> float:
    started = time.perf_counter()
    for _ in range(updates):
        trainer.advance()
    return time.perf_counter() - started


def _gaussian(rows: int) -> Standardised:
    values = np.maximum(np.array(SPECTRUM) * len(SPECTRUM), 1e-6)
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((values.size, values.size)))[0]
    normal = np.random.default_rng(1).standard_normal((rows, values.size))
    sample = (normal * np.sqrt(values) @ axes.T).astype(np.float32)
    part = Split(sample[:1000])
    names = tuple(f"x{i}" for i in range(values.size))
    return standardise(Data(Split(sample), part, part, feature_names=names), "bench")


def _trainer(data: Standardised, contest: Contest, setting: Setting) -> Trainer:
    scan = _scan(data, contest.parts, contest.temperatures, setting.training(contest.batch_size))
    return trainer_of(scan, contest.computation, data, load_registry())


def _scan(data: Standardised, parts: Networks, temperatures: Floats, training: Training) -> ScanSpec:
    return bench_scan(parts, temperatures, min(32, math.prod(data.shape)), training)


def _contest(data: Standardised, parts: Networks, temperatures: Floats, batch_size: int | str) -> Contest:
    """Choose the computation as a run does."""
    training = Setting("adam", 1e-3, "constant", 1000).training(batch_size)
    scan = _scan(data, parts, temperatures, training)
    computation, reason = choose_computation(scan, data, load_registry(), ComputeSettings())
    return Contest(parts, temperatures, batch_size, computation, reason)
