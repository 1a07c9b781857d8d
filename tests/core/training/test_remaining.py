"""What is left of an objective's decrease: against the oracle, and where a schedule hides it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from collapsebench.stack.stack import StackModel
from collapsebench.stack.symmetry import Symmetry
from collapsebench.theory.equilibrium import measure_equilibrium
from collapsebench.training import remaining
from collapsebench.training.remaining import RemainingDecrease, predict_decrease
from collapsebench.training.trainer import Controls

TEMPERATURES = [0.3, 0.05, 0.01]
MLP = {"encoder": ("mlp", {"depth": 1, "width": 12}), "decoder": ("mlp", {"depth": 1, "width": 12})}
LATENT = 8
FEW = {"rows": 2048, "batch": 64}


@pytest.fixture
def near_the_optimum(gaussian, make_stack, exact):
    """The exact linear pair, moved by normal steps of a given share of each weight's root mean square; float64."""

    def make(share, temperatures=TEMPERATURES, seed=0):
        stack = make_stack(gaussian, temperatures, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        weights = exact(gaussian, temperatures, LATENT)
        size = {name: value.square().mean().sqrt() for name, value in weights.items()}
        for name, value in weights.items():
            weights[name] = value + share * size[name] * torch.randn(value.shape, generator=generator).double()
        stack.load({**stack.weights(), **weights})
        return stack

    return make


def true_gap(stack, data, temperatures, make_samples):
    """(L - L*) / L of a linear decoder, from the oracle `(r,)`."""
    samples = make_samples(data, replicas=len(stack), dtype=torch.float64)
    found = measure_equilibrium(StackModel(stack, temperatures, LATENT), samples)
    now = found.distortion + np.array(temperatures) * data.total_variance * found.rate
    eigenvalues, price = data.eigenvalues[:LATENT], np.array(temperatures)[:, None] * data.total_variance
    least = 0.5 * np.minimum(eigenvalues, price).sum(1) + 0.5 * (
        price * np.log(np.maximum(eigenvalues / price, 1))
    ).sum(1)
    least += 0.5 * data.eigenvalues[LATENT:].sum()
    return (now - least) / now


def test_close_to_the_optimum_of_a_linear_decoder_it_is_the_gap_to_the_oracle_within_a_factor(
    gaussian, near_the_optimum, make_samples
):
    """Rows are all of 512, the gradient is exact; a lower bound, and at least a third of the gap."""
    for share in (0.03, 0.01):
        stack = near_the_optimum(share)
        gap = true_gap(stack, gaussian, TEMPERATURES, make_samples)
        found = predict_decrease(stack, gaussian, LATENT)
        assert (found.decrease < 1.1 * gap).all(), (found.decrease, gap)
        assert (found.decrease > gap / 3).all(), (found.decrease, gap)
        assert (found.error == 0).all()


def test_more_dimensions_bring_the_prediction_closer_to_the_gap(gaussian, near_the_optimum, make_samples, monkeypatch):
    stack = near_the_optimum(0.01)
    gap = true_gap(stack, gaussian, TEMPERATURES, make_samples)
    shares = []
    for dimension in (2, 8, 32):
        monkeypatch.setattr(remaining, "_DIMENSION", dimension)
        shares.append(predict_decrease(stack, gaussian, LATENT).decrease / gap)
    assert (np.diff(shares, axis=0) > 0).all()
    assert (shares[-1] < 1.1).all()


def test_at_the_exact_solution_nothing_remains(gaussian, near_the_optimum):
    assert np.abs(predict_decrease(near_the_optimum(0.0), gaussian, LATENT).decrease).max() < 1e-10


def test_float32_finds_what_float64_finds(gaussian, near_the_optimum, make_stack):
    exact = near_the_optimum(0.03)
    single = make_stack(gaussian, TEMPERATURES)
    single.load(exact.weights())
    expected = predict_decrease(exact, gaussian, LATENT).decrease
    assert predict_decrease(single, gaussian, LATENT).decrease == pytest.approx(expected, rel=0.05)


def test_it_does_not_depend_on_the_order_and_the_signs_of_latents(gaussian, near_the_optimum):
    stack = near_the_optimum(0.03)
    before = predict_decrease(stack, gaussian, LATENT).decrease
    order = torch.randperm(LATENT, generator=torch.Generator().manual_seed(1))
    signs = torch.tensor([1.0, -1.0] * (LATENT // 2)).double()
    with torch.no_grad():
        for name, value in stack.parameters.items():
            if name.startswith("encoder"):
                flipped = value if "variance" in name else value * (signs[:, None] if "weight" in name else signs)
                value.copy_(flipped[:, order])
            elif name.endswith("weight"):
                value.copy_((value * signs)[..., order])
    assert predict_decrease(stack, gaussian, LATENT).decrease == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_latent_scaled_away_from_its_equilibrium_leaves_at_most_the_rate_that_this_costs(
    gaussian, near_the_optimum, factor
):
    """z -> c z at the exact solution, absorbed by both networks, costs T V (c^2 - 1 - log c^2) / 2: nearly all is found
    at T = 0.3, a part at lower temperatures, where the rate is the flattest direction. Training settles it at checks.
    """
    stack = near_the_optimum(0.0)
    factors = torch.ones(3, LATENT).double()
    factors[:, 0] = factor
    symmetry = Symmetry("encoder.body.mean", "encoder.body.log_variance", "decoder.0")
    symmetry.move(stack.parameters, torch.zeros(3, LATENT).double(), factors)
    x = torch.from_numpy(gaussian.splits["train"].values).double()
    losses = stack.losses(x, None, None, 1.0).detach().numpy()
    cost = np.array(TEMPERATURES) * (factor**2 - 1 - 2 * np.log(factor)) / losses
    found = predict_decrease(stack, gaussian, LATENT).decrease
    assert found[0] == pytest.approx(cost[0], rel=0.3)
    assert ((found > cost / 50) & (found < 1.3 * cost)).all()


@pytest.mark.parametrize("use", ["adam", "preconditioned"])
def test_a_learning_rate_of_nearly_zero_hides_nothing(gaussian, make_trainer, use):
    """Far from equilibrium, 300 updates at 1e-7 are flat and free of drift; what is left stays within a factor."""
    early = {"optimiser": {"use": use, "learning_rate": 0.02}, "max_updates": 30, "batch_size": 64}
    trainer = make_trainer(gaussian, TEMPERATURES[1:], training=early, **MLP)
    stopped = trainer.run(Controls()).weights
    still = {**early, "optimiser": {"use": use, "learning_rate": 1e-7}, "max_updates": 300}
    frozen = make_trainer(gaussian, TEMPERATURES[1:], training=still, **MLP)
    frozen.stack.load({name: value.clone() for name, value in stopped.items()})
    after_many = frozen.run(Controls()).weights
    before, after = (
        predict_decrease(loaded(make_trainer, gaussian, weights), gaussian, LATENT, **FEW)
        for weights in (stopped, after_many)
    )
    assert (before.decrease > 3e-3).all()
    assert after.decrease == pytest.approx(before.decrease, rel=0.5)


def loaded(make_trainer, data, weights, **changes):
    stack = make_trainer(data, TEMPERATURES[1:], **MLP, **changes).stack
    stack.load(weights)
    return stack


@pytest.fixture(scope="module")
def trained(gaussian, make_trainer):
    """The weights of two MLP pairs after 150 updates on mini-batches."""
    training = {"optimiser": {"use": "preconditioned", "learning_rate": 0.02}, "max_updates": 150, "batch_size": 64}
    return make_trainer(gaussian, TEMPERATURES[1:], training=training, **MLP).run(Controls()).weights


@pytest.mark.parametrize("computation", ["kernel", "kernel-chains", "replicas-on-cores", "one-by-one"])
def test_every_computation_predicts_the_same(gaussian, make_trainer, trained, computation):
    expected = predict_decrease(loaded(make_trainer, gaussian, trained), gaussian, LATENT, **FEW)
    stack = loaded(make_trainer, gaussian, trained, computation=computation)
    assert predict_decrease(stack, gaussian, LATENT, **FEW).decrease == pytest.approx(expected.decrease, rel=0.05)


def test_nothing_about_the_stack_changes_and_twice_gives_the_same(gaussian, make_trainer, trained):
    stack = loaded(make_trainer, gaussian, trained)
    before = stack.weights()
    one, two = (predict_decrease(stack, gaussian, LATENT, **FEW) for _ in range(2))
    assert np.array_equal(one.decrease, two.decrease)
    assert stack.template.training
    assert all(torch.equal(value, before[name]) for name, value in stack.weights().items())


def test_a_replica_is_predicted_as_if_alone_however_many_fit_into_memory(gaussian, make_trainer, trained, monkeypatch):
    stack = loaded(make_trainer, gaussian, trained)
    expected = predict_decrease(stack, gaussian, LATENT, **FEW).decrease
    monkeypatch.setattr(remaining, "values_for", lambda device: 1)
    assert predict_decrease(stack, gaussian, LATENT, **FEW).decrease == pytest.approx(expected, rel=0.02)


def test_four_times_as_many_rows_halve_the_error(gaussian, make_trainer, trained):
    stack = loaded(make_trainer, gaussian, trained)
    few, many = (
        np.mean([predict_decrease(stack, gaussian, LATENT, batch=64, rows=rows, seed=seed).error for seed in range(3)])
        for rows in (1024, 4096)
    )
    assert 0.25 < many / few < 1.0


def test_a_diverged_replica_gets_nan_and_leaves_its_neighbour_unchanged(gaussian, make_trainer, trained):
    stack = loaded(make_trainer, gaussian, trained)
    expected = predict_decrease(stack, gaussian, LATENT, **FEW).decrease[1]
    with torch.no_grad():
        stack.parameters["decoder.0.weight"][0] = torch.nan
    found = predict_decrease(stack, gaussian, LATENT, **FEW)
    assert np.isnan(found.decrease[0])
    assert found.decrease[1] == pytest.approx(expected, rel=0.02)
    assert not found.is_below(np.inf)[0]


def test_weights_of_rows_count_as_repeated_rows(gaussian, near_the_optimum, make_weighted):
    """Linear decoder, exact gradients: rows weighted 1 and 3 against the same rows taken once and three times."""
    weighted, repeated = make_weighted(gaussian)
    stack = near_the_optimum(0.05)
    found = [predict_decrease(stack, data, LATENT).decrease for data in (weighted, repeated)]
    assert found[0] == pytest.approx(found[1], rel=0.2)


@pytest.fixture
def make_weighted():
    def make(data):
        from dataclasses import replace

        values = data.splits["train"].values
        weights = np.where(np.arange(len(values)) % 2, 1.5, 0.5).astype(np.float32)
        times = np.where(np.arange(len(values)) % 2, 3, 1)
        splits = {**data.splits}
        weighted = replace(data, splits={**splits, "train": replace(splits["train"], weights=weights)})
        repeated = replace(data, splits={**splits, "train": replace(splits["train"], values=values.repeat(times, 0))})
        return weighted, repeated

    return make


OBJECTIVES = {
    "weight-decay": {"omega": 0.02}, "free-bits": {}, "learned-variance": {}, "capacity": {}, "warm-up": {},
}  # fmt: skip


@pytest.mark.parametrize("use", OBJECTIVES)
def test_every_objective_has_a_prediction_and_keeps_its_trained_state(gaussian, make_stack, use):
    stack = make_stack(gaussian, [0.3, 0.1], latent_dim=4, objective=(use, OBJECTIVES[use]), **MLP)
    before = stack.weights()
    found = predict_decrease(stack, gaussian, 4, **FEW)
    assert np.isfinite(found.decrease).all()
    assert (found.decrease > 0).all()
    assert all(torch.equal(value, before[name]) for name, value in stack.weights().items())


class Normed(nn.Module):
    """An encoder with batch statistics, which torch.func cannot map."""

    def __init__(self, features, latents):
        super().__init__()
        self.body, self.norm = nn.Linear(features, 12), nn.BatchNorm1d(12)
        self.mean, self.log_variance = nn.Linear(12, latents), nn.Linear(12, latents)

    def forward(self, x):
        y = self.norm(self.body(x)).tanh()
        return self.mean(y), self.log_variance(y)


def test_batch_statistics_stay_as_they_are(gaussian, make_stack, component):
    class Encoder:
        def build(self, shape, latent_dim):
            return Normed(shape[0], latent_dim)

    stack = make_stack(
        gaussian, [0.3, 0.1], encoder=Encoder(), decoder=("mlp", {"width": 12}), computation="one-by-one"
    )
    before = stack.weights()
    found = predict_decrease(stack, gaussian, LATENT, **FEW)
    assert np.isfinite(found.decrease).all()
    assert stack.template.training
    assert all(torch.equal(value, before[name]) for name, value in stack.weights().items())


def test_a_prediction_is_below_a_tolerance_with_its_error_included():
    found = RemainingDecrease(np.array([1e-5, 4e-5, -1e-5, np.nan]), np.array([1e-5, 2e-5, 1e-5, 0.0]))
    assert found.is_below(5e-5).tolist() == [True, False, True, False]


def test_at_total_collapse_above_the_first_threshold_nothing_remains(gaussian, make_stack, exact):
    """All gradients vanish exactly; lambda_1 / V = 0.52."""
    temperatures = [0.9, 0.6]
    stack = make_stack(gaussian, temperatures)
    stack.load(exact(gaussian, temperatures, LATENT))
    found = predict_decrease(stack, gaussian, LATENT)
    assert found.decrease == pytest.approx([0, 0], abs=1e-12)
    assert found.is_below(1e-9).all()
