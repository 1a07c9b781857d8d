"""Gaussian data are what they claim to be, and the digits are split without overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from collapsebench.contracts import SPLITS
from collapsebench.data.standardise import fingerprint, standardise
from collapsebench_datasets.gaussian import eigenvalues
from collapsebench_datasets.parameters import DigitsParameters, GaussianParameters

CACHE = Path("unused")
SPECTRA = {
    "power-law": {"kind": "power-law", "exponent": 1.5},
    "gap": {"kind": "gap", "strong": 6, "ratio": 100.0},
    "near-degenerate": {"kind": "near-degenerate", "groups": 4, "spread": 0.02},
    "explicit": {"kind": "explicit", "values": [0.5, 3.0, 0.0, 1.0, 1.0]},
}


def settings(name):
    return {"spectrum": SPECTRA[name], **({} if name == "explicit" else {"dimension": 16})}


@pytest.fixture
def load(component):
    def make(use="gaussian", seed=0, **parameters):
        return component("dataset", use, **parameters).load(seed, CACHE)

    return make


@pytest.mark.parametrize("name", SPECTRA)
def test_the_exact_training_covariance_is_the_target_to_1e_6_and_the_mean_zero(load, name):
    data = load(**settings(name))
    x = data.train.values.astype(np.float64)
    assert x.mean(0) == pytest.approx(np.zeros(x.shape[1]), abs=1e-6)
    assert x.T @ x / len(x) == pytest.approx(data.covariance, abs=1e-6)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_population_covariance_has_the_spectrum_asked_for(load, name):
    own = GaussianParameters(**settings(name))
    found = np.linalg.eigvalsh(load(**settings(name)).covariance)[::-1]
    assert found == pytest.approx(eigenvalues(own), abs=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
def test_every_spectrum_is_in_descending_order_with_one_value_per_dimension(name):
    own = GaussianParameters(**settings(name))
    found = eigenvalues(own)
    assert found.shape == (own.dimension,)
    assert (np.diff(found) <= 0).all()
    assert (found >= 0).all()


def test_every_spectrum_has_its_closed_form():
    power, gap, near, explicit = (eigenvalues(GaussianParameters(**settings(name))) for name in SPECTRA)
    assert power == pytest.approx(np.arange(1, 17) ** -1.5)
    assert gap[:6] == pytest.approx(np.linspace(2, 1, 6))
    assert gap[6:] == pytest.approx(np.linspace(2, 1, 10) / 100)
    groups = near.reshape(4, 4)
    assert groups[:, -1] == pytest.approx([1, 1 / 4, 1 / 9, 1 / 16])
    assert groups[:, 0] / groups[:, -1] == pytest.approx([1.02] * 4)
    assert explicit.tolist() == [3.0, 1.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("exact", [True, False])
def test_evaluation_splits_are_samples_of_the_same_distribution(load, exact):
    """Second moments within five standard errors: the variance of x_i x_j is at most 2 C_ii C_jj."""
    data = load(dimension=6, samples=20_000, evaluation_samples=20_000, exact=exact)
    scale = np.sqrt(np.outer(np.diag(data.covariance), np.diag(data.covariance)))
    for name in SPLITS:
        x = getattr(data, name).values.astype(np.float64)
        error = np.abs(x.T @ x / len(x) - data.covariance) / scale
        assert error.max() < 5 * np.sqrt(2 / len(x))
        if name != "train" or not exact:
            assert error.max() > 1e-4


@pytest.mark.parametrize(("use", "parameters"), [("gaussian", {"dimension": 6}), ("digits", {})])
def test_a_seed_gives_the_same_arrays_every_time_and_another_seed_others(load, use, parameters):
    one, two, other = (load(use, seed, **parameters) for seed in (3, 3, 4))
    assert fingerprint(one) == fingerprint(two)
    for name in SPLITS:
        assert not np.array_equal(getattr(one, name).values, getattr(other, name).values)


def test_the_seed_draws_samples_and_never_the_orientation(load):
    assert np.array_equal(load(seed=0).covariance, load(seed=5).covariance)


def test_the_three_splits_of_gaussian_data_share_no_sample(load):
    data = load(dimension=4)
    rows = np.concatenate([getattr(data, name).values for name in SPLITS])
    assert len(np.unique(rows, axis=0)) == len(rows) == 3 * 1024


def test_sizes_are_those_asked_for(load):
    data = load(dimension=5, samples=70, evaluation_samples=33)
    assert [getattr(data, name).values.shape for name in SPLITS] == [(70, 5), (33, 5), (33, 5)]
    assert all(getattr(data, name).values.dtype == np.float32 for name in SPLITS)
    assert len(data.feature_names) == 5


def test_a_covariance_may_be_given_instead_of_a_spectrum(load):
    matrix = [[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.1]]
    data = load(covariance=matrix)
    x = data.train.values.astype(np.float64)
    assert x.T @ x / len(x) == pytest.approx(np.array(matrix), abs=1e-6)
    assert data.covariance.tolist() == matrix


@pytest.mark.parametrize("rank", [1, 2])
def test_a_singular_covariance_keeps_its_rank(load, rank):
    values = [2.0, 1.0, 0.0, 0.0]
    values[rank:] = [0.0] * (4 - rank)
    ready = standardise(load(spectrum={"kind": "explicit", "values": values}), "gaussian")
    assert (ready.pca.eigenvalues > 1e-9).sum() == rank


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dimension": 4, "spectrum": {"kind": "gap", "strong": 4}}, "strong = 4, expected fewer than dimension = 4"),
        ({"dimension": 3, "spectrum": {"kind": "near-degenerate", "groups": 4}}, "groups = 4, expected at most"),
        ({"dimension": 3, "spectrum": {"kind": "explicit", "values": [1.0]}}, "1 eigenvalues, expected dimension = 3"),
        ({"spectrum": {"kind": "explicit", "values": [0.0, 0.0]}}, "all zero"),
        ({"covariance": [[1.0, 2.0], [2.0, 1.0]]}, "lowest eigenvalue is -1"),
        ({"covariance": [[1.0, 0.5], [0.0, 1.0]]}, "differs from its transpose by up to 0.5"),
        ({"covariance": [[1.0, 0.0]]}, "1 rows of length"),
        ({"dimension": 16, "samples": 16}, "more samples than dimensions"),
    ],
)
def test_parameters_that_contradict_one_another_are_refused(component, parameters, message):
    with pytest.raises(ValueError, match=message):
        component("dataset", "gaussian", **parameters)


def test_the_digits_are_1797_samples_of_64_features_split_without_overlap(load):
    from sklearn.datasets import load_digits

    data = load("digits")
    parts = [getattr(data, name).values for name in SPLITS]
    assert [part.shape for part in parts] == [(1078, 64), (359, 64), (360, 64)]
    together = np.concatenate(parts)
    original = load_digits().data.astype(np.float32)
    assert np.array_equal(np.sort(together, axis=0), np.sort(original, axis=0))
    assert sorted(map(bytes, together)) == sorted(map(bytes, original))
    assert len(data.feature_names) == len(set(data.feature_names)) == 64


def test_digits_as_images_are_the_vectors_reshaped_and_scaled_by_one_number(load):
    vectors, images = load("digits"), load("digits", shape="image")
    for name in SPLITS:
        flat = getattr(vectors, name).values
        assert np.array_equal(getattr(images, name).values, flat.reshape(-1, 1, 8, 8))
    assert images.feature_names == vectors.feature_names
    ready = standardise(images, "digits")
    assert ready.shape == (1, 8, 8)
    assert ready.left_out == standardise(vectors, "digits").left_out
    gain = ready.splits["train"].values.std(0) / np.maximum(images.train.values.std(0), 1e-9)
    assert np.ptp(gain[images.train.values.std(0) > 0]) < 1e-5


def test_digits_as_vectors_are_described_as_before_there_were_images_so_that_no_key_changes():
    assert DigitsParameters().model_dump(mode="json") == {"train_share": 0.6}
    image = DigitsParameters(shape="image")
    assert image.model_dump(mode="json") == {"train_share": 0.6, "shape": "image"}
    assert DigitsParameters.model_validate(image.model_dump(mode="json")) == image


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_train_share_of_the_digits_is_honoured_and_the_rest_halved(load, share):
    data = load("digits", train_share=share)
    sizes = [len(getattr(data, name).values) for name in SPLITS]
    assert sizes[0] == round(share * 1797)
    assert sum(sizes) == 1797
    assert sizes[2] - sizes[1] in (0, 1)


def test_pixels_of_the_digits_that_never_vary_are_left_out(load):
    ready = standardise(load("digits"), "digits")
    constant = (load("digits").train.values.std(0) == 0).sum()
    assert constant >= 3
    assert ready.shape == (64 - constant,)
    assert ready.total_variance == pytest.approx(64 - constant, rel=1e-4)
    assert "pixel 0,0" in ready.left_out


def test_pixels_that_are_nearly_always_blank_are_reported_if_each_is_scaled_by_itself(load):
    (notice,) = standardise(load("digits"), "digits").about["notices"]
    assert notice.startswith("10 of 60 features (pixel ")
    assert "7 more) owe 54 to 100 % of their variance to at most 5 of the 1078 train rows" in notice
    assert "notices" not in standardise(load("digits", shape="image"), "digits").about


@pytest.mark.parametrize("use", ["gaussian", "digits", "random-field"])
def test_data_that_ship_need_no_preparation_and_say_where_they_come_from(component, use):
    made = component("dataset", use)
    assert made.is_prepared(CACHE)
    made.prepare(CACHE)
    assert not CACHE.exists()
    data = made.load(0, CACHE)
    assert data.licence
    assert data.citation
    assert data.revision
