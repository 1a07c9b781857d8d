"""Training: every replica as if alone, and a mark that says what became of it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from collapsebench.data.batches import Batches
from collapsebench.stack.stack import StackModel
from collapsebench.theory.equilibrium import measure_equilibrium
from collapsebench.theory.oracle import oracle
from collapsebench.training.build import build_pair
from collapsebench.training.trainer import Controls, OutOfTimeError

MLP = {"encoder": ("mlp", {"depth": 1, "width": 12}), "decoder": ("mlp", {"depth": 1, "width": 12})}
TEMPERATURES = [float(t) for t in np.logspace(-0.2, -3, 16)]
OPTIMISERS = {
    "adam": {"use": "adam", "learning_rate": 1e-2},
    "preconditioned": {"use": "preconditioned", "learning_rate": 1e-2},
}


def settings(use="adam", **changes):
    return {"optimiser": OPTIMISERS[use], "batch_size": 64, "max_updates": 40, "convergence": {"checks": 1}, **changes}


def signal_fractions(trainer, make_stack, make_samples, **stacking):
    """Return the ranked signal fractions of what a trainer has finished `(replica, latent)`."""
    stack = make_stack(trainer.data, list(trainer.temperatures), latent_dim=trainer.latent_dim, **stacking)
    stack.load(trainer.finished)
    model = StackModel(stack, trainer.temperatures, trainer.latent_dim)
    found = measure_equilibrium(model, make_samples(trainer.data, replicas=len(stack)))
    return -np.sort(-found.signal_fraction, axis=1)


@pytest.mark.parametrize("use", ["adam", "preconditioned"])
def test_a_replica_in_a_stack_of_32_equals_the_same_replica_alone(gaussian, make_trainer, use):
    """Sampled decoder, mini-batches, float32, 40 updates of up to 0.01 each: losses to 1e-5, weights to 1e-3.

    The preconditioner magnifies rounding errors of 1e-7 in directions without a gradient to some 2e-4 of weight.
    """
    whole = make_trainer(gaussian, TEMPERATURES, seeds=(0, 1), training=settings(use), **MLP).run(Controls())
    for replica in (5, 15, 20, 31):
        seed, place = divmod(replica, 16)
        alone = make_trainer(gaussian, [TEMPERATURES[place]], seeds=(seed,), training=settings(use), **MLP)
        trained = alone.run(Controls())
        assert trained.losses[0] == pytest.approx(whole.losses[replica], rel=1e-5)
        for name, value in trained.weights.items():
            assert torch.allclose(value[0], whole.weights[name][replica], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("use", ["adam", "preconditioned"])
def test_training_one_by_one_equals_training_batched(gaussian, make_trainer, use):
    batched, single = (
        make_trainer(gaussian, [0.3, 0.03], training=settings(use), computation=computation, **MLP).run(Controls())
        for computation in ("batched", "one-by-one")
    )
    assert single.losses == pytest.approx(batched.losses, rel=1e-5)
    for name, value in single.weights.items():
        assert torch.allclose(value, batched.weights[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("use", OPTIMISERS)
def test_training_twice_gives_bitwise_the_same(gaussian, make_trainer, use):
    one, two = (make_trainer(gaussian, [0.3, 0.03], training=settings(use), **MLP).run(Controls()) for _ in range(2))
    assert one.losses == two.losses
    assert all(torch.equal(value, two.weights[name]) for name, value in one.weights.items())


def test_a_stack_follows_a_plain_pytorch_loop_over_one_model(gaussian, make_stack, make_trainer, component):
    """Twenty updates of torch's Adam on the textbook loss, with the same batches and noise."""
    temperatures, variance = [0.2, 0.01], 0.5
    training = settings(max_updates=20, warm_up=1, schedule="constant")
    stack = make_stack(gaussian, temperatures, decoder_variance=variance, **MLP)
    trained = make_trainer(gaussian, temperatures, stack=stack, training=training).run(Controls())
    for replica, temperature in enumerate(temperatures):
        parts = [component(kind, *part[:1], **part[1]) for kind, part in MLP.items()]
        pair = build_pair(*parts, gaussian.shape, 8, 0)
        beta = temperature * gaussian.total_variance / variance
        optimiser = torch.optim.Adam(pair.parameters(), lr=1e-2)
        batches = Batches(gaussian, (0,), 64, 8, device=stack.device, dtype=stack.dtype, noisy=True)
        for update in range(20):
            x, noise, _ = batches.draw(update)
            mean, log_variance = pair["encoder"](x[0])
            x_hat = pair["decoder"](mean + torch.exp(0.5 * log_variance) * noise[0])
            distortion = (x[0] - x_hat).pow(2).sum(1) / (2 * variance)
            kl = 0.5 * (mean.pow(2) + log_variance.exp() - log_variance - 1).sum(1)
            loss = (distortion + beta * kl).mean() / (gaussian.total_variance / (2 * variance))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for name, value in pair.state_dict().items():
            assert torch.allclose(trained.weights[name][replica], value, rtol=1e-3, atol=2e-5)


POISONS = ("nan weights", "infinite weights", "overflowing weights", "absurd dial")


def poison(stack, replica, how):
    with torch.no_grad():
        if how == "absurd dial":
            stack.dials[replica] = 3e38
            return
        value = {"nan weights": math.nan, "infinite weights": math.inf, "overflowing weights": 1e30}[how]
        for parameter in stack.parameters.values():
            parameter[replica] = value


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("use", OPTIMISERS)
@pytest.mark.parametrize("how", POISONS)
@pytest.mark.parametrize("architecture", [{}, MLP], ids=["linear", "mlp"])
def test_a_diverged_replica_leaves_its_neighbours_unchanged_bitwise(gaussian, make_trainer, use, how, architecture):
    healthy, sick = (
        make_trainer(gaussian, [0.3, 0.1, 0.01], training=settings(use, max_updates=25), **architecture)
        for _ in range(2)
    )
    poison(sick.stack, 1, how)
    expected, found = healthy.run(Controls()), sick.run(Controls())
    assert found.marks[1] == "diverged"
    for replica in (0, 2):
        assert found.marks[replica] == expected.marks[replica]
        assert found.losses[replica] == expected.losses[replica]
        for name, value in found.weights.items():
            assert torch.equal(value[replica], expected.weights[name][replica])


@pytest.mark.parametrize("use", OPTIMISERS)
def test_a_replica_that_diverges_on_the_way_leaves_the_stack_and_the_others_go_on(gaussian, make_trainer, use):
    """Once the stack has become smaller, equality is to float32 rounding."""
    training = settings(use, convergence={"checks": 4})
    healthy, sick = (make_trainer(gaussian, [0.3, 0.1, 0.01], training=training) for _ in range(2))
    for _ in range(5):
        sick.advance()
    poison(sick.stack, 0, "nan weights")
    expected, found = healthy.run(Controls()), sick.run(Controls())
    assert found.marks[0] == "diverged"
    assert found.updates == [10, 40, 40]
    assert "diverged" not in expected.marks
    for replica in (1, 2):
        assert found.losses[replica] == pytest.approx(expected.losses[replica], rel=1e-5)
        for name, value in found.weights.items():
            assert torch.allclose(value[replica], expected.weights[name][replica], rtol=1e-4, atol=1e-4)


def still(**changes):
    """Return settings under which nothing moves."""
    return settings(
        optimiser={"use": "adam", "learning_rate": 1e-30}, batch_size="full", max_updates=100, convergence={}, **changes
    )


def test_a_replica_on_a_saddle_is_marked_unstable_and_never_converged(gaussian, make_stack, make_trainer, exact):
    temperatures = [0.1, 0.1, 0.01, 0.01]
    stack = make_stack(gaussian, temperatures)
    stack.load(exact(gaussian, temperatures, 8, collapsed=[None, 0, None, 5]))
    trained = make_trainer(gaussian, temperatures, stack=stack, training=still()).run(Controls())
    assert trained.marks == ["converged", "unstable", "converged", "unstable"]
    assert trained.updates[1] == trained.updates[3] == 100
    assert all(entry["ward_residual"] < 1e-4 for entry in trained.log)
    for replica in (1, 3):
        assert np.ptp([entry["loss"] for entry in trained.log if entry["replica"] == replica]) < 1e-6


def test_the_exact_solution_converges_where_it_is(gaussian, make_stack, make_trainer, exact):
    temperatures = [0.6, 0.1, 0.03, 0.001]
    stack = make_stack(gaussian, temperatures)
    stack.load(exact(gaussian, temperatures, 8))
    training = settings("preconditioned", optimiser={"use": "preconditioned", "learning_rate": 1e-4}, max_updates=200)
    training |= {"batch_size": "full", "convergence": {}}
    trained = make_trainer(gaussian, temperatures, stack=stack, training=training).run(Controls())
    assert trained.marks == ["converged"] * 4
    expected = oracle(gaussian.second_moments["train"], temperatures, 8).loss / (gaussian.total_variance / 2)
    assert trained.losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("architecture", [{}, MLP], ids=["linear", "mlp"])
def test_a_plateau_of_a_slow_learning_rate_is_not_called_converged(gaussian, make_trainer, architecture):
    trained = make_trainer(gaussian, [0.3, 0.01], training=still(), **architecture).run(Controls())
    assert "converged" not in trained.marks
    assert trained.updates == [100, 100]


def test_a_stack_that_converges_early_leaves_before_the_budget_is_spent(gaussian, make_trainer):
    training = settings(
        optimiser={"use": "preconditioned", "learning_rate": 0.1}, batch_size="full", max_updates=600, convergence={}
    )
    trainer, seen = make_trainer(gaussian, [0.7, 0.3, 0.1], training=training), []
    trained = trainer.run(Controls(report=seen.append))
    assert trained.marks == ["converged"] * 3
    assert max(trained.updates) < 600
    assert seen[-1].update == max(trained.updates)
    assert seen[-1].settled == seen[-1].replicas == 3
    expected = oracle(gaussian.second_moments["train"], [0.7, 0.3, 0.1], 8).loss / (gaussian.total_variance / 2)
    assert trained.losses == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize(("use", "learning_rate", "loss", "fraction"), [
    ("adam", 0.03, 1e-5, 1e-4),
    ("preconditioned", 0.05, 1e-3, 3e-3),
])  # fmt: skip
def test_equal_temperatures_agree_whatever_beta_and_decoder_variance(
    gaussian, make_trainer, make_stack, make_samples, use, learning_rate, loss, fraction
):
    """Relative tolerance of the normalised loss, absolute one of the signal fraction, after 400 updates."""
    temperatures, found = [0.3, 0.05], []
    for variance in (1.0, 0.1, 7.0):
        training = settings(
            optimiser={"use": use, "learning_rate": learning_rate}, batch_size="full", max_updates=400,
            convergence={"checks": 4, "drift": 1e-9},
        )  # fmt: skip
        trainer = make_trainer(gaussian, temperatures, training=training, decoder_variance=variance)
        losses = trainer.run(Controls()).losses
        found.append((losses, signal_fractions(trainer, make_stack, make_samples)))
    for losses, fractions in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=loss)
        assert fractions == pytest.approx(found[0][1], abs=fraction)


def test_a_log_entry_is_written_for_every_replica_at_every_check(gaussian, make_trainer):
    trained = make_trainer(gaussian, [0.3, 0.1], training=still()).run(Controls())
    assert [entry["update"] for entry in trained.log if entry["replica"] == 1] == list(range(2, 101, 2))
    assert all(math.isfinite(value) for entry in trained.log for value in entry.values())


def test_the_learning_rate_rises_linearly_and_falls_to_zero_at_the_budget(gaussian, make_trainer):
    trainer = make_trainer(gaussian, [0.1], training=settings(max_updates=200, warm_up=10, schedule="constant"))
    cosine = make_trainer(gaussian, [0.1], training=settings(max_updates=200, warm_up=0))
    rates, falling = [], []
    for update in range(200):
        rates.append(trainer.learning_rate(update))
        falling.append(cosine.learning_rate(update))
    assert rates[:10] == pytest.approx(1e-3 * np.arange(1, 11))
    assert rates[10:] == pytest.approx([1e-2] * 190)
    assert falling == pytest.approx(5e-3 * (1 + np.cos(np.pi * np.arange(200) / 200)))


def test_the_price_of_a_nat_rises_linearly_from_a_tenth_over_its_share_of_the_budget(gaussian, make_trainer):
    trainer = make_trainer(gaussian, [0.1], training=settings(max_updates=100, price_warm_up=0.2))
    prices = [trainer.prices(update).item() for update in range(100)]
    assert prices == pytest.approx([min(1.0, 0.1 + 0.9 * update / 20) for update in range(100)])
    assert make_trainer(gaussian, [0.1], training=settings()).prices(0) == [1.0]


def test_every_extension_doubles_the_updates_at_half_of_the_learning_rate(gaussian, make_trainer):
    trainer = make_trainer(gaussian, [0.1], training=settings(max_updates=100, warm_up=0, extensions=2))
    assert trainer.training.rounds == (100, 200, 400)
    fall = 0.5 * (1 + np.cos(np.pi * np.arange(100) / 100))
    assert [trainer.learning_rate(update) for update in range(100)] == pytest.approx(1e-2 * fall)
    assert [trainer.learning_rate(update) for update in range(100, 200)] == pytest.approx(5e-3 * fall)
    assert [trainer.learning_rate(update) for update in range(200, 400, 2)] == pytest.approx(5e-3 * fall)


def test_in_an_extension_the_price_rises_anew_for_a_replica_on_a_saddle_only(gaussian, make_trainer, make_stack, exact):
    """Nothing moves: the replica at its optimum leaves, the one at a saddle goes on twice, at a price of its own."""
    temperatures = [0.1, 0.1]
    stack = make_stack(gaussian, temperatures)
    stack.load(exact(gaussian, temperatures, 8, collapsed=[None, 0]))
    trainer = make_trainer(gaussian, temperatures, stack=stack, training=still(price_warm_up=0.2, extensions=2))
    alive, prices = [], [trainer.prices(0)]

    def note() -> bool:
        alive.append(list(trainer.alive))
        prices.append(trainer.prices(trainer.update))
        return False

    trained = trainer.run(Controls(stop=note))
    assert trained.marks == ["converged", "unstable"]
    assert alive[0] == [0, 1]
    assert alive[99:-1] == [[1]] * 300
    rise = np.minimum(1.0, 0.1 + 0.9 * np.arange(100) / 20)
    for start, step in ((0, 1), (100, 1), (200, 2)):
        assert [prices[start + update * step][-1] for update in range(100)] == pytest.approx(rise)
    logged = {entry["update"]: entry["price"] for entry in trained.log if entry["replica"] == 1}
    assert logged == {update: pytest.approx(prices[update - 1][-1]) for update in range(2, 401, 2)}
    trainer.alive, trainer.records[1].unstable = np.array([0, 1]), True
    assert trainer.prices(100) == pytest.approx([1.0, 0.1])


def test_a_replica_that_its_budget_leaves_short_goes_on_and_the_others_are_not_touched(gaussian, make_trainer):
    """180 full-batch updates are enough for some of these replicas; every one converges when it may go on."""
    temperatures = [0.9, 0.6, 0.3, 0.1]
    training = settings(
        optimiser={"use": "preconditioned", "learning_rate": 0.1}, batch_size="full", max_updates=180, warm_up=0,
        convergence={"checks": 10},
    )  # fmt: skip
    short, long = (
        make_trainer(gaussian, temperatures, training=training | {"extensions": extensions}).run(Controls())
        for extensions in (0, 4)
    )
    in_time = [place for place, mark in enumerate(short.marks) if mark == "converged"]
    assert 0 < len(in_time) < len(temperatures)
    assert long.marks == ["converged"] * len(temperatures)
    assert all((long.updates[place] > 180) == (place not in in_time) for place in range(len(temperatures)))
    for name, value in short.weights.items():
        assert torch.equal(value[in_time], long.weights[name][in_time])


def test_a_run_interrupted_in_an_extension_goes_on_with_the_numbers_it_would_have_had(gaussian, make_trainer, tmp_path):
    training = settings(max_updates=10, extensions=2, price_warm_up=0.3)
    whole = make_trainer(gaussian, [0.3, 0.1], training=training, **MLP).run(Controls())
    assert whole.updates == [40, 40]
    checkpoint = tmp_path / "job.safetensors"
    stopped = make_trainer(gaussian, [0.3, 0.1], training=training, **MLP)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(Controls(checkpoint=checkpoint, stop=lambda: stopped.update == 25))
    resumed = make_trainer(gaussian, [0.3, 0.1], training=training, **MLP).run(Controls(checkpoint=checkpoint))
    assert resumed.losses == whole.losses
    assert all(torch.equal(value, whole.weights[name]) for name, value in resumed.weights.items())


def test_no_replica_settles_while_the_price_rises(gaussian, make_stack, make_trainer, exact):
    temperatures = [0.6, 0.1]
    stack = make_stack(gaussian, temperatures)
    stack.load(exact(gaussian, temperatures, 8))
    training = still(price_warm_up=0.5)
    trained = make_trainer(gaussian, temperatures, stack=stack, training=training).run(Controls())
    assert trained.marks == ["converged"] * 2
    assert min(trained.updates) > 50


def test_a_rising_price_moves_no_equilibrium(gaussian, make_trainer, make_stack, make_samples):
    """Signal fractions to 0.01 of the exact solution, with and without."""
    temperatures = [0.3, 0.1, 0.03]
    exact = oracle(gaussian.second_moments["train"], temperatures, 8)
    for share in (0.0, 0.3):
        training = settings(
            optimiser={"use": "preconditioned", "learning_rate": 0.1}, batch_size="full", max_updates=500,
            convergence={"checks": 1}, price_warm_up=share,
        )  # fmt: skip
        trainer = make_trainer(gaussian, temperatures, training=training)
        trainer.run(Controls())
        assert signal_fractions(trainer, make_stack, make_samples) == pytest.approx(exact.signal_fraction, abs=0.01)


def test_a_run_past_its_deadline_stops_with_a_checkpoint(gaussian, make_trainer, tmp_path):
    checkpoint = tmp_path / "job.safetensors"
    trainer = make_trainer(gaussian, [0.1], training=settings())
    with pytest.raises(OutOfTimeError, match="1 of 40 updates done"):
        trainer.run(Controls(checkpoint=checkpoint, deadline=0.0))
    assert checkpoint.exists()


def test_confirming_on_every_row_leaves_the_stack_unchanged(gaussian, make_trainer):
    trainer = make_trainer(gaussian, [0.3, 0.1, 0.05], training=settings())
    trainer.advance()
    weights, alive = trainer.stack.weights(), copy.copy(trainer.alive)
    trainer.judge.confirm(np.array([True, False, True]), trainer.stack, trainer.alive)
    assert np.array_equal(trainer.alive, alive)
    assert all(torch.equal(value, weights[name]) for name, value in trainer.stack.weights().items())


@pytest.mark.slow
def test_a_linear_stack_on_a_power_law_of_16_modes_reaches_the_oracle(
    make_gaussian, make_trainer, make_stack, make_samples
):
    """max |M^2 - oracle| < 0.02 over modes with T_k > 1e-3, temperatures farther than 5 % from T_k."""
    data = make_gaussian(dimension=16, samples=1024)
    temperatures = [float(t) for t in np.logspace(0, -4, 25)]
    training = settings(
        optimiser={"use": "preconditioned", "learning_rate": 0.1}, batch_size="full", max_updates=3000,
        warm_up=50, convergence={},
    )  # fmt: skip
    trainer = make_trainer(data, temperatures, latent_dim=16, training=training)
    trained = trainer.run(Controls())
    exact = oracle(data.second_moments["train"], temperatures, 16)
    error = np.abs(signal_fractions(trainer, make_stack, make_samples) - exact.signal_fraction)
    ratio = np.array(temperatures)[:, None] / exact.thresholds
    judged = (exact.thresholds > 1e-3) & (np.abs(ratio - 1) > 0.05)
    assert error[judged].max() < 0.02
    assert trained.marks.count("converged") >= 20
    assert "unstable" not in trained.marks


def test_only_a_price_rises(gaussian, make_trainer):
    """The dial of `capacity` is a capacity: the less, the more a nat costs."""
    for use, first in (("beta-vae", 0.1), ("capacity", 1.0)):
        trainer = make_trainer(gaussian, [0.3], objective=(use, {}), training={"price_warm_up": 0.5})
        assert trainer.prices(0) == pytest.approx([first])


@pytest.mark.parametrize("depth", [8, 16])
def test_deep_perceptrons_train_from_their_initial_weights(gaussian, make_trainer, depth):
    """8 and 16 hidden layers need no more than Kaiming's weights: below total collapse after 200 updates."""
    deep = {"depth": depth, "width": 24}
    training = {
        "optimiser": {"use": "preconditioned", "learning_rate": 0.003}, "batch_size": 64, "max_updates": 1000,
        "price_warm_up": 0.1, "warm_up": 20,
    }  # fmt: skip
    trainer = make_trainer(
        gaussian, [0.05, 0.005], training=training, encoder=("mlp", deep), decoder=("mlp", deep), computation="batched"
    )
    for _ in range(200):
        trainer.advance()
    distortion = trainer.measure().distortion / (gaussian.total_variance / 2)
    assert (distortion < [0.9, 0.7]).all()
