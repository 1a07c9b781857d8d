"""The exact solution against an independent minimisation, and the identities of the objective."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from collapsebench.errors import DataError
from collapsebench.theory.oracle import landau_cost, oracle, reverse_water_filling

SPECTRA = {
    "distinct": [5.0, 2.0, 0.7, 0.1],
    "repeated": [3.0, 2.0, 2.0, 0.2],
    "singular": [4.0, 1.0, 0.3, 0.0],
    "tiny": [5e-9, 2e-9, 7e-10, 1e-10],
}


def covariance(spectrum, seed=0):
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    return rotation @ np.diag(spectrum) @ rotation.T


def linear_loss(matrix, encoder, decoder, log_variance, beta, decoder_variance=1.0):
    """Return the objective of a linear VAE, the expectation over z in closed form."""
    code = encoder @ matrix @ encoder.T
    error = np.trace(matrix) - 2 * np.trace(decoder @ encoder @ matrix)
    error += np.trace(decoder.T @ decoder @ (code + np.diag(np.exp(log_variance))))
    rate = 0.5 * np.sum(np.diag(code) + np.exp(log_variance) - 1 - log_variance)
    return error / (2 * decoder_variance) + beta * rate


def trained(matrix, latent_dim, beta, decoder_variance=1.0, seed=0):
    """Minimise the objective by L-BFGS from a random start; return encoder, decoder, log-variances."""
    d, q = len(matrix), latent_dim

    def unpack(x):
        return x[: q * d].reshape(q, d), x[q * d : 2 * q * d].reshape(d, q), x[2 * q * d :]

    def loss_and_gradient(x):
        w, v, s = unpack(x)
        code = w @ matrix @ w.T + np.diag(np.exp(s))
        by_w = (-v.T @ matrix + v.T @ v @ w @ matrix) / decoder_variance + beta * w @ matrix
        by_v = (-matrix @ w.T + v @ code) / decoder_variance
        by_s = 0.5 * np.sum(v * v, axis=0) * np.exp(s) / decoder_variance + 0.5 * beta * (np.exp(s) - 1)
        gradient = np.concatenate([by_w.ravel(), by_v.ravel(), by_s])
        return linear_loss(matrix, w, v, s, beta, decoder_variance), gradient

    start = 0.3 * np.random.default_rng(seed).normal(size=2 * q * d + q)
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0, "gtol": 1e-11, "maxcor": 40}
    return unpack(minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x)


@pytest.mark.parametrize("name", ["distinct", "repeated", "singular"])
@pytest.mark.parametrize("latent_dim", [2, 4, 6])
def test_the_oracle_is_what_a_numerical_minimisation_finds(name, latent_dim):
    matrix, temperature = covariance(SPECTRA[name]), 0.06
    found = oracle(matrix, [temperature], latent_dim)
    w, v, s = trained(matrix, latent_dim, temperature * np.trace(matrix))
    square = np.diag(w @ matrix @ w.T)
    order = np.argsort(-square / (square + np.exp(s)))
    assert linear_loss(matrix, w, v, s, found.beta[0]) == pytest.approx(found.loss[0], rel=1e-8)
    assert square[order] == pytest.approx(found.mean_square[0], abs=2e-4)
    assert np.exp(s)[order] == pytest.approx(found.posterior_variance[0], abs=2e-4)
    assert 0.5 * np.sum(square + np.exp(s) - 1 - s) == pytest.approx(found.total_rate[0], abs=1e-4)


def test_on_another_split_the_oracle_is_the_minimiser_of_train_evaluated_there():
    matrix, other, temperature = covariance(SPECTRA["distinct"]), covariance([2.0, 1.5, 1.0, 0.3], 1), 0.02
    found = oracle(matrix, [temperature], 3, evaluation=other)
    w, v, s = trained(matrix, 3, found.beta[0])
    fraction = np.diag(w @ other @ w.T) / (np.diag(w @ other @ w.T) + np.exp(s))
    order = np.argsort(-fraction)
    assert linear_loss(other, w, v, s, found.beta[0]) == pytest.approx(found.loss[0], rel=1e-5)
    assert fraction[order] == pytest.approx(np.sort(found.signal_fraction[0])[::-1], abs=1e-4)
    for kept in range(4):
        residual = np.eye(4) - v[:, order[:kept]] @ w[order[:kept]]
        expected = np.trace(residual @ other @ residual.T) / np.trace(matrix)
        assert found.normalised_distortion[0, kept] == pytest.approx(expected, abs=1e-4)


def test_the_train_split_as_evaluation_changes_nothing():
    matrix, temperatures = covariance(SPECTRA["distinct"]), np.logspace(0, -4, 20)
    plain, evaluated = oracle(matrix, temperatures), oracle(matrix, temperatures, evaluation=matrix)
    for name in ("signal_fraction", "rate", "normalised_distortion", "sampled_distortion", "loss", "snr"):
        assert getattr(evaluated, name) == pytest.approx(getattr(plain, name), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("latent_dim", [2, 4, 6])
def test_every_quantity_has_its_closed_form_on_train(name, latent_dim):
    spectrum, t = np.array(SPECTRA[name]), np.logspace(0, -5, 31)
    found = oracle(covariance(spectrum), t, latent_dim)
    thresholds = np.zeros(latent_dim)
    thresholds[: min(latent_dim, 4)] = (spectrum / spectrum.sum())[:latent_dim]
    ratio = np.minimum(t[:, None] / np.maximum(thresholds, 1e-300), 1)
    assert found.thresholds == pytest.approx(thresholds, abs=1e-12)
    assert found.signal_fraction == pytest.approx(1 - ratio, abs=1e-9)
    assert found.mean_square + found.posterior_variance == pytest.approx(1.0)
    assert found.rate == pytest.approx(-0.5 * np.log(ratio), abs=1e-9)
    assert found.snr == pytest.approx(1 / ratio - 1, abs=1e-9)
    assert found.sampled_distortion == pytest.approx(np.minimum(thresholds, t[:, None]), abs=1e-12)
    assert found.mean_distortion == pytest.approx(thresholds * ratio**2, abs=1e-12)
    assert found.sampled_utilities == pytest.approx(np.maximum(thresholds - t[:, None], 0), abs=1e-12)
    assert -np.diff(found.normalised_distortion) == pytest.approx(found.mean_utilities, abs=1e-12)
    assert found.normalised_distortion[:, 0] == pytest.approx(1.0)
    beta = t * spectrum.sum()
    kept, lost = spectrum[:latent_dim], spectrum[latent_dim:].sum()
    logs = np.log(np.maximum(kept / beta[:, None], 1.0))
    expected = 0.5 * (np.minimum(kept, beta[:, None]) + beta[:, None] * logs).sum(1) + 0.5 * lost
    assert found.loss == pytest.approx(expected, rel=1e-9)


def test_the_derivative_of_the_loss_by_beta_is_the_rate():
    matrix, step = covariance(SPECTRA["distinct"]), 1e-6
    t = np.logspace(-0.05, -4, 23)
    low, high = oracle(matrix, t * (1 - step)), oracle(matrix, t * (1 + step))
    slope = (high.loss - low.loss) / (high.beta - low.beta)
    assert slope == pytest.approx(oracle(matrix, t).total_rate, abs=1e-5)


def test_the_slope_of_distortion_against_rate_is_minus_beta_and_lies_between_neighbours():
    found = oracle(covariance(SPECTRA["distinct"]), np.logspace(-4, -0.3, 40))
    slope = -np.diff(found.distortion) / np.diff(found.total_rate)
    assert (slope >= found.beta[:-1] * (1 - 1e-9)).all()
    assert (slope <= found.beta[1:] * (1 + 1e-9)).all()


def test_the_loss_is_concave_in_beta_and_the_rate_decreases():
    found = oracle(covariance(SPECTRA["repeated"]), np.linspace(1e-4, 1, 500))
    assert (np.diff(found.loss, n=2) <= 1e-12).all()
    assert (np.diff(found.total_rate) <= 0).all()


@pytest.mark.parametrize("name", ["distinct", "repeated", "singular"])
def test_the_logarithmic_slope_of_the_rate_counts_active_modes_with_multiplicity(name):
    matrix, t, step = covariance(SPECTRA[name]), np.array([0.6, 0.3, 0.05, 1e-2, 1e-4]), 1e-6
    change = oracle(matrix, t * (1 + step)).total_rate - oracle(matrix, t * (1 - step)).total_rate
    assert -2 * change / np.log((1 + step) / (1 - step)) == pytest.approx(oracle(matrix, t).active_count, abs=1e-4)


def test_rate_and_sampled_distortion_lie_on_reverse_water_filling():
    found = oracle(covariance(SPECTRA["singular"]), np.logspace(0, -6, 50))
    rate = reverse_water_filling(found.eigenvalues, 2 * found.distortion)
    assert rate == pytest.approx(found.total_rate, abs=1e-9)


def test_reverse_water_filling_has_its_limits():
    assert reverse_water_filling([2.0, 1.0], 3.0) == 0
    assert reverse_water_filling([2.0, 1.0], 9.0) == 0
    assert reverse_water_filling([2.0, 1.0, 0.0], 0.0) == np.inf
    assert reverse_water_filling([2.0], [[0.5]]) == pytest.approx(0.5 * np.log(4))
    with pytest.raises(DataError, match="Expected numbers of at least 0"):
        reverse_water_filling([1.0], -0.1)


def test_nothing_but_the_components_changes_under_a_rotation():
    t, other = np.logspace(0, -4, 15), covariance([2.0, 1.5, 1.0, 0.3], 1)
    matrix, rotation = covariance(SPECTRA["distinct"]), np.linalg.qr(covariance([1, 2, 3, 4], 5))[0]
    plain = oracle(matrix, t, evaluation=other)
    turned = oracle(rotation @ matrix @ rotation.T, t, evaluation=rotation @ other @ rotation.T)
    for name in ("thresholds", "signal_fraction", "normalised_distortion", "loss", "rate"):
        assert getattr(turned, name) == pytest.approx(getattr(plain, name), abs=1e-9)
    overlap = np.abs(turned.components @ (plain.components @ rotation.T).T)
    assert overlap == pytest.approx(np.eye(4), abs=1e-9)


def test_equal_temperatures_agree_whatever_beta_and_decoder_variance():
    matrix, t = covariance(SPECTRA["distinct"]), np.logspace(0, -4, 15)
    one, three = oracle(matrix, t), oracle(matrix, t, decoder_variance=3.0)
    for name in ("signal_fraction", "rate", "normalised_distortion", "sampled_utilities"):
        assert np.array_equal(getattr(one, name), getattr(three, name))
    assert three.beta == pytest.approx(one.beta / 3)
    assert three.loss == pytest.approx(one.loss / 3)


def test_thresholds_do_not_depend_on_the_scale_of_the_data():
    t = np.logspace(0, -4, 15)
    small, large = oracle(covariance(SPECTRA["tiny"]), t), oracle(covariance(SPECTRA["distinct"]) * 1e6, t)
    assert small.thresholds[0] == pytest.approx(large.thresholds[0], rel=1e-3)
    assert np.isfinite(small.loss).all()


def test_the_landau_coefficients_are_the_expansion_of_the_cost_of_a_mode():
    t = np.array([0.9, 0.3, 0.05])
    found = oracle(covariance(SPECTRA["distinct"]), t)
    for row, beta in enumerate(found.beta):
        for mode, eigenvalue in enumerate(found.eigenvalues):
            m = np.linspace(0, 1e-2, 5)
            series = 0.5 * eigenvalue + sum(
                coefficient[row, mode] * m**power
                for power, coefficient in enumerate(
                    (found.landau_quadratic, found.landau_quartic, found.landau_sextic), start=1
                )
            )
            assert landau_cost(m, eigenvalue, beta) == pytest.approx(series, abs=beta * 1e-8)
    assert np.array_equal(found.landau_quadratic < 0, t[:, None] < found.thresholds)


def test_the_landau_cost_is_least_at_the_signal_fraction_of_the_oracle():
    found = oracle(np.diag([3.0, 1.0]), [0.2])
    for mode, eigenvalue in enumerate(found.eigenvalues):
        best = minimize_scalar(
            lambda m, e=eigenvalue: landau_cost(m, e, found.beta[0]),
            bounds=(0, 1 - 1e-9),
            options={"xatol": 1e-9},
        )
        assert best.x == pytest.approx(found.signal_fraction[0, mode], abs=1e-5)


@pytest.mark.parametrize(
    ("matrix", "found"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\)"),
        ([[1.0, 0.5], [0.0, 1.0]], "differs from its transpose by 0.5"),
        ([[1.0, 2.0], [2.0, 1.0]], "eigenvalue -1"),
        ([[1.0, np.nan], [np.nan, 1.0]], "2 entries that are not finite"),
        (np.zeros((2, 2)), "covariance is zero"),
    ],
)
def test_an_unusable_covariance_is_named_with_what_was_found(matrix, found):
    with pytest.raises(DataError, match=found):
        oracle(matrix, [0.1])


@pytest.mark.parametrize("temperatures", [[0.0], [-1.0], [np.nan], [np.inf, 1.0], [[1.0]]])
def test_unusable_temperatures_are_refused(temperatures):
    with pytest.raises(DataError, match="finite numbers above 0"):
        oracle(np.eye(2), temperatures)


def test_other_arguments_are_checked():
    with pytest.raises(DataError, match="latent_dim is 0"):
        oracle(np.eye(2), [0.1], 0)
    with pytest.raises(DataError, match="decoder_variance is 0"):
        oracle(np.eye(2), [0.1], decoder_variance=0)
    with pytest.raises(DataError, match="Expected equal shapes"):
        oracle(np.eye(2), [0.1], evaluation=np.eye(3))


def test_an_eigenvalue_below_zero_by_roundoff_is_zero():
    matrix = covariance([4.0, 1.0, 0.0]) - 1e-14 * np.eye(3)
    assert oracle(matrix, [0.1]).thresholds[2] == 0
