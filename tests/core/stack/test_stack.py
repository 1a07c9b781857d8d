"""A stack computes what each of its replicas would compute alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsebench.stack.stack import StackModel

MLP = {"encoder": ("mlp", {"depth": 1, "width": 12}), "decoder": ("mlp", {"depth": 1, "width": 12})}
MLP_LINEAR = {"encoder": ("mlp", {"depth": 1, "width": 12})}
ARCHITECTURES = {"linear": {}, "mlp": MLP, "mlp-linear": MLP_LINEAR}
TEMPERATURES = [0.5, 0.1, 0.02, 0.004]
SEEDS = (0, 7)


def batch(data, *, seeds=2, rows=32, weighted=True):
    """Return x, noise and weights with a leading seed axis."""
    generator = torch.Generator().manual_seed(3)
    x = torch.from_numpy(data.splits["train"].values[: seeds * rows]).reshape(seeds, rows, -1)
    noise = torch.randn(seeds, rows, 8, generator=generator)
    return x, noise, torch.rand(seeds, rows, generator=generator) + 0.5 if weighted else None


def loss_and_gradients(stack, *arguments):
    losses = stack.losses(*arguments, 0.0)
    return losses.detach(), torch.autograd.grad(losses.sum(), list(stack.parameters.values()))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("weighted", [False, True])
def test_batched_losses_and_gradients_equal_those_computed_one_by_one(gaussian, make_stack, name, weighted):
    results = [
        loss_and_gradients(
            make_stack(
                gaussian, TEMPERATURES, seeds=SEEDS, computation=computation, dtype=torch.float64, **ARCHITECTURES[name]
            ),
            *(part if part is None else part.double() for part in batch(gaussian, weighted=weighted)),
        )
        for computation in ("batched", "one-by-one")
    ]
    (ours, gradients), (reference, expected) = results
    assert torch.allclose(ours, reference, rtol=1e-12)
    for a, b in zip(gradients, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_replica_sees_its_own_seeds_batch_and_nothing_of_its_neighbours(gaussian, make_stack, name):
    x, noise, weights = batch(gaussian)
    whole, _ = loss_and_gradients(
        make_stack(gaussian, TEMPERATURES, seeds=SEEDS, **ARCHITECTURES[name]), x, noise, weights
    )
    for replica in range(len(whole)):
        place, temperature = divmod(replica, len(TEMPERATURES))
        single = make_stack(
            gaussian, [TEMPERATURES[temperature]], seeds=SEEDS[place : place + 1], **ARCHITECTURES[name]
        )
        alone, _ = loss_and_gradients(single, x[place], noise[place], weights[place])
        assert alone.item() == pytest.approx(whole[replica].item(), rel=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dropping_replicas_changes_nothing_for_those_that_stay(gaussian, make_stack, name):
    stack = make_stack(gaussian, TEMPERATURES, seeds=SEEDS, **ARCHITECTURES[name])
    before, gradients = loss_and_gradients(stack, *batch(gaussian))
    weights = stack.weights()
    stay = torch.tensor([1, 4, 6])
    stack.keep(stay)
    after, smaller = loss_and_gradients(stack, *batch(gaussian))
    assert len(stack) == 3
    assert all(torch.equal(value, weights[key][stay]) for key, value in stack.weights().items())
    assert torch.allclose(after, before[stay], rtol=1e-6)
    for a, b in zip(smaller, gradients, strict=True):
        assert torch.allclose(a, b[stay], rtol=1e-5, atol=1e-7)


def test_selecting_replicas_leaves_the_stack_as_it_was(gaussian, make_stack):
    stack = make_stack(gaussian, TEMPERATURES)
    before = stack.weights()
    part = stack.select(torch.tensor([2]))
    with torch.no_grad():
        for value in part.parameters.values():
            value.zero_()
    assert (len(part), len(stack)) == (1, 4)
    assert all(torch.equal(value, before[key]) for key, value in stack.weights().items())


def test_weights_that_are_loaded_back_restore_every_loss_bitwise(gaussian, make_stack):
    stack = make_stack(gaussian, TEMPERATURES, **MLP)
    x, noise, weights = (part[0] for part in batch(gaussian))
    before, kept = stack.losses(x, noise, weights, 0.0), stack.weights()
    with torch.no_grad():
        for value in stack.parameters.values():
            value.mul_(1.5)
    assert not torch.equal(stack.losses(x, noise, weights, 0.0), before)
    stack.load(kept)
    assert torch.equal(stack.losses(x, noise, weights, 0.0), before)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_closed_form_of_a_linear_decoder_is_the_mean_over_many_draws(gaussian, make_stack, weighted):
    stack = make_stack(gaussian, [0.3, 0.01], dtype=torch.float64)
    x, _, weights = batch(gaussian, seeds=1, rows=64, weighted=weighted)
    x, weights = x[0].double(), None if weights is None else weights[0].double()
    closed = stack.losses(x, None, weights, 0.0)
    stack.linear = False
    generator = torch.Generator().manual_seed(0)
    x, weights = x.repeat(32, 1), None if weights is None else weights.repeat(32)
    with torch.no_grad():
        noises = [torch.randn(len(x), 8, generator=generator, dtype=torch.float64) for _ in range(60)]
        draws = torch.stack([stack.losses(x, noise, weights, 0.0) for noise in noises])
    error = draws.std(0) / len(draws) ** 0.5
    assert (error / closed < 0.01).all()
    assert ((draws.mean(0) - closed).abs() < 4 * error).all()


@pytest.mark.parametrize("decoder_variance", [1.0, 0.3])
def test_the_loss_of_total_collapse_is_one_at_every_temperature(gaussian, make_stack, decoder_variance):
    for architecture in ({}, MLP):
        stack = make_stack(gaussian, TEMPERATURES, decoder_variance=decoder_variance, **architecture)
        stack.load({name: torch.zeros_like(value) for name, value in stack.weights().items()})
        x = torch.from_numpy(gaussian.splits["train"].values)
        losses = stack.losses(x, torch.zeros(len(x), 8), None, 0.0)
        assert losses.detach().numpy() == pytest.approx(np.ones(4), rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_equal_temperatures_have_equal_losses_and_gradients_whatever_the_decoder_variance(gaussian, make_stack, name):
    arguments = batch(gaussian)
    one, three = (
        loss_and_gradients(
            make_stack(gaussian, TEMPERATURES, seeds=SEEDS, decoder_variance=v, **ARCHITECTURES[name]), *arguments
        )
        for v in (1.0, 3.0)
    )
    assert torch.allclose(one[0], three[0], rtol=1e-5)
    for a, b in zip(one[1], three[1], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_exact_solution_has_the_oracles_loss_and_no_gradient(gaussian, make_stack, exact):
    from collapsebench.theory.oracle import oracle

    stack = make_stack(gaussian, TEMPERATURES, dtype=torch.float64)
    stack.load(exact(gaussian, TEMPERATURES, 8))
    x = torch.from_numpy(gaussian.splits["train"].values).double()
    losses, gradients = loss_and_gradients(stack, x, None, None)
    expected = oracle(gaussian.second_moments["train"], TEMPERATURES, 8).loss / (gaussian.total_variance / 2)
    assert losses.numpy() == pytest.approx(expected, rel=1e-9)
    assert max(gradient.abs().max() for gradient in gradients) < 1e-7


def test_a_reduced_price_is_that_of_a_lower_temperature(gaussian, make_stack):
    x, noise, weights = batch(gaussian)
    full, tenth = (make_stack(gaussian, [t], seeds=SEEDS, **MLP) for t in (0.2, 0.02))
    reduced = full.losses(x, noise, weights, 0.0, 0.1)
    assert torch.allclose(reduced, tenth.losses(x, noise, weights, 0.0), rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_rescaling_a_latent_changes_neither_signal_fraction_nor_reconstruction(
    gaussian, make_stack, make_samples, component, name
):
    stack = make_stack(gaussian, TEMPERATURES, **ARCHITECTURES[name])
    head, first = ("encoder.body", "decoder.0") if name == "linear" else ("encoder.body.2", "decoder.0")
    observables = [component("observable", id) for id in ("latent-moments", "truncated-distortion")]

    def measured():
        found = {}
        for observable in observables:
            found |= observable.measure(StackModel(stack, TEMPERATURES, 8), make_samples(gaussian, replicas=4))
        return found

    before, factor = measured(), torch.logspace(-1, 1, 8)
    weights = stack.weights()
    weights[f"{head}.mean.weight"] *= factor[:, None]
    weights[f"{head}.mean.bias"] *= factor
    weights[f"{head}.log_variance.bias"] += 2 * factor.log()
    weights[f"{first}.weight"] /= factor
    stack.load(weights)
    after = measured()
    for quantity in ("signal_fraction", "snr", "jensen_gap", "normalised_distortion"):
        assert after[quantity] == pytest.approx(before[quantity], rel=1e-4, abs=1e-6)
    assert not np.allclose(after["posterior_scale"], before["posterior_scale"], rtol=0.1)


def test_what_a_stack_draws_and_encodes_has_the_shapes_of_its_contract(gaussian, make_stack):
    model = StackModel(make_stack(gaussian, TEMPERATURES, latent_dim=5, **MLP), TEMPERATURES, 5)
    mean, log_variance = model.encode(torch.zeros(3, 8))
    assert mean.shape == log_variance.shape == (4, 3, 5)
    assert model.decode(mean).shape == (4, 3, 8)
    assert torch.equal(model.noise(2, (3, 5)), model.noise(2, (3, 5)))
    assert not torch.equal(model.noise(2, (3, 5)), model.noise(3, (3, 5)))
