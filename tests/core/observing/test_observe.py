"""Observables are measured on weighted chunks, and held to the shapes that they promise."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from collapsebench.contracts import SPLITS, Data, Observable, Parameters, Split
from collapsebench.data.standardise import standardise
from collapsebench.errors import PluginError
from collapsebench.observing.observe import measure
from collapsebench.stack.stack import StackModel


class Fixed(Observable[Parameters]):
    """Return given arrays."""

    arrays: ClassVar[dict] = {}

    def measure(self, model, samples):
        return self.arrays


def observable(arrays, axis=None, splits=SPLITS):
    made = type("Made", (Fixed,), {"arrays": arrays, "axis": axis, "splits": splits})
    return made(Parameters())


@pytest.fixture
def model(gaussian, make_stack):
    return StackModel(make_stack(gaussian, [0.3, 0.1, 0.01]), [0.3, 0.1, 0.01], 8)


@pytest.fixture
def weighted():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, 4)).astype(np.float32)
    weights = rng.uniform(0.2, 3, 100).astype(np.float32)
    splits = {name: Split(values, weights) for name in SPLITS}
    return standardise(Data(**splits, feature_names=tuple("abcd")), "weighted")


def test_the_chunks_of_a_split_are_its_rows_in_order_each_once(gaussian, make_samples):
    chunks = list(make_samples(gaussian, values_at_once=32 * 50).chunks())
    assert [len(x) for x, _ in chunks] == [50] * 10 + [12]
    assert np.array_equal(torch.cat([x for x, _ in chunks]).numpy(), gaussian.splits["train"].values)


def test_a_larger_footprint_makes_smaller_chunks_and_more_replicas_too(gaussian, make_samples):
    def largest(replicas, footprint):
        samples = make_samples(gaussian, replicas=replicas, values_at_once=32 * 400)
        return max(len(x) for x, _ in samples.chunks(footprint))

    assert largest(1, 1) == 400
    assert largest(4, 1) == largest(1, 4) == 100
    assert largest(1000, 1000) == 8


def test_weights_are_those_of_the_rows_and_sum_to_one_over_the_split(weighted, make_samples):
    for max_rows in (None, 40):
        samples = make_samples(weighted, max_rows=max_rows, values_at_once=32 * 30)
        read_weights = torch.cat([weights for _, weights in samples.chunks()])
        assert read_weights.sum().item() == pytest.approx(1, abs=1e-12)
    given = weighted.splits["train"].weights.astype(np.float64)
    read_weights = torch.cat(
        [weights for _, weights in make_samples(weighted, values_at_once=32 * 30).chunks()]
    ).numpy()
    assert read_weights == pytest.approx(given / given.sum(), rel=1e-12)


def test_at_most_so_many_rows_are_read_the_same_every_time_and_none_twice(weighted, make_samples):
    first, second = (next(make_samples(weighted, max_rows=40).chunks()) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert make_samples(weighted, max_rows=40).count == 40
    values = weighted.splits["train"].values
    places = [int(np.flatnonzero((values == row).all(1))[0]) for row in first[0].numpy()]
    assert sorted(set(places)) == places
    weights = weighted.splits["train"].weights[places].astype(np.float64)
    assert first[1].numpy() == pytest.approx(weights / weights.sum(), rel=1e-12)


def test_a_limit_that_is_not_reached_changes_nothing(gaussian, make_samples):
    whole, limited = (next(make_samples(gaussian, max_rows=rows).chunks())[0] for rows in (None, 512))
    assert torch.equal(whole, limited)


def test_a_frame_has_a_row_per_replica_split_and_place_of_the_axis(gaussian, make_samples, model):
    samples = [make_samples(gaussian, split, replicas=3) for split in SPLITS]
    arrays = {"a": np.arange(6.0).reshape(3, 2), "b": -np.arange(6.0).reshape(3, 2)}
    frame = measure("x", observable(arrays, axis="rank"), model, samples)
    assert list(frame.columns) == ["replica", "split", "temperature", "rank", "a", "b"]
    assert len(frame) == 3 * 3 * 2
    row = frame[(frame["split"] == "test") & (frame["replica"] == 2) & (frame["rank"] == 1)]
    assert row[["temperature", "a", "b"]].to_numpy().tolist() == [[0.01, 5.0, -5.0]]


def test_an_observable_without_an_axis_has_a_row_per_replica_and_split(gaussian, make_samples, model):
    samples = [make_samples(gaussian, split, replicas=3) for split in SPLITS]
    frame = measure("x", observable({"a": np.arange(3.0)}, splits=("train", "test")), model, samples)
    assert list(frame.columns) == ["replica", "split", "temperature", "a"]
    assert frame["split"].tolist() == ["train"] * 3 + ["test"] * 3
    assert frame["temperature"].tolist() == [0.3, 0.1, 0.01] * 2


@pytest.mark.parametrize(
    ("arrays", "axis"),
    [
        ({"a": np.zeros(2)}, None),
        ({"a": np.zeros((3, 4))}, None),
        ({"a": np.zeros(3)}, "latent"),
        ({"a": np.zeros((3, 4)), "b": np.zeros((3, 5))}, "latent"),
        ({"a": np.zeros((4, 3))}, "latent"),
        ({}, None),
    ],
    ids=["replicas", "unasked axis", "no axis", "two lengths", "transposed", "nothing"],
)
def test_arrays_of_other_shapes_are_refused_with_the_observables_id(gaussian, make_samples, model, arrays, axis):
    with pytest.raises(PluginError, match=r"observable 'my-own': returned shapes .*expected \(3,"):
        measure("my-own", observable(arrays, axis), model, [make_samples(gaussian, replicas=3)])
