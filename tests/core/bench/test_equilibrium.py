"""The benchmark of equilibrium measures what it says, in miniature."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collapsebench.bench.equilibrium import (
    SPECTRUM,
    Run,
    Setting,
    _best,
    _race,
    bench_linear_equilibrium,
    bench_mlp_equilibrium,
    exact_data,
)
from collapsebench.stack.computation import COMPUTATIONS


def test_exact_data_have_exactly_the_covariance_asked_for() -> None:
    data = exact_data()
    assert data.pca.eigenvalues == pytest.approx(np.array(SPECTRUM) / sum(SPECTRUM), abs=1e-6)
    factor = np.random.default_rng(0).standard_normal((5, 5))
    wanted = factor @ factor.T
    assert exact_data(covariance=wanted).second_moments["train"] == pytest.approx(wanted, abs=1e-4)


def test_the_best_run_is_the_first_that_got_there_or_else_the_closest() -> None:
    runs = [Run(Setting("adam", 1e-3, "cosine", 9), *rest) for rest in ((3.0, 9, 0.1, False), (5.0, 9, 0.004, True))]
    assert _best(runs) is runs[1]
    assert _best([runs[0], Run(runs[0].setting, 9.0, 9, 0.05, False)]).error == 0.05


def test_the_linear_benchmark_reaches_the_oracle_and_states_its_search() -> None:
    said: list[str] = []
    covariance = np.diag([3.0, 1.5, 0.5])
    found = bench_linear_equilibrium(
        covariance, 3, repeats=1, patience=2.0, rates=(1e-2,), our_rates=(0.05, 0.1), budgets=(300,), say=said.append
    )
    assert found.ours.reached
    assert found.ours.error < found.tolerance
    assert found.equilibrium_speedup_linear.median == pytest.approx(found.adam.seconds / found.ours.seconds)
    assert found.is_lower_bound == (not found.adam.reached)
    assert len(found.search) == 2 + 3
    assert said[0] == f"both are computed {COMPUTATIONS[found.computation].description}"
    assert len(said) == 1 + len(found.search) + 2


@pytest.mark.slow
def test_the_mlp_benchmark_races_every_rate_of_adam_and_the_best_of_them() -> None:
    found = bench_mlp_equilibrium(budgets=(40,), temperatures=2, updates=40, rates=(1e-3, 1e-2), rows=512)
    assert [race.against for race in found.races] == ["0.001", "0.01", "best of these"]
    assert found.equilibrium_speedup_mlp == found.races[0].geometric_mean
    for race in found.races:
        assert race.worst == min(race.speedups) <= race.geometric_mean <= max(race.speedups)
        assert 0 <= race.not_reached <= 2
    best = np.min([race.objective for race in found.races[:2]], axis=0)
    assert found.races[2].objective == pytest.approx(best)


def test_a_race_takes_the_setting_that_misses_least_and_counts_a_miss_with_its_whole_time() -> None:
    quick, thorough = (Setting("preconditioned", 1e-2, "cosine", budget) for budget in (10, 20))
    courses = [
        (quick, (np.array([1.0, 2.0]), np.array([[0.5, 0.9], [0.4, 0.8]]))),
        (thorough, (np.array([2.0, 4.0]), np.array([[0.6, 0.7], [0.5, 0.3]]))),
    ]
    race = _race("0.001", np.array([0.5, 0.3]), 8.0, courses)
    assert (race.ours, race.speedups, race.not_reached) == (thorough, (2.0, 2.0), 0)
    race = _race("0.001", np.array([0.5, 0.1]), 8.0, courses)
    assert (race.ours, race.speedups, race.not_reached, race.worst) == (quick, (8.0, 4.0), 1, 4.0)
    assert race.geometric_mean == pytest.approx(math.sqrt(32.0))


def test_both_contenders_are_computed_as_a_run_would_compute_them() -> None:
    mlp = bench_mlp_equilibrium(budgets=(4,), temperatures=2, updates=4, rates=(1e-3,), rows=512)
    assert (mlp.computation, mlp.why_this_computation) == ("kernel", "")
