"""Averaged weights: the mean that they claim to be, and a run that is judged by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from collapsebench.stack.optimisers import Average
from collapsebench.theory.equilibrium import signal_drift
from collapsebench.theory.oracle import oracle
from collapsebench.training.trainer import Controls

MLP = {"encoder": ("mlp", {"depth": 1, "width": 12}), "decoder": ("mlp", {"depth": 1, "width": 12})}


def noisy(**changes):
    """A learning rate that stays, small batches: the weights never come to rest."""
    return {
        "optimiser": {"use": "preconditioned", "learning_rate": 0.02},
        "schedule": "constant",
        "batch_size": 16,
        "max_updates": 1500,
        "convergence": {"checks": 10},
        **changes,
    }


def test_constant_weights_are_their_own_average():
    weights = {"w": torch.randn(3, 4)}
    average = Average(weights, 0.1)
    for update in range(1, 50):
        average.add(weights, update)
    assert torch.allclose(average.weights["w"], weights["w"])


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_average_of_a_ramp_lags_by_its_share_of_the_updates(share):
    """The mean age of an average with newest weight 1 / (1 + s (u - 1)) tends to s u / (1 + s)."""
    value = {"w": torch.zeros(1, 1, dtype=torch.float64)}
    average, updates = Average(value, share), 4000
    for update in range(1, updates + 1):
        average.add({"w": torch.full((1, 1), float(update), dtype=torch.float64)}, update)
    lag = updates - float(average.weights["w"])
    assert lag == pytest.approx(share * updates / (1 + share), rel=0.02)


def test_what_a_replica_started_from_is_forgotten():
    start = {"w": torch.full((1, 1), 1e6, dtype=torch.float64)}
    average = Average(start, 0.05)
    for update in range(1, 2001):
        average.add({"w": torch.zeros(1, 1, dtype=torch.float64)}, update)
    assert abs(float(average.weights["w"])) < 1e-9


def test_dropping_replicas_leaves_the_others():
    average = Average({"w": torch.arange(6.0).reshape(3, 2)}, 0.1)
    average.keep(torch.tensor([2, 0]))
    assert average.weights["w"].tolist() == [[4.0, 5.0], [0.0, 1.0]]


def test_averaged_weights_lie_closer_to_the_exact_solution_than_the_last_ones(gaussian, make_trainer):
    temperatures, seeds = [0.3, 0.1, 0.03], range(6)
    exact = np.tile(oracle(gaussian.second_moments["train"], temperatures, 8).signal_fraction, (len(seeds), 1))
    errors = []
    for share in (0.0, 0.1):
        training = noisy(average=share, convergence={"checks": 10, "drift": 1e-9})
        trainer = make_trainer(gaussian, temperatures, seeds=seeds, training=training)
        trained = trainer.run(Controls())
        whole = make_trainer(gaussian, temperatures, seeds=seeds)
        whole.stack.load(trained.weights)
        found = -np.sort(-whole.measure().signal_fraction, axis=1)
        errors.append(np.sqrt(((found - exact) ** 2).mean()))
    assert errors[1] < errors[0] / 2


def test_an_average_changes_nothing_of_the_updates(gaussian, make_trainer):
    plain, averaged = (
        make_trainer(gaussian, [0.3, 0.03], training=noisy(max_updates=40, average=share), **MLP)
        for share in (0.0, 0.1)
    )
    for _ in range(40):
        plain.advance()
        averaged.advance()
    for name, value in plain.stack.parameters.items():
        assert torch.equal(value, averaged.stack.parameters[name])
    assert not torch.equal(value, averaged.judged().parameters[name])
    assert plain.judged() is plain.stack


def test_what_is_judged_is_what_is_kept(gaussian, make_trainer):
    trainer = make_trainer(gaussian, [0.3, 0.03], training=noisy(max_updates=60, average=0.2), **MLP)
    expected = {}
    check = trainer.check

    def look(*, final):
        expected.update({name: value.clone() for name, value in trainer.average.weights.items()} if final else {})
        check(final=final)

    trainer.check = look
    trained = trainer.run(Controls())
    assert expected
    for name, value in expected.items():
        assert torch.equal(trained.weights[name], value)


def test_settling_moves_the_average_with_the_weights(gaussian, make_trainer):
    """One z -> c (z - a) for both, so that the average stays the average of what it follows."""
    trainer = make_trainer(gaussian, [0.1], training=noisy(average=0.2), **MLP)
    for _ in range(30):
        trainer.advance()
    name = f"{trainer.symmetry.mean}.weight"
    before = [stack.parameters[name].detach().clone() for stack in (trainer.stack, trainer.judged())]
    found = trainer.measure(trainer.judged())
    trainer.settle(trainer.symmetry, found.mean, found.scale)
    after = trainer.measure(trainer.judged())
    assert np.abs(after.mean).max() < 1e-5
    assert np.abs(after.scale - 1).max() < 1e-5
    assert after.distortion == pytest.approx(found.distortion, rel=1e-5)
    factor = torch.from_numpy((found.scale - found.mean**2) ** -0.5).float()[..., None]
    assert float((factor - 1).abs().max()) > 1e-3
    for was, stack in zip(before, (trainer.stack, trainer.judged()), strict=True):
        assert torch.allclose(stack.parameters[name], was * factor, rtol=1e-5)


def test_an_interrupted_run_with_an_average_ends_bitwise_the_same(gaussian, make_trainer, tmp_path):
    training = noisy(max_updates=120, average=0.1)
    whole = make_trainer(gaussian, [0.3, 0.03], training=training, **MLP).run(Controls())
    path = tmp_path / "checkpoint"
    first = make_trainer(gaussian, [0.3, 0.03], training=training, **MLP)
    with pytest.raises(KeyboardInterrupt):
        first.run(Controls(path, stop=lambda: first.update == 71))
    rest = make_trainer(gaussian, [0.3, 0.03], training=training, **MLP).run(Controls(path))
    assert rest.marks == whole.marks
    assert rest.losses == whole.losses
    for name, value in whole.weights.items():
        assert torch.equal(value, rest.weights[name])


def test_a_replica_alone_equals_the_same_replica_in_a_stack_with_an_average(gaussian, make_trainer):
    training = noisy(max_updates=60, average=0.1)
    whole = make_trainer(gaussian, [0.3, 0.1, 0.03], training=training, **MLP).run(Controls())
    alone = make_trainer(gaussian, [0.1], training=training, **MLP).run(Controls())
    for name, value in alone.weights.items():
        assert torch.allclose(value[0], whole.weights[name][1], rtol=1e-3, atol=1e-3)


def test_the_drift_of_a_line_in_the_logarithm_of_updates_is_its_slope():
    history = [(update, [0.3 - 0.07 * math.log(update), 0.2]) for update in range(50, 501, 50)]
    assert signal_drift(history) == pytest.approx(0.07)


def test_two_checks_give_the_difference_quotient():
    assert signal_drift([(100, [0.1]), (200, [0.15])]) == pytest.approx(0.05 / math.log(2))


def test_it_is_too_early_for_a_drift_before_a_quarter_of_an_e_fold_has_passed():
    assert signal_drift([(100, [0.1])]) is None
    assert signal_drift([(100, [0.1]), (120, [0.1])]) is None
    assert signal_drift([(0, [0.9]), (120, [0.1])]) is None


def test_a_jump_inside_the_window_is_a_drift():
    """Least squares average noise, they hide no change: half of a jump of 0.1 over the window still shows."""
    history = [(update, [0.0 if update < 450 else 0.1]) for update in range(50, 501, 20)]
    assert signal_drift(history) > 0.2


def test_noise_without_drift_counts_as_least_squares_say():
    """Checks of standard deviation s: the mean of |slope| is s sqrt(2 / pi) / sqrt(sum of (t - mean t)^2)."""
    generator, deviation = np.random.default_rng(0), 0.01
    updates = range(50, 1001, 10)
    found = [signal_drift([(update, [generator.normal(scale=deviation)]) for update in updates]) for _ in range(2000)]
    time = np.log(np.array([update for update in updates if update >= 800]))
    expected = deviation * math.sqrt(2 / math.pi) / math.sqrt(((time - time.mean()) ** 2).sum())
    assert np.mean(found) == pytest.approx(expected, rel=0.06)
