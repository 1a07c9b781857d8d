"""Both conditions of equilibrium, on states whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsebench.stack.stack import StackModel
from collapsebench.theory.envelope import envelope
from collapsebench.theory.equilibrium import measure_equilibrium
from collapsebench.theory.oracle import oracle

TEMPERATURES = np.array([0.6, 0.2, 0.1, 0.01, 0.001])


@pytest.fixture
def measured(gaussian, make_stack, make_samples, exact):
    """Measure linear pairs whose weights are the exact ones, changed by a function."""

    def measure(change=lambda weights: None, *, collapsed=None, decoder_variance=1.0, linear=True, draws=16_384):
        stack = make_stack(gaussian, TEMPERATURES, decoder_variance=decoder_variance, dtype=torch.float64)
        weights = exact(gaussian, TEMPERATURES, 8, collapsed=collapsed)
        change(weights)
        stack.load(weights)
        stack.linear = linear
        model = StackModel(stack, TEMPERATURES, 8)
        return measure_equilibrium(model, make_samples(gaussian, replicas=5, dtype=torch.float64), draws)

    return measure


def residuals(found):
    return {
        "mean": np.abs(found.mean).max(1),
        "scale": np.abs(found.scale - 1).max(1),
        "residual_mean": found.residual_mean,
        "orthogonality": np.abs(found.orthogonality),
    }


def test_the_exact_solution_is_stationary_and_stable(measured):
    found = measured()
    assert found.ward_residual.max() < 1e-7
    assert found.is_stable(TEMPERATURES, 1e-6).all()


def test_the_exact_solution_has_the_oracles_moments_distortion_rate_and_edge(measured, gaussian):
    found, exact = measured(), oracle(gaussian.second_moments["train"], TEMPERATURES, 8)
    assert found.signal_fraction == pytest.approx(exact.signal_fraction, abs=1e-7)
    assert found.distortion == pytest.approx(exact.distortion, rel=1e-7)
    assert found.rate == pytest.approx(exact.total_rate, abs=1e-7)
    assert found.residual_edge == pytest.approx(exact.mean_distortion.max(1), rel=1e-6)


@pytest.mark.parametrize("mode", [0, 1])
def test_a_saddle_satisfies_every_ward_identity_and_is_not_stable(measured, mode):
    exact_thresholds = [0.5190, 0.1835]
    found = measured(collapsed=[mode] * 5)
    assert found.ward_residual.max() < 1e-7
    collapsed_wrongly = exact_thresholds[mode] > TEMPERATURES
    assert np.array_equal(found.is_stable(TEMPERATURES, 0.05), ~collapsed_wrongly)
    assert found.residual_edge[collapsed_wrongly] == pytest.approx(exact_thresholds[mode], abs=1e-4)


def test_without_spare_latents_a_large_residual_is_no_instability(gaussian, make_stack, make_samples, exact):
    stack = make_stack(gaussian, [0.01], latent_dim=3)
    stack.load(exact(gaussian, [0.01], 3))
    found = measure_equilibrium(StackModel(stack, [0.01], 3), make_samples(gaussian))
    assert found.residual_edge[0] > 2 * 0.01
    assert found.is_stable(np.array([0.01]), 0.05).all()


@pytest.mark.parametrize(("latents", "collapsed", "stable"), [(3, None, True), (4, None, True), (4, 3, False)])
def test_a_weak_latent_at_a_threshold_that_modes_share_is_not_spare(
    make_gaussian, make_stack, make_samples, exact, latents, collapsed, stable
):
    """Three modes at T_k = 1.07 T have M^2 = 0.07: with too few latents some go without, unless one is collapsed."""
    data = make_gaussian(dimension=6, spectrum={"kind": "explicit", "values": [1.0, 0.5, 0.2, 0.2, 0.2, 0.01]})
    temperature = data.pca.eigenvalues[3] / 1.07
    stack = make_stack(data, [temperature], latent_dim=latents)
    stack.load(exact(data, [temperature], latents, [collapsed]))
    found = measure_equilibrium(StackModel(stack, [temperature], latents), make_samples(data))
    weak = np.delete(found.signal_fraction[0], [] if collapsed is None else collapsed)
    assert 0.05 < weak.min() < 0.1
    assert found.residual_edge[0] > 1.05 * temperature
    assert found.is_stable(np.array([temperature]), 0.05).all() == stable


def shifted(name, change):
    def apply(weights):
        weights[name] = change(weights[name])

    return apply


@pytest.mark.parametrize(
    ("identity", "change"),
    [
        ("mean", shifted("encoder.body.mean.bias", lambda bias: bias + 0.1)),
        ("scale", shifted("encoder.body.log_variance.bias", lambda bias: bias + 1.0)),
        ("residual_mean", shifted("decoder.0.bias", lambda bias: bias + 0.1)),
        ("orthogonality", shifted("decoder.0.weight", lambda weight: 1.1 * weight)),
    ],
)
def test_each_ward_identity_fails_for_the_weights_that_break_it(measured, identity, change):
    found = measured(change)
    broken = residuals(found)[identity][1:]
    assert (broken > 0.02).all()
    assert (found.ward_residual[1:] >= broken).all()


def test_the_ward_residual_is_the_largest_of_the_four(measured):
    found = measured(shifted("encoder.body.mean.weight", lambda weight: 0.8 * weight))
    assert found.ward_residual == pytest.approx(np.max(list(residuals(found).values()), axis=0))


def test_equilibrium_does_not_depend_on_the_unit_of_the_decoder(measured):
    one, three = measured(), measured(decoder_variance=3.0)
    assert one.ward_residual == pytest.approx(three.ward_residual)
    assert one.residual_edge == pytest.approx(three.residual_edge)
    assert one.distortion == pytest.approx(3 * three.distortion)


def test_sampled_decoding_agrees_with_the_closed_form(measured):
    """Within 3 %, from a million antithetic draws."""
    change = shifted("decoder.0.weight", lambda weight: 1.2 * weight)
    closed, sampled = measured(change), measured(change, linear=False, draws=1_000_000)
    assert sampled.distortion == pytest.approx(closed.distortion, rel=0.03)
    assert sampled.orthogonality == pytest.approx(closed.orthogonality, abs=0.03)
    assert sampled.residual_mean == pytest.approx(closed.residual_mean, abs=1e-6)
    for name in ("mean", "scale", "signal_fraction", "residual_edge", "rate"):
        assert np.array_equal(getattr(sampled, name), getattr(closed, name))


def test_more_draws_bring_the_sampled_distortion_closer(measured):
    closed = measured()
    errors = [
        np.abs(measured(linear=False, draws=draws).distortion / closed.distortion - 1).max()
        for draws in (1024, 262_144)
    ]
    assert errors[1] < errors[0] / 3


def test_a_replica_that_is_not_finite_has_no_residual_and_hides_no_other(measured):
    def break_one(weights):
        weights["encoder.body.mean.weight"][2] = float("nan")

    found, whole = measured(break_one), measured()
    assert np.isnan(found.ward_residual[2])
    others = [0, 1, 3, 4]
    assert np.array_equal(found.ward_residual[others], whole.ward_residual[others])
    assert np.array_equal(found.residual_edge[others], whole.residual_edge[others])


class OtherNoise(StackModel):
    """The same replicas, observed with other draws of z."""

    draw = 0

    def noise(self, chunk, shape):
        """Return noise that depends on the draw."""
        return super().noise(chunk + 100_003 * self.draw, shape)


@pytest.fixture(scope="module")
def resampled(gaussian, make_stack, make_samples, exact):
    """Return what exact linear pairs cost, with sampled decoding, in each of 200 resamplings of the noise."""
    stack = make_stack(gaussian, TEMPERATURES, dtype=torch.float64)
    stack.load(exact(gaussian, TEMPERATURES, 8))
    stack.linear = False
    model, found = OtherNoise(stack, TEMPERATURES, 8), []
    for model.draw in range(200):
        measured = measure_equilibrium(model, make_samples(gaussian, replicas=5, dtype=torch.float64), 16_384)
        found.append((measured, stack.lines(measured)))
    return found


def test_an_equilibrium_replica_is_called_metastable_in_none_of_200_resamplings(resampled):
    """Not beyond three standard errors, even without any tolerance beside them."""
    excess = np.array([envelope(lines).excess for _, lines in resampled])
    assert (excess < 0).all()


def test_the_standard_error_of_the_distortion_is_what_resampling_shows(resampled, gaussian):
    exact = oracle(gaussian.second_moments["train"], TEMPERATURES, 8).distortion
    distortions = np.array([measured.distortion for measured, _ in resampled])
    errors = np.array([measured.distortion_error for measured, _ in resampled])
    assert (errors[:, 0] == 0).all()  # at T = 0.6, everything is collapsed
    scores = ((distortions - exact) / np.maximum(errors, 1e-300))[:, 1:]
    assert (np.abs(scores.mean(0)) < 4 / np.sqrt(200)).all()
    assert (np.abs(scores.std(0) - 1) < 0.25).all()


def test_what_is_measured_does_not_depend_on_the_chunks_in_which_rows_are_read(
    gaussian, make_stack, make_samples, exact
):
    stack = make_stack(gaussian, TEMPERATURES, dtype=torch.float64)
    stack.load(exact(gaussian, TEMPERATURES, 8))
    stack.linear = False
    model = StackModel(stack, TEMPERATURES, 8)
    whole, parts = (
        measure_equilibrium(model, make_samples(gaussian, replicas=5, dtype=torch.float64, **limits))
        for limits in ({}, {"values_at_once": 5 * 4 * 8 * 4 * 37})
    )
    for name in ("distortion", "distortion_error", "residual_mean", "orthogonality", "rates"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-12)


def test_the_cost_of_a_collapsed_replica_in_single_precision_is_that_in_double(make_gaussian, make_stack, make_samples):
    """50,000 rows: at T = 1.5, an error of 1e-5 in the rates of 16 latents would be one of 5e-4 in the cost."""
    data, found = make_gaussian(samples=50_000), {}
    for dtype in (torch.float32, torch.float64):
        stack = make_stack(data, [1.5], latent_dim=16, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        stack.load(
            {name: 1e-3 * torch.randn(value.shape, generator=generator) for name, value in stack.weights().items()}
        )
        samples = make_samples(data, dtype=dtype)
        found[dtype] = measure_equilibrium(StackModel(stack, [1.5], 16), samples)
    single, double = found[torch.float32], found[torch.float64]
    assert (single.rates >= 0).all()
    assert single.rates == pytest.approx(double.rates, rel=1e-3, abs=1e-9)
    assert single.distortion == pytest.approx(double.distortion, rel=1e-6)
