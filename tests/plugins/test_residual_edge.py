"""The edge of stability, estimated with random features, is the supremum that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsebench.stack.stack import StackModel
from collapsebench_observables.conditional_covariance import Drawn, largest_conditional_covariance

SPECTRUM = np.array([6.0, 3.0, 1.5, 0.7, 0.3, 0.1, 0.03, 0.01])
SHARES = SPECTRUM / SPECTRUM.sum()


def linear(temperature, seed=0, rows=4096):
    """Return samples of the linear equilibrium, and the next eigenvalue or what the weakest active latent leaves."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 8)) * np.sqrt(SPECTRUM)
    fraction = np.maximum(0, 1 - temperature / SHARES)
    active = int((fraction > 0.1).sum())
    mean = np.sqrt(fraction / SPECTRUM) * x
    z = mean + np.sqrt(1 - fraction) * rng.standard_normal(x.shape)
    gain = np.sqrt(SPECTRUM * fraction)
    left = x - z * gain * (np.arange(8) < active)
    expected = max(SPECTRUM[active], *(SPECTRUM[:active] * (1 - fraction[:active]) ** 2), 0.0)
    return Drawn(x - mean * gain, left, mean[:, :active], z[:, :active], np.ones(rows)), expected


@pytest.mark.parametrize("temperature", [0.7, 0.3, 0.15, 0.08, 0.03, 0.01])
def test_in_the_linear_gaussian_case_the_edge_is_the_next_eigenvalue(temperature):
    found = [largest_conditional_covariance(drawn) / edge for drawn, edge in (linear(temperature, s) for s in range(4))]
    assert np.mean(found) == pytest.approx(1, abs=0.05)


def turning(rows, turn, blur=0.05, seed=0):
    """Return samples whose second and third coordinates point where the first, known up to blur, says."""
    rng = np.random.default_rng(seed)
    known, strength, noise = rng.standard_normal((3, rows))
    x = np.stack([3 * known, strength * np.cos(turn * known), strength * np.sin(turn * known)], axis=1)
    mean = np.sqrt(1 - blur) * known
    gain = np.array([3 * np.sqrt(1 - blur), 0, 0])
    z = mean + np.sqrt(blur) * noise
    return Drawn(x - np.outer(mean, gain), x - np.outer(z, gain), mean[:, None], z[:, None], np.ones(rows))


def test_a_signal_that_turns_with_an_active_latent_is_seen_whole_where_a_linear_readout_sees_half():
    drawn = turning(40_000, turn=1.5)
    readout = np.linalg.eigvalsh(np.cov(drawn.seen.T))[-1]
    assert readout == pytest.approx(0.5, abs=0.04)
    expected = np.exp(-0.05 * 1.5**2)  # what the blur of z_A leaves of E |E[(cos, sin) | z_A]|^2
    assert largest_conditional_covariance(drawn) == pytest.approx(expected, abs=0.04)


def test_with_nothing_left_the_edge_is_zero_and_noise_makes_none():
    drawn, noise = turning(8000, turn=0.0), np.random.default_rng(1).standard_normal((8000, 3))
    nothing = Drawn(drawn.seen, noise, drawn.mean, drawn.z, drawn.weights)
    assert largest_conditional_covariance(nothing) < 0.05


def test_the_edge_is_a_square_of_the_unit_and_knows_no_rotation():
    drawn, _ = linear(0.15, rows=1000)
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((8, 8)))[0]
    turned = Drawn(3 * drawn.seen @ rotation, 3 * drawn.left @ rotation, drawn.mean, drawn.z, drawn.weights)
    assert largest_conditional_covariance(turned) == pytest.approx(9 * largest_conditional_covariance(drawn), rel=0.05)


def test_on_trained_replicas_the_edge_is_the_next_eigenvalue_of_the_train_split(
    component, make_gaussian, make_stack, make_samples, exact
):
    data, temperatures, latents = make_gaussian(samples=4000), np.array([0.7, 0.2, 0.08]), 8
    stack = make_stack(data, temperatures, latent_dim=latents, dtype=torch.float64)
    stack.load(exact(data, temperatures, latents))
    samples = make_samples(data, replicas=3, dtype=torch.float64)
    found = component("observable", "residual-edge").measure(StackModel(stack, temperatures, latents), samples)
    shares = data.pca.eigenvalues
    active = found["active_latents"]
    assert active.tolist() == [(1 - t / shares > 0.1).sum() for t in temperatures]
    left = [max([t * t / s for s in shares[:k]], default=0.0) for t, k in zip(temperatures, active, strict=True)]
    assert found["edge"] == pytest.approx(np.maximum(shares[active], left), rel=0.1)
