"""Standardising: what the train split decides, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from collapsebench.contracts import SPLITS, Data, Split
from collapsebench.data.standardise import concentration, fingerprint, standardise
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


def with_train(train, **changes):
    """Return data with a train split of your own and two small Gaussian ones beside it."""
    rng = np.random.default_rng(3)
    others = {name: Split(rng.normal(size=(9, *train.shape[1:])).astype(np.float32)) for name in SPLITS[1:]}
    names = tuple(f"f{index}" for index in range(int(np.prod(train.shape[1:]))))
    return replace(Data(train=Split(train.astype(np.float32)), **others, feature_names=names), **changes)


def spiked(rows=1000, features=6, *, at=(2,), spikes=1, height=1e3):
    """Return Gaussian rows in which some features are much larger in the last rows."""
    train = np.random.default_rng(0).normal(size=(rows, features))
    train[rows - spikes :, list(at)] += height
    return train


def found_in(data):
    ready = standardise(data, "d")
    return concentration(ready.splits["train"], np.diag(ready.second_moments["train"]))


def test_a_single_spike_is_reported_with_its_feature_its_numbers_and_what_to_do():
    (notice,) = standardise(with_train(spiked()), "d").about["notices"]
    assert notice.startswith("1 of 6 features (f2) owes 100 % of its variance to at most 5 of the 1000 train rows")
    assert "reach 31.6 standard deviations (excess kurtosis 99" in notice
    assert notice.endswith("use one scale for all features, or leave the features out")


def test_the_numbers_of_a_concentrated_feature_are_those_of_its_definition():
    train = spiked(spikes=4, at=(1, 4), height=40)
    found = found_in(with_train(train))
    x = (train - train.mean(0)) / train.std(0)
    assert sorted(found.features) == [1, 4]
    assert (np.diff(found.share) <= 0).all()
    for index, feature in enumerate(found.features):
        column = x[:, feature]
        assert found.share[index] == pytest.approx(np.sort(column**2)[-5:].sum() / 1000, rel=1e-5)
        assert found.largest[index] == pytest.approx(np.abs(column).max(), rel=1e-5)
        assert found.excess_kurtosis[index] == pytest.approx((column**4).mean() - 3, rel=1e-5)


@pytest.mark.parametrize("rows", [100, 200, 1000, 30_000])
@pytest.mark.parametrize("draw", ["normal", "exponential", "laplace", "uniform"])
def test_ordinary_distributions_are_never_reported(rows, draw):
    train = getattr(np.random.default_rng(1), draw)(size=(rows, 40))
    assert "notices" not in standardise(with_train(train), "d").about


def test_lognormal_features_are_reported_only_if_their_tail_is_extreme():
    rng = np.random.default_rng(0)
    assert found_in(with_train(np.exp(rng.normal(size=(10_000, 20))))).features.size == 0
    assert found_in(with_train(np.exp(3 * rng.normal(size=(10_000, 20))))).features.size == 20


@pytest.mark.parametrize(("rows", "on", "reported"), [(1000, 4, True), (1000, 50, False), (20_000, 15, True)])
def test_an_event_counts_if_few_rows_show_it(rows, on, reported):
    train = spiked(rows)
    train[:, 2] = np.arange(rows) < on
    assert (found_in(with_train(train)).features.tolist() == [2]) is reported


def test_no_feature_is_missed_by_the_bound_on_its_kurtosis():
    """Against sorting every column, with weights, on columns of every heaviness."""
    rng = np.random.default_rng(5)
    train = np.exp(np.linspace(0.1, 3, 60) * rng.normal(size=(2000, 60)))
    weights = rng.uniform(0.1, 4, 2000).astype(np.float32)
    data = with_train(train)
    ready = standardise(replace(data, train=Split(data.train.values, weights)), "d")
    found = concentration(ready.splits["train"], np.diag(ready.second_moments["train"]))
    squares = ready.splits["train"].weights[:, None] * ready.splits["train"].values.astype(np.float64) ** 2
    share = np.sort(squares, axis=0)[-5:].sum(0) / squares.sum(0)
    assert sorted(found.features) == np.flatnonzero(share > 0.5).tolist()
    assert 5 < found.features.size < 55
    assert found.share == pytest.approx(share[found.features], rel=1e-6)


def test_rows_of_great_weight_carry_what_many_rows_would():
    train = spiked(spikes=50, height=30)
    weights = np.ones(1000, dtype=np.float32)
    data = with_train(train)
    assert found_in(data).features.size == 0
    weights[-50:] = 1e-3
    weights[-4:] = 1.0
    assert found_in(replace(data, train=Split(data.train.values, weights))).features.tolist() == [2]


def test_a_feature_that_weighs_little_is_not_reported_and_the_advice_depends_on_the_scaling():
    small = spiked(height=1.0)
    small[:, 2] = 1e-3 * (np.arange(1000) == 7)
    assert "notices" in standardise(with_train(small), "d").about
    for scaling in ("global", "none"):
        assert "notices" not in standardise(with_train(small, scaling=scaling), "d").about
        (notice,) = standardise(with_train(spiked(), scaling=scaling), "d").about["notices"]
        assert notice.endswith("check these rows, or leave the features out")


def test_at_most_three_features_are_named_after_those_left_out_and_the_datasets_own_notices_come_first():
    train = spiked(features=9, at=(1, 3, 5, 6, 8))
    train[:, 0] = 7.0
    ready = standardise(with_train(train, notes={"notices": ["rows were dropped"]}), "d")
    first, second = ready.about["notices"]
    assert first == "rows were dropped"
    named = second.partition("(")[2].partition(")")[0]
    assert second.startswith("5 of 8 features")
    assert named.endswith(" and 2 more")
    assert set(named.removesuffix(" and 2 more").split(", ")) < {"f1", "f3", "f5", "f6", "f8"}


def test_a_notice_changes_no_number_and_no_fingerprint():
    data = with_train(spiked())
    ready = standardise(data, "d")
    assert ready.fingerprint == fingerprint(data)
    assert list(data.notes) == []
    assert np.diag(ready.second_moments["train"]) == pytest.approx(np.ones(6), rel=1e-5)
