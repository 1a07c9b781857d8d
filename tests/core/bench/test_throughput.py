"""The benchmarks of throughput measure what they say, in miniature; the speed of a test says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from flow import invoke

from collapsebench.bench import throughput, timing
from collapsebench.training.choose import fastest


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time small products and small networks, for an instant each."""
    monkeypatch.setattr(timing, "SECONDS", 0.01)
    monkeypatch.setattr(timing, "SIDE", 64)
    narrow = tuple(f"architectures.convolutions.{part}.channels=1" for part in ("encoder", "decoder"))
    monkeypatch.setattr(throughput, "IMAGE_OVERRIDES", narrow)
    monkeypatch.setattr(throughput, "IMAGE_ROWS", 300)


def test_throughput_tells_every_key_and_writes_the_command_and_the_hardware(tmp_path: Path) -> None:
    done = invoke("bench", "throughput", "--replicas", 2, "--repeats", 1, "--json", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    for key in ("replica_update_ms", "speedup_over_plain_loop", "share_of_matrix_peak"):
        assert found[key]["low"] <= found[key]["median"] <= found[key]["high"]
    assert found["third_party_computation"] == "kernel"
    assert found["third_party_share"]["median"] > 0
    assert (found["speedup_over_pythae"] is None) == bool(found["why_no_pythae"])
    assert json.loads((tmp_path / "out" / "throughput.json").read_text()) == found
    page = (tmp_path / "out" / "throughput.md").read_text()
    assert "speedup over the plain loop" in page
    assert found["hardware"]["torch"] in page
    assert "`collapsebench" in page


def test_the_ratios_of_one_repetition_are_those_of_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "pythae_epoch", lambda x, pair, latent_dim, batch: lambda: None)
    found = throughput.bench_throughput(replicas=2, repeats=1)
    ours = found.replica_update_ms.median
    assert found.speedup_over_plain_loop.median == pytest.approx(found.plain_update_ms.median / ours)
    assert found.general_speedup_over_plain_loop.median == pytest.approx(
        found.plain_update_ms.median / found.general_update_ms.median
    )
    assert found.third_party_share.median == pytest.approx(ours / found.third_party_update_ms.median)
    assert found.pythae_update_ms is not None
    assert found.speedup_over_pythae is not None
    assert found.speedup_over_pythae.median == pytest.approx(found.pythae_update_ms.median / ours)
    inner = [throughput.WIDTH * throughput.WIDTH] * 3  # of four hidden layers
    encoder = [throughput.INPUTS * throughput.WIDTH, *inner, throughput.WIDTH * 2 * throughput.LATENTS]
    decoder = [throughput.LATENTS * throughput.WIDTH, *inner, throughput.WIDTH * throughput.INPUTS]
    gflops = 6 * throughput.BATCH * sum(encoder + decoder) / (ours * 1e6)
    assert found.share_of_matrix_peak.median == pytest.approx(gflops / found.matrix_gflops.median)


def test_growth_has_a_spread_for_every_value_and_an_exponent() -> None:
    done = invoke("bench", "growth", "--quick", "--repeats", 1, "--json")
    assert done.exit_code == 0, done.output
    found = {each["what"]: each for each in json.loads(done.stdout)["growth"]}
    assert found.keys() == {"replicas", "width", "rows"}
    for each in found.values():
        assert len(each["values"]) == len(each["update_ms"]) == 2
        assert np.isfinite(each["exponent"])
        assert each["computations"] == ["kernel", "kernel"]


def test_a_cost_that_grows_with_the_square_has_the_exponent_two(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 3.0, 12.0, 5.0, 5.0])
    monkeypatch.setattr(throughput, "milliseconds", lambda step, device: next(times))
    replicas, width, rows = throughput.bench_growth(replicas=(1,), widths=(8, 16), rows=(300, 600), repeats=1, stack=1)
    assert replicas.exponent == 0  # one value shows no growth
    assert width.exponent == pytest.approx(2)
    assert rows.exponent == pytest.approx(0)


def test_image_ratios_are_per_replica_and_the_computation_is_the_fastest_of_those_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "milliseconds", lambda step, device: (step(), 6.0)[1])
    found = throughput.bench_images(replicas=3, batch=8, repeats=2)
    assert (found.replica_update_ms.median, found.speedup_over_plain_loop.median) == (2.0, 3.0)
    listed = found.why_this_computation.partition("update: ")[2].split(", ")
    assert fastest({name: float(time) for name, time in (one.split() for one in listed)}) == found.computation


def test_both_batch_sizes_are_printed_and_written_as_json() -> None:
    options = ("bench", "throughput", "--network", "conv", "--replicas", "2", "--repeats", "1")
    text = invoke(*options).output
    assert "batch 64, " in text
    assert "batch 256, " in text
    batches = json.loads(invoke(*options, "--json").output)["batches"]
    assert [one["batch"] for one in batches] == [64, 256]
    assert {"computation", "why_this_computation", "replica_update_ms", "speedup_over_plain_loop"} <= batches[0].keys()
