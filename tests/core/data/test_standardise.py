"""Standardising: what the train split decides, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from collapsebench.contracts import SPLITS, Data, Split
from collapsebench.data.standardise import fingerprint, standardise
from collapsebench.errors import DataError


def values(rows, *shape, seed=0):
    rng = np.random.default_rng(seed)
    flat = rng.normal(size=(rows, int(np.prod(shape)))) @ rng.normal(size=(int(np.prod(shape)),) * 2) + 3.0
    return flat.reshape(rows, *shape).astype(np.float32)


def dataset(*shape, scaling="per-feature", weighted=False, **changes):
    """Return three splits of different distributions; 300, 70 and 80 rows."""
    shape = shape or (5,)
    rng = np.random.default_rng(9)
    splits = {
        name: Split(values(rows, *shape, seed=seed), rng.uniform(0.1, 4, rows).astype(np.float32) if weighted else None)
        for seed, (name, rows) in enumerate(zip(SPLITS, (300, 70, 80), strict=True))
    }
    names = tuple(f"f{index}" for index in range(int(np.prod(shape))))
    return replace(Data(**splits, feature_names=names, scaling=scaling, citation="someone"), **changes)


def weighted_moments(split):
    flat = split.values.reshape(len(split.values), -1).astype(np.float64)
    weights = np.ones(len(flat)) if split.weights is None else split.weights.astype(np.float64)
    mean = np.average(flat, axis=0, weights=weights)
    return mean, np.average((flat - mean) ** 2, axis=0, weights=weights), np.average(flat**2, axis=0, weights=weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_every_feature_has_train_mean_zero_and_variance_one_with_weights_honoured(weighted, shape):
    ready = standardise(dataset(*shape, weighted=weighted), "d")
    mean, variance, _ = weighted_moments(ready.splits["train"])
    assert mean == pytest.approx(np.zeros(np.prod(shape)), abs=1e-6)
    assert variance == pytest.approx(np.ones(np.prod(shape)), rel=1e-5)
    assert ready.total_variance == pytest.approx(np.prod(shape), rel=1e-5)
    assert ready.shape == shape


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scaling", ["per-feature", "global", "none"])
def test_every_split_is_moved_and_scaled_by_the_train_split_alone(scaling, weighted):
    data = dataset(scaling=scaling, weighted=weighted)
    ready = standardise(data, "d")
    mean, variance, _ = weighted_moments(data.train)
    scale = {"per-feature": np.sqrt(variance), "global": np.sqrt(variance.mean()), "none": 1.0}[scaling]
    for name in SPLITS:
        expected = (getattr(data, name).values.astype(np.float64) - mean) / scale
        assert ready.splits[name].values == pytest.approx(expected, abs=1e-5)


def test_one_scale_for_all_features_keeps_their_ratios_and_makes_the_mean_variance_one():
    data = dataset(scaling="global")
    ready = standardise(data, "d")
    before, after = weighted_moments(data.train)[1], weighted_moments(ready.splits["train"])[1]
    assert after / after[0] == pytest.approx(before / before[0], rel=1e-5)
    assert after.mean() == pytest.approx(1, rel=1e-5)


def test_integer_weights_are_the_same_as_repeating_rows():
    data, counts = dataset(), np.random.default_rng(0).integers(1, 4, 300)
    weighted = standardise(replace(data, train=Split(data.train.values, counts.astype(np.float32))), "d")
    repeated = standardise(replace(data, train=Split(np.repeat(data.train.values, counts, axis=0))), "d")
    for name in SPLITS:
        assert weighted.second_moments[name] == pytest.approx(repeated.second_moments[name], abs=1e-5)
    assert weighted.pca.eigenvalues == pytest.approx(repeated.pca.eigenvalues, abs=1e-6)


def test_weights_have_mean_one_whatever_their_unit():
    data = dataset(weighted=True)
    small = replace(data, train=Split(data.train.values, data.train.weights * np.float32(1e-6)))
    for ready in (standardise(data, "d"), standardise(small, "d")):
        for split in ready.splits.values():
            assert split.weights.mean() == pytest.approx(1, rel=1e-5)
            assert split.weights.dtype == np.float32


@pytest.mark.parametrize("weighted", [False, True])
def test_total_variance_is_the_trace_of_the_train_covariance(weighted):
    ready = standardise(dataset(scaling="none", weighted=weighted), "d")
    _, variance, _ = weighted_moments(ready.splits["train"])
    assert ready.total_variance == pytest.approx(np.trace(ready.second_moments["train"]))
    assert ready.total_variance == pytest.approx(variance.sum(), rel=1e-5)


def test_second_moments_are_taken_about_the_train_mean_on_every_split():
    data = dataset(scaling="none", weighted=True)
    ready = standardise(data, "d")
    mean = weighted_moments(data.train)[0]
    for name in SPLITS:
        split = getattr(data, name)
        x = split.values.astype(np.float64) - mean
        expected = (x * split.weights[:, None]).T @ x / split.weights.sum()
        assert ready.second_moments[name] == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert np.linalg.norm(weighted_moments(ready.splits["test"])[0]) > 0.1


def constant(data, *places):
    """Make features constant in train only."""
    train = data.train.values.reshape(len(data.train.values), -1).copy()
    train[:, list(places)] = 12345.678
    return replace(data, train=Split(train.reshape(data.train.values.shape)))


def test_a_feature_that_is_constant_in_train_is_left_out_of_a_table_in_every_split():
    ready = standardise(constant(dataset(), 1, 3), "d")
    assert ready.feature_names == ("f0", "f2", "f4")
    assert ready.left_out == ("f1", "f3")
    assert ready.shape == (3,)
    assert all(split.values.shape[1:] == (3,) for split in ready.splits.values())
    assert ready.total_variance == pytest.approx(3, rel=1e-5)
    kept = dataset()
    some = standardise(
        replace(
            kept,
            **{name: Split(getattr(kept, name).values[:, [0, 2, 4]]) for name in SPLITS},
            feature_names=("f0", "f2", "f4"),
        ),
        "d",
    )
    assert all(np.array_equal(ready.splits[name].values, some.splits[name].values) for name in SPLITS)


@pytest.mark.parametrize("scaling", ["per-feature", "global", "none"])
def test_a_pixel_that_is_constant_in_train_is_zero_in_every_split_of_an_image(scaling):
    ready = standardise(constant(dataset(2, 3, scaling=scaling), 4), "d")
    assert ready.shape == (2, 3)
    assert ready.left_out == ("f4",)
    assert len(ready.feature_names) == 6
    for split in ready.splits.values():
        assert (split.values[:, 1, 1] == 0).all()
        assert (split.values[:, 0, 0] != 0).any()
    assert ready.pca.eigenvalues[-1] == pytest.approx(0, abs=1e-9)


def test_data_without_any_variance_are_refused():
    data = dataset()
    with pytest.raises(DataError, match=r"'d', split train: all 5 features are constant.*Choose other columns"):
        standardise(constant(data, *range(5)), "d")


def test_pca_equals_scikit_learns():
    ready = standardise(dataset(6), "d")
    reference = PCA().fit(ready.splits["train"].values.astype(np.float64))
    assert ready.pca.eigenvalues == pytest.approx(reference.explained_variance_ratio_, abs=1e-6)
    overlap = np.abs(np.einsum("kd,kd->k", ready.pca.components, reference.components_))
    assert overlap == pytest.approx(np.ones(6), abs=1e-4)


@pytest.mark.parametrize("split", SPLITS)
def test_the_rank_distortion_of_pca_is_that_of_projecting_every_sample(split):
    ready = standardise(dataset(6), "d")
    x = ready.splits[split].values.astype(np.float64)
    reference = PCA().fit(ready.splits["train"].values.astype(np.float64))
    for rank in range(7):
        components = reference.components_[:rank]
        left = x - x @ components.T @ components
        expected = np.square(left).sum(1).mean() / ready.total_variance
        assert ready.pca.rank_distortion[split][rank] == pytest.approx(expected, abs=1e-5)
    assert (np.diff(ready.pca.rank_distortion[split]) <= 0).all()


def test_the_tail_of_the_spectrum_is_the_rank_distortion_on_train():
    pca = standardise(dataset(6, weighted=True), "d").pca
    tail = 1 - np.concatenate([[0.0], np.cumsum(pca.eigenvalues)])
    assert pca.rank_distortion["train"] == pytest.approx(tail, abs=1e-12)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_split_and_row(split, bad):
    data = dataset()
    broken = getattr(data, split).values.copy()
    broken[[17, 23], 2] = bad
    with pytest.raises(DataError, match=rf"dataset 'd', split {split}: row 17 and 1 more hold NaN or infinity"):
        standardise(replace(data, **{split: Split(broken)}), "d")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("rows", [0, 1])
def test_a_split_without_samples_is_refused_by_name(split, rows):
    with pytest.raises(DataError, match=rf"split {split}: found {rows} rows, expected at least 2"):
        standardise(replace(dataset(), **{split: Split(values(2, 5)[:rows])}), "d")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_another_shape_is_refused_by_name(split):
    with pytest.raises(DataError, match=rf"split {split}: found shape \(4,\), expected that of train \(5,\)"):
        standardise(replace(dataset(), **{split: Split(values(9, 4))}), "d")


def test_values_of_another_type_or_without_features_are_refused():
    with pytest.raises(DataError, match=r"split test: found float64 \(9, 5\), expected float32"):
        standardise(replace(dataset(), test=Split(values(9, 5).astype(np.float64))), "d")
    with pytest.raises(DataError, match=r"split train: found float32 \(9,\)"):
        standardise(replace(dataset(), train=Split(values(9, 5)[:, 0].copy())), "d")


def test_a_wrong_number_of_feature_names_is_refused():
    with pytest.raises(DataError, match="3 feature names for values of shape"):
        standardise(replace(dataset(), feature_names=("a", "b", "c")), "d")


@pytest.mark.parametrize(
    "weights",
    [
        np.full(70, -1.0),
        np.zeros(70),
        np.full(70, np.nan),
        np.ones(69),
        np.ones((70, 1)),
        np.r_[np.inf, np.ones(69)],
    ],
    ids=["negative", "zero", "nan", "short", "two axes", "infinite"],
)
def test_weights_that_are_no_weights_are_refused_with_the_split(weights):
    data = dataset()
    broken = Split(data.validation.values, weights.astype(np.float32))
    with pytest.raises(DataError, match="split validation: found weights of shape"):
        standardise(replace(data, validation=broken), "d")


def test_the_fingerprint_is_that_of_the_values_and_changes_with_any_of_them():
    data = dataset(weighted=True)
    assert fingerprint(data) == fingerprint(dataset(weighted=True)) == standardise(data, "other name").fingerprint
    found = {fingerprint(data)}
    for name in SPLITS:
        split = getattr(data, name)
        changed = split.values.copy()
        changed[-1, -1] = np.nextafter(changed[-1, -1], np.float32(np.inf))
        heavier = split.weights.copy()
        heavier[0] = np.nextafter(heavier[0], np.float32(np.inf))
        found.add(fingerprint(replace(data, **{name: Split(changed, split.weights)})))
        found.add(fingerprint(replace(data, **{name: Split(split.values, heavier)})))
        found.add(fingerprint(replace(data, **{name: Split(split.values)})))
        found.add(fingerprint(replace(data, **{name: Split(split.values[::-1], split.weights)})))
    assert len(found) == 1 + 4 * len(SPLITS)


def test_the_fingerprint_does_not_depend_on_memory_layout_but_on_shape():
    data = dataset(2, 3)
    fortran = replace(data, train=Split(np.asfortranarray(data.train.values)))
    assert fingerprint(fortran) == fingerprint(data)
    flat = replace(data, train=Split(data.train.values.reshape(-1, 6)))
    assert fingerprint(flat) != fingerprint(data)


def test_standardising_does_not_touch_the_arrays_it_was_given():
    data = dataset(weighted=True)
    standardise(data, "d")
    assert fingerprint(data) == fingerprint(dataset(weighted=True))


def test_what_travels_with_the_data_is_kept():
    ready = standardise(dataset(revision="7", licence="CC0-1.0", notes={"cells": 3}), "d")
    assert ready.about == {
        "revision": "7", "licence": "CC0-1.0", "citation": "someone", "cells": 3,
        "rows": {"train": 300, "validation": 70, "test": 80},
    }  # fmt: skip
    assert ready.dataset == "d"
