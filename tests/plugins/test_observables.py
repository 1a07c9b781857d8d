"""Every observable against the exact solution, and against how it is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsebench.contracts import SPLITS, Data, Split
from collapsebench.data.standardise import standardise
from collapsebench.stack.stack import StackModel
from collapsebench.theory.oracle import oracle
from collapsebench_observables.traversals import shrink

TEMPERATURES = np.array([0.7, 0.2, 0.05, 0.003])
LATENTS = 8
OBSERVABLES = (
    "latent-moments", "truncated-distortion", "losses", "equilibrium", "decoder-directions",
    "decoder-origin-directions", "residual-edge", "traversals", "latent-utility",
)  # fmt: skip
MLP = {"encoder": ("mlp", {"depth": 1, "width": 12}), "decoder": ("mlp", {"depth": 1, "width": 12})}


@pytest.fixture(scope="module")
def data(make_gaussian):
    """Gaussian data whose evaluation splits differ markedly from train."""
    return make_gaussian(evaluation_samples=60)


@pytest.fixture
def solution(data, make_stack, exact):
    """Return the exact solution as a model, its latents in another order for every replica."""

    def make(decoder_variance=1.0, latent_dim=LATENTS, dtype=torch.float64):
        stack = make_stack(data, TEMPERATURES, latent_dim=latent_dim, decoder_variance=decoder_variance, dtype=dtype)
        weights, rng = exact(data, TEMPERATURES, latent_dim), np.random.default_rng(1)
        for replica in range(len(TEMPERATURES)):
            order = torch.from_numpy(rng.permutation(latent_dim))
            for name, value in weights.items():
                if name.startswith("encoder"):
                    value[replica] = value[replica][order]
                elif name == "decoder.0.weight":
                    value[replica] = value[replica][:, order]
        stack.load(weights)
        return StackModel(stack, TEMPERATURES, latent_dim)

    return make


@pytest.fixture
def measure(component, make_samples):
    def make(use, model, data, split="train", **options):
        samples = make_samples(data, split, replicas=len(model.temperatures), dtype=model._stack.dtype, **options)
        return component("observable", use).measure(model, samples)

    return make


def ranked(values, by):
    return np.take_along_axis(values, np.argsort(-by, axis=1, kind="stable"), axis=1)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("latent_dim", [5, 8, 10])
def test_latent_moments_at_the_exact_solution_are_the_oracles(solution, measure, data, split, latent_dim):
    model = solution(latent_dim=latent_dim)
    found = measure("latent-moments", model, data, split)
    expected = oracle(data.second_moments["train"], TEMPERATURES, latent_dim, evaluation=data.second_moments[split])
    mine, its = found["signal_fraction"], expected.signal_fraction
    assert ranked(mine, mine) == pytest.approx(ranked(its, its), abs=1e-6)
    for name, theory in {
        "mean_square": expected.mean_square,
        "variance": expected.posterior_variance,
        "log_variance": np.log(expected.posterior_variance),
        "rate": expected.rate,
        "snr": expected.snr,
        "posterior_scale": expected.mean_square + expected.posterior_variance,
    }.items():
        active = ranked(its, its) > 1e-3
        assert ranked(found[name], mine)[active] == pytest.approx(ranked(theory, its)[active], rel=1e-5)
        assert np.sort(found[name], axis=1) == pytest.approx(np.sort(theory, axis=1), abs=1e-6, rel=1e-5)
    assert found["jensen_gap"] == pytest.approx(np.zeros_like(mine), abs=1e-9)
    if split == "train":
        assert np.abs(found["mean"]).max() < 1e-7


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("latent_dim", [5, 8, 10])
def test_truncated_distortion_at_the_exact_solution_is_the_oracles(solution, measure, data, split, latent_dim):
    found = measure("truncated-distortion", solution(latent_dim=latent_dim), data, split)["normalised_distortion"]
    expected = oracle(data.second_moments["train"], TEMPERATURES, latent_dim, evaluation=data.second_moments[split])
    assert found.shape == (4, latent_dim + 1)
    assert found == pytest.approx(expected.normalised_distortion, rel=1e-6, abs=1e-8)


def test_latent_utility_at_the_exact_solution_is_the_threshold_less_what_stays_lost(solution, measure, data):
    found = measure("latent-utility", solution(), data)["utility"]
    thresholds = data.pca.eigenvalues[:LATENTS]
    gain = np.maximum(1 - TEMPERATURES[:, None] / thresholds, 0)
    expected = thresholds * (1 - (1 - gain) ** 2)
    assert -np.sort(-found, axis=1) == pytest.approx(-np.sort(-expected, axis=1), rel=1e-6, abs=1e-9)
    assert (np.sort(found, axis=1)[0, :6] == 0).all()  # at the highest T most latents are ignored by the decoder


@pytest.mark.parametrize("split", SPLITS)
def test_latent_utility_is_what_silencing_one_latent_costs_by_its_definition(make_stack, measure, data, split):
    stack = make_stack(data, TEMPERATURES, dtype=torch.float64, **MLP)
    model = StackModel(stack, TEMPERATURES, LATENTS)
    x = torch.from_numpy(data.splits[split].values).double()
    mean, _ = model.encode(x)

    def distortion(z):
        return (x - model.decode(z)).square().sum(2).mean(1).numpy() / data.total_variance

    found = measure("latent-utility", model, data, split)["utility"]
    for latent in range(LATENTS):
        silenced = mean.clone()
        silenced[:, :, latent] = 0
        assert found[:, latent] == pytest.approx(distortion(silenced) - distortion(mean), rel=1e-5, abs=1e-9)


def test_the_splits_are_different_enough_to_be_told_apart(data):
    fractions = [
        oracle(data.second_moments["train"], TEMPERATURES, evaluation=data.second_moments[split]).signal_fraction
        for split in SPLITS
    ]
    assert np.abs(fractions[0] - fractions[2]).max() > 0.01


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("decoder_variance", [1.0, 0.2])
def test_losses_at_the_exact_solution_are_the_oracles(make_stack, exact, measure, data, split, decoder_variance):
    """The optimum at one temperature is the same map whatever the decoder variance; only nats differ."""
    stack = make_stack(data, TEMPERATURES, decoder_variance=decoder_variance, dtype=torch.float64)
    stack.load(exact(data, TEMPERATURES, LATENTS))
    found = measure("losses", StackModel(stack, TEMPERATURES, LATENTS), data, split)
    expected = oracle(
        data.second_moments["train"], TEMPERATURES, LATENTS, decoder_variance=decoder_variance,
        evaluation=data.second_moments[split],
    )  # fmt: skip
    assert found["distortion"] == pytest.approx(expected.distortion, rel=1e-6)
    assert found["rate"] == pytest.approx(expected.total_rate, rel=1e-6, abs=1e-7)
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-6)


def test_equilibrium_at_the_exact_solution_has_no_residual_and_the_oracles_edge(solution, measure, data):
    found = measure("equilibrium", solution(), data)
    expected = oracle(data.second_moments["train"], TEMPERATURES, LATENTS)
    for name in ("ward_residual", "ward_mean", "ward_scale", "ward_residual_mean", "ward_orthogonality"):
        assert np.abs(found[name]).max() < 1e-7
    assert found["residual_edge"] == pytest.approx(expected.mean_distortion.max(1), rel=1e-6)
    assert found["spare_latents"].tolist() == (expected.signal_fraction <= 0.01).sum(1).tolist()


def test_decoder_directions_of_a_linear_decoder_are_the_columns_of_its_weight(solution, measure, data):
    model = solution()
    found = measure("decoder-directions", model, data)
    directions = np.stack([found[f"feature_{d}"] for d in range(8)], axis=2)
    columns = model._stack.parameters["decoder.0.weight"].detach().mT.numpy()
    assert directions == pytest.approx(columns, abs=1e-6)


def test_decoder_directions_of_a_nonlinear_decoder_are_its_mean_jacobian(make_stack, measure, data):
    stack = make_stack(data, TEMPERATURES, dtype=torch.float64, **MLP)
    found = measure("decoder-directions", StackModel(stack, TEMPERATURES, LATENTS), data)
    x = torch.from_numpy(data.splits["train"].values[:256]).double()
    mean = stack.encode(x)[0].detach().requires_grad_()
    decoded = stack.decode(mean)
    for feature in range(8):
        (gradient,) = torch.autograd.grad(decoded[..., feature].sum(), mean, retain_graph=True)
        assert found[f"feature_{feature}"] == pytest.approx(gradient.mean(1).numpy(), abs=1e-4)


def test_traversals_of_a_linear_decoder_are_straight_lines_of_the_active_latents(solution, measure, data):
    model = solution()
    found = measure("traversals", model, data)
    active = measure("latent-moments", model, data)["signal_fraction"] > 0.1
    columns = model._stack.parameters["decoder.0.weight"].detach().mT.numpy()
    for value in range(-3, 4):
        moved = np.stack([found[f"at_{value}_{d}"] for d in range(8)], axis=2)
        assert moved == pytest.approx(value * columns * active[:, :, None], abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "values"),
    [((8, 8), 64), ((1, 28, 28), 784), ((1, 29, 30), 225), ((3, 32, 32), 768), ((64, 64), 484), ((900,), 450)],
)
def test_pictures_are_averaged_over_blocks_until_they_are_small(shape, values):
    samples = torch.arange(float(2 * np.prod(shape))).reshape(2, *shape)
    small = shrink(samples, shape)
    assert small.shape == (2, values)
    assert (small[1] - small[0]).numpy() == pytest.approx(np.full(values, np.prod(shape)), rel=1e-4)


@pytest.mark.parametrize("use", OBSERVABLES)
def test_the_size_of_chunks_does_not_change_what_is_measured_of_a_linear_decoder(solution, measure, data, use):
    whole = measure(use, solution(), data)
    pieces = measure(use, solution(), data, values_at_once=1)
    for name, value in whole.items():
        assert pieces[name] == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "use",
    [
        "latent-moments",
        "truncated-distortion",
        "latent-utility",
        "decoder-directions",
    ],
)
def test_the_size_of_chunks_does_not_change_what_is_measured_of_any_decoder(make_stack, measure, data, use):
    model = StackModel(make_stack(data, TEMPERATURES, dtype=torch.float64, **MLP), TEMPERATURES, LATENTS)
    whole = measure(use, model, data)
    pieces = measure(use, model, data, values_at_once=1)
    for name, value in whole.items():
        assert pieces[name] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_sampled_losses_agree_between_chunk_sizes_to_their_sampling_error(make_stack, measure, data):
    model = StackModel(make_stack(data, TEMPERATURES, **MLP), TEMPERATURES, LATENTS)
    whole = measure("losses", model, data)
    pieces = measure("losses", model, data, values_at_once=32 * 4 * 4 * 100)
    assert pieces["rate"] == pytest.approx(whole["rate"], rel=1e-5)
    assert pieces["loss"] == pytest.approx(whole["loss"], rel=0.02)


@pytest.mark.parametrize("use", OBSERVABLES)
def test_measuring_replicas_together_or_alone_is_the_same(make_stack, make_samples, component, data, use):
    stack, made = make_stack(data, TEMPERATURES, dtype=torch.float64, **MLP), component("observable", use)

    def found(part, temperatures):
        samples = make_samples(data, replicas=len(part), dtype=torch.float64)
        return made.measure(StackModel(part, temperatures, LATENTS), samples)

    together = found(stack, TEMPERATURES)
    for replica in range(4):
        alone = found(stack.select(torch.tensor([replica])), TEMPERATURES[replica : replica + 1])
        for name, value in alone.items():
            assert value[0] == pytest.approx(together[name][replica], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("use", ["latent-moments", "truncated-distortion", "latent-utility", "losses", "equilibrium"])
@pytest.mark.parametrize("architecture", [{}, MLP], ids=["linear", "mlp"])
def test_integer_weights_are_the_same_as_repeating_rows(make_stack, measure, use, architecture):
    """Sampled quantities, whose noise belongs to the row number, to 3 %."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 8)).astype(np.float32) @ rng.normal(size=(8, 8)).astype(np.float32)
    counts = rng.integers(1, 5, 300)
    weighted = Split(values, counts.astype(np.float32))
    repeated = Split(np.repeat(values, counts, axis=0))
    found = []
    for split in (weighted, repeated):
        ready = standardise(Data(split, split, split, tuple("abcdefgh")), "weighted")
        model = StackModel(make_stack(ready, TEMPERATURES, **architecture), TEMPERATURES, LATENTS)
        found.append(measure(use, model, ready))
    for name, value in found[0].items():
        sampled = architecture and name in ("distortion", "loss", "ward_residual", "ward_orthogonality")
        assert found[1][name] == pytest.approx(value, rel=0.03 if sampled else 1e-4, abs=2e-4)


@pytest.mark.parametrize("use", OBSERVABLES)
def test_a_limited_number_of_rows_gives_the_same_numbers_every_time(solution, measure, data, use):
    one, two, whole = (measure(use, solution(), data, max_rows=rows) for rows in (100, 100, None))
    for name, value in one.items():
        assert np.array_equal(value, two[name])
    if not use.startswith(("decoder-", "traversals")):
        assert any(not np.array_equal(value, whole[name]) for name, value in one.items())


@pytest.mark.parametrize("use", OBSERVABLES)
def test_a_diverged_replica_is_not_finite_and_its_neighbours_are_unchanged(solution, measure, data, use):
    model = solution()
    expected = measure(use, model, data)
    weights = model._stack.weights()
    for value in weights.values():
        value[1] = float("nan")
    model._stack.load(weights)
    found = measure(use, model, data)
    for name, value in found.items():
        assert np.array_equal(value[[0, 2, 3]], expected[name][[0, 2, 3]])
    assert any(not np.isfinite(np.asarray(value[1], dtype=float)).all() for value in found.values())


def test_distortion_never_grows_with_the_rank_at_the_exact_solution(solution, measure, data):
    found = measure("truncated-distortion", solution(), data)["normalised_distortion"]
    assert (np.diff(found, axis=1) <= 1e-9).all()
    assert found[:, 0] == pytest.approx(np.ones(4), rel=1e-6)


def test_the_quantities_of_latent_moments_obey_their_definitions(make_stack, measure, data):
    model = StackModel(make_stack(data, TEMPERATURES, **MLP), TEMPERATURES, LATENTS)
    found = measure("latent-moments", model, data, "test")
    square, variance = found["mean_square"], found["variance"]
    assert found["signal_fraction"] == pytest.approx(found["snr"] / (1 + found["snr"]))
    assert found["posterior_scale"] == pytest.approx(square + variance)
    assert found["rate"] == pytest.approx(0.5 * (square + variance - 1 - found["log_variance"]))
    assert (found["jensen_gap"] >= -1e-12).all()
    assert (found["jensen_gap"] > 1e-6).any()
    assert (found["rate"] >= 0).all()
