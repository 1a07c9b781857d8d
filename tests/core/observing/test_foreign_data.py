"""Data are seen by a foreign model as it was trained to see them, and what cannot be seen is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_pair import measured, of

import collapsebench
from collapsebench.errors import DataError

IDENTITY = (lambda x: (x, torch.zeros_like(x)), lambda z: z)


def test_the_array_that_the_model_sees_gives_the_same_as_the_dataset(gaussian, solution):
    splits = {name: split.values for name, split in gaussian.splits.items()}
    one, other = measured(solution()), measured(solution(), splits)
    assert other.dataset == "array"
    assert other.latents.drop(columns="split").to_numpy(float) == pytest.approx(
        one.latents.drop(columns="split").to_numpy(float), nan_ok=True, rel=1e-6
    )
    alone = measured(solution(), torch.from_numpy(splits["train"]))
    assert set(alone.latents["split"]) == {"train"}
    assert alone.ward_residual == pytest.approx(one.ward_residual, abs=1e-9)


def test_scaling_decides_what_the_model_sees_and_with_it_v(gaussian, solution):
    raw = gaussian.splits["train"].values * np.float32(3.0) + np.float32(5.0)
    options = {"beta": 1.0, "convention": "pythae"}
    assert measured(IDENTITY, raw, temperature=None, **options).total_variance == pytest.approx(
        9 * gaussian.total_variance, rel=1e-5
    )
    assert measured(IDENTITY, raw, temperature=None, scaling="per-feature", **options).total_variance == pytest.approx(
        8
    )
    centre = of(measured(IDENTITY, raw, scaling="global").latents, "train")["mean"]
    assert centre.to_numpy() == pytest.approx(0, abs=1e-5)
    assert of(measured(IDENTITY, raw).latents, "train")["mean"].to_numpy() == pytest.approx(5, abs=1e-4)


def test_raw_keeps_the_constant_features_that_a_dataset_leaves_out():
    assert collapsebench.measure(IDENTITY, "digits", temperature=0.1).latent_dim < 64
    measurement = collapsebench.measure(IDENTITY, "digits", temperature=0.1, scaling="raw")
    assert measurement.latent_dim == 64
    assert measurement.total_variance > 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scaling": "log"}, "scaling: found 'log'"),
        ({"scaling": "dataset"}, "found 'dataset' with an array"),
        ({"parameters": {"dimension": 3}}, "belong to a dataset"),
    ],
)
def test_what_an_array_cannot_have_is_one_clear_error(gaussian, options, message):
    with pytest.raises(DataError, match=message):
        collapsebench.measure(IDENTITY, gaussian.splits["train"].values, temperature=0.1, **options)


def test_a_wrong_parameter_of_a_dataset_names_it(solution):
    with pytest.raises(DataError, match=r"dataset 'gaussian': dimension: "):
        collapsebench.measure(solution(), "gaussian", parameters={"dimension": 0}, temperature=0.1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(5), r"found float64 \(5,\)"),
        (np.array([["a"], ["b"]]), "expected numbers"),
        (np.array([[1.0], [np.nan]]), "row 1 and 0 more hold NaN"),
        (np.ones((4, 2)), "all 2 features are constant"),
        ({"valid": np.ones((4, 2))}, "found arrays called valid, expected train"),
        ({"train": np.eye(3), "test": np.eye(4)}, r"split test: found shape \(4,\)"),
    ],
)
def test_data_that_cannot_be_measured_on_are_one_clear_error(data, message):
    with pytest.raises(DataError, match=message):
        collapsebench.measure(IDENTITY, data, temperature=0.1)
