"""Random fields are what they claim to be: the waves are the principal components, their power the spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.fft import dctn

from collapsebench.contracts import SPLITS
from collapsebench.data.standardise import fingerprint, standardise
from collapsebench_datasets.parameters import RandomFieldParameters
from collapsebench_datasets.random_field import eigenvalues, power_spectrum, waves

CACHE = Path("unused")
BOUNDARIES = ["periodic", "reflecting"]


@pytest.fixture
def load(component):
    def make(seed=0, **parameters):
        return component("dataset", "random-field", **parameters).load(seed, CACHE)

    return make


def flat(split):
    return split.values.reshape(len(split.values), -1).astype(np.float64)


def test_an_anisotropic_field_correlates_further_along_a_row_and_has_distinct_eigenvalues(load):
    """Covariance of neighbours: greater to the right than below; with reflecting borders no two waves are equal."""
    settings = {"size": 8, "boundary": "reflecting", "anisotropy": 1.6, "exponent": 3.0}
    covariance = load(**settings).covariance.reshape(8, 8, 8, 8)
    middle = covariance[3, 3]
    assert middle[3, 4] > middle[4, 3] + 0.01
    spectrum = eigenvalues(RandomFieldParameters(**settings))[:-1]
    assert (spectrum[:-1] / spectrum[1:]).min() > 1.001
    assert load(size=8).covariance == pytest.approx(load(size=8, anisotropy=1.0).covariance)


@pytest.mark.parametrize("size", [2, 7, 8])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_waves_on_a_line_are_an_orthonormal_basis(boundary, size):
    _, basis = waves(size, boundary)
    assert basis.T @ basis == pytest.approx(np.eye(size), abs=1e-12)


@pytest.mark.parametrize("size", [7, 8])
def test_the_periodic_covariance_is_diagonal_under_the_discrete_fourier_transform(load, size):
    """Reference: F C F^H of numpy's own transform, its diagonal the power at k = 2 pi fftfreq."""
    covariance = load(size=size, exponent=2.5, correlation_length=3.0).covariance
    transform = np.fft.fft2(np.eye(size**2).reshape(-1, size, size), norm="ortho").reshape(size**2, -1)
    found = transform.T @ covariance @ transform.conj()
    k = 2 * np.pi * np.fft.fftfreq(size)
    power = (1 / 9 + k[:, None] ** 2 + k**2) ** -1.25
    assert found == pytest.approx(np.diag(power.ravel() / power.mean()), abs=1e-10)


@pytest.mark.parametrize("size", [7, 8])
def test_the_reflecting_covariance_is_diagonal_under_the_cosine_transform(load, size):
    covariance = load(size=size, boundary="reflecting", exponent=2.5, correlation_length=3.0).covariance
    transform = dctn(np.eye(size**2).reshape(-1, size, size), axes=(1, 2), norm="ortho").reshape(size**2, -1)
    found = transform.T @ covariance @ transform
    k = np.pi * np.arange(size) / size
    power = (1 / 9 + k[:, None] ** 2 + k**2) ** -1.25
    assert found == pytest.approx(np.diag(power.ravel() / power.mean()), abs=1e-10)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_exact_training_covariance_is_the_target_to_1e_6_and_the_mean_zero(load, boundary):
    data = load(size=8, boundary=boundary)
    x = flat(data.train)
    assert x.mean(0) == pytest.approx(np.zeros(64), abs=1e-6)
    assert x.T @ x / len(x) == pytest.approx(data.covariance, abs=1e-6)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_pca_of_the_standardised_field_has_the_analytic_spectrum_with_its_multiplicities(load, boundary):
    own = RandomFieldParameters(size=8, boundary=boundary)
    ready = standardise(load(size=8, boundary=boundary), "random-field")
    exact = eigenvalues(own)
    assert ready.shape == (1, 8, 8)
    assert ready.total_variance == pytest.approx(64, rel=1e-5)
    assert ready.pca.eigenvalues == pytest.approx(exact / exact.sum(), abs=1e-7)
    multiplicity = np.unique(exact.round(9), return_counts=True)[1][::-1]
    # Periodic: (0, +-1) and (+-1, 0), then (+-1, +-1). Reflecting: (0, 1) and (1, 0), then (1, 1).
    assert multiplicity[:2].tolist() == ([4, 4] if boundary == "periodic" else [2, 1])
    assert multiplicity.sum() == 64


def test_the_power_falls_as_the_chosen_power_of_the_wave_number_and_the_constant_image_has_none():
    own = RandomFieldParameters(size=16, exponent=3.0)
    along = power_spectrum(own)[0]
    assert along[0] == 0
    assert along[[1, 3, 7]] / along[1] == pytest.approx([1, 2**-3.0, 4**-3.0])


def test_waves_longer_than_the_correlation_length_have_nearly_equal_power():
    short = power_spectrum(RandomFieldParameters(size=16, exponent=4.0, correlation_length=0.01)).ravel()
    assert np.ptp(short) < 5e-3
    own = RandomFieldParameters(size=16, exponent=4.0, correlation_length=5.0)
    k = 2 * np.pi / 16
    found = power_spectrum(own)[0]
    assert found[1] / found[0] == pytest.approx((1 + (5 * k) ** 2) ** -2)


def test_every_pixel_of_a_periodic_field_has_variance_one_and_shifted_pixels_the_same_covariance(load):
    covariance = load(size=8).covariance.reshape((8,) * 4)
    assert np.diag(covariance.reshape(64, 64)) == pytest.approx(np.ones(64))
    moved = np.roll(covariance, (3, 5, 3, 5), axis=(0, 1, 2, 3))
    assert moved == pytest.approx(covariance, abs=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_field_prefers_no_axis_and_no_side(load, boundary):
    covariance = load(size=8, boundary=boundary).covariance.reshape((8,) * 4)
    for other in (covariance.transpose(1, 0, 3, 2), covariance[::-1, :, ::-1], covariance[:, ::-1, :, ::-1]):
        assert other == pytest.approx(covariance, abs=1e-12)


@pytest.mark.parametrize("exact", [True, False])
def test_evaluation_splits_are_samples_of_the_same_field(load, exact):
    """Second moments within five standard errors: the variance of x_i x_j is at most 2 C_ii C_jj."""
    data = load(size=4, samples=20_000, evaluation_samples=20_000, exact=exact)
    scale = np.sqrt(np.outer(np.diag(data.covariance), np.diag(data.covariance)))
    for name in SPLITS:
        x = flat(getattr(data, name))
        error = np.abs(x.T @ x / len(x) - data.covariance) / scale
        assert error.max() < 5 * np.sqrt(2 / len(x))
        if name != "train" or not exact:
            assert error.max() > 1e-4


def test_a_seed_gives_the_same_images_every_time_and_another_seed_others(load):
    one, two, other = (load(seed, size=4) for seed in (3, 3, 4))
    assert fingerprint(one) == fingerprint(two)
    assert np.array_equal(one.covariance, other.covariance)
    for name in SPLITS:
        assert not np.array_equal(getattr(one, name).values, getattr(other, name).values)


def test_sizes_are_those_asked_for(load):
    data = load(size=5, samples=70, evaluation_samples=33)
    assert [getattr(data, name).values.shape for name in SPLITS] == [(70, 1, 5, 5), (33, 1, 5, 5), (33, 1, 5, 5)]
    assert all(getattr(data, name).values.dtype == np.float32 for name in SPLITS)
    assert len(set(data.feature_names)) == 25


def test_an_exact_covariance_needs_more_samples_than_pixels(component):
    with pytest.raises(ValueError, match=r"samples = 256 for 16 x 16 = 256 pixels, expected more"):
        component("dataset", "random-field", samples=256)
    component("dataset", "random-field", samples=256, exact=False)
