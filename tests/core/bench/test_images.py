"""The benchmark of convolutions says which path was chosen, from what, and what it gains."""

from __future__ import annotations

import json

import pytest
from flow import invoke

import collapsebench.bench.images as bench_images
from collapsebench.training.calibrate import fastest


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Time a step once, and a network of one channel."""
    monkeypatch.setitem(bench_images._PARAMETERS, "channels", 1)
    monkeypatch.setattr(bench_images, "ROWS", 300)
    monkeypatch.setattr(bench_images, "milliseconds", lambda step, device: (step(), 6.0)[1])


def test_ratios_are_per_replica_and_the_path_is_the_fastest_of_those_measured():
    found = bench_images.bench_images(replicas=3, batch=8, repeats=2)
    assert (found.replica_update_ms.median, found.speedup_over_plain_loop.median) == (2.0, 3.0)
    listed = found.why_this_path.partition("update: ")[2].split(", ")
    assert fastest({path: float(time) for path, time in (one.split() for one in listed)}) == found.path


def test_both_batch_sizes_are_printed_and_written_as_json():
    options = ("bench", "throughput", "--network", "conv", "--replicas", "2", "--repeats", "1")
    text = invoke(*options).output
    assert "batch 64, " in text
    assert "batch 256, " in text
    batches = json.loads(invoke(*options, "--json").output)["batches"]
    assert [one["batch"] for one in batches] == [64, 256]
    assert {"path", "why_this_path", "replica_update_ms", "speedup_over_plain_loop"} <= batches[0].keys()
