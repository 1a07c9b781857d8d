"""A trial descent: it finds what a schedule hides, on rows and noise that it has not seen, and leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsebench.suite.schema import Convergence
from collapsebench.training.trainer import Controls
from collapsebench.training.trial import has_little_left, measured_decrease, try_descent

TEMPERATURES = [0.05, 0.01]
MLP = {"encoder": ("mlp", {"depth": 1, "width": 12}), "decoder": ("mlp", {"depth": 1, "width": 12})}
LATENT = 8


@pytest.fixture(scope="module")
def stopped(gaussian, make_trainer):
    """MLP pairs whose learning rate fell to zero after 40 updates."""
    training = {"optimiser": {"use": "preconditioned", "learning_rate": 0.02}, "max_updates": 40, "batch_size": 64}
    return make_trainer(gaussian, TEMPERATURES, training=training, **MLP).run(Controls()).weights


def loaded(make_stack, data, weights, **changes):
    stack = make_stack(data, TEMPERATURES, **{**MLP, **changes})
    stack.load({name: value.clone() for name, value in weights.items()})
    return stack


@pytest.fixture
def at_the_optimum(gaussian, make_stack, exact):
    stack = make_stack(gaussian, TEMPERATURES)
    stack.load({**stack.weights(), **exact(gaussian, TEMPERATURES, LATENT)})
    return stack


def test_a_replica_stopped_by_its_schedule_falls_further_the_longer_the_trial(gaussian, make_stack, stopped):
    stack = loaded(make_stack, gaussian, stopped)
    short, long = (try_descent(stack, gaussian, LATENT, updates, batch=64) for updates in (40, 160))
    assert (short.decrease > 10 * short.error).all()
    assert (long.decrease > 2 * short.decrease).all()
    assert not long.is_below(2e-3).any()


def test_at_the_exact_solution_a_trial_gains_nothing_and_loses_hardly_anything(gaussian, at_the_optimum):
    found = try_descent(at_the_optimum, gaussian, LATENT, 50, batch=64)
    assert (found.decrease < 1e-6).all()
    assert (found.decrease > -1e-4).all()
    assert (found.error == 0).all()


def test_a_trial_changes_nothing_and_is_the_same_every_time(gaussian, make_stack, stopped):
    stack = loaded(make_stack, gaussian, stopped)
    before = stack.weights()
    one, two = (try_descent(stack, gaussian, LATENT, 20, batch=64) for _ in range(2))
    assert np.array_equal(one.decrease, two.decrease)
    assert stack.template.training
    assert all(torch.equal(value, before[name]) for name, value in stack.weights().items())


@pytest.mark.parametrize("computation", ["kernel", "replicas-on-cores", "one-by-one"])
def test_every_computation_tries_the_same(gaussian, make_stack, stopped, computation):
    expected, found = (
        try_descent(loaded(make_stack, gaussian, stopped, computation=name), gaussian, LATENT, 20, batch=64).decrease
        for name in ("batched", computation)
    )
    assert found == pytest.approx(expected, rel=0.01)


def test_a_full_batch_and_a_linear_decoder_need_no_noise(gaussian, at_the_optimum):
    found = try_descent(at_the_optimum, gaussian, LATENT, 10, batch=512)
    assert np.isfinite(found.decrease).all()


def test_the_measured_decrease_of_a_stack_against_itself_is_exactly_zero(gaussian, make_stack, stopped):
    stack = loaded(make_stack, gaussian, stopped)
    found = measured_decrease(stack, stack, gaussian, LATENT)
    assert (found.decrease == 0).all()
    assert (found.error == 0).all()


@pytest.mark.parametrize("use", ["capacity", "learned-variance"])
def test_the_trained_state_of_an_objective_stays_fixed(gaussian, make_stack, use):
    stack = make_stack(gaussian, [0.3, 0.1], latent_dim=4, objective=(use, {}), **MLP)
    before = stack.weights()
    assert np.isfinite(try_descent(stack, gaussian, 4, 10, batch=64).decrease).all()
    assert all(torch.equal(value, before[name]) for name, value in stack.weights().items())


def test_only_replicas_at_rest_have_little_left(gaussian, make_stack, exact):
    """The exact solution at two temperatures, and a third replica whose decoder is 2 % too long."""
    temperatures = [0.05, 0.01, 0.05]
    stack = make_stack(gaussian, temperatures)
    weights = exact(gaussian, temperatures, LATENT)
    weights["decoder.0.weight"][2] *= 1.02
    weights["encoder.body.mean.weight"][2] *= 0.9
    stack.load({**stack.weights(), **weights})
    assert has_little_left(stack, gaussian, LATENT, 100, Convergence(), batch=64).tolist() == [True, True, False]


def test_a_replica_stopped_by_its_schedule_has_more_than_little_left(gaussian, make_stack, stopped):
    assert not has_little_left(
        loaded(make_stack, gaussian, stopped), gaussian, LATENT, 40, Convergence(), batch=64
    ).any()


def test_a_diverged_replica_never_has_little_left(gaussian, make_stack, exact):
    stack = make_stack(gaussian, TEMPERATURES)
    weights = exact(gaussian, TEMPERATURES, LATENT)
    weights["decoder.0.weight"][0] = torch.nan
    stack.load({**stack.weights(), **weights})
    assert has_little_left(stack, gaussian, LATENT, 100, Convergence(), batch=64).tolist() == [False, True]
