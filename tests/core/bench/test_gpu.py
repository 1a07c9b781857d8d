"""The benchmark of a CUDA device, tried out on the CPU: every part runs and is reported, whatever becomes of others."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from collapsebench.bench import gpu
from collapsebench.bench.gpu import GpuSettings, Rate, Verbs, bench_gpu, floor_milliseconds, rows_of, seconds_of
from collapsebench.cli.main import main

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(gpu, "_SIDE", 64)
    monkeypatch.setattr(gpu, "_COPIED", 1 << 12)
    monkeypatch.setattr(gpu, "_SECONDS", 0.01)
    monkeypatch.setattr(gpu, "_WARM_UP", 2)


def verbs(asked, fail=False):
    def run(suite, **options):
        asked.append((suite, options))
        if fail:
            raise RuntimeError("no room")
        board = pd.DataFrame({"dataset": ["gap"], "metric": ["m"], "score": ["r2"], "value": [0.5]})
        statuses = pd.DataFrame({"architecture": ["mlp"], "seed": [0], "status": ["ok"], "key": ["k"]})
        return SimpleNamespace(board=board, statuses=statuses)

    return Verbs(run, lambda suite, folder, **options: asked.append((suite, folder)))


def test_every_part_is_run_and_reported(small, tmp_path):
    (tmp_path / "test_two.py").write_text(
        "import pytest\n"
        "pytestmark = pytest.mark.gpu\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'not so'\n"
        "def test_away(): pytest.skip('none')\n"
    )
    (tmp_path / "cells.npz").write_bytes(b"")
    saved, asked = [], []
    settings = GpuSettings(
        tmp_path / "out", verbs(asked), tests=(tmp_path / "test_two.py",), worldclim=tmp_path / "cells.npz",
        replicas=(2,), device="cpu", overrides=("a=1",),
    )  # fmt: skip
    report = bench_gpu(settings, lambda report: saved.append(json.dumps(asdict(report))), lambda text: None)
    assert len(saved) == 4
    assert {name: report.tests[name] for name in ("passed", "failed", "skipped")} == {
        "passed": 1, "failed": 1, "skipped": 1,
    }  # fmt: skip
    assert "not so" in report.tests["failures"][0]
    timed = {
        (rate.optimiser, rate.computation): rate.milliseconds for rate in report.rates if rate.precision == "float32"
    }
    assert timed["adam", "graph"] > 0
    assert timed["preconditioned", "batched"] > 0
    rows = rows_of(report)
    assert "times the stack called operation by operation" in rows["adam, graph, float32, replicas 2"]
    assert rows["linear, float32, gap, m/r2"] == "0.5"
    assert rows["scan, mlp, seed 0"] == "ok"
    assert [suite for suite, _ in asked] == ["linear-gaussian", "worldclim-depth", "worldclim-depth"]
    assert "a=1" in asked[1][1]["overrides"]


def test_a_part_that_fails_leaves_the_others(small, tmp_path):
    said = []
    settings = GpuSettings(tmp_path, verbs([], fail=True), parts=("linear", "throughput"), replicas=(), device="cpu")
    report = bench_gpu(settings, lambda report: None, said.append)
    assert any("no room" in text for text in said)
    assert "no room" in rows_of(report)["linear, failed"]
    assert report.ceilings["copy"] > 0
    assert report.rate("adam", "plain loop", 1) is not None


def test_no_part_is_started_when_the_time_is_over(tmp_path):
    said = []
    bench_gpu(GpuSettings(tmp_path, verbs([]), minutes=-1.0, device="cpu"), lambda report: None, said.append)
    assert len(said) == 4
    assert all("not started" in text for text in said)


def test_without_a_device_the_command_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = CliRunner().invoke(main, ["bench", "gpu", "--out", str(tmp_path / "out")])
    assert ended.exit_code == 2
    assert ended.output.count("\n") == 1
    assert "finds no CUDA device here" in ended.output
    assert not (tmp_path / "out").exists()


def test_the_floor_is_the_larger_of_two_times():
    """One map of 4 x 3 with a bias, two replicas: 6 x 256 x 12 operations and 4 x 6 x 16 bytes of each."""
    pair = torch.nn.Linear(3, 4)
    operations, numbers = 6 * gpu.BATCH * 12, 6 * 16
    fast = {"float32": 1e30, "copy": 1e9}
    assert floor_milliseconds(pair, "adam", 2, fast, "float32") == pytest.approx(2e3 * 4 * numbers / 1e9)
    slow = {"float32": 1e9, "copy": 1e30}
    assert floor_milliseconds(pair, "adam", 2, slow, "float32") == pytest.approx(2e3 * operations / 1e9)
    more = floor_milliseconds(pair, "preconditioned", 2, slow, "float32")
    assert more == pytest.approx(2e3 * (operations + 6 * 4 * 4 * 8) / 1e9)


def test_seconds_are_those_of_one_step():
    calls = []
    found = seconds_of(lambda: calls.append(sum(range(20_000))), CPU, warm_up=1, seconds=0.05)
    assert 0 < found < 0.05
    assert Rate("adam", "graph", "float32", 121, milliseconds=1e3 * found).replica_updates == pytest.approx(121 / found)
